"""Published data in their own formats, and damaged or hostile files in their place."""

import gzip
import hashlib
import http.client
import io
import json
import pickle
import struct
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mutations import make_zip, zip_bomb
from PIL import Image, ImageOps
from standins import (
    all_rows,
    cifar10_batch,
    cifar10_batches,
    idx,
    line_at_the_end,
    little_memory,
    write_celeba,
    write_cifar10,
    write_mnist,
    write_tar,
)

from scorefield import load
from scorefield.cli import main
from scorefield.data import Arrays, Part, load_data
from scorefield.data import cifar as cifar_module
from scorefield.data.download import Remote, fetch

mnist_module = import_module("scorefield.data.mnist")  # in the package, the name is the function
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_read_as_written(tmp_path, zipped):
    written = write_mnist(tmp_path, 30, zipped=zipped)
    data = load_data("mnist", root=str(tmp_path))
    assert (data.name, data.classes, data.kind) == ("mnist", tuple("0123456789"), "images")
    for part, (x, y) in zip((data.train, data.test), written.values(), strict=True):
        images, labels = all_rows(part)
        assert torch.equal(images, torch.from_numpy(x)[:, None])
        assert labels.tolist() == y.tolist()
    assert torch.equal(all_rows(load_data(tmp_path).train)[0], all_rows(data.train)[0])


X = np.zeros((4, 28, 28), np.uint8)
NOT_IDX = {
    "empty": b"",
    "floats": bytes([0, 0, 13, 3]) + idx(X)[4:],
    "another shape": idx(np.zeros((4, 32, 32))),
    "no images": idx(X[:0]),
    "terabytes": b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 28, 28) + bytes(784),
    "too short": idx(X)[:-1],
    "too long": idx(X) + b"\0",
}
NOISE = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (4, 28, 28))))
BAD_IDX = NOT_IDX | {f"{name}, gzipped": gzip.compress(file) for name, file in NOT_IDX.items()}
BAD_IDX |= {"cut": NOISE[:-9], "damaged": NOISE[:40] + b"\xff\xfe" + NOISE[42:]}
ZEROS = gzip.compress(bytes(2**23), 1)
BAD_IDX["80 MiB too long"] = gzip.compress(idx(X)) + 10 * ZEROS
BAD_IDX |= {"a label less": idx(np.arange(3)), "a label of 10": idx(np.arange(7, 11))}


@pytest.mark.parametrize("name", BAD_IDX)
def test_an_invalid_idx_file_is_refused_by_name_without_its_memory(tmp_path, name):
    write_mnist(tmp_path, 4)
    file = LABELS if "label" in name else IMAGES
    (tmp_path / file).write_bytes(BAD_IDX[name])
    wrong = pytest.raises((OSError, ValueError), match=rf"{file} .*(again|are read)")
    with little_memory(), wrong:
        load_data("mnist", root=tmp_path)


ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
MEMBERS = [(f"{FOLDER}/{name}", batch[0]) for name, batch in cifar10_batches(2).items()]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_is_read_as_written(tmp_path, packed, binary, monkeypatch):
    if binary:
        monkeypatch.setattr(pickle, "Unpickler", None)  # no pickle is involved
    written = write_cifar10(tmp_path, 7, packed=packed, binary=binary)
    (place,) = tmp_path.iterdir()
    data = load_data("cifar10", root=tmp_path)
    assert (data.name, data.classes[3], data.train.shape) == ("cifar10", "cat", (3, 32, 32))
    x, labels = all_rows(data.train)
    truth, numbers = zip(*list(written.values())[:5], strict=True)
    assert np.array_equal(x.flatten(1).numpy(), np.concatenate(truth))
    assert labels.tolist() == np.concatenate(numbers).tolist()
    assert np.array_equal(all_rows(data.test)[0].flatten(1).numpy(), written["test_batch"][0])
    for path in (tmp_path, place, *([] if packed else place.glob("data_batch_1*"))):
        assert torch.equal(all_rows(load_data(path).train)[0], x)


def test_a_batch_in_fortran_order_is_read():
    content, x, _ = cifar10_batches(300)["test_batch"]
    fortran = content.replace(b"b\x89T", b"b\x88T").replace(x.tobytes(), x.T.tobytes())
    assert np.array_equal(cifar_module._read_pickle(fortran)[0], x)


TWO = np.zeros((2, 3072), np.uint8)
BATCH = cifar10_batch(TWO, [1, 2])


def _with(old, new):
    assert old in BATCH
    return BATCH.replace(old, new)


