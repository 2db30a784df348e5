"""Rules of language that a program can check; CONTRIBUTING.md has the others."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = "src", "benchmarks", "examples", "docs"
BUILT = {"_build", "gallery"}  # by `make docs`, of the same files
FILES = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if not BUILT & {*p.parts}]

INDIRECT = re.compile(r"(What|How|Of|Whether|Those|That of|Who|Where|When)\b")
"""Openings that put the subject last, as in "What the first process has."."""

IRREGULAR = """
begun bound bought brought built caught chosen dealt done drawn forgotten found given gone grown
held hidden kept known laid lost made said seen sent shown taken thought thrown told written
"""
EXCEPTIONS = {
    "annealed": "the name of the weighted loss, as in annealed Langevin dynamics",
    "sliced": "sliced score matching, the name of the objective",
    "underdamped": "the name of the dynamics, as in underdamped Langevin dynamics",
    "seeded": "an argument: noise=seeded(0)",
    "interpolated": "an argument: noise=interpolated(a, b, t)",
    "feed": "a verb",
    "given": "conditioning, p(x | y): model.given(y)",
}


@lru_cache(1)
def _nodes(code):
    return list(ast.walk(ast.parse(code)))


def _functions(code):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in _nodes(code) if isinstance(node, kinds)]


def _indirect_docstrings(code):
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [node for node in _nodes(code) if isinstance(node, documented)]
    return [text for node in nodes if INDIRECT.match(text := ast.get_docstring(node) or "")]


def _participles(code):
    """Names of functions that are a past participle, with or without an adverb."""
    names = {node.name for node in _functions(code)} - EXCEPTIONS.keys()
    words = {n: [w for w in n.split("_") if w and not w.endswith("ly")] for n in names}
    alone = {name: rest[0] for name, rest in words.items() if len(rest) == 1}
    return {n for n, word in alone.items() if word in IRREGULAR.split() or word.endswith("ed")}


def _shared_lines(code):
    """Lines at the top level that define two constants, as in `A, B = 1, 2`."""
    body = _nodes(code)[0].body
    pairs = [(n, n.targets[0], n.value) for n in body if isinstance(n, ast.Assign)]
    return [n.lineno for n, *sides in pairs if all(isinstance(side, ast.Tuple) for side in sides)]


VAGUE = {"each", "found", "given", "held", "kept", "known", "made"}
VAGUE |= {"mixed", "seen", "taken", "there", "told", "way"}


def _vague_variables(code):
    """Variables and arguments that are not named after the thing."""
    nodes = _nodes(code)
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return VAGUE & (names | {n.arg for n in nodes if isinstance(n, ast.arg)})


PHRASES = re.compile(
    r"\b(anew|begun|beside|but for|by heart|go(?:es)? on|held against|(?:is|are) told|it says|"
    r"says? so|so many|to be had)\b",
    re.IGNORECASE,
)
"""Words that have to be translated before a sentence can be understood."""
TODO = re.compile(r"\b(?:TODO|FIXME|XXX)\b")

RULES = {
    "a docstring starts with an imperative or a noun": _indirect_docstrings,
    "a function is named by a verb, or by the thing that it returns": _participles,
    "a variable is named after the thing": _vague_variables,
    "a constant stands on its own line": _shared_lines,
    "the words are those of today's technical English": PHRASES.findall,
    "nothing is left to do": TODO.findall,
}


def test_the_source_follows_each_rule_and_each_exception_is_a_function():
    faults, names = {}, set()
    for path in FILES:
        code = path.read_text()
        names |= {node.name for node in _functions(code)}
        faults |= {(str(path.relative_to(ROOT)), name): rule(code) for name, rule in RULES.items()}
    assert not {place: lines for place, lines in faults.items() if lines}
    assert EXCEPTIONS.keys() <= names


PAGES = (
    *("*.md", "*.cff", "Makefile", "Dockerfile", ".github/**/*.md", "binder/*.ipynb"),
    *("docs/**/*.md", "docs/static/*", "examples/*.rst", "src/scorefield/studio/page/*"),
)
"""Documents and the scripts of pages, with their code; that of `FILES` is checked above."""


@pytest.mark.parametrize("pages", PAGES)
def test_the_pages_are_in_plain_words(pages):
    texts = {p: p.read_text() for p in ROOT.glob(pages) if not BUILT & {*p.parts}}
    assert texts
    faults = {page: [*PHRASES.findall(t), *TODO.findall(t)] for page, t in texts.items()}
    assert not {page: words for page, words in faults.items() if words}


INDIRECT_TEST = re.compile(r"def (test_(?:what|how|whether|of|those)_\w+)")


def test_the_tests_are_in_plain_words_and_named_subject_first():
    paths = [p for p in (ROOT / "tests").glob("*.py") if p != Path(__file__)]
    texts = {p.name: p.read_text() for p in paths}
    faults = {n: PHRASES.findall(t) + INDIRECT_TEST.findall(t) for n, t in texts.items()}
    assert not {name: words for name, words in faults.items() if words}


@pytest.mark.parametrize(
    "code",
    ['def f():\n    """Of two, the first."""', "def _drawn(): ...", "def evenly_spaced(): ...",
     "A, B = 1, 2", "kept = []", "# FIXME", "# begun anew", "def keep(known): ..."],
)  # fmt: skip
def test_a_fault_is_found(code):
    assert any(rule(code) for rule in RULES.values())


MEASURED = re.compile(r"^\|.*\d\.\d.*\|.*\d\.\d", re.MULTILINE)
"""A row of a table with two decimals."""


SOURCES = {
    "date": re.compile(r"\b20\d\d-\d\d-\d\d\b"),
    "machine": re.compile(r"\b(?:EPYC|Xeon|machine not recorded)\b"),
    "command": re.compile(
        r"(?:^|`)(?:pytest\s-|python\s-m\sbenchmarks\s\w|make\s(?:study|bench)\b"
        r"|scorefield\s(?:demo|evaluate|reproduce)\b)",
        re.MULTILINE,
    ),
}
"""The date and machine of a table, and a command that prints it, in a block or backticks."""


def _unsourced(text):
    """Return what sections with a table of measurements lack, by their headings."""
    sections = re.split(r"^##+ ", text, flags=re.MULTILINE)
    lacks = {
        section.split("\n", 1)[0]: [
            name for name, form in SOURCES.items() if not form.search(section)
        ]
        for section in sections
        if MEASURED.search(section)
    }
    return {heading: names for heading, names in lacks.items() if names}


def test_each_table_of_measurements_has_its_date_machine_and_command():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    tables = [p for p in pages if MEASURED.search(p.read_text())]
    assert len(tables) >= 6
    assert not {p.name: lacks for p in tables if (lacks := _unsourced(p.read_text()))}


@pytest.mark.parametrize("missing", SOURCES)
def test_a_table_without_its_source_is_found(missing):
    given = {"date": "2026-11-30", "machine": "an Intel Xeon", "command": "`make study`"}
    text = f"# A\n\n{given}\n\n## B\n\n{given.pop(missing) and given}\n\n| a | 1.5 | 2.5 |\n"
    assert _unsourced(text) == {"B": [missing]}


def test_each_how_to_is_short_and_has_code_that_the_build_runs():
    for page in {*(ROOT / "docs/howto").glob("*.md")} - {ROOT / "docs/howto/index.md"}:
        text = page.read_text()
        assert text.count("\n") <= 50, f"{page}: move details to a page of every option"
        assert re.search(r"^```(?:python|sh)$", text, re.MULTILINE), page
