"""Put the studio's code for mixtures and drawing, and that of the live figures, into one script.

A browser loads modules from a server only; a plain script works from a file as well.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import scorefield

if TYPE_CHECKING:  # the tests join the scripts without Sphinx
    from sphinx.application import Sphinx

SCRIPT = "live_figures.js"


def join_scripts() -> str:
    """Return the script, as a function whose names no other script sees."""
    page = Path(scorefield.__file__).parent / "studio/page"
    own = Path(__file__).parents[1] / "static/live.js"
    files = page / "mixture.js", page / "draw.js", own
    code = "\n".join(file.read_text() for file in files).replace("\nexport ", "\n")
    return f"(() => {{\n{code}\n}})();\n"


def write_script(app: "Sphinx", error: Exception | None) -> None:
    """Write the script."""
    if not error and app.builder.name == "html":
        (Path(app.outdir) / "_static" / SCRIPT).write_text(join_scripts())


def add_script(app: "Sphinx", pagename: str, template: str, context: Any, doctree: Any) -> None:
    """Load the script on pages with a live figure."""
    if doctree is not None and 'class="live"' in context["body"]:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: "Sphinx") -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True}
