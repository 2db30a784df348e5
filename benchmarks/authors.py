"""Networks and chains of this package next to what the authors' own programs computed.

`tests/golden` has, for small networks with random weights, checkpoints in the authors' formats, and
what their programs computed from them: of NCSN and NCSNv2 scores and a run of annealed Langevin
dynamics, of score_sde scores, of EDM denoised images. A difference is the largest of a tensor,
divided by the largest value of the tensor; of several noise levels, the largest counts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scorefield.convert import from_official
from scorefield.model import ScoreModel
from scorefield.noise import replay
from scorefield.samplers import annealed_langevin, final
from scorefield.score import to_denoiser

from . import Setting
from .table import Cell, Table

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def agreement(setting: Setting, title: str) -> Table:
    """Compare each network, and the chains of NCSN and NCSNv2, with the authors' numbers."""
    rows = [[path.name, *differences(path)] for path in sorted(GOLDEN.iterdir())]
    heads = {"network": "", "M weights": ".3f", "network's outputs": ".1e", "chain": ".1e"}
    return Table(title, heads, rows, ["In float32, from files in the authors' own formats."])


@torch.no_grad()
def differences(path: Path) -> list[Cell]:
    """Return millions of weights, and the differences of the network and of its chain."""
    expected = load_file(path / "expected.safetensors")
    with safe_open(path / "expected.safetensors", "pt") as file:
        facts = file.metadata()
    (checkpoint,) = path.glob("checkpoint.*")
    edm = checkpoint.suffix == ".pkl"
    options = {} if edm else {"image_size": int(facts["image_size"])}
    if "subvp" in path.name:
        options["sde"] = "subvp"
    model = from_official(checkpoint, **options)
    weights = sum(p.numel() for p in model.net.parameters()) / 1e6
    actual, truth = denoised_images(model, expected) if edm else scores(model, expected, facts)
    output = max(difference(*pair) for pair in zip(actual, truth, strict=True))
    return [weights, output, chain_difference(model, expected, facts)]


def difference(actual: Tensor, truth: Tensor) -> float:
    return ((actual - truth).abs().max() / truth.abs().max()).item()


def denoised_images(model: ScoreModel, expected: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return images denoised by EDM's network, in [−1, 1]."""
    labels = expected.get("labels")
    score = model if labels is None else model.given(labels)
    images = to_denoiser(score)((expected["x"] + 1) / 2, expected["sigma"] / 2)
    return 2 * images - 1, expected["denoised"]


def scores(
    model: ScoreModel, expected: dict[str, Tensor], facts: dict[str, str]
) -> tuple[Tensor, Tensor]:
    """Return scores; score_sde's are of αx₀ + s·z, where x₀ is in [−1, 1] if it is centred."""
    if "x_t" not in expected:
        return model(expected["x"], expected["sigmas"][expected["labels"]]), expected["score"]
    centred = facts["centered"] == "True"
    scale, alpha = (2 if centred else 1), expected["alpha"].double()[:, None, None, None]
    x, sigma = (expected["x_t"] / alpha + centred) / scale, expected["std"] / expected["alpha"]
    return model(x.float(), sigma / scale), scale * alpha * expected["score"]


def chain_difference(
    model: ScoreModel, expected: dict[str, Tensor], facts: dict[str, str]
) -> float | None:
    """Return the difference of the end of a chain with the authors' start and noise, if stored."""
    if "ald_init" not in expected:
        return None
    denoise = "ald_final_denoised" in expected
    chain = annealed_langevin(
        model,
        expected["ald_init"],
        expected["sigmas"],
        steps=int(facts["steps_per_level"]),
        epsilon=float(facts["step_size"]),
        denoise=denoise,
        noise=replay(expected["ald_noise"]),
    )
    return difference(final(chain), expected["ald_final_denoised" if denoise else "ald_final"])
