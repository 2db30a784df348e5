"""Published data in their own formats, and what may come in their place: damaged or hostile."""

import gzip
import hashlib
import http.server
import io
import json
import pickle
import pickletools
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import zip_bomb
from PIL import Image
from standins import (
    CIFAR10,
    Python2,
    cifar10_batch,
    cifar10_batches,
    idx,
    write_celeba,
    write_cifar10,
    write_mnist,
    write_tar,
)

from scorefield import load as load_model
from scorefield.cli import main
from scorefield.data import Arrays, Pictures, load_data
from scorefield.data import cifar as cifar_module
from scorefield.data import idx as idx_module
from scorefield.data._pickled import array, unpickled
from scorefield.data.published import Remote, fetch


def _rows(source):
    return source.take(torch.arange(len(source)))


@pytest.fixture
def modest():
    """What is read may not take much memory, whatever a file says."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


# ── MNIST ────────────────────────────────────────────────────────────────────────────────────────

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_what_was_written(tmp_path, zipped):
    written = write_mnist(tmp_path, 30, zipped=zipped)
    data = load_data("mnist", root=str(tmp_path))
    assert (data.name, data.classes, data.kind) == ("mnist", 10, "images")
    for part, (x, y) in zip((data.train, data.test), written.values(), strict=True):
        found, labels = _rows(part)
        assert torch.equal(found, torch.from_numpy(x)[:, None])
        assert labels.tolist() == y.tolist()
    assert torch.equal(_rows(load_data(tmp_path).train)[0], _rows(data.train)[0])


def _mnist(folder, name, content):
    write_mnist(folder, 4)
    (folder / name).write_bytes(content)
    return load_data("mnist", root=folder)


def _header(*lengths):
    return bytes([0, 0, 8, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths)


X = np.zeros((4, 28, 28), np.uint8)
NOT_IDX = {
    "nothing": b"",
    "a start": b"\0\0",
    "text": b"<html>" * 100,
    "floats": bytes([0, 0, 13, 3]) + idx(X)[4:],
    "another shape": idx(np.zeros((4, 32, 32))),
    "another number of axes": idx(np.zeros((4, 784))),
    "none": idx(X[:0]),
    "terabytes": _header(2**32 - 1, 28, 28) + bytes(784),
    "wide terabytes": _header(1, 2**32 - 1, 2**32 - 1) + bytes(784),
    "too few": idx(X)[:-1],
    "too many": idx(X) + b"\0",
    "many more than deflate can hold": _header(200_000, 28, 28) + bytes(784),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", NOT_IDX)
def test_what_is_no_idx_file_is_named(tmp_path, what, zipped, modest):
    content = gzip.compress(NOT_IDX[what]) if zipped else NOT_IDX[what]
    with pytest.raises(OSError, match=rf"{IMAGES} .*(anew|are read|too many)"):
        _mnist(tmp_path, IMAGES, content)


def test_a_gzip_bomb_is_not_unpacked(tmp_path, modest):
    bomb = io.BytesIO()
    with gzip.open(bomb, "wb", 9) as file:
        file.write(_header(4, 28, 28))
        for _ in range(80):
            file.write(bytes(2**20))
    with pytest.raises(OSError, match="goes on after its 4 samples"):
        _mnist(tmp_path, IMAGES, bomb.getvalue())


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:40] + b"\xff\xfe" + z[42:]])
def test_a_damaged_gzip_is_named(tmp_path, damage):
    x = np.random.default_rng(0).integers(0, 256, (4, 28, 28))
    with pytest.raises(OSError, match=f"{IMAGES} is damaged"):
        _mnist(tmp_path, IMAGES, damage(gzip.compress(idx(x))))


def test_labels_are_as_many_as_images_and_below_ten(tmp_path):
    for labels in ([0, 1, 2], [0, 1, 2, 10]):
        with pytest.raises(ValueError, match=LABELS):
            _mnist(tmp_path, LABELS, gzip.compress(idx(np.array(labels))))


# ── CIFAR-10 ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_is_what_was_written(tmp_path, packed):
    written = write_cifar10(tmp_path, 7, packed=packed)
    data = load_data("cifar10", root=tmp_path)
    assert (data.name, data.classes, data.train.shape) == ("cifar10", 10, (3, 32, 32))
    x, labels = _rows(data.train)
    truth = np.concatenate([written[name][0] for name in CIFAR10[:5]]).reshape(35, 3, 32, 32)
    assert torch.equal(x, torch.from_numpy(truth))
    assert labels.tolist() == [i for name in CIFAR10[:5] for i in written[name][1]]
    assert torch.equal(_rows(data.test)[0].flatten(1), torch.from_numpy(written["test_batch"][0]))
    inside = "cifar-10-python.tar.gz" if packed else "cifar-10-batches-py"
    for path in (tmp_path, tmp_path / inside):
        assert torch.equal(_rows(load_data(path).train)[0], x)


def test_an_array_in_the_order_of_fortran_is_turned():
    x = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    content = cifar10_batch(x, [0, 1, 2, 3])
    turned = content.replace(b"tb\x89", b"tb\x88").replace(x.tobytes(), x.T.tobytes())
    assert array(unpickled(turned)["data"]).content == x.tobytes()


def test_the_stand_in_is_a_pickle_of_python_2():
    content, x, labels = cifar10_batches(300)["test_batch"]
    held = pickle.loads(content, encoding="bytes")
    assert np.array_equal(held[b"data"], x)
    assert held[b"labels"] == labels
    names = {arg for op, arg, _ in pickletools.genops(content) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def _cifar10(folder, content):
    """With something else in the place of the test batch."""
    batches = {name: cifar10_batches(2)[name][0] for name in CIFAR10} | {"test_batch": content}
    files = [(f"cifar-10-batches-py/{name}", held) for name, held in batches.items()]
    write_tar(folder / "cifar-10-python.tar.gz", files)
    return load_data("cifar10", root=folder)


RAN = []


class Hostile:
    def __reduce__(self):
        return RAN.append, (1,)


def _batch(x=None, labels=(1, 2)):
    return cifar10_batch(np.zeros((2, 3072), np.uint8) if x is None else x, list(labels))


def _instead(old, new):
    content = _batch()
    assert old in content
    return content.replace(old, new)


# t = (t, t), sixty times over: a key that takes 2⁶⁰ steps to hash
DEEP = b"\x80\x02K\x00q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00K\x01s."
DATA = b"U\x04dataq"
SHAPE = b"(K\x01K\x02M\x00\x0c\x86"
NOT_BATCHES = {
    "a call": pickle.dumps({"data": Hostile()}, 2),
    "os.system": b"cos\nsystem\n(S'touch ran'\ntR.",
    "a name": b"\x80\x02cbuiltins\neval\n.",
    "an instance": b"(S'touch ran'\nios\nsystem\n.",
    "an object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"\x80\x02U\x01aQ.",
    "a frame without end": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    "bytes of exabytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "a word of gigabytes": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "a long of gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a far place in the memo": b"\x80\x02Nr\xff\xff\xff\xff0.",
    "what the memo has not": b"\x80\x02h\x07.",
    "too little": b"\x80\x02u.",
    "an append to nothing": b"\x80\x02a.",
    "words that hash for ever": DEEP,
    "a list of millions": b"\x80\x02" + b"]" * 1_000_000 + b".",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "more after the end": _batch() + b".",
    "another array": pickle.dumps({"data": 1, "labels": [1, 2]}, 2),
    "no labels": pickle.dumps({"data": np.zeros(3)}, 2),
    "of 16 bits": cifar10_batch(np.zeros((2, 3072), np.uint16), [1, 2]),
    "a shape of terabytes": _instead(SHAPE, SHAPE[:3] + b"J\xff\xff\xff\x7fM\x00\x0c\x86"),
    "a negative shape": _instead(SHAPE, SHAPE[:3] + b"J\xff\xff\xff\xffM\x00\x0c\x86"),
    "a row less": _instead(SHAPE, b"(K\x01K\x01M\x00\x0c\x86"),
    "another order": _instead(b"tb\x89", b"tbN"),
    "images of 31 pixels": _batch(np.zeros((2, 3 * 31 * 31), np.uint8)),
    "no images": _batch(np.zeros((0, 3072), np.uint8), []),
    "a label too few": _batch(labels=[1]),
    "a label of 10": _batch(labels=[1, 10]),
    "a negative label": _batch(labels=[1, -1]),
    "a label of None": _instead(b"(K\x01K\x02e", b"(K\x01Ne"),
}


@pytest.mark.parametrize("what", NOT_BATCHES)
def test_what_is_no_batch_is_named_and_nothing_runs(tmp_path, monkeypatch, what, modest):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"cifar-10-python\.tar\.gz: .*/test_batch (is no|has)"):
        _cifar10(tmp_path, NOT_BATCHES[what])
    assert not RAN
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_the_same_array_many_times_over_is_made_once(tmp_path, modest):
    made = Python2()
    made.out += b"}("
    made.word("labels")
    made.many([1] * 1000, made.number)
    made.word("data")
    made.array(np.zeros((1000, 3072), np.uint8))
    made.put()
    for i in range(2000):
        made.word(f"{i}")
        made.out += struct.pack("<cI", b"j", made.count - 1 - i)
    assert len(_cifar10(tmp_path, bytes(made.out + b"u.")).test) == 1000


def _kind(name, kind, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def test_an_archive_writes_nothing_anywhere(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "test_batch"
    secret.write_bytes(cifar10_batches(2)["test_batch"][0])
    batches = [(f"cifar-10-batches-py/{n}", cifar10_batches(2)[n][0]) for n in CIFAR10]
    others = [
        ("../escaped", b"x"),
        (str(tmp_path / "absolute"), b"x"),
        ("cifar-10-batches-py/../../test_batch", b"x"),
        (_kind("cifar-10-batches-py/link", tarfile.SYMTYPE, "../../.."), b""),
        (_kind("cifar-10-batches-py/pipe", tarfile.FIFOTYPE), b""),
        ("n" * 300, b"a long name"),
    ]
    path = inside / "cifar-10-python.tar.gz"
    write_tar(path, [*others, *batches])
    assert len(load_data(path).test) == 2
    assert {p.name for p in tmp_path.rglob("*")} == {"inside", "test_batch", path.name}
    # a link is not followed, so that a batch is missing
    link = _kind("cifar-10-batches-py/test_batch", tarfile.SYMTYPE, str(secret))
    write_tar(path, [*batches[:-1], (link, b"")])
    with pytest.raises(OSError, match="lacks test_batch"):
        load_data(path)


def test_a_batch_is_there_once(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    batches = [(f"cifar-10-batches-py/{n}", cifar10_batches(2)[n][0]) for n in CIFAR10]
    write_tar(path, batches[:-2])
    with pytest.raises(OSError, match="lacks data_batch_5, test_batch: get it anew"):
        load_data(path)
    write_tar(path, [*batches, batches[0]])
    with pytest.raises(OSError, match="data_batch_1 twice"):
        load_data(path)


def _tar_header(name, size, kind=b"0"):
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


FIRST = "cifar-10-batches-py/data_batch_1"
NOT_TARS = {
    "a huge batch": _tar_header(FIRST, b"00777777777\0"),
    "a batch that ends early": _tar_header(FIRST, b"00000010000\0") + b"abc",
    "another huge file": _tar_header("other", b"77777777777\0"),
    "a name of gigabytes": _tar_header("other", b"00777777777\0", b"L"),
    "attributes of gigabytes": _tar_header("other", b"77777777777\0", b"x"),
    "a size in another base": _tar_header(FIRST, b"\x80" + b"\xff" * 11),
    "a size that is negative": _tar_header(FIRST, b"-0000000010\0"),
    "a size of no digits": _tar_header(FIRST, b"            "),
    "a wrong sum": _tar_header(FIRST, b"00000000000\0")[:-1] + b"x",
    "text": b"<html>" * 200,
    "nothing": b"",
}


@pytest.mark.parametrize("what", NOT_TARS)
def test_what_is_no_such_archive_is_named(tmp_path, what, modest):
    for pack in (gzip.compress, bytes):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(pack(NOT_TARS[what]))
        with pytest.raises(OSError, match=r"cifar-10-python\.tar\.gz .*(damaged|more than)"):
            load_data("cifar10", root=tmp_path)


def test_an_archive_that_unpacks_to_gigabytes_is_left(tmp_path, modest, monkeypatch):
    monkeypatch.setattr(cifar_module, "TOTAL", 2**24)
    files = [(f"{i}", bytes(2**22)) for i in range(5)]
    write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(OSError, match="unpacks to more than 16777216 bytes"):
        load_data("cifar10", root=tmp_path)


# ── CelebA ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Twenty images in a folder and in a zip, the same."""
    top = tmp_path_factory.mktemp("celeba")
    return top, write_celeba(top / "open", 20), write_celeba(top / "packed", 20, packed=True)


