"""The Python of long pages runs, and every command of a page is one that the programs accept.

`make docs` runs the Python and the blocks of sh of the short pages, and test_page_commands.py the
commands of the long ones.
"""

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from functools import partial, wraps
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from standins import undrawn

from scorefield.cli import COMMANDS, main
from scorefield.evaluate import evaluate, evaluate_run
from scorefield.paper import Setting
from scorefield.runs import finish
from scorefield.runs.config import Experiment, Keeping, override
from scorefield.runs.presets import PRESETS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same under its old name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import BENCHMARKS  # noqa: E402

PYTHON = {
    **dict.fromkeys(["README.md", "CONTRIBUTING.md"]),
    **dict.fromkeys(["docs/speed.md", "docs/data.md", "docs/paper.md"]),
    **dict.fromkeys(["docs/evaluation.md", "docs/restoration.md"], ("digits", "runs/digits")),
    "docs/tables.md": ("table", "runs/people"),
    "docs/conditions.md": ("posterior", "runs/posterior"),
}
"""Documents whose Python is run, and the preset and the directory of the run that it loads."""


FLAGS = re.DOTALL | re.MULTILINE


def _blocks(document, *languages):
    """Yield the fenced blocks of a document, padded so that line numbers agree with it."""
    text = (ROOT / document).read_text()
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, FLAGS):
        if match[1] in languages:
            yield "\n" * text.count("\n", 0, match.start(2)) + match[2]


@pytest.mark.parametrize("document", PYTHON)
def test_python_in_documents_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scorefield.paper.Setting", partial(Setting, most=2))
    monkeypatch.setattr("scorefield.paper.models.SMALL_WIDTH", 2)
    few = {"n": 12, "floor_sets": 2}
    for judge in (evaluate, evaluate_run):
        name = f"scorefield.evaluate.{judge.__name__}"
        monkeypatch.setattr(name, lambda *a, judge=judge, **k: judge(*a, **k | few))
    monkeypatch.setattr("scorefield.show.plots.as_png", undrawn)
    if PYTHON[document]:
        preset, directory = PYTHON[document]
        changes = ["training.steps=2", "training.warmup=1", "network.width=8"]
        finish(override(PRESETS[preset], changes), Path(directory))
    names = {"__name__": "document"}
    for block in _blocks(document, "python"):
        exec(compile(block, ROOT / document, "exec"), names)
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()


SHELL = "sh", "console", "bash"
ELSEWHERE = {"docs/hub.md", "docs/export.md"}
"""Pages whose Python needs a Hub, in test_hub_models.py, or a file of ONNX, in test_export.py."""
GENERATED = {"_build", "gallery", "reference"}
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for kind in ("*.md", "docs/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(kind)
    if not GENERATED & {*path.parts}
]
WITH_SHELL = [document for document in DOCUMENTS if [*_blocks(document, *SHELL)]]


PAGES = re.search(r"^run_code_pages = \[(.*?)^\]", (ROOT / "docs/conf.py").read_text(), FLAGS)[1]
PATTERNS = [f"docs/{page}.md" for page in re.findall(r'"(.*?)"', PAGES)]
BUILT = {d for d in DOCUMENTS for pattern in PATTERNS if fnmatch(d, pattern)}
"""Pages whose code the build runs."""


def test_the_python_of_each_document_is_run():
    assert len(PATTERNS) >= 6
    with_python = {d for d in DOCUMENTS if [*_blocks(d, "python")]}
    assert with_python - BUILT == PYTHON.keys() | ELSEWHERE


OTHERS = {"docker", "hf", "mkdir"}
"""Programs whose arguments are not looked at."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_each_extra_that_an_error_names_can_be_installed():
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = {*re.findall(r'import_extra\([^,]+, "(\w+)"', code)}
    trackers = {*get_args(get_type_hints(Keeping)["tracker"])} - {"none"}
    named |= {*re.findall(r"scorefield\[(\w+)\]", code), *trackers}
    assert len(named) >= 9
    assert named <= EXTRAS.keys()


def _lines(block):
    """Yield the words of each command of a block."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def _own_commands(block):
    """Yield the arguments of this package's commands, those in a script's arrays too."""
    for words in _lines(block):
        if words[0].startswith("command=("):
            words = ["scorefield", words[0].removeprefix("command=("), *words[1:]]
            words[-1] = words[-1].removesuffix(")")
        if words[0] == "scorefield" or (words[0] in ("torchrun", "srun") and "scorefield" in words):
            args = words[words.index("scorefield") + 1 :]
            yield [arg for arg in args if arg not in ("&", "${command[@]}")]


@pytest.fixture
def parse(monkeypatch):
    """Return the command line, whose commands only read the fields of a training."""

    def look(preset=None, settings=(), **others):
        override(PRESETS[preset] if preset else Experiment(), settings)

    def without_work(command):
        own = look if command.__name__ == "train" else lambda *args, **options: None
        return wraps(command)(own)

    commands = {name: without_work(command) for name, command in COMMANDS.items()}
    monkeypatch.setattr("scorefield.cli.COMMANDS", commands)
    monkeypatch.setattr("scorefield.cli.import_object", lambda name: None)  # of a reader's package
    return main


@pytest.mark.parametrize("document", WITH_SHELL)
def test_each_command_in_documents_is_accepted(document, parse):
    blocks = [*_blocks(document, *SHELL)]
    for args in (args for block in blocks for args in _own_commands(block) if args):
        assert parse(args) == 0, args


@pytest.mark.parametrize("document", WITH_SHELL)
def test_each_shell_block_names_what_exists(document):
    for block in _blocks(document, *SHELL):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for words in (words for block in _blocks(document, "sh", "console") for words in _lines(block)):
        program, *args = words
        if program == "make":
            assert {*args} <= {*TARGETS}, words
        elif program == "pip":
            extras = [name for arg in args for name in re.findall(r"\[(.*)\]", arg)]
            assert {*extras} <= EXTRAS.keys(), words
        elif program == "python":
            assert args[:2] == ["-m", "benchmarks"], words
            assert args[2] in BENCHMARKS, words
        else:
            assert program in {"scorefield", "torchrun", *OTHERS}, words


def test_a_command_with_a_fault_is_refused(parse, capsys):
    """The check above would miss these if the commands were not parsed."""
    for args in (
        "sample runs/digits --nosuch 3",
        "sample runs/digits -n many",
        "export runs/digits",
    ):
        with pytest.raises(SystemExit):
            parse(args.split())
    assert parse(["train", "digits", "--training.nosuch=3"]) == 2
    assert parse(["train", "digits", "--training.rate=high"]) == 2
