"""Runs: from a configuration and data to a trained model in a directory.

    config → resolve (decide once) → build (build once) → run (loop)

The names below stand in `__init__.pyi` and are imported when first used, so that `config` and
`presets` can be read without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
