"""Speed and memory of feeding a folder of images to a training step that costs nothing.

20,000 PNGs of 32 × 32 pixels and 400 JPEGs of 512 × 384 (scaled to 64): in memory, read in the step
itself, or read ahead by one or two threads. Batches of 100 are mirrored and dequantised, and the
first ones are timed too, so that nothing has been read ahead. images/s is by the clock; images per
CPU second is what one processor does for this process alone. Memory is the largest size of a
process of its own.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scorefield.data import Batches, load_data

from . import Setting
from .measure import in_new_process, process_bytes
from .table import Cell, Table

THREADS = 1
BATCH = 100
STEPS = 50
METHODS = {"in memory": (2**30, 0), "in the step": (0, 0), "1 thread": (0, 1), "2 threads": (0, 2)}
"""Bytes that may be kept in memory, and threads that read ahead."""
FOLDERS = {"PNG 32 × 32": (32, 20_000), "JPEG 512 × 384": (64, 400)}
"""Size that images are scaled to, and their number."""


def run(setting: Setting) -> Iterator[Table]:
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as root:
        for name, (size, n) in setting.select(FOLDERS).items():
            write_images(Path(root) / name, max(n // 20, 200) if setting.quick else n)
            for method, (memory, workers) in METHODS.items():
                figures = in_new_process(feed, f"{root}/{name}", size, memory, workers)
                rows.append([name, method, *figures])
    heads = {"s to load": ".2f", "images/s": ".0f", "images/CPU s": ".0f", "GiB": ".2f"}
    note = "Expected: 2,000 PNGs per CPU second at least, 1.5 GiB at most."
    yield Table("Folders of images", {"images": "", "read": ""} | heads, rows, [note])


def write_images(folder: Path, n: int) -> None:
    """Write n images of noise into a folder, which is named for their format and size."""
    rng = np.random.default_rng(0)
    for i in range(n):
        place = folder / f"{i % 100:02d}"
        place.mkdir(parents=True, exist_ok=True)
        if folder.name.startswith("PNG"):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png", compress_level=1)
        else:
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((512, 384)).save(place / f"{i}.jpg", quality=90)


def feed(path: str, size: int, memory: int, workers: int) -> tuple[float, float, float, float]:
    """Return the seconds to load, images per second and per CPU second, and GiB."""
    start = time.perf_counter()
    source = load_data(path, size=size, channels=3, memory=memory).train
    loaded, steps = time.perf_counter() - start, min(STEPS, len(source) // BATCH)
    start, busy = time.perf_counter(), time.process_time()
    batches = Batches(source, BATCH, flip=True, workers=workers).stream()
    for _ in range(steps):
        next(batches)
    clock, cpu = time.perf_counter() - start, time.process_time() - busy
    return loaded, steps * BATCH / clock, steps * BATCH / cpu, process_bytes(peak=True) / 2**30
