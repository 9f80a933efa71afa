"""What `import ffrt` promises."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ffrt
from ffrt import errors


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


@pytest.mark.parametrize("name", ["__call__", "generate"])
def test_the_generator_form_takes_the_same_arguments(name: str) -> None:
    signature = inspect.signature(getattr(ffrt.Pipeline, name))
    assert list(signature.parameters)[1:] == [
        "prompt",
        "negative_prompt",
        "image",
        "motion",
        "fps",
        "num_inference_steps",
        "guidance_scale",
        "image_guidance_scale",
        "interpolation_guidance_scale",
        "seed",
        "height",
        "width",
        "sampler",
        "preset",
        "cache_interval",
    ]
    kinds = {p.kind for p in list(signature.parameters.values())[2:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_the_package_is_typed_and_its_public_calls_have_docstrings() -> None:
    assert (Path(ffrt.__file__).parent / "py.typed").is_file()
    for cls in (ffrt.Pipeline, ffrt.Step, ffrt.Video, ffrt.Bundle, ffrt.Context):
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            assert name.startswith("_") or member.__doc__, f"{cls.__name__}.{name}"


def test_the_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, ffrt\n"
        "heavy = {'torch', 'onnx', 'transformers', 'PIL', 'av', 'tokenizers', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    path = str(Path(ffrt.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