@pytest.mark.parametrize("kind", ["open", "packed"])
def test_celeba_is_cut_scaled_and_split_as_published(faces, kind):
    top, written, _ = faces
    data = load_data("celeba", root=top / kind, size=16)
    sides = [i for i in range(20) if i % 10 < 8], [9, 19]
    for part, rows in zip((data.train, data.test), sides, strict=True):
        assert isinstance(part, Arrays)
        for x, i in zip(_rows(part)[0], rows, strict=True):
            whole = Image.open(io.BytesIO(written[f"{i + 1:06}.jpg"]))
            cut = whole.crop((19, 39, 159, 179)).resize((16, 16), Image.Resampling.LANCZOS)
            assert np.array_equal(x.permute(1, 2, 0).numpy(), np.array(cut))
    lazy = load_data("celeba", root=top / kind, size=16, memory=0)
    assert isinstance(lazy.test, Pictures)
    assert torch.equal(_rows(lazy.test)[0], _rows(data.test)[0])


@pytest.mark.parametrize("packed", [False, True])
def test_faces_that_change_under_a_run_are_refused(tmp_path, packed):
    write_celeba(tmp_path, 20, packed=packed)
    data = load_data("celeba", root=tmp_path, size=16, memory=0)
    _rows(data.train)
    path = tmp_path / ("img_align_celeba.zip" if packed else "img_align_celeba/000001.jpg")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(OSError, match="has changed since it was opened"):
        _rows(data.train)


