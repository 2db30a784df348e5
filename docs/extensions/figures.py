"""Save the figures of executed code, which are made without pyplot."""

from typing import Any

from sphinx_gallery.scrapers import figure_rst


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Return the figure of a block of an example, if it has saved one, for sphinx-gallery."""
    figure = block_vars["example_globals"].get("figure")
    if figure is None or ".savefig(" not in block[1]:
        return ""
    path = next(block_vars["image_path_iterator"])
    figure.savefig(path, dpi=130)
    return figure_rst([path], gallery_conf["src_dir"])
