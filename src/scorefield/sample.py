"""Samples of a model: which levels, which sampler, how many at once.

    x₁ ~ prior at σ₁,   then down the plan's grid of noise levels

A model trained on the levels of a ladder is evaluated at these levels only. Sample i of a seed does
not depend on the batch size: noise is a function of (seed, sample, call). Several processes share
the batches.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import distributed
from ._ops import Noise, Samples, check_count
from .inverse import Guidance, guide_by_classifier
from .ladder import suggest, suggest_between
from .model import Condition, Label, ScoreModel, expand_label
from .noise import brownian, geometric, karras, seeded, uniform_like
from .oracles import Oracle
from .precondition import Precondition
from .prior import Prior
from .samplers import DENSITY_KERNELS, SAMPLERS, Sampler, State, States, final, find_sampler
from .score import Score, guide
from .values import check_names, map_condition

GRIDS: dict[str, Callable[..., Tensor]] = {"karras": karras, "geometric": geometric}
"""Spacings of the levels between σ₁ and σ_L, by name."""
ORACLE_SAMPLES = 1000
"""Samples of an oracle from which its range of σ is chosen."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A sampler with its grid and options.

    With `uniform` it starts from uniform noise, as Song & Ermon 2019 do, instead of the model's
    prior. With `brownian` the noise of a seed is one path of `brownian` at any number of levels.
    Tables show the `title`, reports also the `note`, one sentence about the plan.
    """

    sampler: str
    sigmas: Float[Tensor, "levels"]
    options: dict[str, Any] = field(default_factory=dict)
    uniform: bool = False
    title: str = ""
    note: str = ""
    own: Sampler | None = None  # the sampler itself, if it is not the one in `SAMPLERS`
    guidance: float | Guidance = 1.0  # of the samples, unless another one is asked for
    brownian: bool = False

    def __post_init__(self) -> None:
        if self.brownian and not self.method.brownian:
            names = ", ".join(sorted(name for name, one in SAMPLERS.items() if one.brownian))
            raise ValueError(
                f"sampler={self.sampler!r}: a path of noise is for samplers that add noise once a "
                f"step: take one of {names}, or leave out brownian"
            )

    @property
    def method(self) -> Sampler:
        """The sampler itself."""
        return self.own or SAMPLERS[self.sampler]

    @property
    def name(self) -> str:
        """The title, or the sampler's name."""
        return self.title or self.sampler

    @property
    def evaluations(self) -> int:
        """Expected number of evaluations of the score per sample; `State` has the count."""
        return self.method.evaluations(len(self.sigmas), **self.options)

    @property
    def states(self) -> int:
        """Number of states that a chain yields."""
        return self.method.states(len(self.sigmas), **self.options)

    @property
    def others(self) -> list[ScoreModel]:
        """Models that the score calls besides the one that is sampled, for `optimize`."""
        weak = self.guidance.weak if isinstance(self.guidance, Guidance) else None
        return [weak] if isinstance(weak, ScoreModel) else []

    def start(self, model: ScoreModel, n: int, noise: Noise) -> Samples:
        """Return n starting points of chains."""
        prior = require_prior(model)
        if self.uniform:
            return uniform_like(prior.mean.new_empty(n, *prior.mean.shape), noise=noise)
        return prior.sample(n, self.sigmas[0].item(), noise=noise)

    def run(self, score: Score, x: Samples, noise: Noise) -> States:
        """Return the states of the chains that start at x."""
        run = self.method.run
        options = {"noise": noise} if "noise" in signature(run).parameters else {}
        return run(score, x, self.sigmas.to(x.dtype), **options, **self.options)


def as_model(score: ScoreModel | Oracle) -> ScoreModel:
    """Return a model; an oracle becomes one with the noise levels that its samples need."""
    if isinstance(score, ScoreModel):
        return score
    if not isinstance(score, Oracle):
        raise TypeError(
            f"model is a {type(score).__name__}: give a ScoreModel or an oracle, or sample any "
            "score by SAMPLERS[name].run(score, x, sigmas), or one with a log_prob by "
            "annealed_langevin(score, x, sigmas, kernel=mala)"
        )
    sigmas = suggest(score.sample(ORACLE_SAMPLES, noise=seeded(0))).sigmas
    ends = sigmas[0].item(), sigmas[-1].item()
    model = ScoreModel(OracleNet(score), Precondition("score", "sigma", *ends), prior=score.prior)
    model.log_prob = score.log_prob  # type: ignore[assignment]
    return model