# t = (t, t), sixty times over: a key that takes 2⁶⁰ steps to hash
DEEP = b"\x80\x02K\x00q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00K\x01s."
SHAPE = b"(K\x01K\x02M\x00\x0c\x86"
NOT_BATCHES = {
    "os.system": b"\x80\x02cos\nsystem\nU\x09touch ran\x85R.",
    "an object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "bytes of exabytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "a far place in the memo": b"\x80\x02Nr\0\0\0\x020.",
    "endless hashing": DEEP,
    "a list of millions": b"\x80\x02" + b"]" * 1_000_000 + b".",
    "empty": b"",
    "no array": pickle.dumps({"data": 1, "labels": [1, 2]}, 2),
    "16 bits": cifar10_batch(TWO.astype(np.uint16), [1, 2]),
    "a shape of terabytes": _with(SHAPE, SHAPE[:3] + b"J\xff\xff\xff\x7fM\x00\x0c\x86"),
    "no images": cifar10_batch(TWO[:0], []),
    "a label too few": cifar10_batch(TWO, [1]),
    "a label of 10": cifar10_batch(TWO, [1, 10]),
    "a label of None": _with(b"(K\x01K\x02e", b"(K\x01Ne"),
    "a binary label of 10": b"\x0a" + bytes(3072),
    "a binary image too short": b"x",
    "no binary image": b"",
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", NOT_BATCHES)
def test_an_invalid_batch_is_refused_and_runs_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    batch = f"{FOLDER}/test_batch{'.bin' * ('binary' in name)}"
    write_tar(tmp_path / ARCHIVE, [(batch, NOT_BATCHES[name])])
    wrong = pytest.raises(OSError, match=rf"{ARCHIVE}: {batch} is not a batch of CIFAR-10")
    with little_memory(), wrong:
        load_data("cifar10", root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_an_archive_is_not_unpacked_and_its_links_are_not_followed(tmp_path):
    path = tmp_path / ARCHIVE
    names = "../escaped", str(tmp_path / "absolute"), f"{FOLDER}/../../test_batch"
    others = [*((name, b"x") for name in names), ("n" * 300, b"a long name")]
    write_tar(path, [*others, *MEMBERS])
    assert len(load_data(path).test) == 2
    assert [*tmp_path.iterdir()] == [path]
    file = tmp_path / "test_batch"
    file.write_bytes(cifar10_batches(2)["test_batch"][0])
    link = tarfile.TarInfo(f"{FOLDER}/test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, str(file)
    write_tar(path, [*MEMBERS[:-1], (link, b"")])
    with pytest.raises(OSError, match="lacks test_batch"):
        load_data(path)


def _tar_header(size):
    header = bytearray(tarfile.TarInfo(MEMBERS[0][0]).tobuf(tarfile.USTAR_FORMAT)[:512])
    header[124:136], header[148:156] = size, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


NOT_TARS = {
    "a huge batch": _tar_header(b"00777777777\0"),
    "a batch that ends early": _tar_header(b"00000010000\0") + b"abc",
    "a size that is negative": _tar_header(b"-0000000010\0"),
    "a wrong checksum": _tar_header(b"00000000000\0")[:-1] + b"x",
}


@pytest.mark.parametrize("name", NOT_TARS)
def test_an_invalid_archive_is_refused_by_name_without_its_memory(tmp_path, name):
    wrong = pytest.raises(OSError, match=rf"{ARCHIVE}.*(damaged|more than|a batch at most)")
    for pack in (gzip.compress, bytes):
        (tmp_path / ARCHIVE).write_bytes(pack(NOT_TARS[name]))
        with little_memory(), wrong:
            load_data("cifar10", root=tmp_path)


def test_missing_repeated_and_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_module, "MAX_ARCHIVE_BYTES", 2**24)
    for members, message in (
        (MEMBERS[:-2], "lacks data_batch_5, test_batch: download it again"),
        ([*MEMBERS, MEMBERS[0]], "data_batch_1 twice"),
        ([(f"{i}", bytes(2**22)) for i in range(5)], "unpacks to more than 16777216 bytes"),
    ):
        write_tar(tmp_path / ARCHIVE, members)
        with little_memory(), pytest.raises(OSError, match=message):
            load_data("cifar10", root=tmp_path)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The same twenty images in a folder and in a zip."""
    top = tmp_path_factory.mktemp("celeba")
    write_celeba(top / "packed", 20, packed=True)
    return top, write_celeba(top / "open", 20)


@pytest.mark.parametrize("kind", ["open", "packed"])
def test_celeba_is_cropped_scaled_and_split_as_published(faces, kind):
    top, written = faces
    data = load_data("celeba", root=top / kind, size=16)
    sides = [i for i in range(20) if i % 10 < 8], [9, 19]
    for part, rows in zip((data.train, data.test), sides, strict=True):
        assert isinstance(part, Arrays)
        for x, i in zip(all_rows(part)[0], rows, strict=True):
            whole = Image.open(io.BytesIO(written[f"{i + 1:06}.jpg"]))
            crop = whole.crop((19, 39, 159, 179)).resize((16, 16), Image.Resampling.LANCZOS)
            assert np.array_equal(x.permute(1, 2, 0).numpy(), np.array(crop))
    whole = Image.open(io.BytesIO(written["000001.jpg"]))
    # 196 × 140 have the aspect of 7 × 5, and 140 × 280, that of 8 × 16, are wider than the image
    for size, box in (((7, 5), (19, 11, 159, 207)), ((8, 16), (0, 39, 178, 179))):
        x = load_data("celeba", root=top / kind, size=size).train.take(torch.tensor([0]))[0][0]
        crop = ImageOps.fit(whole.crop(box), size[::-1], Image.Resampling.LANCZOS)
        assert np.array_equal(x.permute(1, 2, 0).numpy(), np.array(crop))
    lazy = load_data("celeba", root=top / kind, size=16, memory=0)
    assert isinstance(lazy.test, Part)
    assert torch.equal(all_rows(lazy.test)[0], all_rows(data.test)[0])


def test_celeba_is_recognised_by_its_path_needs_no_partition_and_may_not_change(faces, tmp_path):
    for path in ("open", "open/img_align_celeba", "packed", "packed/img_align_celeba.zip"):
        data = load_data(faces[0] / path)
        assert (data.name, len(data.train), data.train.shape) == ("celeba", 16, (3, 64, 64))
    write_celeba(tmp_path / "celeba", 20, partition=False, packed=True)
    data = load_data("celeba", root=tmp_path, size=8, memory=0)
    assert (len(data.train), len(data.test)) == (18, 2)
    path = tmp_path / "celeba/img_align_celeba.zip"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(OSError, match="has changed since it was opened"):
        all_rows(data.train)


@pytest.mark.parametrize("lines", ["000001.jpg 0\n", "000001.jpg\n", "\0" * 99])
def test_an_invalid_partition_is_refused_by_name(tmp_path, lines):
    write_celeba(tmp_path, 2)
    (tmp_path / "list_eval_partition.txt").write_text(lines)
    with pytest.raises(OSError, match=r"partition\.txt does not name the part of each image"):
        load_data("celeba", root=tmp_path)


def _zip(content=b"x", *, method=zipfile.ZIP_DEFLATED, mode=0o644):
    return make_zip([("img_align_celeba/000001.jpg", content)], method, mode)


STORED = _zip(b"A" * 1000, method=zipfile.ZIP_STORED)
BAD_ZIPS = {
    "not a zip": (b"PK", "cannot be read as a zip"),
    "empty": (b"PK\5\6" + bytes(18), r"holds no \.jpg"),
    "too large": (_zip(bytes(2**24 + 1)), r"000001\.jpg cannot be read as an image"),
    "another compression": (_zip(method=zipfile.ZIP_LZMA), "neither stored nor deflated"),
    "a link": (_zip(b"/etc/passwd", mode=0o120777), "cannot be read as an image"),
    "damaged": (STORED.replace(b"AAAA", b"AAAB", 1), r"000001\.jpg is damaged: Bad CRC"),
    "a false size": (
        lambda: zip_bomb("img_align_celeba/1.jpg", 64, claimed=100),
        "damaged: Bad CRC",
    ),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_an_invalid_zip_is_refused_by_name_without_its_memory(tmp_path, name):
    path = tmp_path / "img_align_celeba.zip"
    content, message = BAD_ZIPS[name]
    path.write_bytes(content() if callable(content) else content)
    with little_memory(), pytest.raises(OSError, match=rf"celeba\.zip.*{message}"):
        load_data(path)


def _remote(path, content):
    """A published file at a place that is read by its URL, but without a network."""
    return Remote(path.as_uri(), len(content), hashlib.sha256(content).hexdigest())


def test_only_the_published_file_is_kept(tmp_path, monkeypatch, capsys):
    there, content = tmp_path / "a.gz", bytes(range(256)) * 10_000
    there.write_bytes(content)
    monkeypatch.setattr("scorefield.show.progress.heartbeat", line_at_the_end)
    fetch(_remote(there, content), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gz"]
    assert (tmp_path / "new/a.gz").read_bytes() == content
    assert capsys.readouterr().err == "a.gz: 2.56MB of 2.56MB, 0 s\n"
    wrong = {"2560000": content[:-1] + b"x", "2559999": content[:-1], "2560001": content + b"x"}
    for size, served in {**wrong, r"3\d{6}": bytes(2**24)}.items():
        there.write_bytes(served)
        with pytest.raises(OSError, match=rf"file:.*/a\.gz .*{size} bytes with"):
            fetch(_remote(there, content), tmp_path / "wrong")
    with pytest.raises(OSError, match=r"file:.*/b\.gz cannot be downloaded: .*No such file"):
        fetch(_remote(tmp_path / "b.gz", content), tmp_path / "wrong")
    broken = Mock(side_effect=http.client.BadStatusLine("x"))
    monkeypatch.setattr("urllib.request.urlopen", broken)
    with pytest.raises(OSError, match="cannot be downloaded: x; try again"):
        fetch(_remote(there, content), tmp_path / "wrong")
    assert not list((tmp_path / "wrong").iterdir())


def test_files_are_downloaded_only_when_asked_for_and_missing(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    write_mnist(there, 6)
    write_cifar10(there, 2)
    names = [remote.name for remote in mnist_module.MNIST_FILES]
    *files, archive = [_remote(there / n, (there / n).read_bytes()) for n in (*names, ARCHIVE)]
    monkeypatch.setattr(mnist_module, "MNIST_FILES", files)
    monkeypatch.setattr(cifar_module, "CIFAR_ARCHIVE", archive)
    for name, message in (("mnist", r"train-images.*download=true"), ("cifar10", rf"no {ARCHIVE}")):
        with pytest.raises(OSError, match=rf"in {here}, .*{message}"):
            load_data(name, root=here)
    assert not here.exists()
    for name in ("mnist", "cifar10"):
        load_data(name, root=here, download=True)
    for path in there.iterdir():
        path.unlink()
    assert len(load_data("mnist", root=here, download=True).train) == 6
    assert len(load_data("cifar10", root=here, download=True).test) == 2


def test_data_are_looked_for_in_the_documented_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(Path("data/mnist"), 6)
    assert len(load_data("mnist").train) == 6
    monkeypatch.setenv("SCOREFIELD_DATA", str(tmp_path / "elsewhere"))
    for name, message in (("mnist", ".*download=true"), ("celeba", ".*see https://mmlab")):
        with pytest.raises(OSError, match=rf"elsewhere/{name}{message}"):
            load_data(name)
    write_mnist(tmp_path / "torchvision/MNIST/raw", 8, zipped=False)
    assert len(load_data("mnist", root=tmp_path / "torchvision").train) == 8


QUICK = ["--network.width=8", "--training.steps=2", "--training.batch=4", "--keeping.samples=0"]
QUICK += ["--machine.threads=1"]
WRITERS = {"mnist": write_mnist, "cifar10": write_cifar10, "celeba": write_celeba}


@pytest.mark.parametrize("name", WRITERS)
def test_the_papers_presets_train(name, tmp_path, monkeypatch, capsys, error_of):
    monkeypatch.chdir(tmp_path)
    WRITERS[name](Path("there"), 12)
    Path(name).mkdir()  # a folder of the same name is not meant
    assert main(["train", f"ncsn-{name}", "--data.options.root=there", *QUICK]) == 0
    assert f"to 2 on {name}" in capsys.readouterr().out
    assert '"loss": null' not in Path(f"runs/ncsn-{name}/log.jsonl").read_text()  # as NaN is
    config = json.loads(Path(f"runs/ncsn-{name}/config.json").read_text())
    assert config["data"]["options"]["root"] == str(tmp_path / "there")
    run = f"runs/ncsn-{name}"
    assert load(run).shape == ((1, 28, 28) if name == "mnist" else (3, 32, 32))
    Path("there").rename("elsewhere")
    assert f"are gone: {tmp_path}/there does not have them" in error_of("resume", run)
    assert main(["resume", run, "--data", "elsewhere"]) == 0
    assert main(["resume", run]) == 0


def test_a_folder_in_the_place_of_celeba_is_cropped_like_it(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for name, content in faces[1].items():
        Path("mine", name).write_bytes(content)
    assert main(["train", "ncsn-celeba", "--data", "mine", "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)["data"]
    assert (shown["source"], shown["options"]) == ("mine", {"crop": 140, "size": 32})
