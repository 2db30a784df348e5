"""Fit of a model to held-out data: its loss at each σ, and its likelihood.

    loss(σ) = E‖D(x + σz, σ) − x‖²·(σ² + σ_d²)/(σσ_d)², per number

With EDM's weight (Karras et al. 2022), a model that knows only the data's mean and deviation σ_d
has a loss of about 1 at every σ.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from .._ops import Noise
from ..data import Batches, Dataset, Source, all_samples, dequantise
from ..likelihood import Likelihood, bits_per_dim, log_likelihood
from ..model import Condition, ScoreModel
from ..noise import geometric, seeded
from ..objectives import denoising, edm_weight
from ..oracles import Empirical
from ..sample import require_prior
from ..score import Score
from ..values import Dequantisation
from .figure import NORMAL, Figure, mean_interval

LOSS_LEVELS = 12
"""Noise levels at which the loss is measured."""
LOSS_BATCH = 250
"""Samples whose loss is computed at a time."""
MAX_MEMORISED_WORK = 10**10
"""Most products of the curve of a model that has memorised its training data."""
EXACT_SIZE = 16
"""Most numbers of a sample for which the trace of the likelihood is exact."""
HELDOUT = "the model, held-out data"


def data_deviation(model: ScoreModel, data: Dataset) -> float:
    """Return σ_d of the model's preconditioner, or of the data about their mean."""
    return model.precondition.sigma_data or all_samples(data.train, 10_000).std().item()


