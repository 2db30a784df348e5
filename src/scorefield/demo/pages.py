"""The demo's report: what is said of its samples, section by section."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..checkpoint import read_stored
from ..ladder import suggest
from ..metrics import neighbour_ratio
from ..noise import geometric, perturb, seeded
from ..runs import config
from ..samplers import State
from ..show import images, plots
from ..show.report import Picture, Section, Table, drawn
from .findings import HEADS, Findings, rows
from .measures import DRAWS, K, losses

SHOWN = 64
"""Digits of a grid."""


def sections(found: Findings) -> list[Section]:
    """The report."""
    return [
        _digits(found),
        _quality(found),
        _way(found),
        _ladder(found),
        _learning(found),
        _neighbours(found),
        _making(found),
    ]


def _digits(found: Findings) -> Section:
    """Real ones and those of each way, side by side."""
    chosen = torch.randperm(len(found.judge.test), generator=torch.Generator().manual_seed(0))
    real = _grid(
        found.judge.test[chosen[:SHOWN]],
        "real digits",
        f"{SHOWN} of the {len(found.judge.test)} held out, on which the model was not trained.",
    )
    made = [
        _grid(
            r.drawn.x[:SHOWN],
            r.way.name,
            f"{r.way.plan.evaluations} evaluations of the score each. {_sentence(r.way.note)}",
        )
        for r in found.results
    ]
    text = (
        "One network has learned ∇ₓ log q_σ(x) of handwritten digits (8 × 8 pixels, from "
        "scikit-learn) in the time given below. These are its samples by different ways of "
        "following that score from noise, the first of each and not chosen; digits in one place "
        "of the grids began with the same noise."
    )
    return Section("Samples beside real digits", text, pictures=[real, *made])


def _quality(found: Findings) -> Section:
    judge = found.judge
    text = (
        f"Reference: the {len(judge.test)} held-out digits, which had no part in the training "
        f"nor in its end; seed {found.experiment.seed}. In small "
        "type: where 95 % of other sets of that size would lie, for real digits by "
        f"{DRAWS} random sets of training digits, whose means are given, else by the jackknife "
        "(Fréchet), Wilson (shares) and order statistics (nearest).\n\n"
        "NFE: evaluations of the score for each sample. Seconds: of all samples of the row. "
        "Fréchet: squared distance of the Gaussians with the pixels' moments; it falls with the "
        "number of samples, as coverage rises, so compare with the real digits right above. "
        f"Precision: the share of samples within reach of a real digit, its {K}th neighbour; "
        "coverage: the share of real digits with a sample in reach. Classes: the share of the "
        "rarest and of the commonest, by a support vector machine that is right about "
        f"{100 * judge.accuracy:.1f} % of the held-out digits. Nearest: the median distance to the "
        "nearest training digit over that of held-out digits; far below 1 is copying."
    )
    classes = [str(k) for k in range(judge.classes)]
    counted = [["real digits, held out", *_percent(judge.shares(judge.test))]]
    counted += [[r.way.name, *_percent(r.measures.shares)] for r in found.results]
    return Section(
        "How good they are",
        text,
        [Table(HEADS, rows(found)), Table(["Class, %", *classes], counted)],
    )


def _way(found: Findings) -> Section:
    result = found.results[0]
    frames = [_frame(state) for state in result.drawn.frames]
    about = {"sampler": result.way.plan.sampler, "seed": found.experiment.seed}
    moving = Picture(
        images.animation(frames, ".png", about, seconds=6),
        f"{len(frames)} of {result.way.length} states. Left: x, its contrast lowered to "
        "1/(1 + 4σ) that the noise can be seen. Right: at the same time the denoiser's "
        "x + σ²s(x, σ), the mean of the digits that x may come from.",
        f"{_sentence(result.way.name)[:-1]}, from σ = {result.way.plan.sigmas[0].item():.3g} to 0.",
    )
    return Section("From noise to digits", pictures=[moving])


def _ladder(found: Findings) -> Section:
    """The noise, and why so much of it."""
    suggested = suggest(found.judge.train)
    grids = {r.way.name: r.way.plan.sigmas for r in found.results}
    spread = geometric(suggested.sigmas[0].item(), suggested.sigmas[-1].item(), 10)
    digit = found.judge.test[len(found.judge.test) // 2].expand(10, *found.judge.test.shape[1:])
    noisy = perturb(digit, spread, seeded(found.experiment.seed)(digit))
    text = (
        "Annealed Langevin dynamics goes down a ladder of noise levels. Which levels, how many "
        "steps T at each and which step size ε is computed from the data before anything is "
        "trained, by the rules of Song & Ermon 2020 (scorefield suggest digits):"
    )
    strip = Picture(
        images.png(images.grid(_calmed(noisy, spread), 10), {}),
        "σ = " + ", ".join(f"{s:.2g}" for s in spread.tolist()) + "; contrast 1/(1 + 4σ).",
        "A digit at ten levels.",
    )
    figure = drawn(plots.ladders(grids), "The levels of each way.", "A tick is a level.")
    return Section(
        "The noise levels, with reasons", text, verbatim=str(suggested), pictures=[figure, strip]
    )


def _learning(found: Findings) -> Section:
    """The training curve and the loss of each σ."""
    judge, levels = found.judge, found.experiment.levels
    pixels = judge.train[0].numel()
    lines = [json.loads(line) for line in _log(found).splitlines()]
    batches = {v["step"]: v["loss"] / pixels for v in lines if v["loss"] is not None}
    heldout = {
        v["step"]: (v["heldout"] / pixels, v["heldout_error"] / pixels)
        for v in lines
        if "heldout" in v
    }
    curve = drawn(
        plots.training(batches, heldout, "loss per pixel"),
        "Training.",
        f"{found.experiment.training.steps} steps of {found.experiment.training.batch} digits; "
        f"sampled is the state of step {read_stored(found.directory).about['step']}.",
    )
    sigmas = geometric(found.model.sigma_max, found.model.sigma_min, 12)
    curves = losses(found.model, judge, sigmas, levels.sigma_data or 0.5, found.experiment.seed)
    most = max(values.mean(1).max().item() for values in curves.values())
    by_sigma = drawn(
        plots.losses(sigmas, curves, "denoising loss per pixel", top=1.4),
        "Loss at each σ.",
        f"E‖D(x + σz, σ) − x‖²·(σ² + σ_d²)/(σσ_d)² per pixel, σ_d = {levels.sigma_data:.3f}, over "
        f"{len(judge.test)} digits with one z each, the same for all curves; bands are 95 % "
        f"intervals of the mean. What leaves the picture goes up to {most:.3g}.",
    )
    text = (
        "The loss at each σ tells what was learned where. The Gaussian knows mean and covariance "
        "only. By heart is the exact score of the training digits themselves, the optimum of the "
        "training loss: a model that reached it would copy, and new digits would show it, as here "
        "at small σ. The gap of the model's two curves is how much it has overfitted."
    )
    return Section("What was learned", text, pictures=[by_sigma, curve])


def _neighbours(found: Findings) -> Section:
    judge = found.judge
    pictures = []
    for r in found.results:
        m = neighbour_ratio(r.drawn.x, judge.train, judge.test, worst=10)
        pairs = torch.cat([r.drawn.x[m.worst], judge.train[m.sources]])
        apart = ", ".join(f"{d:.2f}" for d in m.distances.tolist())
        pictures.append(
            Picture(
                images.png(images.grid(pairs, 10), {}),
                f"Above: of its {r.way.n} samples the ten closest to a training digit. Below: that "
                f"digit. Distances {apart}; {100 * m.copies:.1f} % are exact copies.",
                _sentence(r.way.name),
                "half",
            )
        )
    usual = neighbour_ratio(judge.test, judge.train, judge.test, worst=10)
    nearest = ", ".join(f"{d:.2f}" for d in usual.distances.tolist())
    text = (
        "Has the model learned to draw digits, or these digits by heart? The worst cases, by "
        f"Euclidean distance. For comparison, the ten held-out digits closest to training "
        f"digits are {nearest} away."
    )
    return Section("Nearest neighbours in the training data", text, pictures=pictures)


def _making(found: Findings) -> Section:
    """Enough to do it again."""
    made = found.experiment
    weights = sum(p.numel() for p in found.model.net.parameters())
    packages = ("scorefield", "torch", "numpy", "scikit-learn")
    facts = {
        "data": f"{made.data.source}: {len(found.judge.train)} to train on, "
        f"{len(found.judge.test)} held out",
        "seed": f"{made.seed}, of training and of sampling",
        "network": f"{made.network['kind']}, {weights:,} weights, their running average",
        "training": f"{made.training.steps} steps in {found.trained:.0f} seconds",
        "machine": f"{_processor()}, {os.cpu_count()} processors, {torch.get_num_threads()} "
        "threads used",
        "system": platform.platform(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
        ),
        "again": f"scorefield demo --seed {made.seed} --steps {made.training.steps}",
    }
    told = "\n".join(f"{name:9s} {fact}" for name, fact in facts.items())
    text = (
        "The samples of the table are in arrays/ beside this page, in the data's units, each with "
        "a .json that says how it was made."
    )
    return Section("How this was made", text, verbatim=told, folded=config.as_json(made))


# ── Pieces ───────────────────────────────────────────────────────────────────────────────────────


def _grid(x: Tensor, title: str, caption: str) -> Picture:
    return Picture(images.png(images.grid(x), {}), caption, _sentence(title), "third")


def _calmed(x: Tensor, sigma: Tensor) -> Tensor:
    """Noise pulled towards grey, that it be not all black and white."""
    return 0.5 + (x - 0.5) / (1 + 4 * sigma.view(-1, 1, 1, 1))


def _frame(state: State) -> Image.Image:
    """32 digits as they are, beside what they may become."""
    sides = [
        images.grid(side[:32], 8)
        for side in (_calmed(state.x, torch.tensor(state.sigma)), state.denoised)
    ]
    gap = 24
    sheet = Image.new("L", (2 * sides[0].width + gap, sides[0].height), 255)
    sheet.paste(sides[0], (0, 0))
    sheet.paste(sides[1], (sides[0].width + gap, 0))
    return sheet


def _percent(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def _sentence(note: str) -> str:
    """With a capital and a full stop."""
    return f"{note[:1].upper()}{note[1:]}."


def _log(found: Findings) -> str:
    return (found.directory / "log.jsonl").read_text()


def _processor() -> str:
    """What the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
