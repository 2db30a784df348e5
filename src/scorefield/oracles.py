"""Oracles: distributions whose q_σ is known in closed form, the truth that all tests stand on.

    Gaussian          q_σ = N(μ, Σ + σ²I)
    Mixture           q_σ = Σₖ wₖ q_σ⁽ᵏ⁾,  ∇ log q_σ = Σₖ p(k | x) ∇ log q_σ⁽ᵏ⁾
    GaussianMixture   q_σ = Σᵢ wᵢ N(μᵢ, (v + σ²)I)
    Empirical         q_σ = Σᵢ wᵢ N(xᵢ, σ²I), the limit of a network trained on n samples
    Box               q_σ = Πᵢ (Φ((xᵢ−aᵢ)/σ) − Φ((xᵢ−bᵢ)/σ))/(bᵢ−aᵢ)

An oracle is a `Score`. It computes in the wider of its own type and that of x, and returns x's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.special import log_ndtr
from torch.utils.checkpoint import checkpoint

from ._ops import (
    Noise,
    Samples,
    Sigma,
    check_batch,
    check_finite,
    check_fits,
    check_floats,
    check_number,
    lowest,
    match,
    sq_norm,
    wide,
    widest,
)
from .noise import perturb, uniform_like
from .prior import Prior, normalise


class Oracle(ABC):
    """A distribution p, with the score, log-density and samples of q_σ = p ∗ N(0, σ²I)."""

    prior: Prior
    """The Gaussian of the same mean and covariance."""

    _like: Tensor
    """Any tensor with the shape, type and device of one sample."""

    @abstractmethod
    def _score(self, x: Tensor, sigma: Sigma) -> Tensor: ...

    @abstractmethod
    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor: ...

    @abstractmethod
    def _clean(self, n: int, noise: Noise) -> Tensor: ...

    @property
    def shape(self) -> torch.Size:
        """Shape of one sample."""
        return self._like.shape

    @property
    def device(self) -> torch.device:
        """Device of its tensors."""
        return self._like.device

    def score(self, x: Samples, sigma: Sigma) -> Samples:
        """Return ∇ₓ log q_σ(x)."""
        wide, least = self._admit(x, sigma)
        if least == 0 and self._log_prob(wide, sigma).isneginf().any():
            raise ValueError("x has points of density 0 at sigma = 0: give sigma > 0")
        return self._score(wide, sigma).to(x.dtype)

    __call__ = score

    def log_prob(self, x: Samples, sigma: Sigma) -> Float[Tensor, "batch"]:
        """Return log q_σ(x)."""
        return self._log_prob(self._admit(x, sigma)[0], sigma).to(x.dtype)

    def sample(
        self, n: int, sigma: float | Float[Tensor, ""] = 0.0, *, noise: Noise = torch.randn_like
    ) -> Float[Tensor, "n *shape"]:
        """Return n samples of q_σ."""
        lowest(sigma)
        x = self._clean(n, noise)
        return perturb(x, sigma, noise(x))

    def _admit(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, float]:
        """Return x in the wider type, and the least σ."""
        check_fits(x, self.shape, self.device, "the oracle")
        return x.to(torch.promote_types(x.dtype, self._like.dtype)), lowest(sigma)


class Gaussian(Oracle):
    """N(mean, Σ), where Σ is a scalar, a diagonal in the mean's shape, or dense; see `Prior`.

    `factor` adds factor·factorᵀ to a scalar cov. With cov = 0 the samples fill a plane, and the
    score exists for σ > 0 only.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*shape"],
        cov: Float[Tensor, "..."] | float,
        factor: Float[Tensor, "size rank"] | None = None,
    ) -> None:
        check_floats(mean, "mean")
        self.prior = Prior(mean, torch.as_tensor(cov, dtype=mean.dtype, device=mean.device), factor)
        self._like = mean

    def _score(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self.prior.score(x, sigma)

    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self.prior.log_prob(x, sigma)

    def _clean(self, n: int, noise: Noise) -> Tensor:
        return self.prior.sample(n, 0.0, noise=noise)

    def measure(self, matrix: Float[Tensor, "m size"], sigma_y: float) -> "Gaussian":
        """Return the distribution of y = Ax + σ_y·n, for flattened x, in float64.

        On a device without float64 the result is float32.
        """
        return self._place(*self._moments(matrix, sigma_y))

    def _moments(self, matrix: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of y."""
        mean, cov, matrix = wide(self.prior.mean).flatten(), wide(self.prior.dense), wide(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != len(mean) or not sigma_y >= 0:
            raise ValueError(
                f"matrix has shape {tuple(matrix.shape)}, sigma_y={sigma_y}: give m rows of "
                f"{len(mean)}, the size of a sample, and a noise ≥ 0"
            )
        variance = sigma_y**2 * torch.eye(len(matrix)).to(cov)
        return matrix @ mean, matrix @ cov @ matrix.T + variance

    def _place(self, mean: Tensor, cov: Tensor) -> "Gaussian":
        """Return a Gaussian on this device, of a covariance that is symmetric up to rounding."""
        device, dtype = self.device, widest(self.device)
        return Gaussian(mean.to(device, dtype), ((cov + cov.T) / 2).to(device, dtype))

    def posterior(
        self, matrix: Float[Tensor, "m size"], y: Float[Tensor, "m"], sigma_y: float
    ) -> "Gaussian":
        """Return p(x | y) for y = Ax + σ_y·n, N(μ + K(y − Aμ), (I − KA)Σ), as `measure`."""
        y_mean, y_cov = self._moments(matrix, sigma_y)
        mean, cov, matrix = wide(self.prior.mean), wide(self.prior.dense), wide(matrix)
        if y.shape != matrix.shape[:1]:
            raise ValueError(f"y has shape {tuple(y.shape)}: give one value for each row of matrix")
        if torch.linalg.matrix_rank(y_cov, hermitian=True) < len(y):
            raise ValueError("matrix has rows that depend on each other: give sigma_y > 0")
        gain = torch.linalg.solve(y_cov, matrix @ cov).T
        rest = torch.eye(len(cov)).to(cov) - gain @ matrix
        # Joseph's form: rounding makes (I − KA)Σ neither symmetric nor positive
        cov = rest @ cov @ rest.T + sigma_y**2 * gain @ gain.T
        shift = (gain @ (wide(y) - y_mean)).view_as(mean)
        return self._place(mean + shift, cov)


def _check_shares(weights: Tensor, n: int) -> Tensor:
    """Return the weights of n components, whose sum may differ from 1 by rounding."""
    total = (weights := torch.as_tensor(weights)).sum().item()
    if weights.shape != (n,) or not (weights >= 0).all() or not abs(total - 1) <= 1e-3:
        raise ValueError(
            f"weights must be {n} numbers ≥ 0, one per component, whose sum is 1, not {total:.4g}: "
            "give weights / weights.sum()"
        )
    return weights / total


def _choose(weights: Tensor, n: int, noise: Noise) -> Int[Tensor, "n"]:
    u = wide(uniform_like(weights.new_empty(n), noise=noise)) * wide(weights.sum())
    index = torch.searchsorted(wide(weights).cumsum(0), u).clamp(max=len(weights) - 1)
    return index.to(weights.device)


class Mixture(Oracle):
    """p = Σₖ wₖ pₖ of any oracles. The weights sum to 1."""

    def __init__(self, components: Sequence[Oracle], weights: Float[Tensor, "k"]) -> None:
        self.components, self._like = list(components), components[0]._like
        self.weights = _check_shares(weights, len(components)).to(self.device)

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """The Gaussian of the same mean and covariance."""
        means = torch.stack([c.prior.mean for c in self.components])
        within = torch.stack([c.prior.dense for c in self.components])
        weights = self.weights.to(within)
        between = Prior.fit(means, weights)
        return Prior(between.mean, between.dense + torch.tensordot(weights, within, 1))

    def _joint(self, x: Tensor, sigma: Sigma) -> Float[Tensor, "batch k"]:
        """Return log wₖ + log q_σ⁽ᵏ⁾(x)."""
        logs = torch.stack([c._log_prob(x, sigma) for c in self.components], 1)
        return logs + self.weights.log()

    def responsibilities(self, x: Samples, sigma: Sigma) -> Float[Tensor, "batch k"]:
        """Return p(k | x) under q_σ."""
        return self._joint(self._admit(x, sigma)[0], sigma).softmax(1).to(x.dtype)

    def _score(self, x: Tensor, sigma: Sigma) -> Tensor:
        total = torch.zeros_like(x)
        for share, c in zip(self._joint(x, sigma).softmax(1).T, self.components, strict=True):
            total = total + match(share, x) * c._score(x, sigma)
        return total

    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self._joint(x, sigma).logsumexp(1)

    def _clean(self, n: int, noise: Noise) -> Tensor:
        choice = _choose(self.weights, n, noise)
        # each component samples every row, so that row i depends on its position only
        samples = torch.stack([c._clean(n, noise) for c in self.components])
        return samples[choice, torch.arange(n, device=choice.device)]

    def posterior(
        self, matrix: Float[Tensor, "m size"], y: Float[Tensor, "m"], sigma_y: float
    ) -> "Mixture":
        """Return p(x | y) for y = Ax + σ_y·n: each Gaussian's, weighted by its evidence for y."""
        gaussians = [c for c in self.components if isinstance(c, Gaussian)]
        if len(gaussians) < len(self.components):
            raise TypeError("components must all be Gaussian for an exact posterior")
        parts = [c.posterior(matrix, y, sigma_y) for c in gaussians]
        measured = [c.measure(matrix, sigma_y) for c in gaussians]
        evidence = torch.cat([m.log_prob(y.to(m._like)[None], 0.0) for m in measured])
        return Mixture(parts, (self.weights.to(evidence).log() + evidence).softmax(0))


class GaussianMixture(Mixture):
    """Σᵢ wᵢ N(μᵢ, vI): n means with one variance. Others are `Mixture([Gaussian(...), ...], w)`.

    Distances are computed from differences: expanded squares cancel, and at σ = 1e-3 in float32
    they are wrong by a hundred nats.
    """

    def __init__(
        self, means: Float[Tensor, "n *shape"], variance: float, weights: Float[Tensor, "n"]
    ) -> None:
        check_number(variance, "variance")
        if variance < 0:
            raise ValueError(f"variance={variance}: give a number ≥ 0")
        check_batch(means, "means")
        check_finite(means, "means")
        self.means, self.variance, self._like = means, variance, means[0]
        self.weights = _check_shares(weights, len(means)).to(means)

    @cached_property
    def components(self) -> list[Oracle]:  # type: ignore[override]
        """The Gaussians."""
        return [Gaussian(mean, self.variance) for mean in self.means]

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """The Gaussian of the same mean and covariance."""
        return Prior.fit(self.means, self.weights, self.variance)

    def _width(self, x: Tensor, sigma: Sigma) -> Float[Tensor, ""] | Float[Tensor, "batch 1"]:
        """Return v + σ²."""
        if self.variance == 0 and lowest(sigma) ** 2 < torch.finfo(x.dtype).tiny:
            raise ValueError("sigma is 0, where points have no density: give sigma > 0")
        return self.variance + match(sigma, x.flatten(1)) ** 2

    def _joint(self, x: Tensor, sigma: Sigma) -> Float[Tensor, "batch n"]:
        """Return log wᵢ − ‖x − μᵢ‖²/2(v + σ²)."""
        gap = (x[:, None] - self.means.to(x)).flatten(2)
        return self.weights.log().to(x) - 0.5 * gap.square().sum(2) / self._width(x, sigma)

    def _score(self, x: Tensor, sigma: Sigma) -> Tensor:
        mean = self._joint(x, sigma).softmax(1) @ self.means.flatten(1).to(x)
        return ((mean - x.flatten(1)) / self._width(x, sigma)).view_as(x)

    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self._joint(x, sigma).logsumexp(1) - self._log_norm(x, sigma)

    def _log_norm(self, x: Tensor, sigma: Sigma) -> Tensor:
        # not part of the joint, whose differences it would round away
        return 0.5 * self._like.numel() * (2 * math.pi * self._width(x, sigma)).log().squeeze(-1)

    def _clean(self, n: int, noise: Noise) -> Tensor:
        x = self.means[_choose(self.weights, n, noise)]
        return perturb(x, math.sqrt(self.variance), noise(x))


class Empirical(GaussianMixture):
    """n points, of equal weight if none is given: q_σ = Σᵢ wᵢ N(xᵢ, σ²I), wᵢ normalised.

    `budget` bounds how many numbers are in memory at a time, also when x is differentiated through,
    so the points may be a whole data set.
    """

    def __init__(
        self,
        data: Float[Tensor, "n *shape"],
        weights: Float[Tensor, "n"] | None = None,
        *,
        budget: int = 2**22,
    ) -> None:
        super().__init__(data, 0.0, normalise(weights, data))
        self.budget = budget

    def _joint(self, x: Tensor, sigma: Sigma, part: slice = slice(None)) -> Tensor:
        flat, points = x.flatten(1), self.means[part].flatten(1).to(x)
        if x.requires_grad:  # cdist is several times faster, but can be differentiated only once
            square = (flat[:, None] - points).square().sum(2)
        else:
            square = torch.cdist(flat, points, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        return self.weights[part].log().to(x) - 0.5 * square / self._width(x, sigma)

    def _part(self, x: Tensor, sigma: Sigma, part: slice) -> tuple[Tensor, Tensor]:
        """Return log Σᵢ exp(joint) and the mean of xᵢ − x under p(i | x), over some points."""
        joint = self._joint(x, sigma, part)
        # where all weights are 0: the least number, because −∞ would turn into NaN below
        log_mass = joint.logsumexp(1, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
        # in the widest type, because Σ pᵢxᵢ − x cancels where x is close to the data
        shares = (joint - log_mass).exp().to(widest(x.device))
        shares = shares / shares.sum(1, keepdim=True).clamp(min=0.5)  # 1 up to rounding, or 0
        points = self.means[part].flatten(1).to(shares)
        return log_mass, (shares @ points - x.flatten(1)).to(x.dtype)

    def _scan(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """Return `_part` over all points."""
        graph = x.requires_grad
        size = x.numel() if graph else len(x) + 2 * self._like.numel()
        step = max(1, self.budget // max(1, size))
        first, *rest = (slice(i, i + step) for i in range(0, len(self.means), step))
        # a graph would keep every part in memory: the backward pass computes them again
        again = partial(checkpoint, self._part, use_reentrant=False)
        scan = again if graph and rest else self._part
        log_mass, shift = scan(x, sigma, first)
        for part in rest:
            log_part, gap = scan(x, sigma, part)
            log_mass = torch.logaddexp(log_mass, log_part)
            shift = shift + (log_part - log_mass).exp() * (gap - shift)
        return log_mass, shift

    def _score(self, x: Tensor, sigma: Sigma) -> Tensor:
        return (self._scan(x, sigma)[1] / self._width(x, sigma)).view_as(x)

    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor:
        return self._scan(x, sigma)[0].squeeze(1) - self._log_norm(x, sigma)

    def posterior(
        self, matrix: Float[Tensor, "m size"], y: Float[Tensor, "m"], sigma_y: float
    ) -> "Empirical":
        """Return p(x | y) for y = Ax + σ_y·n: the points weighted by their evidence for y."""
        if not sigma_y > 0:
            raise ValueError(f"sigma_y={sigma_y}: give a noise > 0, as no point fits y exactly")
        gap = (y - self.means.flatten(1) @ matrix.T) / sigma_y
        weights = (self.weights.log() - 0.5 * sq_norm(gap)).softmax(0)
        return Empirical(self.means, weights, budget=self.budget)


class Box(Oracle):
    """The uniform distribution on the box from `low` a to `high` b.

    q_σ(x) = Πᵢ (Φ((xᵢ − aᵢ)/σ) − Φ((xᵢ − bᵢ)/σ))/(bᵢ − aᵢ)
    """

    def __init__(self, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]) -> None:
        check_finite(low, "low")
        check_finite(high, "high")
        if low.shape != high.shape or not (low < high).all():
            raise ValueError("low and high are opposite corners: one shape, low < high throughout")
        self.low, self.high, self._like = low, high, low
        self.prior = Prior((low + high) / 2, (high - low) ** 2 / 12)

    def _fold(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return σ (1 for 0), half width h, distance t from the centre, and the log mass.

        The mass is Φ((h−t)/σ) − Φ((−h−t)/σ): with t ≥ 0 nothing cancels, however far x is.
        """
        sigma = match(sigma, x)
        sigma = torch.where(sigma == 0, 1, sigma)
        half, t = (self.high - self.low) / 2, (x - self.prior.mean).abs()
        upper, lower = log_ndtr((half - t) / sigma), log_ndtr((-half - t) / sigma)
        return sigma, half, t, upper + (-torch.expm1(lower - upper)).log()

    def _score(self, x: Tensor, sigma: Sigma) -> Tensor:
        safe, half, t, log_mass = self._fold(x, sigma)
        log_density = -0.5 * (((half - t) / safe) ** 2 + math.log(2 * math.pi))
        slope = (log_density - log_mass).exp() * torch.expm1(-2 * half * t / safe**2) / safe
        return torch.where(match(sigma, x) == 0, 0, slope * (x - self.prior.mean).sign())

    def _log_prob(self, x: Tensor, sigma: Sigma) -> Tensor:
        _, half, _, log_mass = self._fold(x, sigma)
        inside = torch.where((self.low <= x) & (x <= self.high), 0.0, -math.inf).to(x)
        log_mass = torch.where(match(sigma, x) == 0, inside, log_mass)
        return (log_mass - (2 * half).log()).flatten(1).sum(1)

    def _clean(self, n: int, noise: Noise) -> Tensor:
        u = uniform_like(self.low.new_empty(n, *self.shape), noise=noise)
        return self.low + (self.high - self.low) * u
