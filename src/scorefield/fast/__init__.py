"""Faster ways to compute a network: which one pays on this machine, and how to switch it on."""

from .optimize import Choice, Precision, choose, optimize

__all__ = ["Choice", "Precision", "choose", "optimize"]
