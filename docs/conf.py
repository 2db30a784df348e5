"""Configuration of the site: `make docs` builds it, with warnings as errors."""

import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "extensions")]

from public_names import PAGES  # noqa: E402

import scorefield  # noqa: E402

for package in ("onnx_ir", "onnxscript"):  # a style of Pygments prints what all packages log
    logging.getLogger(package).setLevel("WARNING")

project = "scorefield"
author = "The scorefield authors"
project_copyright = author
release = version = scorefield.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "live_figures",
    "llms",
    "outside_links",
    "reference",
    "run_code",
]
run_code_pages = [
    *("start/*", "howto/*", "learn/*", "samplers", "oracles"),
    *(f"reference/{page}" for page in PAGES),
]
exclude_patterns = ["_build", "sg_execution_times.rst"]
myst_enable_extensions = ["attrs_block", "attrs_inline"]
myst_heading_anchors = 3
# names in signatures may be those of other packages, which are not read here
nitpick_ignore_regex = [("py:class", ".*")]
highlight_language = "none"  # indented paragraphs are equations
default_role = "code"  # as in Markdown, in the docstrings of examples
smartquotes = False  # the mark of σ' is not a quotation mark

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # extensions/reference.py writes signatures, with their types
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

EXAMPLES = (
    *("score_of_a_mixture", "mixture", "noise_levels", "score_matching", "train_a_network"),
    *("few_evaluations", "own_sampler", "digits", "consistency", "guidance", "inpainting"),
    *("posterior_of_parameters", "likelihood_by_the_ode", "corrected", "log_z"),
)
"""The scripts of examples/ in the order of the gallery."""


def place(filename: str) -> int:
    """Return the place of an example in the gallery."""
    return EXAMPLES.index(Path(filename).stem)


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py",
    "within_subsection_order": "conf.place",
    "image_scrapers": ("figures.scrape",),
    "reset_modules": (),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1_000_000,
    "write_computation_times": False,
    "abort_on_example_error": False,
}

html_theme = "furo"
html_title = "scorefield"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0067a0", "color-brand-content": "#0067a0"},
    "dark_css_variables": {"color-brand-primary": "#6cb8e6", "color-brand-content": "#6cb8e6"},
}
