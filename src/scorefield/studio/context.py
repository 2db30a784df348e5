"""The model, the data and the uploads that jobs work with."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock, RLock
from typing import Any, TypeVar

from .. import Prior, ScoreModel, load
from .work import stop_if_cancelled

MAX_UPLOADS = 4
"""Uploads that are remembered; the oldest is forgotten first."""
MAX_OPENED = 2
"""Runs that pages have opened and whose models are kept; the oldest is closed first."""

T = TypeVar("T")


@dataclass(eq=False)
class Studio:
    """One studio: the run that it shows, the folder of runs, and what jobs keep between calls."""

    run: Path | None
    runs: Path
    cache: dict[str, Any] = field(default_factory=dict)
    uploads: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _reading: RLock = field(default_factory=RLock)

    def once(self, name: str, read: Callable[[], T]) -> T:
        """Return what `read` returned the first time, whichever thread asks first."""
        with self._reading:
            if name not in self.cache:
                self.cache[name] = read()
            value: T = self.cache[name]
            return value

    @cached_property
    def model(self) -> ScoreModel:
        """The run's model, whose evaluations end a cancelled job; an error says how to open one."""
        if self.run is None:
            raise ValueError("No model is open: open a run, or start `scorefield studio RUN`")
        run = self.run
        model = self.once("model", lambda: load(run))
        model.register_forward_pre_hook(lambda *_: stop_if_cancelled())
        return model

    @property
    def prior(self) -> Prior:
        """The model's prior, where chains start."""
        if self.model.prior is None:
            raise ValueError("The model has no prior to start from, so the studio cannot sample")
        return self.model.prior

    def about(self) -> dict[str, Any]:
        """Return what the page shows of the model."""
        if self.run is None:
            return {"run": None}
        prior = self.model.prior
        shape = None if prior is None else [*prior.mean.shape]
        return {"run": str(self.run), "shape": shape, "classes": self.model.classes}

    def remember(self, content: bytes) -> str:
        """Keep an upload and return its name, by which an address can open it again."""
        name = sha256(content).hexdigest()[:16]
        self.uploads[name] = content
        self.uploads.move_to_end(name)
        while len(self.uploads) > MAX_UPLOADS:
            self.uploads.popitem(last=False)
        return name

    def find_upload(self, name: str) -> bytes:
        """Return the content of an upload."""
        if name not in self.uploads:
            raise ValueError(f"upload={name!r:.80} is forgotten: drop the image again")
        return self.uploads[name]


class OpenedRuns:
    """The studios of the runs that pages have opened, next to the one of the command.

    A page names its run in its address, so that it keeps it when it is loaded again, whatever
    other pages open.
    """

    def __init__(self, own: Studio) -> None:
        self.own = own
        self._opening = Lock()  # requests come in several threads
        self._opened = OrderedDict[tuple[Path, int], Studio]()

    def open(self, run: Path) -> Studio:
        """Return the studio of a run, which is another one once the run's model has changed."""
        model = run / "model.safetensors"
        key = run, model.stat().st_mtime_ns if model.exists() else 0
        with self._opening:
            studio = self._opened.pop(key, None)
            studio = studio or Studio(run, self.own.runs, uploads=self.own.uploads)
            self._opened[key] = studio
            while len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)
        return studio
