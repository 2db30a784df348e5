"""Folders of images: each format is decoded to the right pixels, damaged files are named."""

import itertools
import os
import shutil
import struct
import time
from functools import partial

import numpy as np
import pytest
import torch
from mutations import EXIF_OF_TEXT, make_png
from PIL import EpsImagePlugin, Image, ImageFile
from standins import all_rows

from scorefield.data import Arrays, Batches, Part, decode, load_data
from scorefield.data.images import ImageReader, read_header

RNG = np.random.default_rng(0)


def _save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def _noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _parts(dataset):
    return [dataset.train] if dataset.test is None else [dataset.train, dataset.test]


def _whole(dataset):
    """All images, the held-out ones last."""
    return torch.cat([all_rows(part)[0] for part in _parts(dataset)])


def _names(part):
    """Names of the files of data that are not in memory."""
    return [part.source.files.names[i] for i in part.rows]


def _one(path, **options):
    (image,) = _whole(load_data(path.parent, **options))
    return image


UPRIGHT = {4: np.flipud, 5: np.transpose, 6: partial(np.rot90, k=-1), EXIF_OF_TEXT: np.copy}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_exif_says(tmp_path, orientation):
    stored, exif = _noise(4, 6), Image.Exif()
    exif[0x0112] = orientation
    _save(tmp_path / "a.png", stored, exif=exif if isinstance(orientation, int) else orientation)
    upright = UPRIGHT[orientation](stored).copy()
    assert torch.equal(_one(tmp_path / "a.png")[0], torch.from_numpy(upright))
    assert read_header(tmp_path / "a.png")[:2] == upright.shape[::-1]


PALETTE = Image.fromarray(np.uint8([[0, 1, 2]])).convert("P")
PALETTE.putpalette([10, 20, 30, 200, 0, 7, 0, 0, 255])
BITS = Image.fromarray(np.uint8([[0, 255]])).convert("1")
RGBA = Image.fromarray(np.uint8([[[0, 0, 0, 0], [9, 8, 7, 255], [0, 100, 255, 51]]]))
SHORTS = Image.fromarray(np.uint16([[0, 128, 129, 257, 32896, 65406, 65407, 65535]]))
ROUNDED = [[0], [0], [1], [1], [128], [254], [255], [255]]  # v/257


@pytest.mark.parametrize(
    ("image", "suffix", "options", "expected"),
    [
        (PALETTE, "png", {}, [[10, 20, 30], [200, 0, 7], [0, 0, 255]]),
        (PALETTE, "png", {"transparency": 1}, [[10, 20, 30], [255, 255, 255], [0, 0, 255]]),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "tiff", {}, [[255, 0, 0]]),
        (BITS, "png", {}, [[0], [255]]),
        (SHORTS, "png", {}, ROUNDED),
        (SHORTS, "tiff", {}, ROUNDED),
        # over white: 255 · (1 − 51/255) + v · 51/255
        (RGBA, "png", {}, [[255, 255, 255], [9, 8, 7], [204, 224, 255]]),
    ],
)
def test_modes_become_grey_or_rgb_over_white(tmp_path, image, suffix, options, expected):
    image.save(tmp_path / f"a.{suffix}", **options)
    assert _one(tmp_path / f"a.{suffix}")[:, 0].T.tolist() == expected


def _tiff(order, pixels):
    height, width, channels = pixels.shape
    bits, data = struct.pack(f"{order}4H", *[16] * 4), pixels.astype(f"{order}u2").tobytes()
    start = 8 + 2 + 9 * 12 + 4
    tags = {256: width, 257: height, 258: start, 259: 1, 262: 2, 273: start + 8, 277: channels}
    entries = [
        struct.pack(f"{order}HHII", tag, 4 if tag != 258 else 3, channels if tag == 258 else 1, v)
        for tag, v in (tags | {278: height, 279: len(data)}).items()
    ]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + bits + data


@pytest.mark.parametrize(
    ("kind", "channels"), [("png", 2), *itertools.product(["png", "<", ">"], [3, 4])]
)
def test_colours_of_16_bits_are_rounded_not_cut(tmp_path, monkeypatch, kind, channels):
    monkeypatch.setattr(decode, "STRIP_PIXELS", 300)  # so that an image has several strips
    colours = 1 if channels == 2 else 3
    pixels = RNG.permuted(np.arange(2**16, dtype=np.uint16)[:, None].repeat(colours, 1), axis=0)
    alpha = np.full((2**16, channels - colours), 2**16 - 1)
    pixels = np.hstack([pixels, alpha]).reshape(128, 512, -1)
    content = _tiff(kind, pixels) if kind != "png" else b""
    if kind == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
        content = make_png(512, 128, 16, {2: 4, 3: 2, 4: 6}[channels], rows)
    (tmp_path / f"a.{'png' if kind == 'png' else 'tiff'}").write_bytes(content)
    image = _whole(load_data(tmp_path))[0].permute(1, 2, 0).numpy()
    expected = np.broadcast_to(np.round(pixels[..., :colours] / 257), image.shape)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("memory", [0, 2**30])