class OracleNet(nn.Module):
    """An oracle in the place of a network."""

    def __init__(self, oracle: Oracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return the score at σ = cond."""
        return self.oracle(x, cond)


def require_prior(model: ScoreModel) -> Prior:
    """Return the model's prior, where chains start."""
    if model.prior is None:
        raise ValueError("the model has no prior to start from: ScoreModel(..., prior=...)")
    return model.prior


def make_plan(
    model: ScoreModel | Oracle,
    sampler: str | Sampler | Callable[..., Any] | None = None,
    steps: int | None = None,
    *,
    levels: int | None = None,
    grid: str = "karras",
    title: str = "",
    note: str = "",
    brownian: bool = False,
    **options: Any,
) -> Plan:
    """Choose the grid and the options of a sampler, by default "heun", or what the model needs.

    A sampler is a name in `SAMPLERS`, "mala" or "hmc" for an oracle, a `Step`, a `Kernel` or a
    function made by `@sampler`.
    `steps` is the number of levels, 18 by default, with the spacing `grid` ("karras" or
    "geometric"); a single one is σ₁, from which x + σ₁²s is the sample. A sampler with a tolerance
    takes 2 by default, and others between them; its `sigma_data` is by default the deviation of the
    model's prior. "consistency", which a model tuned to it needs, takes 2 by default, and the grid
    continues to σ_L without it. Annealed Langevin, the default for a model trained on few levels,
    takes `steps` at each level of the model's ladder, or of the one with `levels` levels that
    `suggest` would choose. `title`, `note` and `brownian` are the plan's.
    """
    model = as_model(model)
    usual = "heun" if model.precondition.levels is None else "annealed_langevin"
    sampler, method = find_sampler(sampler or ("consistency" if model.tuned else usual))
    if model.tuned and not method.jumps:
        raise ValueError(
            f"sampler={sampler!r}: the model is tuned to consistency and not a score: take "
            "sampler='consistency', the default, or the model that it was tuned from"
        )
    check_keywords(options, sampler, method.run, make_plan, sample)
    kernel = (method.defaults | options).get("kernel")
    if kernel in DENSITY_KERNELS.values() and not hasattr(model, "log_prob"):
        raise ValueError(
            f"sampler={sampler!r}: proposals are accepted by a log-density, but the model is a "
            "score without one: give an oracle, take 'annealed_langevin' or 'underdamped', or in "
            "Python annealed_langevin(from_energy(energy), x, sigmas, kernel=mala)"
        )
    check_count(steps=steps)
    if method.annealed:
        sigmas, options = _plan_ladder(model, steps, levels, options)
    else:
        sigmas = model.round(_plan_grid(model, sampler, method, steps, grid))
        if "sigma_data" in method.defaults and model.prior is not None:
            options = {"sigma_data": model.prior.deviation or 1.0} | options
    about: dict[str, Any] = {"title": title, "note": note, "brownian": brownian}
    return Plan(sampler, sigmas, options, own=method, **about)


def _plan_grid(
    model: ScoreModel, name: str, method: Sampler, steps: int | None, grid: str
) -> Float[Tensor, "levels"]:
    """Return the levels of a sampler that takes one step at each."""
    if grid not in GRIDS:
        raise ValueError(f"grid={grid!r}: there are {', '.join(GRIDS)}")
    adaptive, own = "tolerance" in method.defaults, model.precondition.levels
    if adaptive and own is not None:
        raise ValueError(
            f"sampler={name!r} chooses its own noise levels, but the model was trained on "
            f"{len(own)} of them: take a sampler without a tolerance"
        )
    steps = steps or (2 if method.jumps or adaptive else 18)
    if steps == 1:
        return torch.tensor([model.sigma_max])
    # a jump goes from each level to 0, so σ_min needs none
    return GRIDS[grid](model.sigma_max, model.sigma_min, steps + method.jumps)[:steps]


def _plan_ladder(
    model: ScoreModel, steps: int | None, levels: int | None, options: dict[str, Any]
) -> tuple[Float[Tensor, "levels"], dict[str, Any]]:
    """Return the levels of annealed Langevin, and its options with those that suit the levels."""
    if model.shape is None:
        raise ValueError("the model has no shape, which the ladder depends on: give it a prior")
    sigmas, defaults = model.precondition.levels, dict[str, Any](denoise=True)
    if sigmas is None:
        ends = model.sigma_max, model.sigma_min
        ladder = suggest_between(*ends, model.shape.numel(), levels=levels)
        sigmas = ladder.sigmas
        defaults |= {"steps": ladder.steps, "epsilon": ladder.epsilon}
    return sigmas, defaults | ({} if steps is None else {"steps": steps}) | options


def suitable_samplers(model: ScoreModel) -> list[str]:
    """Return the names of the samplers for a model, which may be tuned or of a ladder."""
    ladder = model.precondition.levels is not None
    suited = {name: one for name, one in SAMPLERS.items() if one.jumps == model.tuned}
    return [name for name, one in suited.items() if not (ladder and "tolerance" in one.defaults)]


def check_keywords(options: Iterable[str], name: str, *functions: Callable[..., Any]) -> None:
    """Refuse `noise`, and options that are not keywords of any of the functions."""
    if "noise" in options:
        raise ValueError(
            "noise is a function of `seed` here: give a seed, or call the sampler itself, such as "
            "SAMPLERS[name].run(score, x, sigmas, noise=...)"
        )
    parameters = [p for function in functions for p in signature(function).parameters.values()]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "noise"]
    check_names(options, keywords, f"{name}: option ")


