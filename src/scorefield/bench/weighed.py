"""A command of the package, and then the most memory that its process had: `-m` runs it.

python -m scorefield.bench.weighed FOLDER train ...      writes FOLDER/RANK.bytes
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..cli import main
from .measure import most

if __name__ == "__main__":
    folder, *command = sys.argv[1:]
    code = main(command)
    path = Path(folder) / f"{os.environ.get('RANK', '0')}.bytes"
    path.write_text(str(most()))
    sys.exit(code)
