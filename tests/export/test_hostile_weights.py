"""Weight files that were made to hang a reader or to fill its memory are refused, at once and with a reason."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from export.checkpoints.file import open_checkpoint
from export.errors import CheckpointError, MissingKeyError

ROOT = Path(__file__).parents[2]
PROTO = b"\x80\x02"
A = b"X\x01\0\0\0a"  # the text "a"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(count: bytes = b"K\x04", kind: str = "FloatStorage", key: str = "0") -> bytes:
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + count + b"tQ"


def tensor(of: bytes, offset: bytes = b"K\0", shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85") -> bytes:
    hooks = named("collections", "OrderedDict") + b")R"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + of + offset + shape + strides + b"\x89" + hooks + b"tR"


def write(path: Path, program: bytes, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", PROTO + program + b".")
        file.writestr("a/byteorder", b"little")
        file.writestr("a/data/0", bytes(16))
        for name, data in more.items():
            file.writestr(name, data)
    return path


def item(value: bytes) -> bytes:
    return b"}" + A + value + b"s"


LARGE = b"\x8a\x08" + struct.pack("<q", 10**12)
DOUBLED = b"K\x01K\x01\x86" + b"q\0h\0\x86" * 60  # a tuple of the last one twice, 60 times: 2**60 leaves
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a key that takes for ever to hash": (b"}" + DOUBLED + b"K\x01s", "expected names as keys, got a tuple"),
    "a name of memory": (
        item(named("__builtin__", "bytearray") + LARGE + b"\x85R"),
        "wants to run __builtin__.bytearray",
    ),
    "an encoding that grows": (
        item(named("_codecs", "encode") + text("a" * 100) + text("hex") + b"\x86R"),
        r"wants to run _codecs\.encode; it was not run",
    ),
    "keys that collide": (b"}" + LARGE + b"Ns", "expected names as keys, got a int"),
    "a key twice": (b"}(" + (A + b"N") * 2 + b"u", "a key is there twice"),
    "a shape of a million axes": (
        item(tensor(storage(), shape=b"(" + b"K\x01" * 1000 + b"t", strides=b"(" + b"K\x01" * 1000 + b"t")),
        "a tensor of 1000 axes",
    ),
    "a storage behind its member": (
        item(tensor(storage(count=b"K\x05"))),
        "data/0 has 16 bytes, too few for 5 numbers",
    ),
    "a storage of a terabyte": (item(tensor(storage(count=LARGE))), "too few for 1000000000000 numbers"),
    "a storage of two lengths": (item(tensor(storage())) + storage(count=b"K\x03"), "two types or lengths"),
    "no such storage": (item(tensor(storage(key="../etc"))), r"it has no data/\.\./etc"),
    "a storage of objects": (item(tensor(storage(kind="ObjectStorage"))), "got torch.ObjectStorage"),
    "a tensor behind its storage": (item(tensor(storage(), offset=b"K\x01")), "ends behind its storage of 4"),
    "a stride behind it": (item(tensor(storage(), strides=b"K\x02\x85")), "ends behind its storage"),
    "a minus": (item(tensor(storage(), offset=b"J\xff\xff\xff\xff")), "impossible shape"),
    "a shape that overflows": (
        item(tensor(storage(), shape=LARGE * 2 + b"\x86", strides=b"K\0K\0\x86")),
        "impossible shape",
    ),
    "a text as shape": (item(tensor(storage(), shape=A, strides=A)), "without axes"),
    "attributes of a tensor": (item(tensor(storage()) + b"}b"), "got attributes of a Tensor"),
    "a class": (item(named("collections", "OrderedDict") + b")\x81"), "got the operation NEWOBJ"),
    "an extension": (item(b"\x82\x01"), "got the operation EXT1"),
    "nothing": (b"", "IndexError"),
    "a mark": (b"(", "a group without a value"),
    "no such memory": (b"h\x07", "KeyError"),
    "a text with an odd escape": (item(b"S'\\o'\n"), "got the operation STRING"),
    "a value beyond the end": (item(b"X\xff\xff\xff\x7fa"), "data.pkl: ValueError"),
    "a persistent id that is a number": (item(b"K\x01Q"), "TypeError"),
    "no program": (b"\xff", "data.pkl: ValueError"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused(case: str, tmp_path: Path) -> None:
    program, words = HOSTILE[case]
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(write(tmp_path / "a.pt", program))


ZIPS: dict[str, tuple[dict[str, bytes], str]] = {
    "big-endian numbers": ({"a/byteorder": b"big"}, "expected little-endian numbers, got b'big'"),
    "two folders": ({"b/data.pkl": b"x"}, "in a folder of its own"),
}


def test_what_a_weight_file_needs_is_read(tmp_path: Path) -> None:
    state = OrderedDict(weight=torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t()), count=torch.tensor(3))
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    kinds = [
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.bool,
    ]
    many = {str(kind): torch.tensor([0, 1, 1]).to(kind) for kind in kinds}
    shared = torch.arange(10.0)
    plain = {"step": 3, "rate": 0.5, "tuned": True, "name": "x", "sizes": [1, (2, 3, 4, 5)], "none": None, 7: 8}
    wanted = {
        "state": state,
        "many": many,
        "tied": shared[2:4],
        "to": shared,
        "empty": torch.ones(0, 3),
        "plain": plain,
    }
    for protocol in (2, 3, 4, 5):
        torch.save(wanted, tmp_path / "a.pt", pickle_protocol=protocol)
        found = open_checkpoint(tmp_path / "a.pt")
        for section in ("state", "many"):
            for key, value in wanted[section].items():
                assert (
                    torch.equal(found.section(section)[key], value) and found.section(section)[key].dtype is value.dtype
                )
        assert found.section("state")["weight"].stride() == (1, 3)
        assert torch.equal(found["tied"], shared[2:4]) and found["empty"].shape == (0, 3)
        assert found["tied"].untyped_storage().data_ptr() == found["to"].untyped_storage().data_ptr()


def test_hostile_files_take_neither_time_nor_memory(tmp_path: Path) -> None:
    """In a process of its own with little memory: the directory, the pickle and its calls are bounded."""
    with zipfile.ZipFile(tmp_path / "directory.pt", "w") as file:
        file.writestr("a/data.pkl", b"")
    data = (tmp_path / "directory.pt").read_bytes()
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    entries = entry * (30_000_000 // len(entry))
    end = end[:8] + b"\xff\xff\xff\xff" + struct.pack("<I", len(entries)) + end[16:]
    (tmp_path / "directory.pt").write_bytes(data[:at] + entries + end)
    write(tmp_path / "lists.pt", b"]" * 8_000_000)
    shape = b"(" + b"K\x01" * 400_000 + b"tq\x01"
    call = named("torch._utils", "_rebuild_tensor_v2") + b"q\2(" + storage() + b"K\0h\1h\1\x89)tq\3"
    write(tmp_path / "shapes.pt", shape + call + b"h\2h\3R" * 100_000)
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 99_000_000) + b" " * 99_000_000)
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom export.checkpoints.file import open_checkpoint\n"
        "from export.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n        open_checkpoint(path)\n    except CheckpointError as error:\n"
        "        print(str(error)[:300])\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(tmp_path.iterdir())), done.stdout


def test_a_flat_file_has_sections_by_its_names(tmp_path: Path) -> None:
    flat = {"unet.a": torch.ones(2), "unet.b.c": torch.zeros(3), "null_embedding": torch.ones(1)}
    save_file(flat, tmp_path / "a.safetensors")
    found = open_checkpoint(tmp_path / "a.safetensors")
    unet = found.section("unet")
    assert sorted(unet) == ["a", "b.c"] and torch.equal(unet["b.c"], flat["unet.b.c"])
    assert (unet.name, sorted(found.section("unet", "b"))) == ("a.safetensors > unet", ["c"])
    with pytest.raises(MissingKeyError, match="no 'vae'; it has"):
        found.section("vae")


def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    (tmp_path / "b.pt").mkdir()
    for name, kind in (("a.pt", "a FIFO"), ("b.pt", "a folder")):
        with pytest.raises(CheckpointError, match=f"expected a plain file, got {kind}"):
            open_checkpoint(tmp_path / name)


@given(st.data())
def test_a_mutated_pickle_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    program = bytearray(item(tensor(storage())) + b"}bq\0" + A + b"]" + b"(K\x01h\0e" + b"s")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(program) - 1))
        program[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = write(tmp_path_factory.getbasetemp() / "mutated.pt", bytes(program))
    try:
        found = open_checkpoint(path)
        for key in found:
            found[key]
    except CheckpointError as error:
        assert "mutated.pt" in str(error)


@pytest.mark.parametrize("case", ZIPS)
def test_a_hostile_zip_is_refused(case: str, tmp_path: Path) -> None:
    members, words = ZIPS[case]
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        for name, data in ({"a/data.pkl": PROTO + b"}.", **members}).items():
            file.writestr(name, data)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "a.pt")
