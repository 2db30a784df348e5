"""The work of two processes in one launch, for `test_distributed.py`. The last part fails.

The argument is a directory.
"""

import math
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from threading import Thread

import torch
from standins import undrawn
from torch.nn.parallel import DistributedDataParallel

import scorefield
from scorefield import (
    EDM,
    MLP,
    LogNormal,
    Prior,
    ScoreModel,
    annealed,
    denoising,
    distributed,
    exact,
    sliced,
)
from scorefield.cli import main
from scorefield.data import Arrays, Batches
from scorefield.distributed import check_equal, is_main, rank, world
from scorefield.evaluate import fit
from scorefield.runs import Interrupted, Run, resume, start
from scorefield.runs.config import Experiment, override
from scorefield.show import plots
from scorefield.train import train

STEPS = 24
# a batch of 9 is not a multiple of two
SETTINGS = f"""data.source=mixture network.kind=MLP network.width=16 network.blocks=1
training.steps={STEPS} training.batch=9 training.schedule=cosine training.clip=5
keeping.evaluate=12 keeping.checkpoint=8 machine.threads=1""".split()
BAD = 6
"""The step whose last sample is NaN."""


def begin(directory):
    return start(override(Experiment(network={"kind": "MLP"}), SETTINGS), directory)


def poison():
    """Make samples double and one NaN; return a list that collects the indices that are read."""
    take, stream, taken = Arrays.take, Batches.stream, []

    def noted(self, index):
        taken.append(index.tolist())
        return take(self, index)

    def poisoned(self, begin=0):
        for step, batch in enumerate(stream(self, begin), begin):
            if step == BAD and self.rank == self.world - 1:
                batch.x[-1] *= math.nan
            yield batch._replace(x=batch.x.double())

    Arrays.take, Batches.stream = noted, poisoned
    return taken


def model():
    torch.manual_seed(0)
    prior, net = Prior(torch.zeros(2), torch.tensor(1.0)), MLP(2, width=16, blocks=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    return ScoreModel(net, EDM(1.0, sigma_max=20.0), prior=prior)


LOSSES = {
    "denoising": {},
    "denoising in parts": {"accumulate": 2},
    "sliced in parts": {"objective": sliced, "accumulate": 2},
    "exact": {"objective": exact},
    "sliced, with an idle weight": {"objective": sliced, "idle": True},
    "sliced in parts, with an idle weight": {"objective": sliced, "accumulate": 2, "idle": True},
}
"""Arguments of `whole_batches`."""


def whole_batches(objective=denoising, accumulate=1, idle=False):
    """Train with whole batches in every process; return the losses and the weights."""
    trained = model()
    weights = [*trained.parameters(), *[torch.nn.Parameter(torch.zeros(2))] * idle]
    updates = train(
        trained,
        lambda step: torch.randn(5, 2, generator=torch.Generator().manual_seed(step)),
        annealed(objective, LogNormal()),
        optimizer=torch.optim.Adam(weights, lr=1e-2),
        steps=10,
        accumulate=accumulate,
    )
    return [update.loss.item() for update in updates], trained.net.state_dict()


def note_exchanges():
    """Return what collects for each forward pass whether gradients are exchanged, and the buckets.

    A bucket is full at 1 kB, so that a step needs several.
    """
    forward, exchanges, buckets = DistributedDataParallel.forward, [], []
    distributed.DistributedDataParallel = partial(DistributedDataParallel, bucket_cap_mb=1e-3)

    def noted(self, *inputs):
        exchanges.append(self.require_backward_grad_sync)
        about = self._get_ddp_logging_data()
        sizes = about.get("rebuilt_bucket_sizes") or about["bucket_sizes"]
        buckets.append(len(sizes.split(",")))
        return forward(self, *inputs)

    DistributedDataParallel.forward = noted
    return exchanges, buckets


def sample_ten(batch):
    return scorefield.sample(model(), 10, "ancestral", steps=6, batch=batch, seed=5)


def together(place):
    taken = poison()
    skipped = [update.step for update in begin(place / "two") if update.skipped]
    result = {"taken": [*taken], "skipped": skipped}
    run = resume(place / "one")  # started by one process
    result["from"] = run.step
    list(run)
    try:
        for update in begin(place / "stopped"):
            if update.step == 11 and not is_main():
                os.kill(os.getpid(), signal.SIGTERM)
    except Interrupted as stopped:
        result["stopped"] = str(stopped)
        result["saved"] = (place / "stopped/checkpoints/00000011.safetensors").exists()
    try:
        check_equal(step=7, weights=rank())
    except ValueError as error:
        result["differ"] = str(error)
    exchanges, buckets = note_exchanges()
    for name, arguments in LOSSES.items():
        result[name] = (*whole_batches(**arguments), [*exchanges], buckets[-1])
        exchanges.clear()
    result |= {f"batch{batch}": sample_ten(batch) for batch in (4, 3, 16)}
    torch.save(result, place / f"result{rank()}.pt")


def stop_when_logged(log):
    """Send this process SIGTERM after the first step, as a launcher does that is stopped."""
    while not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def fail(place):
    """Let rank 0 fail to write while the other process waits for it."""

    def full(run):
        if is_main() and run.step:
            raise OSError("no space left on device")

    Run.save = full
    list(begin(place / "full"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    plots.as_png, fit.LOSS_LEVELS = undrawn, 3  # as in the tests
    place = Path(sys.argv[1])
    assert main(["sample", str(place / "alone"), "-n", "5", "--batch", "2", "--out", "x.npy"]) == 0
    assert world() == 2  # the command has joined the group
    together(place)
    options = ["-n", "9", "--batch", "2", "--bits", "0", "--out", "figures"]
    assert main(["evaluate", str(place / "two"), *options]) == 0
    # both stop as soon as one is signalled; a signal that comes later is ignored
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals = Thread(target=stop_when_logged, args=[place / "command/log.jsonl"], daemon=True)
    signals.start()
    settings = ["--network.width=16", "--network.blocks=1", "--training.steps=10000000"]
    command = ["train", "vectors", *settings, "--out", str(place / "command")]
    assert main(command) == 128 + signal.SIGTERM
    signals.join()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    fail(place)