def sample(
    model: ScoreModel | Oracle,
    n: int = 64,
    sampler: Plan | str | Sampler | Callable[..., Any] | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    label: Label | str | Sequence[str] | None = None,
    condition: Condition | None = None,
    guidance: float | Guidance | None = None,
    batch: int = 256,
    **options: Any,
) -> Float[Tensor, "n *shape"]:
    """Sample n times from a model or an oracle, in the units of the data; processes share the work.

    `sampler` is a name in `SAMPLERS`, a `Step` or sampler of your own, for which `make_plan` takes
    `steps` and the other options, or a finished `Plan`. `label` is the class of all samples or of
    each, by name or number; "all" spreads the samples evenly over the classes, in their order.
    `condition` is another condition, see `ScoreModel.given`, for all samples or a row for each.
    `guidance` is the strength of classifier-free guidance towards them (1 is their own score), or a
    `Guidance` with an interval of σ, a weaker model or a classifier; by default it is the plan's.
    `batch` samples are computed at a time. Same seed, same samples.
    """
    model, plan = as_model(model), sampler
    if not isinstance(plan, Plan):
        plan = make_plan(model, plan, steps, **options)
    elif options or steps is not None:
        raise ValueError("steps and options belong to a sampler's name, not to a finished plan")
    parts = chains(
        model, n, plan, seed=seed, label=label, condition=condition, guidance=guidance, batch=batch
    )
    return torch.cat(list(gather(model, (final(states) for _, states in parts), n, batch)))


def chains(
    model: ScoreModel,
    n: int,
    plan: Plan,
    *,
    seed: int = 0,
    label: Label | str | Sequence[str] | None = None,
    condition: Condition | None = None,
    guidance: float | Guidance | None = None,
    batch: int = 256,
) -> Iterator[tuple[int, States]]:
    """Return this process's batches of chains, each with the index of its first sample.

    The x of a batch's states has the shape (samples, *shape). For the arguments see `sample`;
    `gather` joins the ends.
    """
    check_count(n=n, batch=batch)
    require_prior(model)
    model.check_weights()
    guidance = plan.guidance if guidance is None else guidance
    values = expand_conditions(model, n, label, condition, guidance)
    guided_score(model, values, guidance)  # fail now on what would fail at the first batch

    def batches() -> Iterator[tuple[int, States]]:
        model.eval()  # dropout is for training
        for start in distributed.shard(range(0, n, batch)):
            noise = seeded(seed, first=start)
            x = plan.start(model, min(batch, n - start), noise)
            if plan.brownian:
                noise = brownian(seed, plan.sigmas, first=start)
            rows = slice(start, start + len(x))
            own = map_condition(lambda value: value[rows].to(x.device), values)  # noqa: B023
            yield start, plan.run(guided_score(model, own, guidance), x, noise)

    return batches()


def expand_conditions(
    model: ScoreModel,
    n: int,
    label: Label | str | Sequence[str] | None,
    condition: Condition | None,
    guidance: float | Guidance,
) -> dict[str, Tensor] | None:
    """Return the conditions of n samples by name, a row for each; None if there are none."""
    if label is None and condition is None:
        return None
    named = {} if condition is None else model.name_condition(condition)
    values = model.expand_condition(named, n)
    if label is not None:
        values["label"] = choose_classes(model, label, n, guidance)
    return values


def choose_classes(
    model: ScoreModel,
    label: Label | str | Sequence[str],
    n: int,
    guidance: float | Guidance = 1.0,
) -> Int[Tensor, "n"]:
    """Return the number of each sample's class, see `sample`."""
    count = len(model.classes)
    if isinstance(label, str) and label == "all" and count and "all" not in model.classes:
        if n < count:
            raise ValueError(f"n={n}, label='all': give n={count} or more, one for each class")
        return torch.arange(n) * count // n
    if isinstance(label, (list, tuple)):
        label = torch.tensor([int(class_number(model, name, guidance)) for name in label])
    elif not isinstance(label, str):
        expand_label(cast(Label, label), n)
    return expand_label(class_number(model, cast(Label | str, label), guidance), n)


