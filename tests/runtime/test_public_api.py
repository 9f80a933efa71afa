"""What `import ffrt` promises."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ffrt
from ffrt import errors
from ffrt.generation.request import Options, options


def test_all_names_exist_are_sorted_and_documented() -> None:
    assert ffrt.__all__ == sorted(ffrt.__all__)
    for name in ffrt.__all__:
        assert getattr(ffrt, name) is not None
        assert name == "__version__" or inspect.getdoc(getattr(ffrt, name))
    assert re.fullmatch(r"\d+\.\d+\.\d+", ffrt.__version__)


def test_every_error_is_one_tree_and_is_exported() -> None:
    raised = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, Exception)]
    assert {e.__name__ for e in raised} <= set(ffrt.__all__)
    for error in raised:
        assert issubclass(error, ffrt.FfrtError) or issubclass(error, Warning)
        assert issubclass(error, Warning) or error.__name__ in (errors.__doc__ or "")


def test_the_keyword_arguments_are_the_fields_of_a_request() -> None:
    fields = [one.name for one in dataclasses.fields(ffrt.Request)]
    assert fields[0] == "prompt" and list(Options.__annotations__) == fields[1:] == list(options())[1:]
    for one in dataclasses.fields(ffrt.Request)[1:]:
        assert str(Options.__annotations__[one.name].__forward_arg__) == one.type and one.kw_only
        assert options()[one.name].help


def test_a_request_and_its_keywords_are_the_same(pipe: ffrt.Pipeline) -> None:
    request = ffrt.Request("a red circle", fps=2, seed=3, num_inference_steps=2)
    video = pipe("a red circle", fps=2, seed=3, num_inference_steps=2)
    assert pipe.generate(request).plan == pipe.generate("a red circle", fps=2, seed=3, num_inference_steps=2).plan
    assert (pipe(request).frames == video.frames).all()
    with pytest.raises(ffrt.RequestError, match=r"beside the options \['seed'\], got a Request"):
        pipe(request, seed=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 4  # type: ignore[misc]


def test_the_package_is_typed_and_its_public_calls_have_docstrings() -> None:
    assert (Path(ffrt.__file__).parent / "py.typed").is_file()
    for cls in (ffrt.Pipeline, ffrt.Generation, ffrt.Plan, ffrt.Step, ffrt.Video, ffrt.Bundle, ffrt.Context):
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            assert name.startswith("_") or member.__doc__, f"{cls.__name__}.{name}"


def test_pyinstaller_finds_the_hook() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, name = project["entry-points"]["pyinstaller40"]["hook-dirs"].split(":")
    (folder,) = getattr(importlib.import_module(module), name)()
    assert (Path(folder) / "hook-ffrt.py").is_file()


def test_the_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, ffrt\n"
        "heavy = {'torch', 'onnx', 'transformers', 'PIL', 'av', 'tokenizers', 'matplotlib', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    path = str(Path(ffrt.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