def test_celeba_is_known_by_its_path(faces, tmp_path):
    top = faces[0]
    shape = (3, 64, 64)
    for path in ("open", "open/img_align_celeba", "packed", "packed/img_align_celeba.zip"):
        found = load_data(top / path)
        assert (found.name, len(found.train), found.train.shape) == ("celeba", 16, shape)
    write_celeba(tmp_path, 20, partition=False)
    data = load_data("celeba", root=tmp_path, size=8)
    assert (len(data.train), len(data.test)) == (18, 2)


@pytest.mark.parametrize(
    "lines",
    ["000001.jpg 0\n", "000001.jpg 3\n", "000001.jpg\n", "000001.jpg 0\n000001.jpg 1\n", "\0" * 99],
)
def test_a_false_list_of_parts_is_named(tmp_path, lines):
    write_celeba(tmp_path, 2)
    (tmp_path / "list_eval_partition.txt").write_text(lines)
    with pytest.raises(OSError, match=r"list_eval_partition\.txt(, line [12]:| has no line for)"):
        load_data("celeba", root=tmp_path)


def _zip(path, content=b"x", *, method=zipfile.ZIP_DEFLATED, mode=0o644):
    info = zipfile.ZipInfo("img_align_celeba/000001.jpg")
    info.compress_type, info.external_attr = method, mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content)


