"""Files of samples: the pixels that were meant, and how they were made."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from scorefield.show.images import animation, as_bytes, grid, write, write_batches

ABOUT = {"sampler": "heun", "seed": 3, "σ": [1.0, 0.5]}


def _read_metadata(path):
    with Image.open(path) as image:
        return json.loads(image.text["scorefield"])


def test_bytes_are_the_inverse_of_dequantisation():
    byte = torch.arange(256)
    for u in (0.0, 0.5, 0.999):
        x = ((byte + u) / 256).view(1, 1, 16, 16)
        assert torch.equal(as_bytes(x).flatten().long(), byte)
    odd = torch.tensor([-0.2, 1.0, 7.0, torch.nan, torch.inf]).view(1, 1, 1, 5)
    assert as_bytes(odd).flatten().tolist() == [0, 255, 255, 0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_each_image_in_its_place(tmp_path, channels):
    x = torch.rand(5, channels, 8, 6)
    write(tmp_path / "a.png", x, ABOUT)
    assert _read_metadata(tmp_path / "a.png") == ABOUT
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    assert shown.shape[:2] == (12 * (2 * 9 - 1), 12 * (3 * 7 - 1))  # 12 × 8 = 96
    small = shown[6::12, 6::12].reshape(17, 20, channels)
    for i, image in enumerate(as_bytes(x).permute(0, 2, 3, 1).numpy()):
        top, left = i // 3 * 9, i % 3 * 7
        np.testing.assert_array_equal(small[top : top + 8, left : left + 6], image)
    assert (small[9:, 14:] == 255).all()


def test_single_images_and_arrays_hold_the_samples(tmp_path):
    x = torch.rand(3, 3, 8, 8) * 1.4 - 0.2
    write(tmp_path / "many", x, ABOUT)
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == [f"{i:06d}.png" for i in range(3)]
    second = np.asarray(Image.open(tmp_path / "many/000001.png"))
    np.testing.assert_array_equal(second, as_bytes(x)[1].permute(1, 2, 0).numpy())
    assert _read_metadata(tmp_path / "many/000001.png") == {**ABOUT, "sample": 1}
    (tmp_path / "x.json").write_text("of another file")
    write(tmp_path / "x.npy", x, ABOUT)
    assert (tmp_path / "x.json").read_text() == "of another file"
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x.numpy())  # nothing is clipped
    assert json.loads((tmp_path / "x.npy.json").read_text()) == ABOUT


def test_a_folder_loses_older_samples_if_asked_and_never_other_files(tmp_path):
    folder, x = tmp_path / "many", torch.rand(3, 1, 8, 8)
    write(folder, x, ABOUT)
    (folder / ".DS_Store").touch()
    with pytest.raises(ValueError, match="holds 3 samples: replace them with --overwrite"):
        write(folder, x[:2], ABOUT)
    write(folder, x[:2], ABOUT, overwrite=True)
    sample = (folder / "000001.png").read_bytes()
    for name, content in (("best.png", sample), ("000002.png", b"a photograph")):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}, which is not a sample: name another folder"):
            write(folder, x, ABOUT, overwrite=True)
        assert (folder / name).read_bytes() == content
        (folder / name).unlink()
    assert {p.name for p in folder.iterdir()} == {".DS_Store", "000000.png", "000001.png"}


@pytest.mark.parametrize("name", ["x.npy", "grid.png", "singly"])
def test_parts_make_the_same_files_as_the_whole(tmp_path, name):
    x = torch.rand(7, 3, 8, 8)
    write(tmp_path / "whole" / name, x, ABOUT)
    with write_batches(tmp_path / "parts" / name, 7, x.shape[1:], ABOUT) as add:
        for part in x.split(3):
            add(part)
    whole, parts = (
        {p.relative_to(top): p.read_bytes() for p in top.rglob("*.*")}
        for top in (tmp_path / "whole", tmp_path / "parts")
    )
    assert whole == parts


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_an_animation_has_its_frames_in_order(tmp_path, suffix):
    frames = [grid(torch.full((1, 1, 8, 8), level)) for level in (0.0, 0.5, 1.0)]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(animation(frames, suffix, ABOUT))
    with Image.open(path) as read:
        about = read.text["scorefield"] if suffix == ".png" else read.info["comment"].decode()
        assert read.n_frames == 3
        values = [np.asarray(frame.convert("L")).mean() for frame in ImageSequence.Iterator(read)]
    assert values == [0, 128, 255]
    assert json.loads(about) == ABOUT
    for images, name, message in (([], suffix, "frames is empty"), (frames, ".mp4", r"not \.mp4")):
        with pytest.raises(ValueError, match=message):
            animation(images, name, ABOUT)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a.jpg", (2, 1, 8, 8), "as .png, as .npy"),
        ("a.png", (2, 64), "not images, write them as .npy"),
        ("a.png", (2, 2, 8, 8), "not images"),
        ("folder.png", (2, 1, 8, 8), "is a directory"),
        ("file", (2, 1, 8, 8), "is a file"),
    ],
)
def test_an_unsuitable_file_name_is_refused(tmp_path, name, shape, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, torch.zeros(shape), ABOUT)
