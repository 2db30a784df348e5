"""Learn the score of a distribution from its samples, ∇ₓ log p(x), and sample from it.

The public names stand in `__init__.pyi` and are imported when first used, so that the command line
answers before torch has loaded.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
