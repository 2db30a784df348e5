"""Folders of images: what Pillow reads becomes the right pixels, what it cannot is named."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from scorefield.data import Arrays, Batches, Pictures, load_data
from scorefield.data.picture import Reader, header

RNG = np.random.default_rng(0)


def _save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def _noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _everything(source):
    images, labels = source.take(torch.arange(len(source)))
    return images, labels


def _whole(dataset):
    """All images, the held-out ones last."""
    parts = [dataset.train] if dataset.test is None else [dataset.train, dataset.test]
    return torch.cat([_everything(part)[0] for part in parts])


def _one(path, **options):
    """The only image of a folder."""
    data = load_data(path.parent, **options)
    assert data.test is None
    return _everything(data.train)[0][0]


# ── Pixels ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back(tmp_path, channels):
    pixels = _noise(5, 7, 3) if channels == 3 else _noise(5, 7)
    _save(tmp_path / "a.png", pixels)
    image = _one(tmp_path / "a.png")
    assert torch.equal(image, torch.from_numpy(pixels.reshape(5, 7, channels)).permute(2, 0, 1))


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_says_which_way_is_up(tmp_path, orientation):
    stored, exif = _noise(4, 6), Image.Exif()
    exif[0x0112] = orientation
    _save(tmp_path / "a.png", stored, exif=exif)
    upright = UPRIGHT[orientation](stored).copy()
    assert torch.equal(_one(tmp_path / "a.png")[0], torch.from_numpy(upright))
    assert header(tmp_path / "a.png")[:2] == upright.shape[::-1]


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        image = _one(tmp_path / name)
        assert image.flatten().tolist() == np.round(values / 257).astype(int)[0].tolist()
        (tmp_path / name).unlink()


def test_modes_become_grey_or_rgb(tmp_path):
    path = tmp_path / "a"
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 0, 7, 0, 0, 255])
    cmyk = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    cases = [
        (palette, "png", {}, [[10, 20, 30], [200, 0, 7], [0, 0, 255]]),
        (palette, "gif", {}, [[10, 20, 30], [200, 0, 7], [0, 0, 255]]),
        # what is transparent shows the white below
        (palette, "png", {"transparency": 1}, [[10, 20, 30], [255, 255, 255], [0, 0, 255]]),
        (cmyk, "tiff", {}, [[255, 0, 0]]),
        (bits, "png", {}, [[0], [255]]),
    ]
    for image, suffix, options, expected in cases:
        image.save(path.with_suffix("." + suffix), **options)
        found = _one(path.with_suffix("." + suffix))
        assert found[:, 0].T.tolist() == expected
        path.with_suffix("." + suffix).unlink()


def test_transparency_lies_over_white(tmp_path):
    rgba = np.array([[[0, 0, 0, 0], [9, 8, 7, 255], [0, 100, 255, 51]]], dtype=np.uint8)
    _save(tmp_path / "a.png", rgba)
    # 255 · (1 − 51/255) + v · 51/255
    assert _one(tmp_path / "a.png")[:, 0].T.tolist() == [
        [255, 255, 255],
        [9, 8, 7],
        [204, 224, 255],
    ]
    assert _one(tmp_path / "a.png", channels=1)[0, 0, 0] == 255


def test_channels_are_grey_only_if_every_image_is(tmp_path):
    _save(tmp_path / "a.png", _noise(3, 3))
    _save(tmp_path / "b.png", _noise(3, 3))
    assert _whole(load_data(tmp_path)).shape == (2, 1, 3, 3)
    assert _whole(load_data(tmp_path, channels=3)).shape == (2, 3, 3, 3)
    _save(tmp_path / "c.png", _noise(3, 3, 3))
    assert _whole(load_data(tmp_path)).shape == (3, 3, 3, 3)


def test_crop_and_scale(tmp_path):
    pixels = np.zeros((8, 12), dtype=np.uint8)
    pixels[:, 2:6], pixels[:, 6:10] = 100, 200  # the central square
    _save(tmp_path / "a.png", pixels)
    square = _one(tmp_path / "a.png", size=8)
    assert torch.equal(square[0], torch.from_numpy(pixels[:, 2:10]))
    assert _one(tmp_path / "a.png", crop=4)[0].tolist() == pixels[2:6, 4:8].tolist()
    # what is cut off does not show in what is scaled
    framed = np.full((8, 12), 255)
    framed[2:6, 4:8] = 100
    _save(tmp_path / "a.png", framed)
    assert _one(tmp_path / "a.png", crop=4, size=32).unique().tolist() == [100]
    with pytest.raises(ValueError, match=r"crop=9, but .*a\.png has 12 × 8"):
        load_data(tmp_path, crop=9)


def test_scaling_down_keeps_the_mean(tmp_path):
    """A filter that only looks at some of the pixels would not."""
    pixels = np.indices((64, 64)).sum(0) % 2 * 255
    _save(tmp_path / "a.png", pixels)
    small = _one(tmp_path / "a.png", size=8).float()
    assert (small[:, 1:-1, 1:-1] - 127.5).abs().max() < 3


def test_images_of_several_sizes_ask_for_one(tmp_path):
    _save(tmp_path / "a.png", _noise(4, 6))
    _save(tmp_path / "b.png", _noise(6, 4))
    with pytest.raises(ValueError, match=r"a\.png has 6 × 4 pixels, b\.png 4 × 6; give"):
        load_data(tmp_path)
    assert _whole(load_data(tmp_path, size=4)).shape == (2, 1, 4, 4)


# ── Which files ──────────────────────────────────────────────────────────────────────────────────


def test_listing_is_sorted_deep_and_ignores_the_rest(tmp_path):
    for i, name in enumerate(["b/2.png", "b/deep/1.BMP", "a/9.jpeg", "a/10.png"]):
        _save(tmp_path / name, np.full((2, 2), 60 * i))
    for name in ("a/.hidden.png", ".cache/x.png"):
        _save(tmp_path / name, _noise(9, 9))
    (tmp_path / "a/notes.txt").write_text("not an image")
    (tmp_path / "a/data.h5").write_text("nor this")
    data = load_data(tmp_path, labels=True, memory=0)
    assert sorted([*data.train.files.names, *data.test.files.names]) == [
        "a/10.png",
        "a/9.jpeg",
        "b/2.png",
        "b/deep/1.BMP",
    ]
    assert list(data.train.files.names) == sorted(data.train.files.names)
    assert (data.classes, data.name) == (2, tmp_path.name)
    for part in (data.train, data.test):
        _, labels = _everything(part)
        assert labels.tolist() == [int(name.startswith("b")) for name in part.files.names]
    _save(tmp_path / "loose.png", _noise(2, 2))
    with pytest.raises(ValueError, match=r"loose\.png lies in none"):
        load_data(tmp_path, labels=True)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(OSError, match="holds no images, and 1 files that are none"):
        load_data(tmp_path)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    for i in range(300):
        _save(root / f"{'ab'[i % 2]}/{i}.png", _noise(4, 4, 3))
    return root


def test_a_twentieth_is_held_out_and_stays_so(many):
    held = set(load_data(many, memory=0).test.files.names)
    assert abs(len(held) - 15) < 4 * (300 * 0.05 * 0.95) ** 0.5
    for i in range(300, 340):
        _save(many / f"a/{i}.png", _noise(4, 4, 3))
    later = load_data(many, memory=0)
    assert held == {name for name in later.test.files.names if int(name[2:-4]) < 300}
    assert not set(later.test.files.names) & set(later.train.files.names)
    for i in range(300, 340):
        (many / f"a/{i}.png").unlink()


def test_at_least_one_is_held_out_if_there_are_two(tmp_path):
    _save(tmp_path / "a.png", _noise(2, 2))
    assert load_data(tmp_path).test is None
    for i in range(10):
        _save(tmp_path / f"{i}.png", _noise(2, 2))
        data = load_data(tmp_path)
        assert len(data.test) >= 1
        assert len(data.train) + len(data.test) == i + 2


def test_files_give_what_memory_gives(many):
    kept, read = load_data(many, labels=True), load_data(many, labels=True, memory=0)
    assert isinstance(kept.train, Arrays)
    assert isinstance(read.train, Pictures)
    for a, b in ((kept.train, read.train), (kept.test, read.test)):
        assert all(torch.equal(*both) for both in zip(_everything(a), _everything(b), strict=True))
    exact = 300 * 3 * 4 * 4
    assert isinstance(load_data(many, memory=exact).test, Arrays)
    assert isinstance(load_data(many, memory=exact - 1).test, Pictures)
    batches = Batches(kept.train, 16, flip=True)
    stream = Batches(read.train, 16, flip=True, workers=2).stream(3)
    for step in range(3, 30):
        ahead, now = next(stream), batches(step)
        assert torch.equal(ahead.x, now.x)
        assert torch.equal(ahead.labels, now.labels)
    stream.close()


# ── Damage ───────────────────────────────────────────────────────────────────────────────────────


def _chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _bomb(width=20_000, height=20_000):
    """A PNG of a few hundred bytes that claims 400 million pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _damage(path, kind):
    whole = path.with_name("whole.png")
    _save(whole, _noise(16, 16, 3))
    good = whole.read_bytes()
    whole.unlink()
    if kind == "dangling":
        os.symlink(path.with_name("nowhere"), path)
    elif kind == "float":
        Image.fromarray(np.ones((16, 16), dtype=np.float32)).save(path, format="TIFF")
    else:
        contents = {
            "empty": b"",
            "text": b"an image? " * 50,
            "truncated": good[: len(good) * 2 // 3],
            "flipped": good[:100] + bytes(b ^ 0xFF for b in good[100:200]) + good[200:],
            "bomb": _bomb(),
            "small bomb": _bomb(10_000, 10_000),  # of which Pillow only warns
            "smaller bomb": _bomb(5_000, 5_000),
            "icon": struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(good), 22) + good,
            "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n",
        }
        path.write_bytes(contents[kind])


