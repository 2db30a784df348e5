"""A small network, trained on the spot next to the exact field of the plane.

    min E λ(σ)·½‖s(x + σz, σ) + z/σ‖²,   log σ uniform between the ladder's ends,   λ = σ²

It is trained on fresh samples. A training that is stopped continues where it was, so that the page
may stop it to look at another σ.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from .. import (
    EDM,
    MLP,
    GaussianMixture,
    LogUniform,
    Score,
    ScoreModel,
    annealed,
    denoising,
    seeded,
)
from ..train import train
from .context import Studio
from .settings import MAX_SEED, Between, parse_settings
from .targets import TargetSettings, make_target, write_target
from .wire import Frame

FIELD_ARROWS = 15
"""Learned arrows along each side of the square that is shown."""
FIELD_CELLS = 48
"""Cells of the map of errors along each side."""
SHOW_EVERY = 25
"""Steps between two fields that are shown."""
ERROR_POINTS = 1000
SMALLEST_SLOPE = 0.3
"""Least size of the exact score, times q's width, that an error is relative to: it vanishes at
modes."""
ERROR_DECADES = (-1.5, 0.5)
"""Decades of the relative error over which the map's colours go."""


IMPORTS = """import math

import torch

import scorefield as sf
from scorefield.train import train
"""


@dataclass(frozen=True)
class PlaneTraining(TargetSettings):
    """A network, its optimiser, and the noise level that is shown."""

    sigma: Annotated[float, Between(1e-4, 1e4)] = 1.0
    sigma_max: Annotated[float, Between(1e-4, 1e4)] = 20.0
    sigma_min: Annotated[float, Between(1e-4, 1e4)] = 1.0
    width: Annotated[int, Between(4, 256)] = 64
    blocks: Annotated[int, Between(1, 6)] = 2
    batch: Annotated[int, Between(1, 4096)] = 256
    rate: Annotated[float, Between(1e-6, 1)] = 0.003
    iterations: Annotated[int, Between(1, 20_000)] = 1000
    seed: Annotated[int, Between(0, MAX_SEED)] = 0
    train: bool = True
    """False only looks at the network as it is."""


class FieldTraining:
    """A network and where its training is."""

    def __init__(self, settings: PlaneTraining) -> None:
        self.settings, self.step = settings, 0
        self.target = make_target(settings)
        with torch.random.fork_rng([]):
            torch.manual_seed(settings.seed)
            net = MLP(2, width=settings.width, blocks=settings.blocks)
        ends = settings.sigma_max, settings.sigma_min
        self.model = ScoreModel(net, EDM(self.target.prior.deviation, *ends))
        self.optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate)
        self.losses = deque[float](maxlen=SHOW_EVERY)
        self.curve = list[tuple[int, float]]()  # steps and the mean loss before each

    @property
    def loss(self) -> float:
        """Mean loss of the last steps, 0 before the first."""
        return sum(self.losses) / max(len(self.losses), 1)

    @property
    def is_shown(self) -> bool:
        """True after steps whose field is shown."""
        return self.step % SHOW_EVERY == 0 or self.step == self.settings.iterations

    def take_steps(self) -> Iterator[None]:
        """Take the steps that are left, and yield after each."""
        settings = self.settings
        updates = train(
            self.model,
            lambda step: self.target.sample(settings.batch, noise=seeded(settings.seed, step=step)),
            annealed(denoising, LogUniform(settings.sigma_max, settings.sigma_min)),
            optimizer=self.optimizer,
            steps=settings.iterations,
            start=self.step,
            schedule=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / settings.iterations),
            seed=settings.seed + 1,
        )
        while self.step < settings.iterations:
            with torch.enable_grad():  # jobs run without gradients
                update = next(updates)
            self.step = update.step
            self.losses.append(update.loss.item())
            if self.is_shown:
                self.curve.append((self.step, self.loss))
            yield None