def test_a_false_zip_is_named(tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    cases = [
        (lambda: path.write_bytes(b"PK"), "cannot be read as a zip"),
        (lambda: zipfile.ZipFile(path, "w").close(), r"holds no \.jpg"),
        (lambda: _zip(path, bytes(2**24 + 1)), "no image of at most"),
        (lambda: _zip(path, method=zipfile.ZIP_LZMA), "packed as zips are"),
        (lambda: _zip(path, b"/etc/passwd", mode=0o120777), "no image of at most"),
        (lambda: _zip(path, b"no jpeg"), r"000001\.jpg cannot be read as an image"),
        (lambda: path.write_bytes(zip_bomb("x" * 300 + ".jpg", 1)), f": {'x' * 255} is no image"),
    ]
    for make, message in cases:
        make()
        with pytest.raises(OSError, match=rf"celeba\.zip.*{message}"):
            load_data(path)
    _zip(path, b"A" * 1000, method=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"AAAB", 1))
    with pytest.raises(OSError, match=r"000001\.jpg is damaged: Bad CRC"):
        load_data(path)


def test_a_zip_that_holds_more_than_it_says_is_not_unpacked(tmp_path, modest):
    path = tmp_path / "img_align_celeba.zip"
    path.write_bytes(zip_bomb("img_align_celeba/000001.jpg", 400, size=100))
    with pytest.raises(OSError, match=r"000001\.jpg is damaged: Bad CRC"):
        load_data(path)