KINDS = [
    "empty",
    "text",
    "truncated",
    "flipped",
    "bomb",
    "small bomb",
    "smaller bomb",
    "icon",
    "postscript",
    "dangling",
    "float",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(tmp_path, kind):
    for i in range(3):
        _save(tmp_path / f"{i}.png", _noise(16, 16, 3))
    _damage(tmp_path / "bad.png", kind)
    with pytest.raises(OSError, match=r"bad\.png cannot be read as an image: ."):
        load_data(tmp_path)
    # and when nothing is read before it is asked for
    data = load_data(tmp_path, size=16, channels=3, memory=0)
    part = data.train if "bad.png" in data.train.files.names else data.test
    with pytest.raises(OSError, match=r"bad\.png cannot be read as an image: ."):
        _everything(part)


@pytest.mark.filterwarnings("ignore")
def test_a_bomb_is_told_how_to_be_trusted(tmp_path):
    _damage(tmp_path / "bad.png", "small bomb")
    with pytest.raises(OSError, match=r"10000 × 10000 pixels.* raise PIL\.Image\.MAX"):
        load_data(tmp_path)
    _damage(tmp_path / "bad.png", "smaller bomb")
    with pytest.raises(OSError, match=r"5000 × 5000 pixels in \d+ bytes.* scale it to 16,777,216"):
        load_data(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_size_that_is_no_number_of_pixels(tmp_path):
    head = b"Image type: L image\r\nImage size (x*y): 0.5*7\r\n".ljust(511, b"\0")
    (tmp_path / "bad.im").write_bytes(head + b"\x1a" + bytes(99))
    with pytest.raises(OSError, match=r"bad\.im cannot be read as an image: its size of 0\.5 × 7"):
        load_data(tmp_path)


def test_an_image_may_be_large_that_is_not_small(tmp_path, monkeypatch):
    pixels = _noise(16, 16, 3)
    _save(tmp_path / "a.png", pixels)
    monkeypatch.setattr("scorefield.data.picture.PIXELS", 10)
    assert _one(tmp_path / "a.png").permute(1, 2, 0).tolist() == pixels.tolist()


@pytest.mark.parametrize("memory", [0, 2**30])
def test_damaged_files_are_left_out_and_listed_if_wanted(tmp_path, memory):
    pixels = {f"good {i}.png": _noise(16, 16, 3) for i in range(5)}
    for name, image in pixels.items():
        _save(tmp_path / name, image)
    for kind in KINDS:
        _damage(tmp_path / f"{kind}.png", kind)
    data = load_data(tmp_path, skip=True, memory=memory)
    assert data.skipped == tuple(sorted(f"{kind}.png" for kind in KINDS))
    found = sorted(_whole(data).permute(0, 2, 3, 1).flatten(1).tolist())
    assert found == sorted(image.flatten().tolist() for image in pixels.values())
    for name in pixels:
        (tmp_path / name).unlink()
    with pytest.raises(OSError, match="11 images, none of which can be read"):
        load_data(tmp_path, skip=True)


def test_no_other_program_is_run(tmp_path, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    calls = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: calls.append(args))
    Image.new("RGB", (4, 4)).save(tmp_path / "bad.png", format="EPS")
    with pytest.raises(OSError, match=r"bad\.png cannot be read as an image"):
        load_data(tmp_path, size=4)
    assert not calls


def test_a_reader_gives_one_shape_whatever_it_reads(tmp_path):
    _save(tmp_path / "a.png", _noise(8, 8))
    assert Reader(3, 4, 6)(tmp_path / "a.png").shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size=0"), ({"crop": -1}, "crop=-1"), ({"channels": 4}, "channels=4")],
)
def test_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path, **options)
