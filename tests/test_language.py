"""Rules of language that a program can check; CONTRIBUTING.md has the others."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [p for folder in ("src", "benchmarks", "examples") for p in (ROOT / folder).rglob("*.py")]

INDIRECT = re.compile(r"(What|How|Of|Whether|Those|That of|Who|Where|When)\b")
"""Openings that put the subject last, as in "What the first process has."."""

IRREGULAR = """
begun bound bought brought built caught chosen come cut dealt done drawn fed fit forgotten found
given gone grown held hidden kept known laid left lent lost made met paid put read said seen sent
set shown shut sold spent split spread sung taken taught thought thrown told won worn written
"""
VERBS = {"cut", "fit", "put", "read", "set", "split", "spread", "embed", "feed", "need", "seed"}
"""Also the plain form of a verb, or a noun."""

EXCEPTIONS = {
    "annealed": "the name of the weighted loss, as in annealed Langevin dynamics",
    "sliced": "sliced score matching, the name of the objective",
    "seeded": "an argument: noise=seeded(0)",
    "interpolated": "an argument: noise=interpolated(a, b, t)",
    "given": "conditioning, p(x | y): model.given(y)",
}


def _functions(code):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]


def _indirect_docstrings(code):
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, documented)]
    return [text for node in nodes if INDIRECT.match(text := ast.get_docstring(node) or "")]


def _participles(code):
    """Names of functions that are a past participle, with or without an adverb."""
    names = {node.name for node in _functions(code)} - EXCEPTIONS.keys()
    words = {n: [w for w in n.split("_") if w and not w.endswith("ly")] for n in names}
    alone = {name: rest[0] for name, rest in words.items() if len(rest) == 1}
    return {
        name
        for name, word in alone.items()
        if word not in VERBS and (word in IRREGULAR.split() or word.endswith("ed"))
    }


def _shared_lines(code):
    """Lines at the top level that define two constants, as in `A, B = 1, 2`."""
    nodes = [n for n in ast.parse(code).body if isinstance(n, (ast.Assign, ast.AnnAssign))]
    lines = [node.lineno for node in nodes]
    literal = [node.lineno for node in nodes if isinstance(node.value, ast.Tuple)]
    unpacked = {n.lineno for n in nodes if isinstance(getattr(n, "targets", [0])[0], ast.Tuple)}
    return sorted({line for line in lines if lines.count(line) > 1} | unpacked & set(literal))


RULES = {
    "a docstring starts with an imperative or a noun": _indirect_docstrings,
    "a function is named by a verb, or by the thing that it returns": _participles,
    "a constant stands on its own line": _shared_lines,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_source_follows(rule):
    faults = {str(path.relative_to(ROOT)): RULES[rule](path.read_text()) for path in FILES}
    assert not {path: lines for path, lines in faults.items() if lines}


FAULTS = [
    'def f():\n    """Of two, the first."""',
    "def _drawn():\n    pass",
    "def evenly_spaced():\n    pass",
    "A, B = 1, 2",
    "A = 1; B = 2",
]


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found(code):
    assert any(rule(code) for rule in RULES.values())


def test_every_exception_is_a_function():
    names = {node.name for path in FILES for node in _functions(path.read_text())}
    assert EXCEPTIONS.keys() <= names
