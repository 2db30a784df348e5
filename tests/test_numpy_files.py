"""Files of arrays: vectors, images and signals in all layouts, and nothing in them is run."""

import io
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from mutations import make_zip, zip_bomb
from standins import all_rows, little_memory

from scorefield.data import Arrays, Part, load_data

RNG = np.random.default_rng(0)


def _sorted(dataset):
    x = torch.cat([all_rows(dataset.train)[0], all_rows(dataset.test)[0]]).flatten(1)
    return sorted(x.tolist())


def _load(folder, x, hdf5=False, **options):
    """Data from a file of one array, or of several by their names."""
    path = folder / ("x.h5" if hdf5 else "x.npz" if isinstance(x, dict) else "x.npy")
    if hdf5:
        with h5py.File(path, "w") as file:
            for name, array in (x if isinstance(x, dict) else {"a/b": x}).items():
                text = array.dtype.kind == "U"
                file[name] = array.astype(object) if text else array
    else:
        np.savez(path, **x) if isinstance(x, dict) else np.save(path, x)
    return load_data(path, **options)


@pytest.mark.parametrize("hdf5", [False, True])
@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_vectors_are_read_as_written(tmp_path, dtype, memory, hdf5):
    x = RNG.standard_normal((50, 3)).astype(dtype)
    data = _load(tmp_path, x, hdf5, memory=memory)
    assert (data.kind, data.name, len(data.train), len(data.test)) == ("vectors", "x", 45, 5)
    assert isinstance(data.train, Arrays if memory else Part)
    assert _sorted(data) == sorted(x.tolist())


@pytest.mark.parametrize("hdf5", [False, True])
@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize(
    "shape", [(4, 6), (1, 4, 6), (3, 4, 6), (4, 6, 1), (4, 6, 3), (2, 3, 4, 5)]
)
def test_images_are_read_with_their_channels_on_any_axis(tmp_path, shape, memory, hdf5):
    shape = (20, *shape)
    floats = np.asfortranarray(RNG.random(shape, dtype=np.float32))
    for x in (RNG.integers(0, 256, shape, dtype=np.uint8), floats):
        data = _load(tmp_path, x, hdf5, memory=memory)
        expected = x[:, None] if x.ndim == 3 else x
        expected = np.moveaxis(expected, -1, 1) if expected.shape[-1] in (1, 3) else expected
        assert data.kind == ("volumes" if len(shape) == 5 else "images")
        assert data.train.shape == expected.shape[1:]
        assert _sorted(data) == sorted(expected.reshape(20, -1).tolist())
        assert all_rows(data.train)[0].dtype == torch.from_numpy(x).dtype


def test_signals_are_read_when_asked_for(tmp_path):
    x = RNG.standard_normal((20, 3, 17)).astype(np.float32)
    for signals, shape in ((x, (3, 17)), (x[:, 0], (1, 17))):
        data = _load(tmp_path, signals, signals=True)
        assert (data.kind, data.train.shape) == ("signals", shape)
        assert _sorted(data) == sorted(signals.reshape(20, -1).tolist())
    with pytest.raises(ValueError, match="signals=true"):
        _load(tmp_path, x)
    with pytest.raises(ValueError, match="signals are floats"):
        _load(tmp_path, x[:, 0].astype(int), signals=True)


@pytest.mark.parametrize("options", [{}, {"memory": 2**30}, {"memory": 0}])
@pytest.mark.parametrize(("name", "names"), [("labels", "0123456"), ("y", "abcdefg")])
def test_labels_stay_with_their_samples(tmp_path, name, names, options):
    labels = np.resize(np.arange(7), 40)
    x = labels[:, None] + np.linspace(0, 0.5, 40)[:, None]
    stored = np.array([*names])[labels] if names[0] == "a" else labels.astype(np.uint8)
    options = options and {"hdf5": True, "labels": name, **options}
    data = _load(tmp_path, {"points": x, name: stored}, **options)
    assert data.classes == tuple(names)
    for part in (data.train, data.test):
        x, classes = all_rows(part)
        assert torch.equal(x[:, 0].floor().long(), classes)


