"""Checkpoints that the authors' programs wrote, read into the networks of this package."""
