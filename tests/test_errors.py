"""Every error that a user can meet is an FfrtError; what is raised otherwise is caught where it is raised."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = ("runtime/ffrt", "graphs", "export", "bench")
BUILT_IN = {
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
}
CAUGHT = "caught in the same file, or by the one function that calls it, and raised again as an FfrtError"
ENDS = "ends a program, with its message or status"
ALLOWED: dict[str, dict[str, str]] = {
    "export/__main__.py": {"SystemExit": ENDS},
    "export/checkpoints/archive.py": {"ValueError": CAUGHT},
    "export/checkpoints/file.py": {"KeyError": "what a Mapping raises", "OSError": CAUGHT},
    "export/checkpoints/pickled.py": {"ValueError": CAUGHT, "TypeError": CAUGHT},
    "export/judges/weights.py": {"TypeError": CAUGHT},
    "export/training/__main__.py": {"SystemExit": ENDS},
    "export/training/arms.py": {"SystemExit": ENDS, "ArgumentTypeError": "argparse shows it with the flag"},
    "export/training/loop.py": {"SystemExit": ENDS},
    "export/training/recipe.py": {"SystemExit": ENDS},
    "export/datasets/film.py": {"SystemExit": ENDS, "ValueError": "caught below, and told as a DatasetError"},
    "export/datasets/digits/pictures.py": {"ValueError": CAUGHT},
    "export/datasets/sheet.py": {"SystemExit": ENDS},
    "export/training/between.py": {"SystemExit": ENDS},
    "export/training/film.py": {"SystemExit": ENDS},
    "export/training/latents.py": {"SystemExit": ENDS},
    "runtime/ffrt/__init__.py": {"AttributeError": "what a module raises for a name that it has not"},
    "runtime/ffrt/backend/axes.py": {"ValueError": CAUGHT},
    "runtime/ffrt/bundle/manifest.py": {"ValueError": CAUGHT},
    "runtime/ffrt/bundle/tokenizer.py": {"ValueError": CAUGHT},
    "runtime/ffrt/cli/generate.py": {"ArgumentTypeError": "argparse shows it with the flag"},
    "runtime/ffrt/cli/interpolate.py": {"ArgumentTypeError": "argparse shows it with the flag"},
    "runtime/ffrt/cli/pipe.py": {"BrokenPipeError": "main ends quietly with it"},
    "runtime/ffrt/cli/serve.py": {"ArgumentTypeError": "argparse shows it with the flag"},
    "runtime/ffrt/files.py": {"ArgumentTypeError": "argparse shows it with the flag"},
    "runtime/ffrt/generation/arrays_file.py": {"ValueError": CAUGHT},
    "runtime/ffrt/generation/checkpoint.py": {"ValueError": CAUGHT},
    "runtime/ffrt/generation/generation.py": {"StopIteration": "what an iterator raises at its end"},
    "runtime/ffrt/generation/own_video/stream.py": {"StopIteration": "what an iterator raises at its end"},
    "runtime/ffrt/media/copies.py": {"ValueError": CAUGHT},
    "runtime/ffrt/media/metadata.py": {"ValueError": CAUGHT},
    "runtime/ffrt/media/muxer.py": {"OSError": CAUGHT},
    "runtime/ffrt/media/probe.py": {"ValueError": CAUGHT},
    "runtime/ffrt/output/exchange.py": {"OSError": "as the system raises it for any other rename"},
    "runtime/ffrt/serve/api/body.py": {"ValueError": CAUGHT},
}
"""File -> what else it raises, and why no user meets it."""


def sources() -> list[Path]:
    return sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def raised(file: Path) -> Iterator[str]:
    """The names of built-in errors, and of those of other packages, that a file raises."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(made, ast.Attribute) and made.attr[:1].isupper():  # otherwise an error that was kept
            yield made.attr
        elif isinstance(made, ast.Name) and made.id in BUILT_IN:
            yield made.id


def test_what_is_raised_is_typed() -> None:
    found = {str(file.relative_to(ROOT)): set(raised(file)) for file in sources()}
    assert {file: names for file, names in found.items() if names} == {file: set(ALLOWED[file]) for file in ALLOWED}


def test_export_again_is_advised_only_where_it_helps() -> None:
    """A tokenizer that the file format does not allow comes from an export; nothing else is mended by another one."""
    advising = {
        str(file.relative_to(ROOT)) for file in sources() if "export the bundle again" in file.read_text("utf-8")
    }
    assert advising == {"runtime/ffrt/stages/tokens.py"}


def test_every_class_of_errors_is_in_the_tree() -> None:
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            bases = {base.id for base in getattr(node, "bases", ()) if isinstance(base, ast.Name)}
            if isinstance(node, ast.ClassDef) and bases & BUILT_IN and node.name != "FfrtError":
                assert bases - BUILT_IN, f"{file}: {node.name} is under no error of ours"
