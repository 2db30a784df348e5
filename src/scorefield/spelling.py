"""Hints for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


def spelling_hint(name: str, choices: Iterable[str]) -> str:
    """Return the most similar choice as a question, or a list of the first twenty."""
    choices = list(choices)
    similar = get_close_matches(name, choices, 1)
    others = ", ".join(choices[:20]) or "none"
    return f"did you mean {similar[0]}?" if similar else f"there are {others}"
