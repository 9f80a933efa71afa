"""The site: Sphinx with MyST and furo. `make docs` builds it from these pages and from the docstrings."""

import os
import re
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT)]

from ffrt import __version__  # noqa: E402  (found by the line above)
from ffrt.generation.request import MAX_SEED, options  # noqa: E402

project = "ffrt"
author = "the authors of ffrt"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "py:obj"  # docstrings are Markdown: `single` backticks are code, and a link where the name has a page
autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

smartquotes = False  # "fast" in a docstring is a value to type

html_theme = "furo"
html_title = f"ffrt {__version__}"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["ffrt.css"]
FENCE = re.compile(r"^\s*```(\w*)$")
BAR = re.compile(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)")


def from_markdown(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Rewrite a docstring in place: fenced blocks become directives, and a bar outside of code a mere bar."""
    inside = False
    text: list[str] = []
    for line in lines:
        fence = FENCE.match(line)
        if fence is None:
            text.append(f"   {line}" if inside else BAR.sub(r"\\|", line))
        else:
            inside = not inside
            text += [f".. code-block:: {fence[1] or 'text'}", ""] if inside else [""]
    lines[:] = text


class CommandHelp(SphinxDirective):
    """What a command prints with `--help`: `{command-help} ffrt generate`, `{command-help} graphs optimise`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Run the command and show its output."""
        module, *words = self.arguments[0].split()
        paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", module, *words, "--help"],
            env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "100", "NO_COLOR": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise self.error(f"{self.arguments[0]} --help: {done.stderr}")
        block = nodes.literal_block(done.stdout, done.stdout.rstrip())
        block["language"] = "text"
        return [block]


class RequestOptions(SphinxDirective):
    """A table of the options of `Request`, from its fields."""

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown and parse it."""
        lines = ["| option | flag | meaning | range |", "|---|---|---|---|"]
        for name, option in options().items():
            flag = "" if option.flag is None else f"`--{option.flag or name.replace('_', '-')}`"
            high = "2^63 - 1" if option.high == MAX_SEED else f"{option.high or 0:.0f}"
            bounds = "" if option.low is None else f"{option.low:.0f} to {high}"
            words = ", ".join(f"`{choice}`" for choice in option.choices)
            facts = " ".join(fact for fact in (bounds or words, option.unit) if fact)
            lines.append(f"| `{name}` | {flag} | {option.help} | {facts} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register them."""
    app.connect("autodoc-process-docstring", from_markdown)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("request-options", RequestOptions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