@torch.no_grad()
def loss_curves(
    model: ScoreModel, data: Dataset, *, seed: int = 0
) -> tuple[Tensor, Mapping[str, Float[Tensor, "levels n"]]]:
    """Return noise levels and the loss of samples at each, for the model and for comparison.

    All curves have the same noise. As many training samples are used as are held out.
    """
    assert model.prior is not None
    device = model.prior.mean.device
    limit = max(200, min(2000, 2**19 // data.train.shape.numel()))  # fewer of large ones
    test = None if data.test is None else all_samples(data.test, limit).to(device)
    train = all_samples(data.train, limit if test is None else len(test)).to(device)
    curves: dict[str, tuple[Score, Tensor]] = {} if test is None else {HELDOUT: (model, test)}
    curves["the model, data it was trained on"] = model.eval(), train
    if test is not None:
        curves["Gaussian of the data, held-out data"] = model.prior.score, test
        if test.numel() * len(data.train) * LOSS_LEVELS <= MAX_MEMORISED_WORK:
            memory = Empirical(all_samples(data.train).to(device))
            curves["training data memorised, held-out data"] = memory, test
    # a model of a ladder knows only its own levels
    sigmas = model.round(geometric(model.sigma_max, model.sigma_min, LOSS_LEVELS)).cpu()
    weight = edm_weight(data_deviation(model, data))(sigmas)

    def loss(score: Score, x: Tensor, sigma: float) -> Tensor:
        parts = [
            denoising(score, part, sigma, noise=seeded(seed, first=i * LOSS_BATCH))
            for i, part in enumerate(torch.split(x, LOSS_BATCH))
        ]
        return torch.cat(parts) / x[0].numel()

    return sigmas, {
        name: weight[:, None] * torch.stack([loss(score, x, s) for s in sigmas.tolist()]).cpu()
        for name, (score, x) in curves.items()
    }


def is_eight_bit(source: Source) -> bool:
    """Return True if the samples are bytes, which stand for cells of [0, 1]."""
    return source.take(torch.zeros(1, dtype=torch.int64))[0].dtype == torch.uint8


def loss_figures(sigmas: Tensor, losses: Mapping[str, Tensor], name: str) -> Iterator[Figure]:
    """Yield the held-out loss at each σ, from `loss_curves` on the data of this name."""
    for sigma, row in zip(sigmas.tolist(), losses.get(HELDOUT, ()), strict=False):
        title = f"denoising loss at σ = {sigma:.3g}"
        yield Figure(title, *mean_interval(row), NORMAL, len(row), reference=f"{name}, held out")


def model_likelihood(
    model: ScoreModel,
    x: Tensor,
    probes: int,
    noise: Callable[[Tensor], Tensor],
    condition: Condition | None = None,
) -> Likelihood:
    """Return log q_σmin of samples, by the exact trace if they are small or by random `probes`.

    With a class, or with conditions by name of each sample, it is that given these.
    """
    if model.precondition.levels is not None:
        raise ValueError(
            "the model knows only its ladder's levels, and the ODE needs all σ: take a model that "
            "was trained on a range of σ, as `scorefield train` does by default"
        )
    prior = require_prior(model)
    return log_likelihood(
        model if condition is None else model.given(condition),
        x.to(prior.mean),
        prior,
        sigma_min=model.sigma_min,
        sigma_max=model.sigma_max,
        probes=None if x[0].numel() <= EXACT_SIZE else probes,
        tolerance=1e-3,
        together=isinstance(condition, Mapping),
        noise=noise,
    )


def cell_likelihood(
    model: ScoreModel,
    v: UInt8[Tensor, "n *shape"],
    probes: int,
    noise: Noise,
    condition: Condition | None = None,
    *,
    levels: int,
    dequantisation: Dequantisation,
) -> Likelihood:
    """Return log q_σmin of 8-bit samples v, averaged over the cell of each by one point x ~ q.

    This is log q_σmin(x) − log q(x | v) − log(volume of a cell), on average a lower bound. For a
    uniform q the last two cancel; a normal one has the deviation σ_min and is cut off at the cell.
    """
    width = math.inf if dequantisation == "uniform" else model.sigma_min
    x, log_q = dequantise(v, width, levels=levels, noise=noise)
    result = model_likelihood(model, x, probes, noise, condition)
    gain = v[0].numel() * math.log(levels) - log_q
    gain = gain.to(result.log_prob.dtype).to(result.log_prob.device)
    return result._replace(log_prob=result.log_prob + gain)


def check_dequantisation(source: Source, dequantisation: Dequantisation) -> None:
    """Refuse a distribution in cells for samples that have none."""
    if dequantisation != "uniform" and not is_eight_bit(source):
        raise ValueError(
            f"dequantisation={dequantisation!r} is for 8-bit samples, and these are others: leave "
            "it out"
        )


def likelihood_figures(
    model: ScoreModel, data: Dataset, n: int, seed: int, dequantisation: Dequantisation = "uniform"
) -> Iterator[Figure]:
    """Yield bits per dimension of n held-out 8-bit samples, or nats of others.

    The likelihood is that of q_σmin. 8-bit samples are dequantised, so that their bits are an upper
    bound. One random direction per sample estimates the trace without bias.
    """
    if n < 2 or data.test is None:
        return
    source, size = data.test, data.test.shape.numel()
    check_dequantisation(source, dequantisation)
    x = Batches(source, min(n, len(source)), seed=seed, dequantise=False)(0).x
    if is_eight_bit(source):
        v, cells = (x * source.levels).to(torch.uint8), {"levels": source.levels}
        own = cell_likelihood(model, v, 1, seeded(seed), dequantisation=dequantisation, **cells)
        log_prob = own.log_prob.cpu()
    else:
        log_prob = model_likelihood(model, x, 1, seeded(seed)).log_prob.cpu()
    warning = "" if len(log_prob) >= 30 else f"{len(log_prob)} samples give a rough mean"
    reference = f"{data.name}, held out, with noise σ = {model.sigma_min:.3g}"
    name, values = "negative log-likelihood, nats", -log_prob
    if is_eight_bit(source):
        name, values = "bits per dimension", bits_per_dim(log_prob, size, levels=source.levels)
        reference += f", dequantised from {source.levels} levels"
        reference += " by a truncated normal" * (dequantisation == "normal")
    yield Figure(name, *mean_interval(values), NORMAL, len(values), warning, reference=reference)