def test_the_same_random_tenth_is_held_out_each_time(tmp_path):
    x = np.arange(100.0)[:, None]
    first, again = (all_rows(_load(tmp_path, x).test)[0].flatten() for _ in range(2))
    assert torch.equal(first, again)
    assert first.tolist() != sorted(first.tolist())[::-1]
    assert 20 < first.mean() < 80  # 49.5 and 3.2 standard errors of ten
    assert _load(tmp_path, np.ones((1, 2))).test is None


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_invalid_file_is_refused_by_name_and_nothing_is_unpickled(tmp_path, suffix):
    path, mark = tmp_path / f"x{suffix}", tmp_path / "mark"
    (np.save if suffix == ".npy" else np.savez)(path, np.array([Bomb(str(mark))], dtype=object))
    pickled, pairs = path.read_bytes(), io.BytesIO()
    header = {"descr": ("<f4", (2,)), "fortran_order": False, "shape": (6, 3)}
    np.lib.format.write_array_header_1_0(pairs, header)
    half = pairs.getvalue() + bytes(6 * 3 * 4)  # numpy would read it as 6 × 3 numbers
    for content in (pickled, pickled[: len(pickled) // 2], half, b"", b"1,2,3\n" * 100):
        path.write_bytes(content)
        with pytest.raises(OSError, match=rf"x\{suffix} cannot be read as arrays of numbers"):
            load_data(path)
    assert not mark.exists()


BROKEN = np.random.default_rng(1).random((2500, 3))
BROKEN[1234, 1] = np.nan
HUGE = BROKEN.copy()
HUGE[1234, 1] = 1e300
BRIGHT = np.random.default_rng(1).random((2500, 2, 2))
BRIGHT[2100] = 255


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (BRIGHT[:, None, None], r"row 2100 is a volume with values from .* to 255"),
        (BROKEN, "row 1234 is not finite"),
        (HUGE, "row 1234 is not finite in float32"),
        (BRIGHT, r"row 2100 is an image with values from .* to 255; .* x/255"),
        (BRIGHT.clip(max=1) * 2 - 1, r"row \d is an image with values from -"),
        (np.ones((5, 2), dtype=np.int64), "give floats"),
        (np.ones((5, 4), dtype=np.uint8), r"shape \(5, 4\)"),
        (np.ones(5), r"float64 of shape \(5,\)"),
        (np.ones((5, 3, 4, 3), dtype=np.uint8), "1 or 3 channels"),
        ({"a": np.ones((5, 2)), "b": np.ones((5, 2))}, "holds the arrays a, b"),
        ({"y": np.arange(5)}, "of labels alone"),
        ({"a": np.ones((5, 2)), "y": np.arange(4)}, r"labels of int64 and shape \(4,\) for 5"),
        ({"a": np.ones((5, 2)), "y": np.arange(5) - 1}, "an integer ≥ 0"),
        ({"a": np.ones((5, 2)), "y": np.ones(5)}, "labels of float64"),
        ({"a": np.ones((5, 2)), "y": np.arange(5) + 2**16}, "below 65,536"),
        ({"a": np.ones((0, 2))}, r"of shape \(0, 2\): it has no samples"),
        ({"a": np.ones((0, 2)), "y": np.arange(0)}, "it has no samples"),
        ({"a": np.ones(()), "y": np.arange(1)}, r"float64 of shape \(\): give floats"),
        (np.ones(()), r"float64 of shape \(\): give floats"),
    ],
)
def test_wrong_arrays_are_refused_with_what_is_expected(tmp_path, x, message):
    with pytest.raises(ValueError, match=message) as error:
        _load(tmp_path, x)
    assert "x.np" in str(error.value)


def test_one_dataset_of_a_hdf5_file_is_chosen_by_its_name(tmp_path):
    x = {"a": RNG.random((20, 2)), "b/c": RNG.random((20, 3))}
    assert _load(tmp_path, x, hdf5=True, dataset="b/c").train.shape == (3,)
    for options in ({}, {"dataset": "c"}, {"dataset": "a", "labels": "y"}):
        with pytest.raises(ValueError, match=r"x\.h5 holds the datasets a, b/c; .*dataset="):
            load_data(tmp_path / "x.h5", **options)


def test_an_invalid_hdf5_file_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["whole"] = RNG.random((20, 2))
        file["text"] = ["a", "b"]
        file.create_dataset("claimed", (2**40, 2), "f4", chunks=True)
        file.create_dataset("outside", (20, 2), "f4", external=[(str(path), 0, 160)])
    for name, message in (
        ("claimed", "cannot be read as HDF5: it unpacks to 8,796,093,022,208 bytes"),
        ("outside", "'outside' is stored in other files"),
        ("text", "object of shape .* give floats"),
    ):
        with pytest.raises((OSError, ValueError), match=rf"x\.hdf5 .*{message}"):
            load_data(path, dataset=name)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"x\.hdf5 cannot be read as HDF5: .*truncated"):
        load_data(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"x\.hdf5 needs h5py: .*scorefield.hdf5"):
        load_data(path)


HEADER_OF_4_GB = b"\x93NUMPY\2\0" + b"\xff" * 4
ARCHIVES = {
    "bomb": (lambda: zip_bomb("x.npy", 100), "unpacks to 104,857,600 bytes.*np.savez"),
    "lzma": (lambda: make_zip([("x.npy", b"")], zipfile.ZIP_LZMA), "not compressed as numpy does"),
    "a false size": (lambda: zip_bomb("x.npy", 64, claimed=100), "Bad CRC"),
    "a false length": (
        lambda: zip_bomb("x.npy", 64, claimed=10_000, head=HEADER_OF_4_GB),
        "Bad CRC",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_without_its_memory(tmp_path, name):
    make, message = ARCHIVES[name]
    (tmp_path / "x.npz").write_bytes(make())
    wrong = f"x.npz cannot be read as arrays of numbers: .*{message}"
    with little_memory(), pytest.raises(OSError, match=wrong):
        load_data(tmp_path / "x.npz")


def test_a_large_array_may_be_large_in_its_archive_too(tmp_path, monkeypatch):
    x = RNG.random((50, 3))
    monkeypatch.setattr("scorefield.data.numpy_files.MAX_UNPACKED_BYTES", 10)
    assert _sorted(_load(tmp_path, {"x": x})) == sorted(x.tolist())
