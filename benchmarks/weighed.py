"""`python -m benchmarks.weighed FOLDER train ...`: a command, and how large it grew.

The most memory that its process had goes into FOLDER/RANK.bytes.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from .measure import most

if __name__ == "__main__":
    folder = sys.argv.pop(1)
    try:
        runpy.run_module("scorefield", run_name="__main__", alter_sys=True)
    finally:
        path = Path(folder) / f"{os.environ.get('RANK', '0')}.bytes"
        path.write_text(str(most()))
