"""Train in a forked process for each line of input, so that nothing has to be loaded again.

A line is a run's directory and a step, or 0 for the next write of a checkpoint. There the process
prints its number, and trains two more steps at most, or writes no more, until it is killed.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from scorefield.runs import resume, start
from scorefield.runs.config import Experiment, override


def announce():
    print(os.getpid(), flush=True)


def wait():
    while True:
        time.sleep(60)


def train(directory, place, settings):
    sync = os.fsync

    def stop_in_checkpoint(handle):
        sync(handle)
        if place == 0 and any(directory.rglob(".*.safetensors*")):
            announce()
            wait()

    os.fsync = stop_in_checkpoint
    exists = (directory / "config.json").exists()
    updates = resume(directory) if exists else start(override(Experiment(), settings), directory)
    for update in updates:
        if update.step == place:
            announce()
        elif place and update.step == place + 2:
            wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # import now what is imported when first used
        train(Path(folder), 2, [*sys.argv[1:], "training.steps=1"])
    for line in sys.stdin:
        folder, place = line.split()
        child = os.fork()
        if child == 0:
            train(Path(folder), int(place), sys.argv[1:])
            os._exit(0)
        os.waitpid(child, 0)
        print("gone", flush=True)
