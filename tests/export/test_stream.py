"""Checkpoints become bundle weights chunk by chunk: whole or not at all, and continued after a kill."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.checkpoints import stream
from export.checkpoints.file import open_checkpoint
from export.checkpoints.progress import Progress, progress_line
from export.checkpoints.stream import stream_weights
from export.errors import BusyError, CheckpointError, DiskFullError

ROOT = Path(__file__).parents[2]


def quiet(done: int, total: int) -> None:
    pass


def released(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A release that calls everything by another name and keeps (k, 1) kernels as (k, 1, 1)."""
    return key.removeprefix("old."), tensor.squeeze(-1) if tensor.dim() == 5 else tensor


class Small(nn.Module):
    """One of each: a matrix over several chunks, a (k, 1) kernel, a lone parameter, an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.merge = nn.Parameter(torch.rand(1))
        self.linear = nn.Linear(90, 70)
        self.conv = nn.Conv2d(4, 6, (3, 1))
        self.register_buffer("steps", torch.arange(5))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stream, "CHUNK", 1000)
    torch.manual_seed(0)
    state = Small().state_dict()
    old = {f"old.{key}": value[..., None] if key == "conv.weight" else value for key, value in state.items()}
    old["old.linear.weight"] = old["old.linear.weight"].t().contiguous().t()  # not in row-major order
    torch.save({"unet": old}, tmp_path / "released.pt")
    return tmp_path / "released.pt"


def meta(kind: Callable[[], nn.Module] = Small) -> nn.Module:
    with torch.device("meta"):
        return kind()


def export(path: Path, out: Path, dtype: str = "float16", report: stream.Report = quiet) -> None:
    assert dtype in ("float16", "float32")
    stream_weights(meta(), open_checkpoint(path).section("unet"), released, out, dtype, report)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_file_is_the_state_dict_in_the_wanted_dtype(checkpoint: Path, dtype: str) -> None:
    said: list[tuple[int, int]] = []
    out = checkpoint.with_name("unet.safetensors")
    export(checkpoint, out, dtype, lambda done, total: said.append((done, total)))
    torch.manual_seed(0)
    wanted, got = Small().state_dict(), load_file(out)
    assert got.keys() == wanted.keys() and got["steps"].dtype is torch.int64
    for key, value in wanted.items():
        assert torch.equal(got[key], value.to(getattr(torch, dtype)) if value.is_floating_point() else value)
    size = sum(value.nbytes for value in got.values())
    assert said[0] == (0, size) and said[-1] == (size, size) and len(said) > 8
    assert said == sorted(said)
    assert sorted(path.name for path in out.parent.iterdir()) == ["released.pt", "unet.safetensors"]
    assert safe_open(out, "pt").metadata() is None  # nothing of this machine is in it


def test_every_copy_of_a_checkpoint_gives_the_same_file(checkpoint: Path) -> None:
    copy = checkpoint.with_name("copy.pt")
    shutil.copyfile(checkpoint, copy)
    os.utime(copy, ns=(1, 1))
    for path in (checkpoint, copy):
        export(path, path.with_suffix(".safetensors"))
    assert copy.with_suffix(".safetensors").read_bytes() == checkpoint.with_suffix(".safetensors").read_bytes()


def changed(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    entries = torch.load(checkpoint, weights_only=True)
    change(entries["unet"])
    torch.save(entries, checkpoint)
    return checkpoint


def rename_one(state: dict[str, Tensor]) -> None:
    state["old.linear.wait"] = state.pop("old.linear.weight")


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (
        lambda s: s.pop("old.merge"),
        r"pt > unet does not fit.*1 keys missing \(merge\), 0 left over \(nothing",
    ),
    "left over": (lambda s: s.update({"old.x": torch.ones(1)}), r"0 keys missing \(nothing\), 1 left over \(old\.x\)"),
    "renamed": (rename_one, r"1 keys missing \(linear\.weight\), 1 left over \(old\.linear\.wait\)"),
    "double": (lambda s: s.update({"merge": torch.ones(1)}), r"'old\.merge' and 'merge' both become 'merge'"),
    "shape": (
        lambda s: s.update({"old.merge": torch.ones(2)}),
        r"unet: 'old\.merge' \(merge\): expected shape \[1\], got \[2\]; is the configuration",
    ),
    "kind": (lambda s: s.update({"old.steps": torch.ones(5)}), r"\(steps\): expected torch\.int64, got F16"),
    "complex": (lambda s: s.update({"old.merge": torch.ones(1) * 1j}), "expected real numbers, got torch.complex64"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named_before_a_byte_is_written(checkpoint: Path, name: str) -> None:
    change, words = MISFITS[name]
    with pytest.raises(CheckpointError, match=words):
        export(changed(checkpoint, change), checkpoint.with_name("unet.safetensors"))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["released.pt"]


def test_a_value_that_float16_cannot_hold(checkpoint: Path) -> None:
    def enlarge(state: dict[str, Tensor]) -> None:
        state["old.linear.weight"][69, 3] = -70000.0

    out = checkpoint.with_name("unet.safetensors")
    with pytest.raises(CheckpointError, match=r"'old\.linear\.weight': float16 .* 65504, .* is 70000; .*--dtype fp32"):
        export(changed(checkpoint, enlarge), out)
    assert not list(checkpoint.parent.glob("*.safetensors*"))
    export(checkpoint, out, "float32")
    assert float(load_file(out)["linear.weight"].min()) == -70000


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite(checkpoint: Path, value: float, dtype: str) -> None:
    changed(checkpoint, lambda state: state["old.merge"].fill_(value))
    with pytest.raises(CheckpointError, match=r"'old\.merge': holds numbers that are not finite"):
        export(checkpoint, checkpoint.with_name("unet.safetensors"), dtype)


def test_a_full_disk_is_foreseen(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(
        DiskFullError, match=r"unet\.safetensors: expected 1\d{4} bytes of free disk, got 5000; make room"
    ):
        export(checkpoint, checkpoint.with_name("unet.safetensors"))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["released.pt"]


class Stop:
    """Counts tensors' chunks and raises at one."""

    def __init__(self, error: BaseException, at: int) -> None:
        self.error, self.left = error, at
        self.said: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        self.said.append(done)
        self.left -= 1
        if self.left == 0:
            raise self.error


