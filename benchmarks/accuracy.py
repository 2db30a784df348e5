"""Errors of ours, torchebm, deepinv and the authors' programs, where the truth is known.

    chains        Langevin dynamics and HMC of torchebm at a large step: variances, time
    losses        score matching of torchebm with equal networks: the error of the score, time
    posteriors    in 64 dimensions, by methods of deepinv: errors as in `posteriors`, time
    authors       networks and chains of NCSN, score_sde and EDM from their files: differences

Time is of one processor, and methods take turns. A ratio is a speed over that of ours of the same
kind: above 1 the other package is faster. A package that is not installed is skipped, with a
sentence on how to install it.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from . import Setting
from .authors import agreement
from .energies import learned_scores, stationary_chains
from .imaging import PROBLEMS, posterior_table
from .table import Table

THREADS = 1


def run(setting: Setting) -> Iterator[Table]:
    tables: dict[str, Callable[[Setting, str], Table]] = {
        "Chains on two Gaussians": stationary_chains,
        "Score matching on two Gaussians": learned_scores,
        **{f"Posteriors of {name}": partial(posterior_table, name=name) for name in PROBLEMS},
        "Networks of the authors": agreement,
    }
    for title, measure in setting.select(tables).items():
        torch.manual_seed(setting.seed)
        yield measure(setting, title)
