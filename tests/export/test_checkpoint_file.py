"""Released files are read lazily, and refused, with a reason and without running anything, where they are damaged."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoints.file import bring_in, give_back, lies_in_file, open_checkpoint
from export.errors import CheckpointError, MissingKeyError

ROOT = Path(__file__).parents[2]
NESTED = {"unet": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}, "null_embedding": torch.ones(3)}


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    torch.save(NESTED, tmp_path / "nested.pt")
    return tmp_path / "nested.pt"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}, tmp_path / "flat.safetensors")
    return tmp_path / "flat.safetensors"


def test_a_nested_file_by_section(nested: Path) -> None:
    checkpoint = open_checkpoint(nested)
    assert list(checkpoint) == ["unet", "null_embedding"] and "vae" not in checkpoint
    assert torch.equal(checkpoint["null_embedding"], torch.ones(3))
    unet = checkpoint.section("unet")
    assert (unet.name, len(unet)) == ("nested.pt > unet", 2)
    assert torch.equal(unet["a"], NESTED["unet"]["a"]) and unet["b"].dtype is torch.float16
    assert checkpoint.stamp != unet.stamp


def test_a_flat_file_is_a_mapping_of_tensors(flat: Path, tmp_path: Path) -> None:
    torch.save(NESTED["unet"], tmp_path / "flat.bin")
    for path in (flat, tmp_path / "flat.bin"):
        checkpoint = open_checkpoint(path)
        assert sorted(checkpoint) == ["a", "b"]
        assert torch.equal(checkpoint["a"], NESTED["unet"]["a"]) and checkpoint["b"].dtype is torch.float16


def test_the_stamp_follows_the_file(nested: Path) -> None:
    before = open_checkpoint(nested).stamp
    assert open_checkpoint(nested).stamp == before
    os.utime(nested, ns=(1, 1))
    assert open_checkpoint(nested).stamp != before


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_pages_of_the_file_leave_memory_and_ordinary_memory_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"large.{kind}"
    values = torch.arange(2_000_000.0)
    torch.save({"a": values}, path) if kind == "pt" else save_file({"a": values}, path)
    tensor = open_checkpoint(path)["a"]
    begin = tensor.data_ptr()
    assert lies_in_file(begin, begin + tensor.nbytes)
    bring_in(tensor)
    full = mapped_kilobytes()
    give_back(tensor)
    assert full - mapped_kilobytes() > 0.9 * 8_000_000 / 1024
    assert torch.equal(tensor, values)
    give_back(values)
    assert float(values[-1]) == 1_999_999


def mapped_kilobytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))


def test_a_file_that_becomes_shorter_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1_000_000)}, tmp_path / "a.pt")
    tensor = open_checkpoint(tmp_path / "a.pt")["a"]
    os.truncate(tmp_path / "a.pt", 4096)
    with pytest.raises(OSError, match="became shorter"):
        bring_in(tensor)


class Runs:
    """A pickle that creates a file when it is loaded without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_wants_to_run_code_runs_nothing(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(
        CheckpointError,
        match=r"evil\.pt: expected tensors and nothing else, got a pickle that wants to run posix\.system",
    ):
        open_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="cannot be mapped; convert it"):
        open_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "ran").exists()


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_every_truncation_of_a_pt_file_is_refused(nested: Path) -> None:
    data = nested.read_bytes()
    for size in {0, 1, 3, 10, 63, 64, len(data) // 2, len(data) - 23, len(data) - 1}:
        nested.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"nested\.pt.*(cut short or damaged)"):
            open_checkpoint(nested)


def test_no_flipped_byte_of_the_pickle_goes_unseen(nested: Path) -> None:
    data = nested.read_bytes()
    with zipfile.ZipFile(nested) as archive:
        size = archive.getinfo("nested/data.pkl").file_size
    begin = data.index(b"\x80\x02}q")
    for at in range(begin, begin + size, 7):
        nested.write_bytes(data)
        flip(nested, at)
        with pytest.raises(CheckpointError, match="CRC"):
            open_checkpoint(nested)


