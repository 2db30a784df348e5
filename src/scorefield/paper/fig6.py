"""Figures 6, 16 and 17: images of which a part was hidden, completed by Algorithm 2.

    rows: what was known, completions, the image itself                               (§5, C.5)

Figure 6 has CelebA and CIFAR-10, Figure 16 more of CelebA, Figure 17 more of CIFAR-10.

Setting   the paper's network, T and ε, as in `models`, which says what is the code's. As its
          Algorithm 2 has it, the noise of known pixels is drawn once per level, and they are put
          back after each step. The hidden part may have any shape.
Code      hides the right half of 20 images and completes each 20 times from uniform noise.
Ours      the same with held-out images, as many of each class, and at the end known pixels are put
          back without noise. The figure in numbers: how far completions differ on hidden pixels,
          compared with the noise that is left; and a classifier's accuracy on 360 held-out images,
          completed once each, whole, and with the training mean in place of hidden pixels. The
          images of CelebA have no classes.
Small     the ladder is the best of `candidate_plans` by the accuracy on 200 training digits, of a
          classifier trained on the others: `compare_plans` prints them. Between its own levels the
          network is evaluated at the nearest.
PASS      known pixels are exact, completions of every image deviate from each other by > 3 × the
          noise that is left, and, where images have classes, the accuracy on completions is at
          least half of the way from that on mean-filled images up to that on whole ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from ..data import Dataset, Part, Source, all_samples
from ..evaluate import make_features
from ..inverse import algorithm2, mask
from ..noise import geometric, seeded
from ..sample import Plan
from ..samplers import final
from ..show.images import grid
from ..show.text import text_table
from ..show.track import track
from .finding import Finding, Setting, side_by_side
from .models import CHAINS_AT_ONCE, REFERENCE_IMAGES, PaperModel, paper_models, scaled_setting

COMPLETED_IMAGES = 20
COMPLETIONS = 20  # of each of these images
JUDGED_IMAGES = 360  # by the classifier; the completed ones are among them
CHOICE_IMAGES = 200  # training images, which choose the ladder of the small scale
SHOWN_COMPLETIONS = 8  # images, and completions of each, in the picture
DEVIATION_RATIO = 3.0  # of completions over the noise that is left, more than this
ACCURACY_SHARE = 0.5  # from mean-filled to whole images, at least
STATEMENT = (
    "known pixels are exact, completions of every image deviate from each other by more than "
    f"{DEVIATION_RATIO:g} × the noise that is left"
)
STATEMENT_OF_CLASSES = (
    f", and the classifier's accuracy on {JUDGED_IMAGES} completions is at least "
    f"{ACCURACY_SHARE:.0%} of the way from that on mean-filled images up to that on whole ones"
)


def run(setting: Setting, data: tuple[str, ...]) -> Finding:
    """Complete each data set's images, and judge the completions."""
    sheets, numbers, passed = list[Image.Image](), dict[str, float](), True
    statement, few = STATEMENT, setting.samples(COMPLETED_IMAGES)
    for model in paper_models(setting, data):
        plan, test = completion_plan(model), model.dataset.test
        assert test is not None
        rows = balanced_rows(classes_of(test), setting.samples(JUDGED_IMAGES))
        x, labels = all_samples(Part(test, rows)), test.take(rows)[1]
        known = left_half(x.shape[1:])
        completions = complete(model, plan, x[:few], known, setting.samples(COMPLETIONS))
        error, deviation = differences(completions, x[:few], known)
        numbers[f"{model.data}: largest error of a known pixel"] = error
        numbers[f"{model.data}: smallest deviation of completions"] = deviation
        passed &= error == 0 and deviation > DEVIATION_RATIO * noise_left(plan)
        if labels is not None:
            statement = STATEMENT + STATEMENT_OF_CLASSES
            once = complete(model, plan, x, known, 1)
            accuracy = accuracies(model.dataset, once, x, known, labels)
            numbers |= {f"{model.data}: accuracy on {kind}": a for kind, a in accuracy.items()}
            completed, filled, whole = accuracy.values()
            least = filled + ACCURACY_SHARE * (whole - filled)
            passed &= whole > filled and completed >= least
        sheets.append(_completion_rows(completions, x[:few], known))
    scaled = scaled_setting(setting, f"but completions are by {CHOSEN_PLAN}")
    return Finding(statement, numbers, passed, side_by_side(sheets), scaled)


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
    (model,) = paper_models(setting, ("digits",))
    source = model.dataset.train
    rows = balanced_rows(classes_of(source), setting.samples(CHOICE_IMAGES))
    others = torch.ones(len(source), dtype=torch.bool).index_fill(0, rows, False).nonzero()[:, 0]
    split = Dataset("digits", Part(source, others), Part(source, rows), model.dataset.classes)
    x, labels = all_samples(Part(source, rows)), source.take(rows)[1]
    assert labels is not None
    known, accuracy = left_half(x.shape[1:]), dict[str, float]()
    for title, plan in candidate_plans(model).items():
        all_kinds = accuracies(split, complete(model, plan, x, known, 1), x, known, labels)
        accuracy[title] = all_kinds.pop("completions")
    cells = [[title, f"{value:.3f}"] for title, value in (accuracy | all_kinds).items()]
    print(text_table(["ladder", f"accuracy on {len(rows)} training digits"], cells))
    return accuracy


