"""Figures 6, 16 and 17: images of which a part was hidden, completed by Algorithm 2.

    rows: what was known, completions, the image itself                               (§5, C.5)

Figure 6 has CelebA and CIFAR-10, Figure 16 more of CelebA, Figure 17 more of CIFAR-10.

Setting   the noise of known pixels is sampled once a level, and they are put back after each step,
          as in the paper's Algorithm 2. The hidden part may have any shape.
Code      hides the right half of 20 images and completes each 20 times from uniform noise.
Ours      the same with held-out images, as many of each class, and at the end known pixels are put
          back without noise. The figure in numbers: how far completions differ on hidden pixels,
          compared with the noise that is left; and a classifier's accuracy on 360 held-out images,
          completed once each, whole, and with the training mean in place of hidden pixels. The
          images of CelebA have no classes.
Small     the ladder is the best of `candidate_plans` by the accuracy on 200 training digits, of a
          classifier trained on the others: `compare_plans` prints them. Between its own levels the
          network is evaluated at the nearest.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..data import Dataset, Part, Source, all_samples
from ..evaluate import make_features
from ..evaluate.features import read_labels
from ..inverse import algorithm2
from ..noise import geometric, seeded
from ..sample import Plan
from ..samplers import final
from ..show.images import grid
from ..show.progress import progress
from ..show.text import text_table
from .finding import Finding, Setting
from .models import CHAINS_AT_ONCE, REFERENCE_IMAGES, PaperModel

COMPLETED_IMAGES = 20
COMPLETIONS = 20  # of each of these images
JUDGED_IMAGES = 360  # by the classifier; the completed ones are among them
CHOICE_IMAGES = 200  # training images, which choose the ladder of the small scale
SHOWN_COMPLETIONS = 8  # images, and completions of each, in the picture
DEVIATION_RATIO = 3.0  # of completions over the noise that is left, more than this
ACCURACY_SHARE = 0.5  # from mean-filled to whole images, at least
STATEMENT = (
    "known pixels are exact, completions of every image deviate from each other by more than "
    f"{DEVIATION_RATIO:g} × the noise that is left, and, where images have classes, the "
    f"classifier's accuracy on {JUDGED_IMAGES} completions is at least {ACCURACY_SHARE:.0%} of the "
    "way from that on mean-filled images up to that on whole ones"
)


def run(model: PaperModel) -> Finding:
    """Complete held-out images, and judge the completions."""
    setting, data, plan = model.setting, model.dataset, completion_plan(model)
    assert data.test is not None  # all of the paper's data have some
    rows = balance_classes(data.test, data.classes, setting.samples(JUDGED_IMAGES))
    x = all_samples(Part(data.test, rows))
    few, visible = x[: setting.samples(COMPLETED_IMAGES)], left_half(x.shape[1:])
    completions = complete(model, plan, few, visible, setting.samples(COMPLETIONS))
    error, deviation = differences(completions, few, visible)
    numbers = {"largest error of a known pixel": error}
    numbers |= {"smallest deviation of completions": deviation}
    passed = error == 0 and deviation > DEVIATION_RATIO * noise_left(plan)
    if data.classes:
        once, labels = complete(model, plan, x, visible, 1), read_labels(data.test, rows)
        accuracy = accuracies(data, {"completions": once}, x, visible, labels)
        numbers |= {f"accuracy on {kind}": share for kind, share in accuracy.items()}
        completed, filled, whole = accuracy.values()
        passed &= whole > filled and completed >= filled + ACCURACY_SHARE * (whole - filled)
    # a row: what was visible of the image on grey, some completions and the image
    grey = torch.where(visible, few, 0.5)[:, None]
    sheet = torch.cat([grey, completions[:, :SHOWN_COMPLETIONS], few[:, None]], 1)
    picture = grid(sheet[:SHOWN_COMPLETIONS].flatten(0, 1), SHOWN_COMPLETIONS + 2)
    return Finding(STATEMENT, numbers, passed, picture, f"but completions are by {CHOSEN_PLAN}")


def completion_plan(model: PaperModel) -> Plan:
    """Return the plan for completions: the paper's, at the small scale the chosen candidate."""
    return model.plan if model.setting.scale == "paper" else candidate_plans(model)[CHOSEN_PLAN]


CHOSEN_PLAN = "4,000 levels, most between σ = 0.4 and 0.1, ε = 1e-4"
"""The best candidate by `compare_plans`, seed 0."""


