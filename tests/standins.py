"""Small files of noise in the formats of published data, and what takes the place of slow parts."""

import gzip
import io
import pickle
import shutil
import struct
import sys
import tarfile
import tracemalloc
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scorefield.show import images


@contextmanager
def line_at_the_end(line):
    """Stand in for `heartbeat`, which prints by time."""
    yield
    print(line(0.0).rstrip(), file=sys.stderr)


def undrawn(figure, **options):
    """Stand in for `as_png`, which takes most of the time of a report."""
    return images.png(Image.new("L", (1, 1)), {})


class Largest(TorchDispatchMode):
    """Record how many numbers the largest result of any operation has, of one type or of any."""

    size = 0

    def __init__(self, dtype=None):
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(results) if isinstance(t, torch.Tensor)]
        sizes = [t.numel() for t in tensors if self.dtype in (None, t.dtype)]
        self.size = max(self.size, *sizes, 0)
        return results


class LargestTensor(TorchFunctionMode):
    """Record the bytes of the largest tensor, which tracemalloc does not see."""

    bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and not x.is_meta:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


@contextmanager
def little_memory():
    """Fail if more than 40 MB are allocated, whatever lengths a file claims."""
    tracemalloc.start()  # all that runs takes twice as long from here
    try:
        with LargestTensor() as largest:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(peak, largest.bytes) < 40e6  # the least that a hostile file unpacks to is 64 MiB


def all_rows(source):
    return source.take(torch.arange(len(source)))


def idx(array):
    """Return an array of bytes as an IDX file."""
    axes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + axes + array.astype(np.uint8).tobytes()


def write_mnist(folder, n, *, zipped=True):
    """Write n images to train on and half as many to test on; return them."""
    rng, written = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for side, count in (("train", n), ("t10k", max(1, n // 2))):
        x = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        y = np.arange(count, dtype=np.uint8) % 10
        written[side] = (x, y)
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            content = gzip.compress(idx(array), 1) if zipped else idx(array)
            (folder / f"{side}-{kind}-ubyte{'.gz' * zipped}").write_bytes(content)
    return written


class Python2(pickle._Pickler):
    """Pickler that writes words and bytes as the strings of Python 2, and the names of NumPy 1."""

    dispatch = {**pickle._Pickler.dispatch}  # noqa: RUF012

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode()
        short = len(raw) < 256
        self.write(struct.pack("<cB" if short else "<ci", b"U" if short else b"T", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def cifar10_batch(x, labels):
    """Return the pickle of images n × 3072 and their labels."""
    names, out = [f"leptodactylus_s_{i:06}.png" for i in range(len(x))], io.BytesIO()
    batch = {"labels": labels, "data": x, "batch_label": "training batch 1 of 5"}
    Python2(out, 2).dump(batch | {"filenames": names})
    return out.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def cifar10_batches(n):
    """Return the six batches by name, as (pickle, images, labels), n images in each."""
    rng, written = np.random.default_rng(0), {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        x = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, n).tolist()
        written[name] = (cifar10_batch(x, labels), x, labels)
    return written


def write_tar(path, members):
    """Write a tar.gz of (TarInfo or name, content)."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for info, content in members:
            if not isinstance(info, tarfile.TarInfo):
                info = tarfile.TarInfo(info)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_cifar10(folder, n, *, packed=True, binary=False):
    """Write n images in each of six batches; return them."""
    written, top = cifar10_batches(n), f"cifar-10-batches-{'bin' if binary else 'py'}"
    (folder / ("" if packed else top)).mkdir(parents=True, exist_ok=True)
    files = {f"{top}/{name}": batch[0] for name, batch in written.items()}
    if binary:
        rows = {name: np.column_stack([np.uint8(y), x]) for name, (_, x, y) in written.items()}
        files = {f"{top}/{name}.bin": x.tobytes() for name, x in rows.items()}
    if packed:
        info = tarfile.TarInfo(top)
        info.type = tarfile.DIRTYPE
        members = [(info, b""), (f"{top}/readme.html", b"<html>"), *files.items()]
        write_tar(folder / f"cifar-10-{'binary' if binary else 'python'}.tar.gz", members)
    else:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return {name: batch[1:] for name, batch in written.items()}


def write_celeba(folder, n, *, packed=False, partition=True):
    """Write n images of 178 × 218 pixels: of ten, eight to train on, one of each other part."""
    top, rng, images = folder / "img_align_celeba", np.random.default_rng(0), {}
    top.mkdir(parents=True)
    for i in range(1, n + 1):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        image = coarse.resize((178, 218), Image.Resampling.BICUBIC)
        image.save(top / f"{i:06}.jpg", quality=90)
        images[f"{i:06}.jpg"] = (top / f"{i:06}.jpg").read_bytes()
    if packed:
        shutil.make_archive(str(top), "zip", folder, top.name)
        shutil.rmtree(top)
    if partition:
        lines = [f"{name} {max(0, i % 10 - 7)}\n" for i, name in enumerate(images)]
        (folder / "list_eval_partition.txt").write_text("".join(lines))
    return images
