"""Put the studio's code for mixtures and drawing, and that of the live figures, into one script.

A browser loads modules from a server only; a plain script works from a file as well.
"""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import scorefield

SCRIPT = "live_figures.js"


def write_script(app: Sphinx, error: Exception | None) -> None:
    """Write the script, as a function whose names no other script sees."""
    if error or app.builder.name != "html":
        return
    page = Path(scorefield.__file__).parent / "studio/page"
    files = page / "mixture.js", page / "draw.js", Path(app.srcdir) / "static/live.js"
    code = "\n".join(file.read_text() for file in files).replace("\nexport ", "\n")
    (Path(app.outdir) / "_static" / SCRIPT).write_text(f"(() => {{\n{code}\n}})();\n")


def add_script(app: Sphinx, pagename: str, template: str, context: Any, doctree: Any) -> None:
    """Load the script on pages with a live figure."""
    if doctree is not None and 'class="live"' in context["body"]:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True}
