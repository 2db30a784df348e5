"""`python -m scorefield` is `scorefield`."""

import sys

from .cli import main

sys.exit(main())
