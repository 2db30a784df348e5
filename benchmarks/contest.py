"""Training on equal data for equal time: this package, diffusers and azula.

All networks but the one that the budget chooses are U-Nets of 16, 32 and 32 channels, of about
equal work, and take batches of 64. The other packages train by their own losses as their examples
do, here with a cosine and an average of the weights too. The judge is a classifier fitted to the
training part: the Fréchet distance of its features of samples from those of the held-out part. A
network of this package is sampled by the two `SAMPLERS_OF_OURS`, and first by the run's own plan
if that is guided.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scorefield import runs
from scorefield.checkpoint import load
from scorefield.data import Batches, Dataset, Part, all_samples, load_data
from scorefield.evaluate.features import make_features
from scorefield.fast.optimize import optimize
from scorefield.metrics import frechet
from scorefield.runs.choose import choose_experiment
from scorefield.sample import Plan, make_plan, sample
from scorefield.samplers import SAMPLERS
from scorefield.show.images import grid
from scorefield.train import MovingAverage

from . import Setting, packages
from .packages import OURS, UNETS, Size
from .table import Cell, Table

WIDTHS = (16, 32, 32)
BATCH = 64
EVALUATIONS = 32
"""Calls of a network for each sample; Heun's method, which ends with one, takes 31."""
SAMPLERS_OF_OURS = ("dpm_solver_sde", "heun")
"""That of the runs whose network the budget chooses, and the default of the others."""
AT_ONCE = 250
NAME = str.maketrans(" ,", "--")
"""From names to those of files."""


class Entry(NamedTuple):
    """A trained network."""

    steps: int
    weights: int
    draws: Mapping[str, Callable[[int], Tensor]]  # a batch of samples in [0, 1], by sampler


def contest(setting: Setting, trainers: Mapping[str, Callable[..., Entry]]) -> Table:
    """Train each for as long, and judge as many samples of each; ratios are to the first."""
    data = load_data(str(setting.data))
    if data.kind != "images" or data.test is None:
        raise ValueError(f"--data {setting.data}: give images, some of them held out")
    seconds, n = (0.3, 100) if setting.quick else (60 * setting.minutes, 2000)
    features = make_features("classifier", data)
    real = torch.cat([features.extract(x)[0] for x in all_samples(data.test).split(AT_ONCE)])
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(setting.seed))
    floor = frechet(features.extract(all_samples(Part(data.train, rows[:n])))[0], real)
    rows, first = list[list[Cell]](), math.nan
    setting.out.mkdir(parents=True, exist_ok=True)
    for name, trainer in packages.available(setting.select(trainers)).items():
        torch.manual_seed(setting.seed)
        steps, weights, draws = trainer(setting, data, seconds)
        for sampler, draw in draws.items():
            x = torch.cat([draw(len(part)) for part in torch.arange(n).split(AT_ONCE)]).clamp(0, 1)
            grid(x[:100]).save(setting.out / f"{name} {sampler}.png".translate(NAME))
            distance = frechet(features.extract(x)[0], real)
            first = first if rows else distance
            rows.append([name, steps, weights / 1e6, sampler, distance, distance / first])
    heads = {"": "", "steps": "d", "M weights": ".2f", "sampler": "", "Fréchet distance": ".2f"}
    about = (
        f"{n} samples of {EVALUATIONS - 1} or {EVALUATIONS} calls of a network; as many training "
        f"images have {floor:.2f}. {features.about}."
    )
    title = f"{data.name}, {seconds / 60:g} minutes of training"
    notes = [about, *packages.notes("diffusers", "azula")]
    return Table(title, heads | {"ratio": ".2f"}, rows, notes)


def train_own(
    setting: Setting, data: Dataset, seconds: float, network: Sequence[str] = ()
) -> Entry:
    """A run of the preset photos, by default with the network that the budget chooses."""
    settings = [*network, f"training.budget={seconds}", f"seed={setting.seed}", "data.flip=false"]
    experiment = choose_experiment("photos", source=str(setting.data), settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        run = runs.start(experiment, Path(folder) / "run", settings=settings)
        for _ in run:
            pass
        model = load(run.directory)
        own = runs.choose_plan(run.directory, model)
    weights = sum(p.numel() for p in model.net.parameters())
    optimize(model, *own.others, batch=AT_ONCE)

    def sample_by(plan: Plan) -> Callable[[int], Tensor]:
        seeds = count(setting.seed)
        return lambda n: sample(model, n, plan, seed=next(seeds))

    steps = {name: EVALUATIONS // SAMPLERS[name].per_step for name in SAMPLERS_OF_OURS}
    plans = [*([own] if own.others else []), *(make_plan(model, *item) for item in steps.items())]
    return Entry(run.step, weights, {plan.name: sample_by(plan) for plan in plans})


def train_diffusers(setting: Setting, data: Dataset, seconds: float) -> Entry:
    """The recipe of the library's example of unconditional images."""
    library, size = import_module("diffusers"), Size(tuple(data.train.shape), WIDTHS, BATCH, 1)
    net = UNETS["diffusers"].build(size)
    adam = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    steps, average = train_for(seconds, setting, data, net, adam, UNETS["diffusers"].loss)
    scheduler = library.DPMSolverMultistepScheduler.from_config(library.DDPMScheduler().config)

    @torch.no_grad()
    def draw(n: int) -> Tensor:
        scheduler.set_timesteps(EVALUATIONS)
        x = torch.randn(n, *data.train.shape)
        for t in scheduler.timesteps:
            noise = average(scheduler.scale_model_input(x, t), t, return_dict=False)[0]
            x = scheduler.step(noise, t, x, return_dict=False)[0]
        return (x + 1) / 2

    return Entry(steps, sum(p.numel() for p in net.parameters()), {"DPM-Solver++": draw})


def train_azula(setting: Setting, data: Dataset, seconds: float) -> Entry:
    """Its denoiser's own loss, with Adam."""
    size = Size(tuple(data.train.shape), WIDTHS, BATCH, 1)
    net = UNETS["azula"].build(size)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    steps, average = train_for(seconds, setting, data, net, adam, UNETS["azula"].loss)
    denoiser = packages.azula_denoiser(average)
    heun = import_module("azula.sample").HeunSampler
    sampler = heun(denoiser, steps=EVALUATIONS // 2, silent=True)

    @torch.no_grad()
    def draw(n: int) -> Tensor:
        return (sampler(sampler.init((n, *data.train.shape))) + 1) / 2

    return Entry(steps, sum(p.numel() for p in net.parameters()), {"Heun": draw})


def train_for(
    seconds: float,
    setting: Setting,
    data: Dataset,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Tensor], Callable[[], Tensor]],
) -> tuple[int, nn.Module]:
    """Train with a rate that falls as a cosine of the time; return the steps and the average."""
    batches, average = Batches(data.train, BATCH, seed=setting.seed), MovingAverage(net.train())
    rate, begin, step = optimizer.param_groups[0]["lr"], monotonic(), 0
    while (share := (monotonic() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
        batch = batches(step)
        optimizer.zero_grad()
        loss(net, 2 * (batch[0] if isinstance(batch, tuple) else batch) - 1)().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        step += 1
    return step, average.module.eval()


PEERS: dict[str, Callable[..., Entry]] = {
    f"{OURS}, chosen": train_own,
    OURS: partial(train_own, network=(f"network.width={WIDTHS[0]}", "network.blocks=1")),
    "diffusers": train_diffusers,
    "azula": train_azula,
}
"""Functions that train; the first has the network that the budget chooses."""
