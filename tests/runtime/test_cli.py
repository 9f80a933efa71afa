"""The command line: what it prints, what it returns, and that a wrong request or a stop leaves no file."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ffrt
from ffrt import Stage, Step
from ffrt.bundle import Bundle
from ffrt.cli import main as cli
from ffrt.cli.progress import Progress
from ffrt.media.metadata import read_metadata

PROMPT = "a red circle moving right"


def arguments(tiny: Bundle, output: Path, *more: str) -> list[str]:
    return ["generate", PROMPT, "-o", str(output), "--bundle", str(tiny.folder), "--threads", "1", *more]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.png"])
def test_generate_writes_the_file_and_how_it_was_made(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    output = tmp_path / name
    assert cli.main(arguments(tiny, output, "--seed", "7", "--guidance", "0", "--steps", "2")) == 0
    printed = capsys.readouterr()
    made = output if output.suffix != ".png" else f"{tmp_path / 'a'}/"
    assert f"{made}: 9 frames, 32x32, 8 fps, 1.1 s long" in printed.out
    stages = [line.split("  ")[0] for line in printed.err.splitlines()]
    assert stages == ["keyframes", "interpolation to 8 fps", "decode and write"]
    files = [output] if output.suffix != ".png" else [tmp_path / "a" / f"a-{i:05d}.png" for i in range(9)]
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == files
    found = read_metadata(files[0])
    wanted = {"prompt": PROMPT, "seed": "7", "guidance_scale": "0.0", "num_inference_steps": "2"}
    assert found.items() >= {**wanted, "bundle_digest": tiny.digest, "ffrt_version": ffrt.__version__}.items()


def test_every_option_reaches_the_pipeline(tiny: Bundle, tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    more = [
        "--fps",
        "30",
        "--size",
        "32x64",
        "--sampler",
        "ddim",
        "--interpolation-guidance",
        "1.5",
        "--provider",
        "cpu",
    ]
    assert cli.main(arguments(tiny, output, *more, "--negative-prompt", "blue", "--steps", "1")) == 0
    found = read_metadata(output)
    assert found["sampler"] == "ddim"
    assert found["negative_prompt"] == "blue"
    assert found["interpolation_guidance_scale"] == "1.5"
    import av

    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.frames, stream.average_rate) == (32, 64, 33, 30)


def test_quiet_prints_nothing(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(tiny, tmp_path / "a.gif", "--quiet", "--fps", "2", "--size", "64")) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--fps", "7"], r"--fps: expected one of \[2, 8, 30\]"),
        (["--steps", "0"], "--steps: expected a whole number from 1 to 1000, got 0"),
        (["--steps", "-3"], "--steps"),
        (["--seed", "-1"], "--seed"),
        (["--size", "65"], "--size .height.: expected a multiple of 16 pixels, got 65; the nearest are 64 and 80"),
        (["--size", "64x0"], "--size .width."),
        (["--sampler", "euler"], "--sampler"),
        (["--threads", "0"], "--threads"),
        (["--negative-prompt", " "], "--negative-prompt"),
        (["--guidance", "nan"], "--guidance: expected"),
    ],
)
def test_a_wrong_request_is_one_line_and_no_file(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert cli.main([*arguments(tiny, tmp_path / "a.mp4"), *more]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"ffrt: .*{words}.*\n", printed.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", "big"], "expected HEIGHTxWIDTH such as 96x160, or one number, got 'big'"),
        (["--seed", "seven"], "invalid int value: 'seven'"),
        (["--bundl", "x"], "unrecognized arguments: --bundl x"),
        (["--speed", "3"], "unrecognized arguments: --speed 3"),
    ],
)
def test_a_misspelt_option_is_a_usage_error(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments(tiny, tmp_path / "a.mp4"), *more])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"), [("a.avi", "known are .mp4"), ("no/a.mp4", "no folder"), ("", "is a folder")]
)
def test_the_output_is_checked_before_the_bundle_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    output = os.path.join(tmp_path, name)
    assert cli.main(["generate", PROMPT, "-o", output, "--bundle", str(tmp_path / "missing")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--data", "--bundle", "--keys"])
def test_a_path_of_a_variable_that_is_not_set_is_not_this_folder(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", flag, ""])
    assert f"argument {flag}: expected a path, got ''" in capsys.readouterr().err


def test_a_folder_in_the_way_of_png_frames_is_seen_before_a_model_runs(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a-00009.png").write_text("the tenth frame of something else")
    assert cli.main(arguments(tiny, tmp_path / "a.png")) == 1
    printed = capsys.readouterr().err
    assert "a-00009.png" in printed
    assert "keyframes" not in printed


def test_a_missing_or_changed_bundle(own_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", PROMPT, "-o", str(tmp_path / "a.mp4"), "--bundle", str(tmp_path / "none")]) == 1
    assert "no bundle folder" in capsys.readouterr().err
    with open(own_bundle.folder / "keyframe_unet.onnx", "r+b") as file:
        file.write(b"\xff")
    for command in (["inspect", str(own_bundle.folder)], arguments(own_bundle, tmp_path / "a.mp4")):
        assert cli.main(command) == 1
        assert "sha256" in capsys.readouterr().err


def test_a_processor_records_no_launches(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(tiny, tmp_path / "a.mp4", "--provider", "cpu", "--cuda-graph")) == 1
    assert "--cuda-graph: expected a provider of ['cuda'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unavailable_provider_is_an_error(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(tiny, tmp_path / "a.mp4", "--provider", "quantum")) == 1
    assert "expected one of ['auto', 'cpu', 'cuda'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_long_prompt_warns_in_one_line(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(tiny, tmp_path / "a.gif", "--fps", "2")
    command[1] = "red " * 40
    assert cli.main(command) == 0
    assert "ffrt: warning: the prompt has 41 tokens; 8 were kept, the rest left out\n" in capsys.readouterr().err


def test_inspect_shows_graphs_sizes_and_parity(tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tiny.folder)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "tiny",
        "Apache-2.0",
        tiny.digest,
        "[B*T, 4, h, w]",
        "parity",
        "4 steps, guidance 0.25",
        "9 at 8 fps",
    ):
        assert words in printed
    for name in tiny.graphs:
        assert re.search(rf"^{name}  .* 1.0e-03$", printed, re.MULTILINE)
    assert all(line == line.rstrip() for line in printed.splitlines())


@pytest.mark.parametrize(("psnr", "far"), [(45.12, ", 45.1 dB from the bundle that it was made of"), (None, "")])
def test_inspect_says_what_a_bundle_was_optimised_for(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], psnr: float | None, far: str
) -> None:
    told = {
        "provider": "openvino",
        "passes": ["split"],
        "dtype": "bfloat16",
        **({} if psnr is None else {"psnr": psnr}),
    }
    manifest = own_bundle.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "optimised": told}))
    assert cli.main(["inspect", str(own_bundle.folder)]) == 0
    assert f"for openvino in bfloat16{far}\n" in capsys.readouterr().out


def test_inspect_json_is_the_manifest_and_its_digest(tiny: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tiny.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["digest"] == tiny.digest
    assert found["graphs"]["movq_decoder"]["outputs"][0]["shape"] == ["N", 3, "H", "W"]
    assert found["interpolation"]["guidance_scale"] == 0.25


def test_inspect_says_how_a_video_was_made(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a.webm"
    cli.main(arguments(tiny, output, "--quiet", "--seed", "11"))
    assert cli.main(["inspect", str(output)]) == 0
    assert re.search(r"^seed +11$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["inspect", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_metadata(output)


def test_doctor_names_versions_providers_and_the_next_step(
    tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffrt.cli.doctor.find_bundle", lambda name: tiny.folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = tmp_path / "ffrt" / "engines" / "digest" / "tensorrt" / "graph.engine"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(bytes(3000))
    empty = rf"^graphs +0.0 kB +{tmp_path}/ffrt/graphs is empty; what ONNX Runtime optimises is kept there$"
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("ffrt", "python", "numpy", "onnxruntime", "tokenizers", "av", "demo bundle", "cuda", "threads"):
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
    assert re.search(r"^auto +cpu ", printed, re.MULTILINE) or re.search(r"^cuda +ok ", printed, re.MULTILINE)
    assert re.search(rf"^engines +3.0 kB +{tmp_path}/ffrt/engines$", printed, re.MULTILINE)
    assert re.search(empty, printed, re.MULTILINE)
    assert "providers" in printed
    assert printed.splitlines()[-1].startswith("next: ffrt generate ")


def test_doctor_fails_when_the_demo_is_damaged(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_bundle.folder / "tokenizer.json").unlink()
    monkeypatch.setattr("ffrt.cli.doctor.find_bundle", lambda name: own_bundle.folder)
    assert cli.main(["doctor"]) == 1
    assert "tokenizer.json is missing" in capsys.readouterr().out.splitlines()[-1]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "runtime"), "COLUMNS": "100"}


def ffrt_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ffrt", *arguments]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["keyframes", "interpolation to 8 fps"])
def test_a_stopped_run_leaves_no_file(
    tiny: Bundle, tmp_path: Path, number: signal.Signals, status: int, moment: str
) -> None:
    terminal, ours = pty.openpty()
    process = subprocess.Popen(
        ffrt_command(*arguments(tiny, tmp_path / "a.mp4", "--steps", "1000", "--size", "512")),
        stdout=subprocess.DEVNULL,
        stderr=ours,
        env=environment(),
    )
    os.close(ours)
    seen = b""
    while moment.encode() not in seen:
        seen += os.read(terminal, 1000)
    process.send_signal(number)
    try:
        while chunk := os.read(terminal, 1000):
            seen += chunk
    except OSError:  # how a pty says that the other side is closed
        pass
    os.close(terminal)
    assert process.wait(timeout=60) == status
    assert b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_closes_stdout_is_no_crash(tiny: Bundle) -> None:
    line = " ".join([*ffrt_command("inspect", str(tiny.folder), "--json"), "| head -c 1"])
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.stdout, done.stderr) == ("{", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(stage: Stage, index: int, total: int, elapsed_s: float, remaining_s: float | None) -> Step:
    return Step(stage, 8, index, total, index + 1, 99, elapsed_s, remaining_s)


def test_the_bar_counts_down_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.update(step(Stage.KEYFRAMES, 0, 50, 2.0, None))
        progress.update(step(Stage.KEYFRAMES, 1, 50, 4.0, 96.0))
        progress.update(step(Stage.KEYFRAMES, 49, 50, 200.0, 0.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"keyframes +\S* +2/50, 1 min 36 s left", shown)
    assert "keyframes                  50 steps    200.0 s\n" in shown
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]", shown))


@pytest.mark.parametrize("terminal", [io.StringIO(), Terminal()])
def test_a_warning_is_one_line(terminal: io.StringIO) -> None:
    with Progress(terminal, quiet=True):
        logging.getLogger("ffrt").warning("the prompt has %d tokens", 41)
    logging.getLogger("ffrt").info("not shown")
    assert terminal.getvalue() == "ffrt: warning: the prompt has 41 tokens\n"