def noise_left(plan: Plan) -> float:
    """Standard deviation that steps as large as α leave of the last level's noise σ_L."""
    sigma = plan.sigmas[-1].item()
    return sigma / math.sqrt(1 - plan.options["epsilon"] / (2 * sigma**2))


def left_half(shape: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """Return the mask of known pixels."""
    return (torch.arange(shape[-1]) < shape[-1] // 2).expand(*shape)


def balanced_rows(labels: Int[Tensor, "n"], wanted: int) -> Int[Tensor, "rows"]:
    """Choose images at random, as many of each class."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    mixed = labels[shuffled]
    count = one_hot(mixed).cumsum(0).gather(1, mixed[:, None])[:, 0]  # of its class up to it
    return shuffled[count.argsort(stable=True)][:wanted]


def classes_of(source: Source) -> Int[Tensor, "n"]:
    """Return the classes of all images, or zeros if there are none."""
    rows = torch.arange(len(source))
    if source.take(rows[:1])[1] is None:
        return torch.zeros_like(rows)
    parts = [source.take(part)[1] for part in torch.split(rows, 1000)]
    return torch.cat([labels for labels in parts if labels is not None])


def complete(model: PaperModel, plan: Plan, x: Tensor, known: Tensor, m: int) -> Tensor:
    """Complete each of n images m times by Algorithm 2, as "n m *shape"; completions are kept."""
    images = hashlib.sha256(x.numpy().tobytes() + known.numpy().tobytes()).hexdigest()
    about = {"levels": plan.sigmas.tolist(), **plan.options, "size": [len(x), m], "images": images}
    name = f"inpainted-{hashlib.sha256(repr(about).encode()).hexdigest()[:8]}"
    if (kept := model.kept(name, about)) is not None:
        return kept["x"]
    print(f"  {model.directory}: inpainting, {len(x) * m} chains", flush=True)
    model.optimize(len(x) * m, plan)
    parts = list[Tensor]()
    for i, y in enumerate(torch.split(x.repeat_interleave(m, 0), CHAINS_AT_ONCE)):
        noise = seeded(model.setting.seed, first=i * CHAINS_AT_ONCE)
        start = plan.start(model.model, len(y), noise)
        chain = algorithm2(
            model.model, start, plan.sigmas, known=known, y=y, noise=noise, **plan.options
        )
        end = final(track(chain, plan.states, "inpainting")).cpu()
        parts.append(mask(known).project(end, torch.where(known, y, 0)))
    completions = torch.cat(parts).reshape(len(x), m, *x.shape[1:])
    model.keep(name, about, {"x": completions})
    return completions


def differences(completions: Tensor, x: Tensor, known: Tensor) -> tuple[float, float]:
    """Return the largest error of a known pixel, and the smallest deviation of an image's rest."""
    error = torch.where(known, completions - x[:, None], 0).abs().max()
    hidden = completions[..., ~known.expand(x.shape[1:])]
    return error.item(), hidden.var(1).mean(1).sqrt().min().item()


def accuracies(
    data: Dataset, completions: Tensor, x: Tensor, known: Tensor, labels: Tensor
) -> dict[str, float]:
    """Return a classifier's accuracy on completions, mean-filled images and whole ones."""
    features = make_features("classifier", data)

    def accuracy(x: Tensor, labels: Tensor) -> float:
        probabilities = features.extract(x)[1]
        assert probabilities is not None
        return (probabilities.argmax(1) == labels).double().mean().item()

    filled = torch.where(known, x, all_samples(data.train, REFERENCE_IMAGES).mean(0))
    repeated = labels.repeat_interleave(completions.shape[1])
    return {
        "completions": accuracy(completions.flatten(0, 1), repeated),
        "mean-filled images": accuracy(filled, labels),
        "images": accuracy(x, labels),
    }


def _completion_rows(completions: Tensor, x: Tensor, known: Tensor) -> Image.Image:
    """Show what was known of each image on grey, some completions and the image, a row each."""
    hidden = torch.where(known, x, 0.5)
    rows = torch.cat([hidden[:, None], completions[:, :SHOWN_COMPLETIONS], x[:, None]], 1)
    return grid(rows[:SHOWN_COMPLETIONS].flatten(0, 1), SHOWN_COMPLETIONS + 2)