def whole(checkpoint: Path) -> bytes:
    out = checkpoint.with_name("whole.safetensors")
    export(checkpoint, out)
    return out.read_bytes()


def test_a_disk_that_fills_up_and_then_goes_on(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, out = whole(checkpoint), checkpoint.with_name("unet.safetensors")
    write, room = stream.write_all, [9000]

    def write_until_full(file: io.FileIO, data: bytes | memoryview) -> None:
        fits = memoryview(data).cast("B")[: room[0]]
        write(file, fits)
        room[0] -= len(fits)
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stream, "write_all", write_until_full)
    with pytest.raises(DiskFullError, match=r"full after \d+ of \d+ bytes of .*unet\.safetensors\.part; make room"):
        export(checkpoint, out)
    assert not out.exists()
    monkeypatch.setattr(stream, "write_all", write)
    export(checkpoint, out)
    assert out.read_bytes() == wanted and not list(out.parent.glob("*.part"))


def test_ctrl_c_leaves_a_part_that_goes_on_at_the_last_whole_tensor(checkpoint: Path) -> None:
    wanted, out = whole(checkpoint), checkpoint.with_name("unet.safetensors")
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, out, report=Stop(KeyboardInterrupt(), 6))
    assert [path.name for path in out.parent.glob("unet*")] == ["unet.safetensors.part"]
    after = Stop(KeyboardInterrupt(), 10**9)
    export(checkpoint, out, report=after)
    assert after.said[0] == 5 * 8 + 2  # steps and merge are whole, the matrix is not
    assert out.read_bytes() == wanted