def test_flipped_bytes_of_the_zip_directory_raise_nothing_else(nested: Path) -> None:
    data = nested.read_bytes()
    refused = 0
    for at in range(data.index(b"PK\x01\x02"), len(data)):
        nested.write_bytes(data)
        flip(nested, at)
        try:
            open_checkpoint(nested).section("unet")["a"].sum()
        except CheckpointError:
            refused += 1
    assert refused > 100  # the rest are dates and rights, which nobody reads


def test_safetensors_cut_or_flipped(flat: Path) -> None:
    data = flat.read_bytes()
    for size in (0, 4, 8, 20, len(data) - 1):
        flat.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"flat\.safetensors: cut short or damaged: \d+ bytes; safetensors:"):
            open_checkpoint(flat)
    flat.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])  # a header of an exabyte takes no memory
    with pytest.raises(CheckpointError, match="header too large"):
        open_checkpoint(flat)
    flat.write_bytes(data.replace(b'"shape":[2,3]', b'"shape":[2,9]'))
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(flat)


def test_a_compressed_archive_cannot_be_mapped(nested: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(nested) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    with pytest.raises(CheckpointError, match=r"compressed and cannot be mapped; save it with torch\.save"):
        open_checkpoint(packed)


def test_the_format_before_torch_1_6_says_how_to_convert(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"old\.pt.*torch\.save\(torch\.load\(OLD, weights_only=True"):
        open_checkpoint(tmp_path / "old.pt")


def test_what_is_missing_is_named_with_what_is_there(nested: Path, flat: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unet\.pt: no such file; .* holds flat\.safetensors, nested\.pt"):
        open_checkpoint(tmp_path / "unet.pt")
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere" / "unet.pt")
    checkpoint = open_checkpoint(nested)
    with pytest.raises(MissingKeyError, match=r"^nested\.pt: no 'projections'; it has unet, null_embedding;"):
        checkpoint.section("projections")
    with pytest.raises(MissingKeyError, match=r"^nested\.pt > unet: no 'c'; it has a, b;"):
        checkpoint.section("unet")["c"]
    with pytest.raises(MissingKeyError, match=r"flat\.safetensors: no 'c'"):
        open_checkpoint(flat)["c"]


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    odd = {"step": 3, "unet": {"a": 1}}
    torch.save({**odd, "endless": torch.ones(1).expand(10**9, 10**9)}, tmp_path / "odd.pt")
    checkpoint = open_checkpoint(tmp_path / "odd.pt")
    for key, words in {
        "step": r"odd\.pt: 'step': expected a dense tensor, got int",
        "endless": "inside the file of",
        "unet": r"got a section of 1 entries; open it with \.section\('unet'\)",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            checkpoint[key]
    with pytest.raises(CheckpointError, match="'step': expected a section of named tensors, got int"):
        checkpoint.section("step")
    for value, words in (
        ([torch.ones(1)], "expected a dictionary of tensors, got list"),
        ({1: 2}, r"expected names as keys, got 1 \(int\)"),
        ({"a": torch.eye(2).to_sparse()}, "expected dense tensors on the CPU"),
        ({"a": torch.ones(2, device="meta")}, r"expected dense tensors .*_rebuild_meta_tensor_no_storage"),
    ):
        torch.save(value, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(tmp_path / "other.pt")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for name, text, words in (
        ("a.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("b.pt", "<!DOCTYPE html><html>", "starts with b'<!DOCTYP' and is no PyTorch file"),
        ("c.ckpt", "", r"expected a file ending in \.pt, \.pth, \.bin, \.safetensors"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(tmp_path / name)


def test_opening_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    torch.save({"a": torch.ones(30_000_000)}, path)  # 120 MB
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom export.checkpoints.file import open_checkpoint\n"
        "import torch\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert open_checkpoint(Path(sys.argv[1]))['a'].shape == (30_000_000,)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60_000