def test_threads_decode_no_more_pixels_at_once_than_they_may(tmp_path, monkeypatch, memory):
    for i, side in enumerate([8, 8, 40, 8, 8, 9, 40, 8]):
        _save(tmp_path / f"{i}.png", _noise(side, side, 3))
    sizes, loads, load = [], [], ImageFile.ImageFile.load

    def counted(image):
        size = image.width * image.height
        sizes.append(size)  # not one number, of which a change may be lost
        loads.append(sum(sizes))
        time.sleep(0.01)  # for other threads to begin
        sizes.remove(size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(decode, "PIXELS", decode.PixelBudget(200))
    all_rows(load_data(tmp_path, size=8, memory=memory).train)
    assert max(loads) == 40 * 40  # alone, though it is more


def test_images_are_grey_only_if_all_are(tmp_path):
    pixels = _noise(3, 4)
    _save(tmp_path / "a.png", pixels)
    assert _one(tmp_path / "a.png").tolist() == [pixels.tolist()]
    assert _one(tmp_path / "a.png", channels=3).tolist() == [pixels.tolist()] * 3
    assert ImageReader(3, 4, 6)(tmp_path / "a.png").shape == (3, 4, 6)
    _save(tmp_path / "b.png", _noise(3, 4, 3))
    assert _whole(load_data(tmp_path)).shape == (2, 3, 3, 4)


def test_the_central_square_is_cropped_before_scaling(tmp_path):
    pixels = np.zeros((8, 12), dtype=np.uint8)
    pixels[:, 2:6], pixels[:, 6:10] = 100, 200  # the central square
    _save(tmp_path / "a.png", pixels)
    assert _one(tmp_path / "a.png", size=8)[0].tolist() == pixels[:, 2:10].tolist()
    assert _one(tmp_path / "a.png", crop=4)[0].tolist() == pixels[2:6, 4:8].tolist()
    framed = np.full((8, 12), 255)
    framed[2:6, 4:8] = 100
    _save(tmp_path / "a.png", framed)
    assert _one(tmp_path / "a.png", crop=4, size=32).unique().tolist() == [100]
    # a chessboard keeps its mean, which a filter that skips pixels would miss
    _save(tmp_path / "a.png", np.indices((64, 64)).sum(0) % 2 * 255)
    assert set(_one(tmp_path / "a.png", size=8).unique().tolist()) <= {127, 128}  # of 127.5


@pytest.mark.parametrize("lazy", [False, True])
def test_an_image_of_another_aspect_is_cut_or_padded_with_its_edge(tmp_path, lazy):
    tall, options = _noise(6, 2), {"channels": 1} if lazy else {}
    _save(tmp_path / "a.png", tall)
    read = partial(_one, tmp_path / "a.png", **options)
    assert read(size=(2, 2))[0].tolist() == tall[2:4].tolist()
    for width, margins in ((2, (0, 0)), (5, (1, 2))):
        padded = np.pad(tall, ((0, 0), margins), mode="edge")
        assert read(size=[6, width], fit="pad")[0].tolist() == padded.tolist()
    assert read(size=(9, 10), fit="pad").unique(dim=2).shape == (1, 9, 3)
    assert read(size=(5, 2), crop=2, fit="pad")[0].tolist() == tall[[2, 2, 3, 3, 3]].tolist()
    _save(tmp_path / "a.png", _noise(2, 300))  # scaled to less than a pixel
    assert read(size=(3, 8), fit="pad").unique(dim=1).shape == (1, 1, 8)


def test_wrong_options_are_named(tmp_path):
    _save(tmp_path / "a.png", _noise(4, 6))
    _save(tmp_path / "b.png", _noise(6, 4))
    for options, message in (
        ({}, r"a\.png has 6 × 4 pixels, b\.png 4 × 6; scale .* size=4 "),
        ({"crop": 9}, r"crop=9, but .*[ab]\.png has [64] × [46]"),
        ({"size": 0}, "size=0"),
        ({"size": (4, 5000)}, r"size=\(4, 5000\), crop=None: give 1 to 4096 pixels"),
        ({"channels": 4}, "channels=4"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(tmp_path, **options)
    assert _whole(load_data(tmp_path, size=4)).shape == (2, 1, 4, 4)


def test_files_are_sorted_from_all_levels_without_hidden_and_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(OSError, match="holds no images, but 1 other file"):
        load_data(tmp_path)
    for i, name in enumerate(["b/2.png", "b/deep/1.BMP", "a/9.jpeg", "a/10.png"]):
        _save(tmp_path / name, np.full((2, 2), 60 * i))
    _save(tmp_path / "a/.hidden.png", _noise(9, 9))
    _save(tmp_path / ".cache/x.png", _noise(9, 9))
    (tmp_path / "a/data.h5").write_text("nor this")
    data = load_data(tmp_path, memory=0)
    names = data.train.source.files.names
    assert names == ["a/10.png", "a/9.jpeg", "b/2.png", "b/deep/1.BMP"]
    assert sorted(_names(data.train) + _names(data.test)) == names
    assert _names(data.train) == sorted(_names(data.train))
    assert (data.classes, data.name) == (("a", "b"), tmp_path.name)
    for part in _parts(data):
        assert all_rows(part)[1].tolist() == [int(name.startswith("b")) for name in _names(part)]
    _save(tmp_path / "loose.png", _noise(2, 2))
    assert load_data(tmp_path).classes == ()
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "loose.png").unlink()
    assert load_data(tmp_path).classes == ()  # a single folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for i in range(300):
        _save(root / f"{'ab'[i % 2]}/{i}.png", _noise(4, 4, 3))
    return root


def test_a_twentieth_is_held_out_and_stays_so_when_files_are_added(many, tmp_path):
    held_out = set(_names(load_data(many, memory=0).test))
    # 4 standard errors of a binomial count
    assert abs(len(held_out) - 15) < 4 * (300 * 0.05 * 0.95) ** 0.5
    shutil.copytree(many, tmp_path / "more")
    for i in range(300, 340):
        _save(tmp_path / f"more/a/{i}.png", _noise(4, 4, 3))
    later = load_data(tmp_path / "more", memory=0)
    assert held_out == {name for name in _names(later.test) if int(name[2:-4]) < 300}
    assert not set(_names(later.test)) & set(_names(later.train))


def test_a_share_or_a_folder_is_held_out_if_asked_for(tmp_path):
    for name in ["own/a/1.png", "own/a/2.png", "own/b/3.png", "own/test/b/4.png", "far/a/5.png"]:
        _save(tmp_path / name, np.full((2, 2), int(name[-5])))
    root, inside, outside = tmp_path / "own", tmp_path / "own/test", tmp_path / "far"
    for held_out, train, test in (
        (inside, [1, 2, 3], [4]), (outside, [1, 2, 3, 4], [5]), (0.5, None, 2), (0.3, None, 1),
    ):  # fmt: skip
        data = load_data(root, held_out=held_out)
        values = [all_rows(part)[0][:, 0, 0, 0].tolist() for part in _parts(data)]
        assert values == [train, test] if train else len(values[1]) == test
    data = load_data(root, held_out=inside, memory=0)
    assert (data.classes, all_rows(data.test)[1].tolist()) == (("a", "b"), [1])
    for held_out, message in (
        (0.0, "held_out=0.0: give a share above 0"),
        (1, "held_out=1.0: give a share above 0 and below 1"),
        (root, "a folder that does not hold all"),
        (tmp_path / "gone", "neither a share, as 0.1, nor a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(root, held_out=held_out)
    np.save(tmp_path / "x.npy", np.zeros((40, 2), np.float32))
    (tmp_path / "x.csv").write_text("a\n" + "".join(f"{i / 3}\n" for i in range(40)))
    for name in ("x.npy", "x.csv"):
        assert len(load_data(tmp_path / name, held_out=0.25).test) == 10
        with pytest.raises(ValueError, match=r"give a share, as 0\.1; only images may"):
            load_data(tmp_path / name, held_out="y")


def test_at_least_one_is_held_out_if_there_are_two(tmp_path):
    for count, sizes in ((1, [1]), (2, [1, 1]), (3, [2, 1])):
        _save(tmp_path / f"{count}.png", _noise(2, 2))
        assert [len(part) for part in _parts(load_data(tmp_path))] == sizes


def test_images_from_files_and_from_memory_are_the_same(many):
    kept, read = load_data(many), load_data(many, memory=0)
    assert isinstance(kept.train, Arrays)
    assert isinstance(read.train, Part)
    for parts in ((kept.train, read.train), (kept.test, read.test)):
        assert all(map(torch.equal, *map(all_rows, parts)))
    exact = 300 * 3 * 4 * 4
    assert isinstance(load_data(many, memory=exact).test, Arrays)
    assert isinstance(load_data(many, memory=exact - 1).test, Part)
    stream = Batches(read.train, 16, flip=True, workers=2).stream(3)
    assert all(map(torch.equal, next(stream), Batches(kept.train, 16, flip=True)(3)))
    stream.close()


def _bomb(side):
    """A PNG of a few hundred bytes that claims side² pixels."""
    return make_png(side, side, 8, 0, bytes(1000))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Contents of files that cannot be read, by kind; None is a broken link."""
    path = tmp_path_factory.mktemp("damaged") / "whole.png"
    _save(path, _noise(16, 16, 3))
    good = path.read_bytes()
    Image.fromarray(np.ones((16, 16), dtype=np.float32)).save(path, format="TIFF")
    Image.new("RGB", (16, 16)).save(path.with_name("a.eps"))
    return {
        "empty": b"",
        "truncated": good[: len(good) * 2 // 3],
        "flipped": good[:100] + bytes(b ^ 0xFF for b in good[100:200]) + good[200:],
        "bomb": _bomb(20_000),
        "icon": struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(good), 22) + good,
        "postscript": path.with_name("a.eps").read_bytes(),
        "float": path.read_bytes(),
        "dangling": None,
    }


def _write(path, content):
    path.symlink_to("nowhere") if content is None else path.write_bytes(content)


def test_a_damaged_file_is_named_when_it_is_read(tmp_path, damaged, monkeypatch):
    # Pillow would run it for PostScript, whatever the name of the file
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("ran"))
    for i in range(3):
        _save(tmp_path / f"{i}.png", _noise(16, 16, 3))
    for kind, content in damaged.items():
        print(kind)  # shown only with a failure
        _write(tmp_path / "bad.png", content)
        with pytest.raises(OSError, match=r"bad\.png cannot be read as an image: .") as error:
            load_data(tmp_path)
        assert "BufferedReader" not in str(error.value)
        data = load_data(tmp_path, size=16, channels=3, memory=0)  # reads nothing yet
        part = data.train if "bad.png" in _names(data.train) else data.test
        with pytest.raises(OSError, match=r"bad\.png cannot be read as an image: ."):
            all_rows(part)
        (tmp_path / "bad.png").unlink()


HALF = b"Image type: L image\r\nImage size (x*y): 0.5*7\r\n".ljust(511, b"\0") + b"\x1a"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        # for which Pillow only warns
        (_bomb(10_000), r"10000 × 10000 pixels.* raise PIL\.Image\.MAX"),
        (_bomb(5_000), r"5000 × 5000 pixels in \d+ bytes.* at most 16,777,216"),
        (HALF + bytes(99), r"its size of 0\.5 × 7"),
    ],
)
def test_an_impossible_size_is_refused_before_decoding(tmp_path, monkeypatch, content, message):
    (tmp_path / "bad.png").write_bytes(content)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *args: pytest.fail("decoded"))
    with pytest.raises(OSError, match=rf"bad\.png cannot be read as an image: .*{message}"):
        load_data(tmp_path, size=4, channels=1)


def test_a_large_image_may_be_large_in_its_file_too(tmp_path, monkeypatch):
    _save(tmp_path / "a.png", _noise(16, 16, 3))
    monkeypatch.setattr("scorefield.data.decode.MAX_PIXELS", 10)
    assert _one(tmp_path / "a.png").shape == (3, 16, 16)


@pytest.mark.parametrize("memory", [0, 2**30])
def test_damaged_files_are_skipped_and_listed_if_wanted(tmp_path, damaged, memory):
    pixels = _noise(5, 16, 16, 3)
    for i, image in enumerate(pixels):
        _save(tmp_path / f"good {i}.png", image)
    for kind, content in damaged.items():
        _write(tmp_path / f"{kind}.png", content)
    data = load_data(tmp_path, skip=True, memory=memory)
    names = sorted(f"{kind}.png" for kind in damaged)
    listed = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    notice = f"left out {len(names)} of the files, which cannot be read: {listed}"
    assert data.notices == (notice,)
    images = _whole(data).permute(0, 2, 3, 1).tolist()
    assert sorted(images) == sorted(pixels.tolist())
    for path in tmp_path.glob("good*"):
        path.unlink()
    with pytest.raises(OSError, match="8 images, none of which can be read"):
        load_data(tmp_path, skip=True)
