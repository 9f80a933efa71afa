"""The metrics run where PyTorch and transformers are not; only the making of a graph asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_module_of_the_metrics_imports_without_pytorch() -> None:
    files = sorted((ROOT / "bench" / "metrics").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    program = (
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'scipy', 'cv2', 'imageio_ffmpeg', 'skimage'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_pytorch_a_graph_that_is_not_there_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "i3d.pt").write_bytes(b"weights")
    program = (
        "import importlib.util, sys\n"
        "from pathlib import Path\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'torch' else found(name, *more)\n"
        "from bench.metrics.networks.catalogue import I3D\n"
        "from bench.metrics.networks.network import NetworkError, opened\n"
        "try:\n"
        "    opened(I3D, Path(sys.argv[1]))\n"
        "except NetworkError as error:\n"
        "    print(error)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    environment = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "i3d.pt")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert "PyTorch is needed once" in done.stdout and "pip install" in done.stdout, done.stderr
