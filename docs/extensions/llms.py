"""Write llms.txt, the pages with their first paragraphs, for programs that read the site."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def write_list(app: Sphinx, error: Exception | None) -> None:
    """Write a line for each page, except for the views of source files."""
    if error or app.builder.name != "html":
        return
    lines = ["# scorefield", ""]
    for docname in sorted(app.env.found_docs):
        doctree = app.env.get_doctree(docname)
        paragraphs = doctree.findall(nodes.paragraph)
        own = (p for p in paragraphs if isinstance(p.parent, nodes.section))  # not in a note
        paragraph = next(own, None)
        text = re.sub(r"\s+", " ", paragraph.astext() if paragraph else "")
        title, place = app.env.titles[docname].astext(), app.builder.get_target_uri(docname)
        lines.append(f"- [{title}]({place}): {text.removesuffix(':')}")
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("build-finished", write_list)
    return {"parallel_read_safe": True}
