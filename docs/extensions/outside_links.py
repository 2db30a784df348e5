"""Links from a page to files of the repository go to the repository on the web.

Those to files outside docs/, written as relative paths, work on GitHub too. A page made from an
example is edited there. The other generated pages have no link to edit them, but each name of the
reference has one to its source.
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


def link_source(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Link a page to the file that it is written in, or to none if it is generated."""
    written = f"docs/{pagename}.md", pagename.replace("gallery/", "examples/") + ".py"
    place = next((p for p in written if (Path(app.srcdir).parent / p).is_file()), None)
    if place is None:
        context["page_source_suffix"] = ""  # the theme's sign of a page without a source
        return
    context["theme_source_view_link"] = f"{REPOSITORY}blob/main/{place}?plain=1"
    context["theme_source_edit_link"] = f"{REPOSITORY}edit/main/{place}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("source-read", redirect)
    app.connect("html-page-context", link_source)
    return {"parallel_read_safe": True}
