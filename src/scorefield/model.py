"""A network as a score.

    s(x, σ) = skip·u + out·F(scale·u, cond),   u = x − centre

with the coefficients of `precondition`. Whatever is particular to a network, its dtype, its way of
being told σ and the levels it knows, ends here.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._ops import Sigma, match
from .noise import Discrete
from .precondition import Precondition
from .prior import Prior

Label = int | Int[Tensor, ""] | Int[Tensor, "batch"]
"""A class, the same for all samples or one for each."""


class ScoreModel(nn.Module):
    """The score that a network gives under a preconditioner; a `Score`.

    It takes x of any float type, returns the same, and runs the network in the network's own.

    Args:
        net: F(x, cond), or F(x, cond, label) if classes are to be told apart; x comes in the type
            of its parameters, a cond that is no index in 32 bits at least.
        precondition: a row of the table.
        prior: moments of the training data, where chains start.
        shape: of one sample, if there is no prior to tell it; samplers then refuse others.
    """

    def __init__(
        self,
        net: nn.Module,
        precondition: Precondition,
        *,
        prior: Prior | None = None,
        shape: torch.Size | tuple[int, ...] | None = None,
    ):
        super().__init__()
        if prior is not None and shape is not None and prior.mean.shape != torch.Size(shape):
            raise ValueError(
                f"shape is {tuple(shape)}, but the prior's mean {tuple(prior.mean.shape)}: "
                "leave shape out, the prior tells it"
            )
        _check_levels(net, precondition)
        self.net = net
        self.precondition = precondition
        self.prior = prior
        self._shape = None if shape is None else torch.Size(shape)
        self._warned = False
        self.autocast: torch.dtype | None = None
        """The type that the network runs in, if not its own."""

    def forward(
        self, x: Float[Tensor, "batch *shape"], sigma: Sigma, label: Label | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """The score of each sample; `given` says why label is not a part of a score."""
        self._watch(sigma)
        parameter = next(self.net.parameters(), None)
        u = x.to(torch.promote_types(x.dtype, torch.float32))
        dtype = None if parameter is None else parameter.dtype
        if self.precondition.centre:
            u = u - self.precondition.centre
        skip, out, scale, cond = self.precondition(_levels(sigma, x))
        told = () if label is None else (torch.as_tensor(label, device=x.device).expand(len(x)),)
        f: Tensor = self._run(
            (_beside(scale, u) * u).to(dtype or u.dtype), _told(cond, x, dtype), *told
        )
        return (_beside(skip, u) * u + _beside(out, u) * f.to(u.dtype)).to(x.dtype)

    def given(self, label: Label) -> Given:
        """The score of one class, or of one for each sample: a function of (x, σ) like any other.

        In training too: `loss(model.given(labels), x)`.
        """
        try:
            inspect.signature(self.net.forward).bind(None, None, label)
        except TypeError:
            kind = type(self.net).__name__
            raise ValueError(f"label={label}: the network, {kind}, has no classes") from None
        return Given(self, label)

    def round(self, sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "rounded"]:
        """The levels of a grid, each moved to the nearest that the network knows."""
        levels = self.precondition.levels
        if levels is None:
            near = sigmas.clamp(self.sigma_min, self.sigma_max)
        else:
            near = levels.to(sigmas)[Discrete(levels).index(sigmas)]
        rounded: Tensor = torch.unique_consecutive(near)
        return rounded

    @property
    def shape(self) -> torch.Size | None:
        """Of one sample, if the model is for one shape only."""
        return self._shape if self.prior is None else self.prior.mean.shape

    @property
    def device(self) -> torch.device | None:
        """Where the network is; None if it has no parameters."""
        parameter = next(self.net.parameters(), None)
        return None if parameter is None else parameter.device

    @property
    def sigma_max(self) -> float:
        """The largest noise level the network was trained for."""
        return self.precondition.sigma_max

    @property
    def sigma_min(self) -> float:
        """The smallest noise level the network was trained for."""
        return self.precondition.sigma_min

    def _run(self, *inputs: Tensor | None) -> Tensor:
        if self.autocast is None:  # the caller's autocast, if any, holds
            out: Tensor = self.net(*inputs)
            return out
        assert self.device is not None
        with torch.autocast(self.device.type, self.autocast):
            out = self.net(*inputs)
        return out

    def _watch(self, sigma: Sigma) -> None:
        """Refuse σ ≤ 0, and say once that a σ is beyond the training.

        Not of a tensor on another device, to read which would hold the caller up.
        """
        if torch.compiler.is_compiling():
            return
        if isinstance(sigma, Tensor):
            if sigma.device.type != "cpu" or sigma.numel() == 0:
                return
            low, high = (float(end) for end in sigma.detach().aminmax())
        else:
            low = high = sigma
        if not low > 0:
            raise ValueError(f"sigma={low}: a model knows noise levels above 0 only")
        # a ladder in float32 ends a rounding away from the one in float64
        within = low > 0.999 * self.sigma_min and high < 1.001 * self.sigma_max
        if not within and not self._warned:
            self._warned = True
            warnings.warn(
                f"sigma from {low:.4g} to {high:.4g} asked of a model trained from "
                f"{self.sigma_min:.4g} to {self.sigma_max:.4g}: what it says there is a guess; "
                "`round` moves a grid to where it is not",
                stacklevel=_outside(),
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScoreModel:
        """What `.to`, `.cuda` and `.double` call: the prior goes along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.prior is not None:
            factor = None if self.prior.factor is None else fn(self.prior.factor)
            self.prior = Prior(fn(self.prior.mean), fn(self.prior.cov), factor)
        return self


