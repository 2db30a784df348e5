"""Run the code of pages, and show what it prints and draws below it.

On the pages named by `run_code_pages`, blocks of Python are run one after another in one namespace,
and in blocks of sh the lines that call `scorefield` or `torchrun`, in a folder of the page that
holds a few small data sets and a checkpoint of NCSN. A block that starts with "# Draw" or
"# Prepare" is folded. An error, as of a package that is not installed, is a warning of the build.
The pages stay plain Markdown, which GitHub shows as well.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from matplotlib.figure import Figure
from reader_files import write_reader_files
from sphinx.application import Sphinx
from sphinx.util import logging

from scorefield.cli import main

LOGGER = logging.getLogger(__name__)
FOLDED = ("# Draw", "# Prepare")
LONG = 14  # lines of output that are shown; longer ones are folded


@contextlib.contextmanager
def inside(folder: str) -> Iterator[None]:
    """Change to a folder and back; `contextlib.chdir` is newer than Python 3.10."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Page:
    """The namespace, the folder and the pictures of one page."""

    def __init__(self, app: Sphinx, docname: str) -> None:
        self.names: dict[str, Any] = {"__name__": docname}
        self.folder = tempfile.TemporaryDirectory()
        self.pictures = Path(app.srcdir) / "_pictures"
        self.pictures.mkdir(exist_ok=True)
        self.name = docname.replace("/", "-")
        self.count = 0
        write_reader_files(Path(self.folder.name))

    def python(self, code: str, source: str) -> str:
        """Run a block of Python, and return what it prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), inside(self.folder.name):
            exec(compile(code, source, "exec"), self.names)
        return printed.getvalue()

    def shell(self, code: str) -> str:
        """Run the commands of a block of sh that are this package's, and return their output."""
        printed = io.StringIO()
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["scorefield"]:
                self._command(words[1:], printed)
            elif words[:1] == ["torchrun"]:
                printed.write(self._launch(words[1:]))
        # progress bars and the page's temporary folder say nothing to a reader
        lines = [line.split("\r")[-1] for line in printed.getvalue().splitlines()]
        return "\n".join(lines).replace(f"{os.path.realpath(self.folder.name)}/", "")

    def _command(self, words: list[str], printed: io.StringIO) -> None:
        """Run a command, and raise its message if it fails."""
        errors = io.StringIO()
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
            inside(self.folder.name),
        ):
            try:
                main(words)
            except SystemExit as stop:
                if stop.code:
                    raise RuntimeError(f"{shlex.join(words)}: {errors.getvalue()}") from stop

    def _launch(self, words: list[str]) -> str:
        """Start processes by torchrun, and return what they print."""
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        result = subprocess.run(command, cwd=self.folder.name, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {result.stderr}")
        return result.stdout

    def figure(self) -> Any:
        """Save the figure that a block has made, and return the node that shows it."""
        figure = self.names.pop("figure", None)
        if figure is None:
            return None
        self.count += 1
        path = self.pictures / f"{self.name}-{self.count}.png"
        if isinstance(figure, Figure):
            figure.savefig(path, dpi=130)
        else:
            figure.save(path)
        return nodes.image(uri=f"/_pictures/{path.name}", alt=f"{self.name}, {self.count}")


def run_page(app: Sphinx, doctree: nodes.document) -> None:
    """Run the blocks of a page in order, and put their results below them."""
    docname = app.env.docname
    if not any(fnmatch(docname, pattern) for pattern in app.config.run_code_pages):
        return
    page, torch_threads = Page(app, docname), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for block in list(doctree.findall(nodes.literal_block)):
        language, code = block.get("language"), block.astext()
        if language not in ("python", "sh"):
            continue
        try:
            with warnings.catch_warnings():
                # a command's warnings are about the machine, and belong to what it prints
                warnings.simplefilter("error" if language == "python" else "ignore", UserWarning)
                source = f"{docname}, line {block.line}"
                text = page.python(code, source) if language == "python" else page.shell(code)
        except Exception as error:
            message = f"this code fails: {type(error).__name__}: {error}"
            LOGGER.warning(message, location=block, type="run_code")
            continue
        insert(block, code, text.rstrip(), page.figure())
    torch.set_num_threads(torch_threads)
    page.folder.cleanup()


def insert(block: nodes.literal_block, code: str, text: str, image: Any) -> None:
    """Put output and picture below a block, and fold the block if its first line asks for it."""
    results: list[nodes.Node] = []
    if text:
        output = nodes.literal_block(text, text, language="none", classes=["output"])
        long = text.count("\n") >= LONG
        results += fold("Output", [output]) if long else [output]
    results += [image] if image else []
    parent, place = block.parent, block.parent.index(block)
    shown = [block]
    if code.startswith(FOLDED):
        title = re.sub(r"^# ", "", code.split("\n", 1)[0])
        shown = fold(title, [block.deepcopy()])
    parent[place : place + 1] = [*shown, *results]


def fold(title: str, content: list[nodes.Node]) -> list[nodes.Node]:
    """Return nodes that are hidden until the reader opens them."""
    start = f"<details><summary>{title}</summary>"
    return [
        nodes.raw("", start, format="html"),
        *content,
        nodes.raw("", "</details>", format="html"),
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, before it collects the images of a page."""
    app.add_config_value("run_code_pages", [], "env")
    app.connect("doctree-read", run_page, priority=100)
    return {"parallel_read_safe": False}
