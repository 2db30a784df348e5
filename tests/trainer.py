"""Train in a forked process for each line of input, so that nothing has to be loaded again.

A line is a run's directory and the seconds that a write takes, so that writes can be cut short.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from scorefield.runs import resume, start
from scorefield.runs.config import Experiment, override


def train(directory, seconds, settings):
    sync = os.fsync

    def slow_sync(handle):
        time.sleep(seconds)
        sync(handle)

    os.fsync = slow_sync
    exists = (directory / "config.json").exists()
    updates = resume(directory) if exists else start(override(Experiment(), settings), directory)
    for _ in updates:
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:  # import now what is imported when first used
        train(Path(place), 0.0, [*sys.argv[1:], "training.steps=1"])
    for line in sys.stdin:
        place, wait = line.split()
        child = os.fork()
        if child == 0:
            train(Path(place), float(wait), sys.argv[1:])
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
