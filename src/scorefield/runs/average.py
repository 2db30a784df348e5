"""Averages of the weights over training, of any length, made after the training.

    θ̂(T) = ∫ p_γ(t)·θ(t) dt,   p_γ(t) = (γ + 1)·t^γ/T^(γ+1) on [0, T]

The relative length σ of an average is the standard deviation of p_γ over T. A run stores averages
of two lengths every few steps. Their profiles p_i combine to that of another length by least
squares, ‖Σ wᵢpᵢ − p‖² → min, and the averages combine with the same weights w (Karras et al. 2024,
"Analyzing and Improving the Training Dynamics of Diffusion Models", §3.1 and app. C).
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from ..checkpoint import checkpoints, load_stored, read_tensors, save
from ..train import MovingAverage

LENGTHS = (0.05, 0.10)
"""Relative lengths of the averages that a run stores."""
MAX_LENGTH = 12**-0.5
"""Relative length of the uniform average, γ = 0."""
MAX_PROFILE_ERROR = 0.05
"""Relative error of the profile above which a warning is printed."""

Numbers = Float64[np.ndarray, "..."]


class PowerAverage(MovingAverage):
    """θ̂ of a relative length, up to the last update of a training.

    Between two updates the weights count as those of the later one.
    """

    def __init__(self, model: nn.Module, length: float):
        super().__init__(model)
        self.length, self.exponent = length, power_exponent(length)

    def kept_share(self, before: int, new: int) -> float:
        """Return (k/(k + n))^(γ+1)."""
        share: float = (before / (before + new)) ** (self.exponent + 1)
        return share


def power_exponent(length: float) -> float:
    """Return γ of a relative length: (γ + 2)²(γ + 3) = (γ + 1)/σ²."""
    if not 0 < length < MAX_LENGTH:
        raise ValueError(
            f"length={length}: give the standard deviation of the average relative to the training "
            f"before it, above 0 and below {MAX_LENGTH:.4f}, as 0.05"
        )
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


def profile_products(a: Numbers, t_a: Numbers, b: Numbers, t_b: Numbers) -> Numbers:
    """Return ∫ p_a·p_b dt of profiles with exponents a and b that end at t_a and t_b."""
    later = np.where(t_a <= t_b, b, a)
    short, long = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    product: Numbers = (a + 1) * (b + 1) / (a + b + 1) * (short / long) ** later / long
    return product


def fit_profile(
    exponents: Numbers, ends: Numbers, exponent: float, end: float
) -> tuple[Numbers, float]:
    """Return the weights w of profiles whose sum is closest to another one, and its error.

    The error is the norm of the difference relative to that of the profile.
    """
    a, t, target, last = exponents, ends, np.array([exponent]), np.array([end])
    products = profile_products(a[:, None], t[:, None], a, t)
    right = profile_products(a, t, target, last)
    weights = np.linalg.solve(products, right)
    (square,) = profile_products(target, last, target, last)
    return weights, max(1 - weights @ right / square, 0.0) ** 0.5


@torch.no_grad()
def average(run: str | Path, length: float) -> Path:
    """Write the model of a run with its weights averaged over a relative length; return the file.

    The file is RUN/average-LENGTH.safetensors, which `load`, `sample` and `evaluate_run` take. The
    run needs `training.snapshots`.
    """
    exponent, run = power_exponent(length), Path(run)
    files = checkpoints(run, "snapshots")
    if not files:
        raise ValueError(
            f"{run} has no snapshots to average: train with training.snapshots=N, the number of "
            "steps between them"
        )
    steps, lengths = zip(*(path.stem.split("-") for path in files), strict=True)
    ends = np.array(steps, dtype=float)
    exponents = np.array([power_exponent(float(text)) for text in lengths])
    weights, error = fit_profile(exponents, ends, exponent, ends[-1])
    if error > MAX_PROFILE_ERROR:
        warnings.warn(
            f"length={length}: {len(files)} snapshots give this average with a relative error of "
            f"its profile of {error:.2g}; a smaller training.snapshots gives a smaller one",
            stacklevel=2,
        )
    total = dict[str, Tensor]()
    for weight, path in zip(weights, files, strict=True):
        file = read_tensors(path)
        for name, value in file.under("net").items():
            total[name] = total.get(name, 0) + weight * value.double()
    model = load_stored(file)
    for name, parameter in model.net.named_parameters():
        parameter.copy_(total[name])
    path = run / f"average-{length:g}.safetensors"
    save(model, path, about=file.about | {"length": length, "profile error": error})
    return path
