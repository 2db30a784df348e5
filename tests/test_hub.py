"""Data sets in the formats of Hugging Face's library, written here; the network is not used."""

import io
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from standins import all_rows

datasets = pytest.importorskip("datasets")
import pyarrow.parquet  # noqa: E402

from scorefield.cli import main  # noqa: E402
from scorefield.data import Arrays, Batches, Part, Stream, load_data  # noqa: E402
from scorefield.data.hub import _endless_rows  # noqa: E402

N = 60


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def _png(value, size=6):
    out = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def _table(images, labels, image="image", kind=None):
    kind = kind or datasets.ClassLabel(names=["even", "odd"])
    features = {image: datasets.Image(), "label": kind, "n": datasets.Value("int64")}
    rows = {image: images, "label": labels, "n": range(len(images))}
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


def _greys(values, **options):
    return _table([_png(v) for v in values], [v % 2 for v in values], **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Sixty images to train on, each of one grey value, and ten held out."""
    path = tmp_path_factory.mktemp("hub") / "saved"
    parts = {"train": _greys(range(N)), "test": _greys(range(100, 110))}
    datasets.DatasetDict(parts).save_to_disk(path)
    return path


def _values(source):
    x, labels = all_rows(source)
    values = x[:, 0, 0, 0]
    assert torch.equal(x, values[:, None, None, None].expand_as(x))
    assert torch.equal(values % 2, labels.to(torch.uint8))
    return values.tolist()


@pytest.mark.parametrize("memory", [0, 2**30])
def test_a_saved_data_set_is_read_as_saved(saved, memory):
    data = load_data(f"hub:{saved}", memory=memory)
    assert isinstance(data.train, Arrays if memory else Part)
    assert (data.classes, data.train.shape, data.exact) == (("even", "odd"), (1, 6, 6), True)
    assert _values(data.train) == list(range(N))
    assert _values(data.test) == list(range(100, 110))
    colour = load_data(
        f"hub:{saved}", channels=3, size=(4, 8), crop=5, fit="pad", split="test", test="train"
    )
    assert (len(colour.train), len(colour.test), colour.train.shape) == (10, N, (3, 4, 8))


def test_columns_are_guessed_or_named_and_a_fixed_tenth_is_held_out(tmp_path):
    table = _greys(range(N), image="img", kind=datasets.Value("int64"))
    table.to_parquet(tmp_path / "train-00000.parquet")
    data = load_data(f"hub:{tmp_path}")
    assert (data.classes, all_rows(data.train)[1]) == ((), None)
    first, again = (load_data(f"hub:{tmp_path}", label="label", image="img") for _ in range(2))
    assert (first.classes, len(first.test)) == (("0", "1"), N // 10)
    assert sorted(_values(first.train) + _values(first.test)) == list(range(N))
    assert _values(again.test) == _values(first.test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(image="picture"), "columns image, label, n: choose one by image"),
        (dict(image="n"), "n holds no images"),
        (dict(test="all"), "splits train, test"),
        (dict(streaming=True, buffer=0), "buffer=0"),
        (dict(streaming=True, label="n"), "needs the number of classes"),
        (dict(tokens=1), "hub option tokens does not exist"),
    ],
)
def test_wrong_options_are_named(saved, options, message):
    with pytest.raises(ValueError, match=message):
        load_data(f"hub:{saved}", **options)


def test_invalid_rows_are_named(tmp_path):
    for image, label, message in (
        ({"bytes": b"no image", "path": None}, 1, "row 1 cannot be read as an image"),
        (None, 1, "row 1 has no image"),
        (_png(1), -1, "label is not a class for each row"),
        (_png(1, 7), 1, "row 0 has 6 × 6 pixels, row 1 7 × 7"),
    ):
        path = tmp_path / message[-5:]
        _table([_png(0), image], [0, label]).save_to_disk(path)
        with pytest.raises((OSError, ValueError), match=message):
            load_data(f"hub:{path}")


def test_columns_of_bytes_and_paths_are_read_as_images(tmp_path):
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    (tmp_path / "a.png").write_bytes(_png(7)["bytes"])
    here = {"bytes": None, "path": str(tmp_path / "a.png")}
    for name, last in (("good", here), ("bad", {"bytes": None, "path": "/dev/zero"})):
        table = pyarrow.table({"image": pyarrow.array([_png(0), last], kind)})
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(table, tmp_path / name / "train.parquet")
    data = load_data(f"hub:{tmp_path / 'good'}", memory=0)
    assert sorted(all_rows(part)[0].max().item() for part in (data.train, data.test)) == [0, 7]
    with pytest.raises(OSError, match="/dev/zero is not a regular file"):
        load_data(f"hub:{tmp_path / 'bad'}")


def test_data_that_cannot_be_loaded_are_named_and_run_no_code(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="hub:nobody/nothing cannot be loaded: "):
        load_data("hub:nobody/nothing")
    ran = tmp_path / "ran"
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(OSError, match="script cannot be loaded"):
        load_data(f"hub:{tmp_path / 'script'}")
    assert not ran.exists()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ImportError, match="install 4 or newer"):
        load_data("hub:nobody/nothing")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'scorefield\[hub\]'"):
        load_data("hub:nobody/nothing")


def _next(stream, count):
    """The grey values v of the images of the next batches, from (v + ½)/256."""
    return [(256 * x[:, 0, 0, 0] - 0.5).round().int().tolist() for x, _ in islice(stream, count)]


def _stream(data, start=0, **options):
    return Batches(data.train, 5, dequantise=False, **options).stream(start)


def test_a_stream_goes_through_all_samples_in_each_pass(saved):
    data = load_data(f"hub:{saved}", streaming=True, buffer=16)
    assert isinstance(data.train, Stream)
    assert (data.exact, len(data.classes), len(data.train), len(data.test)) == (False, 2, 16, 10)
    assert _values(data.test) == list(range(100, 110))
    batches = [*islice(_stream(data), 24)]
    values = _next(batches, 24)
    assert [batch.labels.tolist() for batch in batches] == [[v % 2 for v in row] for row in values]
    first, second = np.reshape(values, (2, N)).tolist()
    assert sorted(first) == sorted(second) == list(range(N))
    assert list(range(N)) != first != second != list(range(N))


def test_a_stream_is_read_ahead_and_shared(saved):
    data = load_data(f"hub:{saved}", streaming=True, buffer=16)
    plain = _next(_stream(data), 20)
    ahead = _stream(data, workers=3)
    assert _next(ahead, 20) == plain
    ahead.close()
    shares = [_next(_stream(data, rank=rank, world=5), 20) for rank in range(5)]
    assert [[v for (v,) in parts] for parts in zip(*shares, strict=True)] == plain
    with pytest.raises(ValueError, match="no batch by step"):
        Batches(data.train, 5)(3)


def test_a_stream_without_a_test_split_holds_out_its_first_rows(tmp_path):
    _greys(range(N)).to_parquet(tmp_path / "train-00000.parquet")
    data = load_data(f"hub:{tmp_path}", streaming=True)
    assert _values(data.test) == list(range(6))
    rows = np.concatenate(_next(_stream(data), 11))
    assert sorted(rows[: N - 6]) == list(range(6, N))


def test_a_streamed_run_warns_that_its_resume_is_not_exact(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--training.batch=4", "--keeping.samples=0", "--machine.threads=1"]
    quick += ["--set=network={kind: MLP, width: 8, blocks: 1}", "--data.options.buffer=20"]
    source = ["--data", f"hub:{saved}", "--data.options.streaming=true"]
    assert main(["train", *source, "--out", "runs/a", "--steps", "2", *quick]) == 0
    assert "exact resume cannot be promised" in capsys.readouterr().out
    assert Path("runs/a/model.safetensors").exists()


def test_a_broken_stream_is_named():
    class Breaking:
        def shuffle(self, **options):
            yield {"image": None}
            raise RuntimeError("the footer is gone")

    rows = _endless_rows("faces", Breaking(), None, 16, 0)
    assert next(rows) == {"image": None}
    with pytest.raises(OSError, match="hub:faces could not be read further: the footer is gone"):
        next(rows)
