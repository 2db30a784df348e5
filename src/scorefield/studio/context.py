"""The model, the data and the uploads that jobs work with."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from .. import Prior, ScoreModel, load
from .work import stop_if_cancelled

MAX_UPLOADS = 4
"""Uploads that are remembered; the oldest is forgotten first."""

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
            raise ValueError("No model is open: start the studio as `scorefield studio RUN`")
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
        name = self.run.name if self.run.resolve().parent == self.runs.resolve() else None
        return {"run": str(self.run), "name": name, "shape": shape, "classes": self.model.classes}

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
