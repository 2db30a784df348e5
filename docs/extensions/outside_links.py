"""Links from a page to files of the repository outside docs/ go to the repository on the web.

Written as relative paths, they work on GitHub too.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

REPOSITORY = "https://github.com/scorefield/scorefield/"
RELATIVE = re.compile(r"\]\(((?:\.\./)+[^)\s#]+)")


def redirect(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the relative links that leave the folder of the site."""
    folder = Path(app.env.doc2path(docname)).parent

    def address(match: re.Match[str]) -> str:
        place = os.path.relpath((folder / match[1]).resolve(), Path(app.srcdir).parent)
        outside = not place.startswith("docs/")
        return f"]({REPOSITORY}blob/main/{place}" if outside else match[0]

    source[0] = RELATIVE.sub(address, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("source-read", redirect)
    return {"parallel_read_safe": True}
