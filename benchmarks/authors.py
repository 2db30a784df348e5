"""Networks and chains of this package next to what the authors' own programs computed.

`tests/golden` has, for small networks with random weights, checkpoints in the authors' formats, and
what their programs computed from them: of NCSN and NCSNv2 scores and a run of annealed Langevin
dynamics, of score_sde scores, of EDM denoised images. A difference is the largest of a tensor,
divided by the largest value of the tensor; of several noise levels, the largest counts.
"""

from pathlib import Path
from typing import Any

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
    folders = sorted(path.name for path in GOLDEN.iterdir())
    rows = [[folder, *differences(folder)] for folder in folders]
    heads = {"network": "", "M weights": ".3f", "network's outputs": ".1e", "chain": ".1e"}
    return Table(title, heads, rows, ["In float32, from files in the authors' own formats."])


def golden(folder: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the authors' tensors and their metadata."""
    path = GOLDEN / folder / "expected.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def model_of(folder: str, **options: Any) -> ScoreModel:
    """Return the model of the authors' checkpoint."""
    (checkpoint,) = (GOLDEN / folder).glob("checkpoint.*")
    if checkpoint.suffix != ".pkl":  # EDM's has all that the network needs
        options = {"image_size": int(golden(folder)[1]["image_size"])} | options
    options |= {"sde": "subvp"} if "subvp" in folder else {}
    return from_official(checkpoint, **options)


@torch.no_grad()
def differences(folder: str) -> list[Cell]:
    """Return millions of weights, and the differences of the network and of its chain."""
    (expected, facts), model = golden(folder), model_of(folder)
    weights = sum(p.numel() for p in model.net.parameters()) / 1e6
    pairs = zip(*outputs(model, expected, facts), strict=True)
    output = max(difference(actual, truth) for actual, truth in pairs)
    return [weights, output, chain_difference(model, expected, facts)]


def difference(actual: Tensor, truth: Tensor) -> float:
    return ((actual - truth).abs().max() / truth.abs().max()).item()


def outputs(
    model: ScoreModel, expected: dict[str, Tensor], facts: dict[str, str]
) -> tuple[Tensor, Tensor]:
    """Return outputs of a network and the authors': EDM's denoised images, or else scores.

    score_sde's scores are of αx₀ + s·z, where x₀ is in [−1, 1] if it is centred: y = x_t/α has
    σ = s/α and α times the score; x = (y + 1)/2 has half that σ, and twice the score.
    """
    if "denoised" in expected:
        x, sigma, truth = (expected[name] for name in ("x", "sigma", "denoised"))
        return denoise(model, x, sigma, expected.get("labels")), truth
    if "x_t" not in expected:
        return model(expected["x"], expected["sigmas"][expected["labels"]]), expected["score"]
    centred = facts["centered"] == "True"
    scale, alpha = (2 if centred else 1), expected["alpha"].double()[:, None, None, None]
    x, sigma = (expected["x_t"] / alpha + centred) / scale, expected["std"] / expected["alpha"]
    return model(x.float(), sigma / scale), scale * alpha * expected["score"]


def denoise(model: ScoreModel, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return noisy images in [−1, 1] denoised."""
    score = model if labels is None else model.given(labels)
    return 2 * to_denoiser(score)((x + 1) / 2, sigma / 2) - 1


def chain_difference(
    model: ScoreModel, expected: dict[str, Tensor], facts: dict[str, str]
) -> float | None:
    """Return the difference of the end of a chain with the authors' start and noise, if stored."""
    if "ald_init" not in expected:
        return None
    denoise = "ald_final_denoised" in expected
    options: Any = {"steps": int(facts["steps_per_level"]), "epsilon": float(facts["step_size"])}
    options |= {"denoise": denoise, "noise": replay(expected["ald_noise"])}
    chain = annealed_langevin(model, expected["ald_init"], expected["sigmas"], **options)
    return difference(final(chain), expected["ald_final_denoised" if denoise else "ald_final"])
