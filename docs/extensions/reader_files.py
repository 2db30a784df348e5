"""The files that a reader has: a few small data sets and a checkpoint of NCSN."""

import csv
import shutil
from pathlib import Path

import torch
from PIL import Image

from scorefield.data import all_samples, load_data

CHECKPOINT = Path(__file__).parents[2] / "tests/golden/ncsn_1x28x28/checkpoint.pth"
IMAGES = 120


def write_reader_files(folder: Path) -> None:
    """Write what the pages read: a checkpoint, images in two folders, and a table."""
    shutil.copy(CHECKPOINT, folder / "small_ncsn.pth")
    x = all_samples(load_data("digits").train, IMAGES)
    for i, picture in enumerate((255 * x).byte()):
        place = folder / "pictures" / ("even" if i % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0].numpy()).save(place / f"{i:03d}.png")
    generator = torch.Generator().manual_seed(0)
    with open(folder / "people.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["age", "height", "city"])
        for _ in range(300):
            age = int(torch.randint(18, 80, (), generator=generator))
            height = 1.7 + 0.1 * torch.randn((), generator=generator).item()
            rows.writerow([age, f"{height:.2f}", ["Rome", "Oslo"][age % 2]])