@pytest.mark.parametrize("difference", ["time", "dtype", "names", "damage", "no stamp"])
def test_a_part_of_something_else_is_not_continued(checkpoint: Path, difference: str) -> None:
    out = checkpoint.with_name("unet.safetensors")
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, out, report=Stop(KeyboardInterrupt(), 6))
    after, dtype = Stop(KeyboardInterrupt(), 10**9), "float16"
    if difference == "time":
        os.utime(checkpoint, ns=(1, 1))
    elif difference == "dtype":
        dtype = "float32"
    elif difference == "names":
        about = checkpoint.stat()
        changed(checkpoint, lambda state: state.update({"young_merge"[6:]: state.pop("old.merge")}))
        os.utime(checkpoint, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif difference == "damage":
        part = out.with_name("unet.safetensors.part")
        part.write_bytes(part.read_bytes()[:40])
    if difference == "no stamp":
        source = dict(open_checkpoint(checkpoint).section("unet"))
        stream_weights(meta(), source, released, out, "float16", after)
    else:
        export(checkpoint, out, dtype, after)
    assert after.said[0] == 0
    again = checkpoint.with_name("again.safetensors")
    export(checkpoint, again, dtype)
    assert out.read_bytes() == again.read_bytes()


def test_a_source_of_several_files_goes_on_with_its_stamp(checkpoint: Path) -> None:
    wanted, out = whole(checkpoint), checkpoint.with_name("unet.safetensors")
    source = dict(open_checkpoint(checkpoint).section("unet"))
    with pytest.raises(KeyboardInterrupt):
        stream_weights(meta(), source, released, out, "float16", Stop(KeyboardInterrupt(), 6), stamp="a and b")
    after = Stop(KeyboardInterrupt(), 10**9)
    stream_weights(meta(), source, released, out, "float16", after, stamp="a and b")
    assert after.said[0] > 0 and out.read_bytes() == wanted


def test_two_exports_do_not_write_one_file(checkpoint: Path) -> None:
    out = checkpoint.with_name("unet.safetensors")

    def second(done: int, total: int) -> None:
        with pytest.raises(BusyError, match=r"another export is writing .*unet\.safetensors\.part"):
            export(checkpoint, out)

    export(checkpoint, out, report=second)
    assert load_file(out).keys() == Small().state_dict().keys()


CHILD = """
import sys, time
from pathlib import Path
from torch import nn
import torch
from export.checkpoints.file import open_checkpoint
from export.checkpoints.stream import stream_weights
source, out, pause = open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
module = nn.ParameterDict({key: nn.Parameter(torch.empty(value.shape, device="meta")) for key, value in source.items()})
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = status("VmHWM")
def report(done, total):
    print(done, flush=True)
    time.sleep(pause)
stream_weights(module, source, lambda key, value: (key, value), out, "float16", report)
print("grown", status("VmHWM") - before)
"""


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_kill_9_and_memory_of_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {f"layer{i}": torch.randn(4000, 2500) for i in range(6)}  # 240 MB
    source, out = tmp_path / "large.safetensors", tmp_path / "out.safetensors"
    save_file(state, source)
    killed = child(source, out, 0.3)
    assert killed.stdout is not None
    for line in killed.stdout:
        if int(line) > 25_000_000:
            break
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    assert not out.exists()
    said = child(source, out, 0).communicate(timeout=60)[0].splitlines()
    assert int(said[0]) >= 20_000_000
    grown = int(said[-1].removeprefix("grown "))
    assert grown < 120_000, f"{grown} kB, where more than 160 MB were read and 80 MB written"
    module = nn.ParameterDict({key: nn.Parameter(value.to("meta")) for key, value in state.items()})
    stream_weights(module, state, lambda key, value: (key, value), tmp_path / "whole", "float16", quiet)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()
    assert all(torch.equal(value, state[key].half()) for key, value in load_file(out).items())


def test_progress_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress_line("unet", 3_200_000_000, 8_300_000_000, 40.2) == "unet 3.2 of 8.3 GB, 41 s left"
    assert progress_line("unet", 0, 5_000_000, None) == "unet 0.0 of 5.0 MB"
    assert progress_line("unet", 1, 10**12, 7000).endswith("117 min left")
    times = iter(range(1000))
    file = io.StringIO()
    show = Progress("unet", file, lambda: next(times))
    for percent in range(50, 101):
        show(percent * 10**7, 10**9)
    lines = file.getvalue().splitlines()
    assert len(lines) == 6 and lines[1] == "unet 0.6 of 1.0 GB, 40 s left" and lines[-1] == "unet 1.0 of 1.0 GB"


def test_progress_on_a_terminal_is_one_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    times = iter(0.03 * n for n in range(1000))
    file = Terminal()
    show = Progress("unet", file, lambda: next(times))
    for percent in range(101):
        show(percent * 10**7, 10**9)
    said = file.getvalue()
    assert said.count("\n") == 1 and said.endswith("unet 1.0 of 1.0 GB\n")
    assert 20 < said.count("\r\x1b[K") < 40
