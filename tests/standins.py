"""Small files of noise in the formats of published data."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

# ── MNIST ────────────────────────────────────────────────────────────────────────────────────────


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
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            name = f"{side}-{kind}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
            else:
                (folder / name).write_bytes(idx(array))
        written[side] = (x, y)
    return written


# ── CIFAR-10 ─────────────────────────────────────────────────────────────────────────────────────


class Python2:
    """Writer of protocol 2 as cPickle of Python 2 wrote it, with a memo of nearly everything."""

    def __init__(self):
        self.out, self.count = bytearray(b"\x80\x02"), 0

    def put(self):
        self.count += 1
        small = self.count < 256
        self.out += struct.pack("<cB" if small else "<cI", b"q" if small else b"r", self.count)

    def word(self, text, memo=True):
        raw = text if isinstance(text, bytes) else text.encode()
        short = len(raw) < 256
        self.out += struct.pack("<cB" if short else "<ci", b"U" if short else b"T", len(raw)) + raw
        if memo:
            self.put()

    def number(self, value):
        form, code = ("B", b"K") if 0 <= value < 256 else ("H", b"M")
        if not 0 <= value < 2**16:
            form, code = "i", b"J"
        self.out += struct.pack(f"<c{form}", code, value)

    def name(self, module, attribute):
        self.out += f"c{module}\n{attribute}\n".encode()
        self.put()

    def many(self, items, write):
        self.out += b"]"
        self.put()
        for start in range(0, len(items), 1000):
            self.out += b"("
            for item in items[start : start + 1000]:
                write(item)
            self.out += b"e"

    def array(self, array):
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.number(0)
        self.out += b"\x85"
        self.word("b", memo=False)
        self.out += b"\x87R"
        self.put()
        self.out += b"("
        for value in (1, *array.shape):
            self.number(value)
        self.out += b"\x86" if array.ndim == 2 else b""
        self.name("numpy", "dtype")
        self.word({1: "u1", 2: "u2"}[array.itemsize], memo=False)
        self.number(0)
        self.number(1)
        self.out += b"\x87R("
        self.number(3)
        self.word("|", memo=False)
        self.out += b"NNN"
        for value in (-1, -1, 0):
            self.number(value)
        self.out += b"tb\x89"
        self.word(array.tobytes(), memo=False)
        self.out += b"tb"


def cifar10_batch(x, labels, title="training batch 1 of 5"):
    """Return the pickle of images n × 3072 and their labels."""
    batch = Python2()
    batch.out += b"}"
    batch.put()
    batch.out += b"("
    batch.word("batch_label")
    batch.word(title)
    batch.word("labels")
    batch.many(list(labels), batch.number)
    batch.word("data")
    batch.array(x)
    batch.word("filenames")
    batch.many([f"leptodactylus_s_{i:06}.png" for i in range(len(x))], batch.word)
    return bytes(batch.out + b"u.")


CIFAR10 = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def cifar10_batches(n):
    """Return the six batches by name, as (pickle, images, labels), n images in each."""
    rng, written = np.random.default_rng(0), {}
    for name in CIFAR10:
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


def write_cifar10(folder, n, *, packed=True):
    """Write n images in each of six batches; return them."""
    written = cifar10_batches(n)
    folder.mkdir(parents=True, exist_ok=True)
    if packed:
        top = tarfile.TarInfo("cifar-10-batches-py")
        top.type = tarfile.DIRTYPE
        files = [(f"cifar-10-batches-py/{name}", written[name][0]) for name in CIFAR10]
        more = [("cifar-10-batches-py/readme.html", b"<html>")]
        write_tar(folder / "cifar-10-python.tar.gz", [(top, b""), *more, *files])
    else:
        (folder / "cifar-10-batches-py").mkdir()
        for name in CIFAR10:
            (folder / "cifar-10-batches-py" / name).write_bytes(written[name][0])
    return {name: batch[1:] for name, batch in written.items()}


# ── CelebA ───────────────────────────────────────────────────────────────────────────────────────


def write_celeba(folder, n, *, packed=False, partition=True):
    """Write n images of 178 × 218 pixels: of ten, eight to train on, one of each other part."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(0), [f"{i:06}.jpg" for i in range(1, n + 1)]
    images = {}
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        out = io.BytesIO()
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        images[name] = out.getvalue()
    if packed:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            for name, content in images.items():
                archive.writestr(f"img_align_celeba/{name}", content)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, content in images.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
    if partition:
        sides = {8: 1, 9: 2}
        lines = [f"{name} {sides.get(i % 10, 0)}\n" for i, name in enumerate(names)]
        (folder / "list_eval_partition.txt").write_text("".join(lines))
    return images
