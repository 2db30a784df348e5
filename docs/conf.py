"""Configuration of the site: `make docs` builds it, with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

from outside_links import REPOSITORY  # noqa: E402

import scorefield  # noqa: E402

project = "scorefield"
author = "The scorefield authors"
project_copyright = author
release = version = scorefield.__version__

extensions = ["myst_parser", "sphinx_copybutton", "outside_links"]
exclude_patterns = ["_build", "Thumbs.db"]
myst_enable_extensions = ["attrs_block", "attrs_inline"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "scorefield"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0067a0", "color-brand-content": "#0067a0"},
    "dark_css_variables": {"color-brand-primary": "#6cb8e6", "color-brand-content": "#6cb8e6"},
}