# ── Downloads ────────────────────────────────────────────────────────────────────────────────────

PAGES = {}


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, length = PAGES.get(self.path, (None, 0))
        self.send_response(404 if content is None else 200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """A server on this machine; `PAGES` says what it answers."""
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.HTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    PAGES.clear()
    server.shutdown()
    thread.join()
    server.server_close()


def _offer(site, name, content, *, length=0, given=None):
    given = content if given is None else given
    PAGES[f"/{name}"] = given, len(given) if length == 0 else length
    return Remote(f"{site}/{name}", len(content), hashlib.sha256(content).hexdigest())


def test_what_was_published_is_kept(site, tmp_path):
    content = bytes(range(256)) * 10_000
    for length in (0, None):  # a server need not say how much there is
        fetch(_offer(site, "a.gz", content, length=length), tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gz"]
        assert (tmp_path / "new/a.gz").read_bytes() == content


def test_of_anything_else_nothing_is_left(site, tmp_path):
    right = bytes(5000)
    wrong = {
        "is not the file": dict(given=right[:-1] + b"x"),
        "less than the 5000": dict(given=right[:-1]),
        "gave more": dict(given=right + b"x"),
        "more": dict(given=bytes(2**23), length=None),
        r"(less than|cannot be downloaded)": dict(given=right[:100], length=5000),
    }
    for message, served in wrong.items():
        with pytest.raises(OSError, match=rf"http://.*/a\.gz .*{message}"):
            fetch(_offer(site, "a.gz", right, **served), tmp_path)
    with pytest.raises(OSError, match="cannot be downloaded: HTTP Error 404"):
        fetch(Remote(f"{site}/b.gz", 1, ""), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_downloaded_unasked(site, tmp_path, monkeypatch):
    written = write_mnist(tmp_path / "there", 6)
    files = [
        _offer(site, remote.name, (tmp_path / "there" / remote.name).read_bytes())
        for remote in idx_module.FILES
    ]
    monkeypatch.setattr(idx_module, "FILES", files)
    here = tmp_path / "here"
    with pytest.raises(OSError, match=rf"in {here}, .* train-images.*download=true"):
        load_data("mnist", root=here)
    assert not here.exists()
    data = load_data("mnist", root=here, download=True)
    assert np.array_equal(data.train.data[:, 0].numpy(), written["train"][0])
    PAGES.clear()
    load_data("mnist", root=here, download=True)  # what is there is not asked for again
    write_cifar10(tmp_path / "there", 2)
    content = (tmp_path / "there/cifar-10-python.tar.gz").read_bytes()
    archive = _offer(site, "cifar-10-python.tar.gz", content)
    monkeypatch.setattr(cifar_module, "ARCHIVE", archive)
    with pytest.raises(OSError, match=r"no cifar-10-python\.tar\.gz"):
        load_data("cifar10", root=here)
    assert len(load_data("cifar10", root=here, download=True).test) == 2


def test_where_data_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(Path("data/mnist"), 6)
    assert len(load_data("mnist").train) == 6
    monkeypatch.setenv("SCOREFIELD_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(OSError, match="elsewhere/mnist"):
        load_data("mnist")
    with pytest.raises(OSError, match=r"elsewhere/celeba.*terms: see https://mmlab"):
        load_data("celeba")
    write_mnist(tmp_path / "torchvision/MNIST/raw", 8, zipped=False)
    assert len(load_data("mnist", root=tmp_path / "torchvision").train) == 8


def test_the_published_files_are_known_by_sum_and_size():
    """The sums as several others quote them, for nothing is fetched here."""
    files = [*idx_module.FILES, cifar_module.ARCHIVE]
    assert [remote.size for remote in files] == [9912422, 28881, 1648877, 4542, 170498071]
    assert all(len(bytes.fromhex(remote.sha256)) == 32 for remote in files)
    assert all(remote.url.startswith("https://") for remote in files)


# ── From the command line ────────────────────────────────────────────────────────────────────────

QUICK = [
    "--network.width=8",
    "--training.steps=2",
    "--training.batch=4",
    "--keeping.samples=0",
    "--machine.threads=1",
]


@pytest.mark.parametrize(
    ("name", "write", "count", "shape"),
    [
        ("mnist", write_mnist, 12, (1, 28, 28)),
        ("cifar10", write_cifar10, 3, (3, 32, 32)),
        ("celeba", write_celeba, 20, (3, 32, 32)),
    ],
)
def test_the_papers_presets_start(name, write, count, shape, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("there"), count)
    assert main(["train", f"ncsn-{name}", "--data.options.root=there", *QUICK]) == 0
    assert f"2 steps on {name}" in capsys.readouterr().out
    run = Path(f"runs/ncsn-{name}")
    kept = json.loads((run / "config.json").read_text())
    assert kept["data"]["options"]["root"] == str(tmp_path / "there")
    assert load_model(run).shape == shape


def test_without_the_files_the_option_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mnist").mkdir()  # a folder of the same name is not what is meant
    assert main(["train", "ncsn-mnist"]) == 2
    err = capsys.readouterr().err
    assert "data/mnist" in err
    assert "--data.options.download=true" in err
    assert err.count("\n") == 1
    assert main(["train", "--data", "cifar10", "--data.options.root=x", "--out", "y"]) == 2
    assert "looked for in" in capsys.readouterr().err


def test_a_folder_that_stands_in_for_celeba_is_cut_like_it(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for name, content in faces[1].items():
        Path("mine", name).write_bytes(content)
    assert main(["train", "ncsn-celeba", "--data", "mine", "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)["data"]
    assert (shown["source"], shown["options"]) == ("mine", {"crop": 140, "size": 32})
    Path("mine.yaml").write_text("data: {source: mnist, options: {root: there, download: true}}")
    for source in ("mine", "digits", "hub:a/b"):
        assert main(["train", "--config", "mine.yaml", "--data", source, "--show"]) == 0
        assert json.loads(capsys.readouterr().out)["data"]["options"] == {}
