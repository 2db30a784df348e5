"""How fast a folder of images feeds a step that costs nothing, and in how much memory.

    python benchmarks/loader.py

20,000 PNGs of 32 × 32 pixels and 400 JPEGs of 512 × 384 (scaled to 64) in a temporary folder: in
memory, read in the step itself, and read ahead by one and by two threads. Batches of 100 are
mirrored and dequantised, the first ones timed too, so that nothing has been read ahead for free.

images/s is by the clock, which whatever else runs on the machine slows; images/CPU s is what one
processor does for this process alone, and is held against the bound. Memory is the largest
resident set, in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

RATE, MEMORY = 2000.0, 1.5  # images a CPU second of the PNGs, and GiB
WAYS = {"in memory": (2**30, 0), "in the step": (0, 0), "1 thread": (0, 1), "2 threads": (0, 2)}
FOLDERS = {"PNG 32 × 32": (32, 20_000), "JPEG 512 × 384": (64, 400)}


def generate(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(FOLDERS["PNG 32 × 32"][1]):
        place = root / "PNG 32 × 32" / f"{i % 100:02d}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png", compress_level=1)
    (root / "JPEG 512 × 384").mkdir()
    for i in range(FOLDERS["JPEG 512 × 384"][1]):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((512, 384)).save(root / "JPEG 512 × 384" / f"{i}.jpg", quality=90)


def measure(path: str, size: int, memory: int, workers: int) -> None:
    """Seconds to load, images a second by the clock and of CPU, and GiB: printed."""
    import torch

    from scorefield.data import Batches, load

    torch.set_num_threads(1)
    start = time.perf_counter()
    source = load(path, size=size, channels=3, memory=memory).train
    loaded = time.perf_counter() - start
    steps = min(50, len(source) // 100)
    start, busy = time.perf_counter(), time.process_time()
    stream = Batches(source, 100, flip=True, workers=workers).stream()
    for _ in range(steps):
        next(stream)
    clock, cpu = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(loaded, steps * 100 / clock, steps * 100 / cpu, peak)


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        print(f"{'':15} {'':12} {'load, s':>8} {'images/s':>9} {'/CPU s':>7} {'GiB':>6}")
        for folder, (size, _) in FOLDERS.items():
            for way, options in WAYS.items():
                command = [sys.executable, __file__, str(Path(name) / folder), str(size)]
                run = subprocess.run(
                    [*command, *map(str, options)], check=True, capture_output=True, text=True
                )
                load, clock, cpu, peak = map(float, run.stdout.split())
                print(f"{folder:15} {way:12} {load:8.2f} {clock:9.0f} {cpu:7.0f} {peak:6.2f}")
                missed += peak > MEMORY or (size == 32 and cpu < RATE)
    print(f"bounds: {RATE:.0f} images a CPU second of the PNGs, {MEMORY} GiB")
    return min(missed, 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        sys.exit(main())
