"""Experiments by name."""

from __future__ import annotations

from collections.abc import Callable

from .config import Experiment


def digits() -> Experiment:
    """A small UNet for scikit-learn's digits."""
    network = {"kind": "UNet", "width": 32, "multipliers": [1, 2], "blocks": 1, "fir": None}
    return Experiment(network=network | {"progressive_input": "none"})


PRESETS: dict[str, Callable[[], Experiment]] = {"digits": digits}