def class_number(model: ScoreModel, label: Label | str, guidance: float | Guidance) -> Label:
    """Return the number of a class: the model's, or the classifier's if the model has none."""
    if model.classes or not isinstance(guidance, Guidance) or guidance.classifier is None:
        return model.find_class(label)
    if isinstance(label, str) and not label.isdecimal():
        raise ValueError(f"label={label!r}: the model has no names of classes: give a number")
    return int(label) if isinstance(label, str) else label


def guided_score(
    model: ScoreModel, condition: Condition | None, guidance: float | Guidance
) -> Score:
    """Return the score of a condition with guidance towards it, or of the model without one."""
    settings = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    named: Any = {} if condition is None else condition
    if settings.classifier is not None:
        if "label" not in named:
            raise ValueError("guidance by a classifier needs a label to go towards")
        rest = {name: value for name, value in named.items() if name != "label"}
        free = model.given(rest) if rest else model
        return guide_by_classifier(
            free, settings.classifier, named["label"], settings.weight, interval=settings.interval
        )
    if settings.weak is None and condition is None and settings.weight != 1:
        raise ValueError(
            f"guidance={settings.weight} needs a label or condition to go towards: give one, or a "
            "weaker model to go away from (Guidance.weak, --autoguidance)"
        )
    score = model if condition is None else model.given(condition)
    if settings.weight == 1:
        return score
    if settings.weak is None and model.always_labelled and "label" in named:
        raise ValueError(
            f"guidance={settings.weight} goes away from the model without a class, but it was "
            "trained with network.label_dropout=0, never without one: leave guidance out, or give "
            "a weaker model (Guidance.weak, --autoguidance)"
        )
    other = model if settings.weak is None else _condition_weak(model, settings.weak, condition)
    return guide(score, other, settings.weight, interval=settings.interval)


def _condition_weak(model: ScoreModel, weak: Score, condition: Condition | None) -> Score:
    """Return the weaker model of an autoguidance under the condition."""
    shape = getattr(weak, "shape", None)
    if shape not in (None, model.shape):
        raise ValueError(
            f"guidance.weak has samples of shape {tuple(shape)}, but the model of "
            f"{tuple(model.shape or ())}: give a weaker model of the same data"
        )
    if not isinstance(weak, ScoreModel):
        return weak
    weak.eval()
    return weak if condition is None else weak.given(condition)


def count_evaluations(states: Iterable[State], counts: Counter[int]) -> Iterator[State]:
    """Yield the states, and then count the samples by their evaluations of the score."""
    for state in states:
        yield state
    counts.update(torch.as_tensor(state.evaluations).expand(len(state.x)).tolist())


def record_evaluations(counts: Counter[int]) -> dict[str, float]:
    """Return the mean and the largest number of evaluations per sample, for a file in JSON."""
    total, most = sum(number * samples for number, samples in counts.items()), max(counts)
    mean = total / sum(counts.values()) if len(counts) > 1 else most
    return {"evaluations": mean, "most evaluations": most}


def describe_evaluations(counts: Counter[int]) -> str:
    """Return the number of evaluations per sample, or the mean and the largest if they differ."""
    mean, most = record_evaluations(counts).values()
    return str(most) if len(counts) == 1 else f"{mean:.1f} (at most {most})"


def gather(
    model: ScoreModel, ends: Iterable[Tensor], n: int, batch: int
) -> Iterator[Float[Tensor, "part *shape"]]:
    """Yield the n samples in order, one batch of each process at a time, in every process.

    `ends` are the final samples of this process's `chains`; those that are not finite are reported.
    """
    like, own = require_prior(model).mean, iter(ends)
    sizes = [min(batch, n - first) for first in range(0, n, batch)]
    for start in range(0, len(sizes), distributed.world()):
        now = sizes[start : start + distributed.world()]
        parts = [next(own)] if distributed.rank() < len(now) else []
        for part in distributed.gather_shards(parts, now, like):
            warn_of_broken(part)
            yield part


def warn_of_broken(x: Float[Tensor, "n *shape"]) -> None:
    """Warn, in the first process, of samples that are not finite."""
    if (problem := describe_broken(x)) and distributed.is_main():
        warnings.warn(problem, stacklevel=3)


def describe_broken(x: Float[Tensor, "n *shape"], origin: str = "") -> str:
    """Return how many samples are not finite, and what may help; empty if all are."""
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if not broken:
        return ""
    remedy = "more steps or another sampler may help, and `diagnose` shows where the score is wrong"
    return f"{broken} of {len(x)} samples{origin} are not finite: {remedy}"