def _levels(sigma: Sigma, x: Tensor) -> Float[Tensor, "*batch"]:
    """σ, one for all samples or one for each, in the digits that levels and times need.

    A table of levels and the inverse of σ(t) need more than the images have.
    """
    if x.device.type == "mps":  # it has no float64
        return match(sigma, x.new_empty(len(x), dtype=torch.float32)).expand(len(x))
    each = torch.as_tensor(sigma, dtype=torch.float64)
    if each.ndim == 0:  # the processor's own numbers need not go to another device
        return each if each.device.type == "cpu" else each.to(x.device)
    return match(each, x.new_empty(len(x), dtype=torch.float64))


def _beside(coefficient: Float[Tensor, "*batch"], u: Tensor) -> Tensor:
    """Shaped to be multiplied with u; one for all samples is a number to torch."""
    return match(coefficient, u) if coefficient.ndim else coefficient


def _told(cond: Tensor | None, x: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """What the network is told of each sample.

    In 32 bits at least: in 16, log σ would be another σ's. An index stays one.
    """
    if cond is None:
        return None
    if cond.is_floating_point() and dtype is not None:
        cond = cond.to(torch.promote_types(dtype, torch.float32))
    if cond.device != x.device and cond.requires_grad:
        cond = cond.to(x.device)
    if cond.device != x.device:  # one for all: no copy, for which that device would be waited for
        cond = torch.full((), cond.item(), dtype=cond.dtype, device=x.device)
    return cond.expand(len(x))


def _check_levels(net: nn.Module, precondition: Precondition) -> None:
    """A table of levels, which a RefineNet has, is as long as the ladder."""
    table, ladder = getattr(net, "arguments", {}).get("levels"), precondition.levels
    if table is not None and ladder is not None and len(ladder) != table:
        raise ValueError(
            f"the network was built with levels={table}, but the ladder has {len(ladder)}: "
            "make them equal"
        )


def _outside() -> int:
    """The stacklevel of a warning, by the caller of this, at the code that asked for the score."""
    frame, level = sys._getframe(1), 1
    within = (__package__, torch.__name__)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in within:
        frame, level = frame.f_back, level + 1
    return level


@dataclass(frozen=True, eq=False)
class Given:
    """The score of a class; a `Score`."""

    model: ScoreModel
    label: Label

    def __call__(
        self, x: Float[Tensor, "batch *shape"], sigma: Sigma
    ) -> Float[Tensor, "batch *shape"]:
        """The score of each sample in its class."""
        score: Tensor = self.model(x, sigma, self.label)
        return score

    @property
    def shape(self) -> torch.Size | None:
        """Of one sample."""
        return self.model.shape

    @property
    def device(self) -> torch.device | None:
        """Where the network is."""
        return self.model.device
