"""`ffrt interpolate`: what it prints and returns, and that a stop, a kill or a full disk leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ffrt.bundle import Bundle
from ffrt.cli import main as cli
from tests.runtime.clips import environment
from tests.runtime.own_video.videos import NTSC, facts_of, moving, write


def arguments(tiny: Bundle, video: Path, output: Path, *more: str) -> list[str]:
    return ["interpolate", str(video), "-o", str(output), "--bundle", str(tiny.folder), "--threads", "1", *more]


def test_it_writes_the_file_and_says_what_it_wrote(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.mp4", moving(12), NTSC, seconds_of_sound=0.5)
    output = tmp_path / "b.mp4"
    assert cli.main(arguments(tiny, source, output, "--times", "16", "--seed", "5")) == 0
    printed = capsys.readouterr()
    assert f"{output}: 192 frames, 64x64, 384000/1001 fps, 0.5 s long, no cut, made in" in printed.out
    assert printed.err.startswith("interpolate and write     192 frames")
    assert facts_of(output)["rate"] == 16 * NTSC
    assert cli.main(["inspect", str(output)]) == 0
    assert "source_rate" in capsys.readouterr().out


def test_every_option_reaches_the_pipeline(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = write(tmp_path / "a.mp4", moving(12), seconds_of_sound=0.5), tmp_path / "b.mkv"
    more = ["--no-keep-originals", "--cuts", "4,8", "--skip-frames", "2", "--drop", "audio", "--steps", "3"]
    more += ["--guidance", "0.5", "--sampler", "ddim", "--constant-rate", "--preset", "fast", "--memory", "low", "-q"]
    assert cli.main(arguments(tiny, source, output, *more)) == 0
    assert capsys.readouterr() == ("", "")
    wanted = {
        "keep_originals": "False",
        "skip_frames": "2",
        "interpolation_num_inference_steps": "3",
        "interpolation_guidance_scale": "0.5",
        "interpolation_sampler": "ddim",
    }
    metadata = facts_of(output)["metadata"]
    assert all(f'"{key}": "{value}"' in metadata["COMMENT"] for key, value in wanted.items())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--times", "3"], "--times: expected 4 or 16, got 3"),
        (["--skip-frames", "44"], "--skip-frames: expected a whole number from 0 to 19, got 44"),
        (["--drop", "video"], "--drop: expected one of ['audio', 'subtitle'], got 'video'"),
        (["--prompt", "a circle"], "--prompt: expected None, got one"),
    ],
)
def test_a_wrong_request_is_one_line_and_no_file(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    source = write(tmp_path / "a.mp4", moving(3))
    assert cli.main(arguments(tiny, source, tmp_path / "b.mp4", *more)) == 2
    assert capsys.readouterr().err.startswith(f"ffrt: {words}")
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_text_file_is_one_line_and_no_file(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    assert cli.main(arguments(tiny, tmp_path / "a.mp4", tmp_path / "b.mp4")) == 2
    assert capsys.readouterr().err.startswith("ffrt: video: expected an MP4, QuickTime or Matroska file")
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(("output", "words"), [("b.gif", "known are .mp4"), ("no/b.mp4", "there is no folder")])
def test_the_output_is_checked_before_the_bundle_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, words: str
) -> None:
    assert cli.main(["interpolate", "a.mp4", "-o", str(tmp_path / output), "--bundle", "no bundle"]) == 2
    assert words in capsys.readouterr().err


def started(tiny: Bundle, source: Path, output: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, once it has begun to write."""
    program = (
        "import sys, time\n"
        "from ffrt.cli import main\n"
        "from ffrt.media.retimed import RetimedWriter\n"
        "add = RetimedWriter.add\n"
        "def slow(self, frame):\n"
        "    add(self, frame)\n"
        "    if self.count == 10: print('writing', flush=True)\n"
        "    if self.count > 10: time.sleep(0.05)\n"
        "RetimedWriter.add = slow\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, *arguments(tiny, source, output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_the_old_file_and_leaves_nothing(
    tiny: Bundle, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    source, output = write(tmp_path / "a.mp4", moving(40), seconds_of_sound=1), tmp_path / "b.mp4"
    output.write_text("the old file")
    process = started(tiny, source, output)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert output.read_text() == "the old file" and sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_a_kill_keeps_the_old_file_and_the_next_run_removes_what_it_left(tiny: Bundle, tmp_path: Path) -> None:
    source, output = write(tmp_path / "a.mp4", moving(40)), tmp_path / "b.mp4"
    output.write_text("the old file")
    process = started(tiny, source, output)
    process.kill()
    process.communicate(timeout=60)
    assert output.read_text() == "the old file" and len(os.listdir(tmp_path)) == 3
    assert cli.main(arguments(tiny, source, output, "-q")) == 0
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("limit", [100, 9000, 30_000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tiny: Bundle, tmp_path: Path, limit: int, suffix: str) -> None:
    """A limit on the file size stands for the disk: the same failing write(2)."""
    source = write(tmp_path / "a.mp4", moving(60), seconds_of_sound=2.5)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "ffrt", *arguments(tiny, source, tmp_path / f"b{suffix}", "-q")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=120, preexec_fn=limited, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "files in" in done.stderr and "ulimit -f" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["a.mp4"]