def train_plane(studio: Studio, values: Mapping[str, Any]) -> Iterator[Frame | None]:
    """Train, and show loss, learned arrows and the map of errors as the training runs."""
    settings = parse_settings(PlaneTraining, values)
    if not settings.sigma_min < settings.sigma_max:
        raise ValueError(
            f"sigma_max={settings.sigma_max}, sigma_min={settings.sigma_min}: "
            "give sigma_max > sigma_min"
        )
    training = open_training(studio, settings)
    yield show_training(training, settings)
    for step in training.take_steps() if settings.train else ():
        yield show_training(training, settings) if training.is_shown else step


def open_training(studio: Studio, settings: PlaneTraining) -> FieldTraining:
    """Return the training with these settings where it was stopped, or a new one.

    A new one that is only looked at does not replace the one that is kept.
    """
    key = replace(settings, sigma=1.0, train=True)  # what is shown changes nothing
    training = studio.cache.get("plane.train")
    if training is None or training.settings != key:
        training = FieldTraining(key)
        if settings.train:
            studio.cache["plane.train"] = training
    return training


@torch.no_grad()
def show_training(training: FieldTraining, settings: PlaneTraining) -> Frame:
    """Show the learned field at one σ."""
    target, sigma, limit = training.target, settings.sigma, settings.limit
    x = target.sample(ERROR_POINTS, sigma, noise=seeded(settings.seed))
    learned, exact = training.model(x, sigma), target(x, sigma)
    header = {
        "keep": training.step == settings.iterations,
        "step": training.step,
        "loss": training.loss,
        "error": ((learned - exact).norm() / exact.norm()).item(),
    }
    arrows = training.model(cell_middles(limit, FIELD_ARROWS), sigma)
    errors = error_map(training.model, target, limit, sigma)
    curve = np.array(training.curve, "float32")  # all of it, for a page that was loaded meanwhile
    return Frame(header, {"arrows": arrows.numpy(), "errors": errors.numpy(), "losses": curve})


def cell_middles(limit: float, n: int) -> Tensor:
    """Return the middles of n × n cells of the square |xᵢ| ≤ limit, row by row from below."""
    side = limit * ((2 * torch.arange(n) + 1) / n - 1)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def error_map(score: Score, target: GaussianMixture, limit: float, sigma: float) -> Tensor:
    """Return the relative error's decade on `FIELD_CELLS`² cells, as a share of the scale."""
    x = cell_middles(limit, FIELD_CELLS)
    exact = target(x, sigma)
    least = SMALLEST_SLOPE / (target.variance + sigma**2) ** 0.5
    error = (score(x, sigma) - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=least)
    low, high = ERROR_DECADES
    share: Tensor = (error.log10() - low) / (high - low)
    return share.clamp(0, 1).nan_to_num(1.0)


def write_training(values: Mapping[str, Any], studio: Studio) -> dict[str, str | None]:
    """Return Python that trains the network of `train_plane` to the same weights."""
    settings = parse_settings(PlaneTraining, values)
    python = f"{IMPORTS}{write_target(settings)}\n{write_network(settings)}"
    return {"command": None, "python": python}


def write_network(s: PlaneTraining) -> str:
    """Return Python that trains `model` on `target`, after `IMPORTS`."""
    return f"""torch.manual_seed({s.seed})
net = sf.MLP(2, width={s.width}, blocks={s.blocks})
model = sf.ScoreModel(net, sf.EDM(target.prior.deviation, {s.sigma_max!r}, {s.sigma_min!r}))
updates = train(
    model,
    lambda step: target.sample({s.batch}, noise=sf.seeded({s.seed}, step=step)),
    sf.annealed(sf.denoising, sf.LogUniform({s.sigma_max!r}, {s.sigma_min!r})),
    optimizer=torch.optim.Adam(net.parameters(), lr={s.rate!r}),
    steps={s.iterations},
    schedule=lambda step: 0.5 + 0.5 * math.cos(math.pi * step / {s.iterations}),
    seed={s.seed + 1},
)
for update in updates:
    if update.step % 100 == 0:
        print(update.step, update.loss.item())
"""
