"""Who may import whom: the four floors, and inside the package.

Two tests, because neither sees everything: the syntax tree shows imports inside functions that nobody calls, the
subprocess shows imports by name through importlib.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "runtime" / "ffrt"

# floor -> the roots it may import beside the standard library, numpy and itself
FLOORS = {
    "runtime/ffrt": {
        *{"ffrt", "onnxruntime", "openvino", "tokenizers", "av", "PIL", "tqdm", "PyInstaller"},
        *{"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "opentelemetry", "pynvml", "ray"},
    },
    "graphs": {"ffrt", "onnx", "onnx_ir", "onnxruntime"},
    "export": {
        *{"ffrt", "graphs", "torch", "onnx", "onnxruntime", "onnxscript", "optimum"},
        *{"transformers", "safetensors", "tokenizers", "matplotlib", "av", "PIL"},
    },
    "bench": {
        *{"ffrt", "graphs", "export", "torch", "onnx", "onnxruntime", "av", "matplotlib", "PIL", "tokenizers"},
        *{"pytest", "pytest_benchmark", "safetensors", "skimage", "transformers", "openai"},
        *{"cv2", "imageio_ffmpeg"},  # flow and libvmaf, in bench.metrics
    },
}

# third-party package -> the only files of ffrt that may import it
ONLY = {
    "onnxruntime": {"onnxruntime_session"},
    "openvino": {"openvino"},
    "tokenizers": {"tokens", "text", "run"},
    "av": {
        *{"writers", "target", "metadata", "muxer"},
        *{"probe", "source", "copies", "colours", "turns"},  # a video of the caller
    },
    "PIL": {"image", "writers", "metadata", "pictures"},
    "tqdm": {"progress"},
    "ray": {"ray_actors", "ray_cluster", "ray_connect"},
    "PyInstaller": {"hook-ffrt"},
    "opentelemetry": {"traces"},
    "pynvml": {"gpus"},
}


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, in full: `from a import b` is both `a` and `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides what is imported"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(floor: str) -> list[Path]:
    return sorted(path for path in (ROOT / floor).rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_lies_below(floor: str) -> None:
    allowed = FLOORS[floor] | {"numpy", floor.rsplit("/", maxsplit=1)[-1]} | sys.stdlib_module_names
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in sources(floor)
        for module in imports(file)
        if module.split(".")[0] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("file", sources("runtime/ffrt"), ids=lambda file: file.stem)
def test_one_file_of_the_package_imports_each_library(file: Path) -> None:
    for module in imports(file):
        root = module.split(".")[0]
        assert file.stem in ONLY.get(root, {file.stem}), f"only {ONLY[root]} may import {root}"


def test_the_web_is_known_to_the_api_alone_and_sql_to_the_table() -> None:
    """Workers, jobs and the pipeline know nothing of HTTP; nothing but the command knows the server."""
    web = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
    for file in sources("runtime/ffrt"):
        place = file.relative_to(PACKAGE).as_posix()
        roots = {module.split(".")[0] for module in imports(file)}
        if not place.startswith("serve/api/") and place not in ("serve/server.py", "serve/connections.py"):
            assert not roots & web, place
        if place not in ("serve/jobs/table.py", "serve/jobs/store.py"):
            assert "sqlite3" not in roots, place
        if not place.startswith("serve/") and place != "cli/serve.py":
            assert not [module for module in imports(file) if module.startswith("ffrt.serve")], place


def test_the_package_is_alone_in_runtime() -> None:
    assert not (ROOT / "runtime" / "__init__.py").exists()
    kept = [path.name for path in (ROOT / "runtime").iterdir() if path.name != "__pycache__"]
    assert kept == ["ffrt"]
    for floor in ("export", "graphs", "bench"):
        assert (ROOT / floor / "__init__.py").exists(), f"without it, a package {floor} of site-packages would win"


def test_every_module_imports_without_torch_onnx_and_transformers() -> None:
    files = [path for path in sources("runtime/ffrt") if path.stem.isidentifier()]  # PyInstaller runs its hook itself
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in files]
    modules = [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]
    program = (
        "import importlib, sys\n"
        "for name in ('torch', 'onnx', 'transformers', 'PIL', 'safetensors', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(sorted(name for name in sys.modules if name == 'ffrt' or name.startswith('ffrt.')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == sorted(modules)


def test_importing_ffrt_does_not_load_pyav_or_the_tokenizer() -> None:
    program = "import sys, ffrt; print({'av', 'tokenizers', 'PIL'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_every_floor_keeps_onnx_runtime_from_calling_its_maker() -> None:
    """Whoever imports ONNX Runtime first, directly or not, the variable that it reads has been set."""
    program = (
        "import importlib, os, sys\n"
        "for floor in ('ffrt', 'graphs', 'export', 'bench'):\n"
        "    for name in [name for name in sys.modules if name.split('.')[0] in ('ffrt', floor)]:\n"
        "        del sys.modules[name]\n"
        "    os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        "    importlib.import_module(floor)\n"
        "    print(floor, os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.stdout.splitlines() == ["ffrt 1", "graphs 1", "export 1", "bench 1"], done.stderr


def test_the_package_changes_nothing_of_the_process() -> None:
    """Filters of warnings, streams, logging and the like belong to the program; the command may handle signals."""
    ours = {"catch_warnings", "simplefilter", "filterwarnings", "redirect_stdout", "redirect_stderr", "basicConfig"}
    ours |= {"seterr", "setlocale", "chdir", "umask", "setrecursionlimit", "set_int_max_str_digits"}
    for file in sources("runtime/ffrt"):
        names = [node.attr for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Attribute)]
        assert not ours & set(names), file


def test_dataclasses_are_frozen() -> None:
    """A value that was handed over stays what it is; but for two that a stage fills while it runs."""
    changing = []
    for file in (file for floor in FLOORS for file in sources(floor)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            for decorator in getattr(node, "decorator_list", ()):
                words = ast.unparse(decorator)
                if words.startswith("dataclass") and "frozen=True" not in words:
                    changing.append(f"{file.name}: {getattr(node, 'name', '')}")
    assert changing == ["graphs.py: OpenGraphs", "run.py: UnderWay"]
