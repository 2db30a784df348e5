"""A model's figures: quality of its samples, fit to held-out data, memorisation, cost.

    found = evaluate("runs/digits", features="classifier")
    print(found.memory.verdict)
    found.write("runs/digits")

Each `Figure` says what it is of: samples, reference, sampler, evaluations, seed, weights, features,
and how uncertain it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from .. import disk, distributed
from ..fast.optimize import optimize
from .costs import Point, frontier
from .features import FEATURES
from .figure import Figure, Interval, number, shown
from .gather import cache_folder
from .job import Job, Split
from .memory import Memory
from .subject import Subject

__all__ = [
    "FEATURES",
    "FILE",
    "Evaluation",
    "Figure",
    "Interval",
    "Memory",
    "Point",
    "Subject",
    "cache_folder",
    "evaluate",
]

FILE = "metrics.json"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that was found of a model.

    Attributes:
        subject: The model, with its data.
        figures: The numbers.
        memory: Whether it knows its training data by heart; None where nothing is held out.
        sigmas: Noise levels,
        losses: and by what, the loss of each sample at each.
        samples: Some, to be looked at.
        points: Quality against cost, if asked for.
        notes: What could not be measured, and why.
    """

    subject: Subject
    figures: tuple[Figure, ...]
    memory: Memory | None
    sigmas: Float[Tensor, "levels"]
    losses: Mapping[str, Float[Tensor, "levels n"]]
    samples: Float[Tensor, "kept *shape"]
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> str:
        """The numbers, in JSON."""
        found: dict[str, Any] = {
            "scorefield": version("scorefield"),
            "run": self.subject.name,
            "verdict": self.memory.verdict if self.memory else None,
            "memorised": self.memory.memorised if self.memory else None,
            "notes": list(self.notes),
            "figures": [asdict(figure) for figure in self.figures],
            "frontier": [asdict(point) for point in self.points],
        }
        return json.dumps(_finite(found), indent=2, ensure_ascii=False, allow_nan=False)

    def table(self) -> str:
        """The figures under each other, as text."""
        heads = ("", "value", "95 % interval", "real", "samples", "warning")
        rows = [heads]
        for each in self.figures:
            real = "" if each.real is None else number(each.real)
            rows.append((each.name, *shown(each), real, str(each.samples), each.warning))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                f"{text:<{width}}" if place in (0, 5) else f"{text:>{width}}"
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def write(self, directory: str | Path) -> None:
        """Write metrics.json, and its page into report.html."""
        from .pages import write  # here, for it draws

        directory = Path(directory)
        disk.write_file(directory / FILE, self.as_json().encode())
        write(directory / "report.html", self)


def evaluate(
    run: str | Path | Subject,
    *,
    n: int = 360,
    features: str = "pixels",
    inception: Path | None = None,
    reference: Split = "test",
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    raw: bool = False,
    bits: int = 32,
    with_frontier: bool = False,
    batch: int = 256,
    device: str = "auto",
    cache: Path | None = None,
    watch: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Judge a model.

    Of many processes, all of which must call it, each draws its part of the samples.

    Args:
        run: its directory, or a `Subject`.
        n: how many samples are drawn.
        features: in which they are compared: pixels, classifier or inception.
        inception: the file of that network's weights.
        reference: held-out data, or as in the papers the training data.
        sampler: the run's own if not given.
        steps: of it.
        seed: of samples and measurements.
        raw: take the weights as they were trained last, not their average.
        bits: held-out samples whose likelihood is computed, 0 for none.
        with_frontier: draw by every sampler at several costs.
        batch: samples at a time.
        device: where the model works.
        cache: a folder for statistics of reference data.
        watch: is told what is being done.
    """
    if n < 2 or n < distributed.world() or batch < 1 or bits < 0 or not 0 <= seed < 2**63:
        raise ValueError(f"n={n}, batch={batch}, bits={bits}, seed={seed}: give n ≥ 2, batch ≥ 1")
    if features not in FEATURES:
        raise ValueError(f"features={features!r}: there are {', '.join(FEATURES)}")
    batch = min(batch, n // distributed.world())  # each process has at least one
    subject = run if isinstance(run, Subject) else Subject.of(Path(run), raw=raw, device=device)
    watch(f"features: {features}")
    made = FEATURES[features](subject.data, inception, subject.device)
    job = Job(subject, made, reference, n, subject.plan(sampler, steps), seed, batch)
    watch(f"reference: {job.against}")
    held = job.reference(cache)
    calls = -(-n // batch) * job.plan.evaluations
    watch(f"computing: {optimize(subject.model, batch=batch, evaluations=calls)}")
    watch(f"{n} samples by {job.plan.sampler}, {job.plan.evaluations} evaluations each")
    found = job.samples()
    figures = list(job.quality(found, held))
    watch("nearest neighbours in the training data")
    known, notes = job.memory(found.x)
    figures += job.copies(known) if known else []
    watch("loss at each noise level")
    sigmas, curves = job.losses()
    figures += job.fit(sigmas, curves)
    watch(f"likelihood of {bits} held-out samples")
    likelihoods, reasons = job.likelihoods(bits)
    figures += likelihoods
    points = list[Point]()
    if with_frontier and held.moments is not None:
        for point in frontier(
            subject.model,
            n,
            made,
            held.moments,
            seed=seed,
            batch=batch,
            classes=subject.classes(n, seed),
        ):
            points.append(point)
            watch(f"frontier: {point.sampler}, {point.evaluations} evaluations each")
    notes += reasons
    return Evaluation(
        subject, tuple(figures), known, sigmas, curves, found.x, tuple(points), tuple(notes)
    )


def _finite(value: Any) -> Any:
    """JSON knows no infinite numbers."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
