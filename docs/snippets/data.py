from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scorefield.data import (
    AUGMENTATION,
    AUGMENTATION_SIZE,
    DATASETS,
    HUB_PREFIX,
    IN_MEMORY,
    LATENTS_FILE,
    PUBLISHED_FILES,
    TABLE_FILE,
    TABLE_SUFFIXES,
    Arrays,
    Batches,
    Crops,
    Dataset,
    EncodedImage,
    ImageReader,
    LabelledBatch,
    Latents,
    Pairs,
    Part,
    Source,
    Stream,
    Table,
    all_samples,
    cell_centres,
    choose_rows,
    condition_shapes,
    data_folder,
    dequantise,
    describe_changes,
    encode,
    find_loader,
    fingerprint_files,
    fingerprint_samples,
    load_data,
    simulations,
    tensor_data,
)

digits = load_data("digits")

# %%
print(sorted(DATASETS))
print(all_samples(digits.train, 100).shape, choose_rows(digits.train, 5))
# %%
source: Source = Arrays(torch.rand(10, 3), labels=torch.arange(10) % 2)
print(len(source), source.shape, source.take(torch.tensor([0, 1])))
print(len(Part(source, torch.tensor([2, 5]))))
# %%
crops = Crops(torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8), side=32)
print(len(crops), crops.shape)
# %%
batches = Batches(digits.train, size=4, seed=0)
batch: LabelledBatch = batches(10)  # the batch of step 10, the same at each call
print(batch[0].shape, batch[1])
# %%
augmented: LabelledBatch = Batches(digits.train, size=4, augment=0.12)(0)
print(augmented[1][AUGMENTATION].shape, AUGMENTATION_SIZE)
# %%
theta = torch.randn(100, 1)
pairs: Pairs = simulations(
    {"theta": theta}, {"x": theta + torch.randn(100, 3)}
).train
print(condition_shapes(pairs))
print(pairs.take(torch.tensor([0]))[1]["x"].shape)
# %%
data: Dataset = tensor_data(torch.randn(200, 5), condition=torch.arange(200) % 3)
print(data, data.kind)
# %%
Image.new("RGB", (60, 40), "orange").save("photo.png")
reader = ImageReader(channels=3, height=16, width=16)  # cuts and scales
x = cell_centres(reader("photo.png"), 256)
print(x.shape, x.amax((1, 2)))
photo = EncodedImage("photo.png", Path("photo.png").read_bytes())
print((reader(photo) == reader("photo.png")).all())
# %%
v = torch.tensor([[0, 128, 255]], dtype=torch.uint8)
x, log_q = dequantise(v)
print(v / 256, x, log_q)
# %%
wine = load_data("wine")
table: Table = wine.table
x = all_samples(wine.train, 2)
print(table.text(x))
# %%
counts = Stream(
    data=torch.arange(4.0)[:, None],
    rows=lambda start: iter(range(start, 10)),
    decode=lambda row: (torch.tensor([float(row)]), None),
)
print(next(counts.batches(start=2, size=3, share=range(3))))

# %%
code = """
import torch


class Halves(torch.nn.Module):
    def encode(self, x):
        return torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        return torch.nn.functional.interpolate(z, scale_factor=2)
"""
Path("halves.py").write_text(code)
encode(digits, "halves:Halves", "latents.npy")
latents: Latents = load_data("latents.npy").latents
print(load_data("latents.npy"), latents.decode(torch.rand(2, 1, 4, 4)).shape)
# %%
np.save("points.npy", np.random.default_rng(0).random((50, 3), dtype="float32"))
print(find_loader("points.npy"), data_folder("mnist", None))
before = fingerprint_files("points.npy")
np.save("points.npy", np.zeros((50, 3), "float32"))
print(describe_changes(before, fingerprint_files("points.npy")))
print(fingerprint_samples(load_data("points.npy")))
# %%
print(
    TABLE_SUFFIXES, *PUBLISHED_FILES, sep="\n"
)  # files that `load_data` recognises by name
print(TABLE_FILE, LATENTS_FILE)  # of a run, where its data are a table or latents
print(HUB_PREFIX, IN_MEMORY)  # beginnings of a name of data
