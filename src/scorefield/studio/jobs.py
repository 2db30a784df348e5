"""Jobs by name, and the code that does the same as a job.

A job is a generator `(studio, settings) -> frames`; a code is `(settings, studio)` and returns the
command, or None where the command line cannot do it, and the Python.
"""

from collections.abc import Callable, Mapping
from typing import Any

from . import pictures, restorations
from .code import write_path, write_pictures, write_restoration
from .context import Studio
from .plane import diagnose_plane, sample_plane, show_target, write_sampling
from .plane_training import train_plane, write_training
from .trainings import write_run
from .work import Job

JOBS: dict[str, Job[Studio]] = {
    "plane.target": show_target,
    "plane.sample": sample_plane,
    "plane.diagnose": diagnose_plane,
    "plane.train": train_plane,
    "images.about": pictures.describe_pictures,
    "images.plan": pictures.describe_plan,
    "images.sample": pictures.sample_pictures,
    "images.nearest": pictures.find_neighbours,
    "images.between": pictures.interpolate_pictures,
    "restore.about": restorations.describe_restorations,
    "restore.image": restorations.show_image,
    "restore.files": restorations.save_measurement,
    "restore.run": restorations.restore_image,
}
READINGS = frozenset({"plane.target", "images.about", "images.plan", "restore.about"})
"""Jobs that take a moment and do not wait for computations of other pages, so that a page has its
lists and its picture at once."""
CODE_WRITERS: dict[str, Callable[[Mapping[str, Any], Studio], dict[str, str | None]]] = {
    "plane.sample": write_sampling,
    "plane.train": write_training,
    "images.sample": write_pictures,
    "images.between": write_path,
    "restore.run": write_restoration,
    "runs.train": write_run,
}