def candidate_plans(model: PaperModel) -> dict[str, Plan]:
    """Return the ladders that `compare_plans` compares, of 1,000 to 4,000 evaluations."""
    steps = model.setting.steps

    def plan(title: str, sigmas: Tensor, t: int, epsilon: float) -> Plan:
        options = {"steps": t, "epsilon": epsilon}
        return Plan("annealed_langevin", sigmas, options, uniform=True, title=title)

    def dense_plan(n: int) -> Plan:
        # half a digit is settled between σ = 0.4 and 0.1
        parts = ((1.0, 0.4, n // 40), (0.4, 0.1, 37 * n // 40), (0.1, 0.01, n // 20))
        sigmas = [geometric(high, low, steps(count) + 1)[1:] for high, low, count in parts]
        title = f"{n:,} levels, most between σ = 0.4 and 0.1, ε = 1e-4"
        return plan(title, torch.cat(sigmas), 1, 1e-4)

    coarse, even = geometric(1.0, 0.01, 10), geometric(1.0, 0.01, max(steps(1000), 2))
    candidates = (
        plan("10 levels of 100 steps, ε = 2e-5 (the paper's)", coarse, steps(100), 2e-5),
        plan("1,000 levels evenly in log σ, ε = 1e-4", even, 1, 1e-4),
        *map(dense_plan, (1000, 2000, 4000)),
    )
    return {candidate.name: candidate for candidate in candidates}


def compare_plans(setting: Setting) -> dict[str, float]:
    """Print and return the accuracy of each candidate on training digits.

    The classifier is trained on the other training digits; the held-out ones are not used.
    """
    model = PaperModel(setting, "digits")
    source, classes = model.dataset.train, model.dataset.classes
    rows = balance_classes(source, classes, setting.samples(CHOICE_IMAGES))
    others = torch.ones(len(source), dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0]
    split = Dataset("digits", Part(source, others), Part(source, rows), classes)
    x, labels = all_samples(Part(source, rows)), read_labels(source, rows)
    visible, plans = left_half(x.shape[1:]), candidate_plans(model)
    completions = {name: complete(model, plan, x, visible, 1) for name, plan in plans.items()}
    accuracy = accuracies(split, completions, x, visible, labels)
    cells = [[kind, f"{share:.3f}"] for kind, share in accuracy.items()]
    print(text_table(["ladder", f"accuracy on {len(rows)} training digits"], cells))
    return {name: accuracy[name] for name in plans}


def noise_left(plan: Plan) -> float:
    """Standard deviation that steps as large as α leave of the last level's noise σ_L."""
    sigma = plan.sigmas[-1].item()
    return sigma / math.sqrt(1 - plan.options["epsilon"] / (2 * sigma**2))


def left_half(shape: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """Return the mask of the pixels that are not hidden."""
    return (torch.arange(shape[-1]) < shape[-1] // 2).expand(*shape)


def balance_classes(source: Source, classes: Sequence[str], wanted: int) -> Int[Tensor, "rows"]:
    """Choose images at random, as many of each class; any if there are no classes."""
    rows = torch.arange(len(source))
    labels = read_labels(source, rows) if classes else torch.zeros_like(rows)
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    indicators = one_hot(labels[shuffled])
    count = (indicators * indicators.cumsum(0)).sum(1)  # images of its class up to it
    return shuffled[count.argsort(stable=True)][:wanted]


def complete(model: PaperModel, plan: Plan, x: Tensor, visible: Tensor, m: int) -> Tensor:
    """Complete each of n images m times by Algorithm 2, as "n m *shape"."""

    def compute() -> Tensor:
        parts = list[Tensor]()
        for i, y in enumerate(torch.split(x.repeat_interleave(m, 0), CHAINS_AT_ONCE)):
            noise = seeded(model.setting.seed, first=i * CHAINS_AT_ONCE)
            start = plan.start(model.model, len(y), noise)
            chain = algorithm2(
                model.model, start, plan.sigmas, observed=visible, y=y, noise=noise, **plan.options
            )
            end = final(progress(chain, plan.states, "inpainting"))
            parts.append(torch.where(visible, y, end.cpu()))
        return torch.cat(parts).reshape(len(x), m, *x.shape[1:])

    images = hashlib.sha256(x.numpy().tobytes() + visible.numpy().tobytes()).hexdigest()
    return model.compute_once("completions", len(x) * m, plan, compute, m, images)


def differences(completions: Tensor, x: Tensor, visible: Tensor) -> tuple[float, float]:
    """Return the largest error of a visible pixel, and the smallest deviation of a hidden part."""
    error = torch.where(visible, completions - x[:, None], 0).abs().max()
    hidden = completions[..., ~visible.expand(x.shape[1:])]
    return error.item(), hidden.var(1).mean(1).sqrt().min().item()


def accuracies(
    data: Dataset, completions: Mapping[str, Tensor], x: Tensor, visible: Tensor, labels: Tensor
) -> dict[str, float]:
    """Return a classifier's accuracy on sets of completions, mean-filled images and whole ones."""
    features, accuracy = make_features("classifier", data), dict[str, float]()
    filled = torch.where(visible, x, all_samples(data.train, REFERENCE_IMAGES).mean(0))
    sets = {**completions, "mean-filled images": filled[:, None], "images": x[:, None]}
    for name, images in sets.items():
        probabilities = features.extract(images.flatten(0, 1))[1]
        assert probabilities is not None
        classes = probabilities.argmax(1).view(len(x), -1)
        accuracy[name] = (classes == labels[:, None]).double().mean().item()
    return accuracy
