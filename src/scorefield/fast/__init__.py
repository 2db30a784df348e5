"""Faster computation of a network: choose what pays on this machine, and switch it on."""

from .optimize import Choice, Precision, choose, optimize, undo

__all__ = ["Choice", "Precision", "choose", "optimize", "undo"]
