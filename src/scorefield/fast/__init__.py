"""Faster ways to compute a network: choose the one that pays on this machine, and switch it on."""

from .optimize import Choice, Precision, choose, optimize, undo

__all__ = ["Choice", "Precision", "choose", "optimize", "undo"]
