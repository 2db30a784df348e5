"""Jobs by name, and the code that does the same as a job.

A job is a generator `(studio, settings) -> frames`; a code is `(settings, studio)` and returns the
command, or None where the command line cannot do it, and the Python.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .context import Studio
from .work import Job

JOBS: dict[str, Job[Studio]] = {}
CODE_WRITERS: dict[str, Callable[[Mapping[str, Any], Studio], dict[str, str | None]]] = {}
