"""Time to draw a sampler's noise, compared with NumPy's generator of one row at a time.

256 × 3 × 32 × 32 standard normal numbers, where row i is a function of (seed, i, draw) alone. A
process draws its own rows only, so its time should fall with the number of processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import Tensor

from scorefield._ops import Noise
from scorefield.distributed import split_rows
from scorefield.noise import seeded

from . import Setting
from .measure import Task, ratio, turns
from .table import Table

SHAPE = (256, 3, 32, 32)
QUICK_SHAPE = (8, 3, 8, 8)
WORLDS = (1, 2, 4)


def run(setting: Setting) -> Iterator[Table]:
    x = torch.empty(QUICK_SHAPE if setting.quick else SHAPE, device=setting.device)
    tasks: dict[str, Task] = {"NumPy, by rows": partial(by_rows(setting.seed), x)}
    for world in WORLDS:
        rows = split_rows(len(x), 0, world)
        noise = seeded(setting.seed, first=rows.start)
        tasks[f"seeded, 1 of {world} processes"] = partial(noise, x[rows.start : rows.stop])
    times = turns(tasks, repeats=setting.repeats)
    base, whole = (times[name] for name in [*tasks][:2])
    cells = [
        [name, 1e3 * statistics.median(t), 1 / ratio(base, t), 1 / ratio(whole, t)]
        for name, t in times.items()
    ]
    heads = {"noise": "", "ms": ".2f", "of NumPy’s time": ".2f", "of the whole’s time": ".2f"}
    yield Table(f"Noise of {' × '.join(map(str, x.shape))}", heads, cells)


def by_rows(seed: int) -> Noise:
    """Return noise from one Philox stream of NumPy, whose key and counter are set for each row."""
    bits, call = np.random.Philox(key=0), count()
    normal, state = np.random.Generator(bits).standard_normal, bits.state

    def noise(x: Tensor) -> Tensor:
        z = np.empty(x.shape)
        state["state"]["counter"][:] = (0, 0, 0, next(call))
        for i, row in enumerate(z):
            state["state"]["key"][:] = (seed, i)
            bits.state = state
            row[:] = normal(row.shape)
        return torch.from_numpy(z).to(x)

    return noise
