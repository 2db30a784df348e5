"""Damaged and hostile files for every parser: each gives a clear error or a right result.

A clear error is a ValueError or an OSError that names the file or the field. Faults are any other
error, a result that the file cannot hold, more than 300 MB of memory (measured in Linux only), an
input that takes more than a minute, and the end of the process. The smallest input with a fault
stays in the folder `input` of the test's temporary folder. `make fuzz` tries 10,000.
"""

import functools
import gc
import io
import itertools
import json
import os
import re
import shutil
import signal
import stat
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pyarrow.csv
import pytest
import torch
from edm_reference import draw_network, dump
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from mutations import EXIF_OF_TEXT, damage, make_hostile, make_png, make_zip
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialise
from standins import write_cifar10, write_mnist

from scorefield import MLP, Prior, ScoreModel, UNet, checkpoint, load
from scorefield.convert import from_official
from scorefield.convert.shared import read_pickle
from scorefield.data import DATASETS, Table, load_data
from scorefield.data.decode import image_formats
from scorefield.precondition import EDM, VP, NCSNv2, VEDiscrete
from scorefield.runs import config
from scorefield.runs.presets import PRESETS

SIGNALS = signal.SIGPROF, signal.SIGALRM
MEMORY_BYTES = 300 * 2**20
"""Largest rise of the process's peak memory that one input may cause."""


def _peak():
    """Return the peak memory of this process in bytes since the last reset; 0 if unknown."""
    with suppress(OSError, IndexError):
        _, _, rest = Path("/proc/self/status").read_text().partition("VmHWM:")
        return int(rest.split()[0]) * 1024
    return 0


def _names_file(files, message):
    return any(Path(name).name in message for name in files)


def _limit(seconds):
    """Interrupt Python code after so much processor time, or while it waits; 0 for never.

    A call of C code is interrupted when it returns.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)  # which other processes do not change
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _check(read, files, folder, names=_names_file, *, seconds=60):
    """Read an input; fail unless the result is right or the error is clear."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content(folder / name) if callable(content) else (folder / name).write_bytes(content)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, error = _peak(), None

    def stop(*_):
        _limit(0)  # neither may come later, in another test
        for number in SIGNALS:  # both may have come in one call of C code
            signal.signal(number, lambda *_: None)
        pytest.fail(f"no end after {seconds} s")

    for number in SIGNALS:
        signal.signal(number, stop)
    _limit(seconds)
    try:
        read(folder)
    except (ValueError, OSError) as raised:
        error = raised
    finally:
        _limit(0)
    assert _peak() - before <= MEMORY_BYTES
    if error:
        # a UnicodeError is Python's own and says nothing of the file
        clear = names(files, str(error)) and not isinstance(error, UnicodeError)
        assert clear, f"an unclear error: {type(error).__name__}: {str(error)[:300]}"
        assert len(str(error)) <= 5000
    return "refused" if error else "read"


def _change_file(rng, seeds, tokens):
    """Change one file of one of the seeds; `tokens` are put anywhere."""
    files = rng.choice(seeds)
    name = rng.choice(sorted(files))
    others = [content for seed in seeds for content in seed.values()]
    return files | {name: make_hostile(rng, files[name], others, tokens)}


def _write(write, *args, **options):
    """Return the files that a function writes into a folder."""
    with TemporaryDirectory() as folder:
        write(Path(folder), *args, **options)
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _save(save, *args, **options):
    out = io.BytesIO()
    save(out, *args, **options)
    return out.getvalue()


def _take_all(dataset, most=100):
    """Return all samples of a data set, after a check of the shapes and the labels."""
    samples = []
    for part in filter(None, (dataset.train, dataset.test)):
        x, labels = part.take(torch.arange(min(len(part), most)))
        assert x.shape[1:] == part.shape == dataset.train.shape
        assert x.isfinite().all()
        assert (labels is None) == (dataset.classes == ())
        if labels is not None:
            assert labels.dtype == torch.int64
            assert 0 <= labels.min() <= labels.max() < len(dataset.classes)
        samples.append(x)
    return torch.cat(samples)


def _read_images(folder, name=None, shape=None, **options):
    data = load_data(name, root=folder, **options) if name else load_data(folder)
    x = _take_all(data)
    assert x.dtype == torch.uint8
    assert x.shape[1:] == shape or (shape is None and x.shape[1] in (1, 3))
    assert len(data.classes) == (10 if name in ("mnist", "cifar10") else 0)


_read_mnist = functools.partial(_read_images, name="mnist", shape=(1, 28, 28))
_read_cifar = functools.partial(_read_images, name="cifar10", shape=(3, 32, 32))
_read_celeba = functools.partial(_read_images, name="celeba", shape=(3, 4, 4), size=4, crop=6)


def _cifar_seeds(binary=False):
    return [_write(write_cifar10, 1, packed=packed, binary=binary) for packed in (False, True)]


PICKLES = (
    *(b"(", b")", b"]", b"}", b"N", b"R", b"b", b"t", b"e", b"u", b"s", b"a", b".", b"0", b"2"),
    *(b"\x85", b"\x86", b"\x87", b"K\x01", b"q\x01", b"h\x01", b"r\xff\xff\xff\x7f", b"h\xff"),
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"cnumpy\nndarray\n", b"X\xff\xff\xff\x7f", b"j"),
    *(b"T\xff\xff\xff\x7f", b"T\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x8a\xffa", b"I99\n"),
    *(b"(" * 2000, b"]" * 2000, b"}" * 999, b"\x85" * 5000, b"h\x01" * 999, b"I" + b"9" * 9999),
)
NETWORKS = tuple(
    b"\x8c" + bytes([len(name)]) + name
    for name in b"ema state _modules _parameters weight num_heads EDMPrecond 64x64_block0".split()
)
NUMPY = (
    *b"() (0,) (2,3) (-1,3) (3,-1) (0,5) (6,3,1) (2**62,3) (4611686018427387904,4) 6".split(),
    *b"(9223372036854775808,1) (1e9,3) (16777216,64) ('6',3) (6,3 (True,3) True None 2".split(),
    *b"'<f4' '>f8' '<f2' '|u1' '|b1' '<i8' '|O' '<c8' '<U9' '|S0' '|V8' '<U999999999'".split(),
    *b"'|V0' '<M8[s]' '<g' '<f16' '(2,)<f4' 'f4,f4' 8 [('a','<f4')] [('a','|O')] {} '>'".split(),
    *b"[('a','<f4',(99999,99999))] [] ('<f4',(2,)) ('<f4',{}) __import__ '<f4'))".split(),
    *(b"(" + b"1, " * 70 + b")", b" " * 9000, b"(" * 90 + b")" * 90),
)


def _npz_seeds():
    rng = np.random.default_rng(0)
    signals, images = rng.random((4, 1, 5)), rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    arrays = [rng.random((6, 3), np.float32), images, signals[:, 0].astype(">f2"), signals]
    x, z, _, packed = contents = [_save(np.save, array) for array in arrays]
    labelled = make_zip([("x.npy", x), ("y.npy", _save(np.save, np.arange(6) % 3))])
    return [
        *({"x.npy": content} for content in contents),
        {"signals.npy": packed},
        {"signals.npz": make_zip([("x.npy", packed)])},
        {"x.npz": labelled},
        {"x.npz": make_zip([("x.npy", z)], zipfile.ZIP_DEFLATED)},
    ]


def _read_npz(folder):
    (path,) = folder.iterdir()
    signals, again = path.stem == "signals", torch.empty(0)
    x = _take_all(load_data(path, signals=signals))
    with suppress(ValueError, OSError):
        again = _take_all(load_data(path, signals=signals, memory=0))  # from the file
    assert torch.equal(x, again)
    assert path.suffix == ".npz" or x.nbytes <= path.stat().st_size
    # as batches have it: in 64 bits a number may be beyond by too little
    assert x.ndim != 4 or x.dtype == torch.uint8 or (x.float() == x.float().clamp(0, 1)).all()


def _picture(name, mode="RGB", exif=None):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "turned"
    return _save(Image.fromarray(pixels).convert(mode).save, name, exif=exif or turned)


def _picture_seeds():
    contents, formats = [], [name for name in image_formats() if name != "SPIDER"]  # of floats
    for name, mode in itertools.product(formats, ("RGB", "L", "RGBA", "P", "1", "I;16")):
        # the format may not have this mode, or Pillow may not write it
        with suppress(OSError, KeyError, ValueError, TypeError, AttributeError):
            content = _picture(name, mode)
            Image.open(io.BytesIO(content), formats=formats).load()
            contents.append(content)
    contents += [_picture(name, exif=EXIF_OF_TEXT) for name in ("PNG", "JPEG")]
    for colour, size in ((2, 6), (4, 4)):  # 16 bits of RGB, and of grey and alpha
        rows = b"".join(b"\0" + bytes(range(i, i + 3 * size)) for i in (0, 40))
        contents.append(make_png(3, 2, 16, colour, rows))
    return [{"x.png": content} for content in contents]


LINES = (b"\n", b" ", b"3", b"2.jpg 1\n", b"\x85", b"\xff", b"\0", b"9" * 9999)


def _celeba_seeds():
    faces = make_zip((f"img_align_celeba/{i}.jpg", _picture("JPEG")) for i in (1, 2, 3))
    packed = {"img_align_celeba.zip": faces}
    return [packed, packed | {"list_eval_partition.txt": b"1.jpg 0\n2.jpg 0\n3.jpg 2\n"}]


CELLS = (
    *b'"" "" "," , ,, ; nan NA ? 1e999 -1e99 1e-400 inf 0x10 1_000 +5 -0 1. . e5 0.5 -7'.split(),
    *(b"\n", b"\r", b"\r\n", b"\t", b"\0", b" ", b"1 2", b"\xff", b"\xef\xbb\xbf", b"\x1c", b"\\"),
    *(b"\x85", "\u0663".encode(), "\u2028".encode(), b"9" * 400, b"x" * 1_100_000, b"a," * 3000),
    *(b"\n" * 3000, b"1\n" * 500, b'"' * 999, b"1e" + b"9" * 40, b"\n1.0,2,red,1"),
    *(b"\n1e99,1e99,red,1", b"\n1,99999999999999999999,x,1"),
)


def _csv_seeds():
    rows = [f"{i / 7:.3f},{i},{('red', 'green', 'blue')[i % 3]},{i % 2}" for i in range(25)]
    plain = "size,count,colour,flag\n" + "\n".join(rows) + "\n"
    quoted = plain.replace("red", '"a ""red"", one"').replace("\n", "\r\n")
    tabs = plain.replace(",", "\t").replace("size", "größe")
    texts = [plain, "\ufeff" + quoted, plain.replace(",", ";").replace(".", "e-1")]
    return [{"x.tsv": tabs.encode()}, *({"x.csv": text.encode()} for text in texts)]


def _read_rows(path):
    data = load_data(path)
    x = _take_all(data, 10**6)
    assert x.dtype == torch.float32
    assert x.shape == (len(data.train) + len(data.test), data.table.size)
    rows = list(data.table.decode(x))
    assert 2 <= len(rows) == len(x)
    return data, rows


def _read_csv(folder):
    (path,) = folder.iterdir()
    (data, rows), text = _read_rows(path), path.read_text("utf-8-sig")
    assert len(rows) <= text.count("\n") + text.count("\r") + 1
    for column, texts in zip(data.table.columns, zip(*rows, strict=True), strict=True):
        if column.kind == "category":
            assert set(texts) == set(column.categories)
            assert all(cell in text or '""' in text for cell in texts)
        elif max(map(abs, column.range)) < 1e15:  # beyond, halves are rounded away
            low, high = column.range
            assert all(low - 0.5 <= float(cell) <= high + 0.5 for cell in texts)


def _parquet_seeds():
    table = pyarrow.csv.read_csv(io.BytesIO(_csv_seeds()[1]["x.csv"]))
    codes = [*("snappy", "zstd", "gzip", "none"), *("brotli", "lz4")]
    kinds = [{"compression": code, "row_group_size": 20} for code in codes]
    kinds += [{"use_dictionary": False, "data_page_version": "2.0", "write_page_index": True}]
    return [
        {"x.parquet": _save(lambda out, **k: parquet.write_table(table, out, **k), **kind)}
        for kind in kinds
    ]


def _read_parquet(folder):
    _read_rows(folder / "x.parquet")


def _table_seeds():
    (files,) = _csv_seeds()[1:2]
    with TemporaryDirectory() as folder:
        Path(folder, "x.csv").write_bytes(files["x.csv"])
        text = load_data(Path(folder, "x.csv")).table.as_json()
    return [{"table.json": text.encode()}]


def _read_table(folder):
    table = Table.read(folder)
    for row in table.decode(torch.zeros(2, table.size)):
        assert len(row) == len(table.columns)


LAUGHS = b"".join(b"a%d: &a%d [%s]\n" % (i, i, b"*a%d," % (i - 1) * 9) for i in range(1, 12))
YAML = (
    *b"&a |*a|<<: *a\n|? |- |{|}|[|]|: |\t|---\n|#|!!binary |!!set |!!int |!!float x|~".split(b"|"),
    *b"!!python/object/apply:os.system [ls]|2001-01-01|2001-99-99|.nan|.inf|-.inf".split(b"|"),
    *b"1:60:60|!!int ''|!!timestamp x|!!bool x|%YAML 9.9\n|\xc2\x85|\xff|\0|&a [*a]".split(b"|"),
    *b"{x: &a [x], y: *a}|1e999|0o7|0b1|on|seed: |network: |data: |options: |digits".split(b"|"),
    *b"meta|cuda|1000000000|1e18|threads: 9999999|blocks: 10000000|batch: 100000000".split(b"|"),
    *b"{kind: MLP, width: |training.steps|1.2.3|'|null|true|-1|0.5|5e-324|[1, 2]".split(b"|"),
    *(b"|\n", b'"', b"0x" + b"f" * 5000, b"9" * 5000, b"[" * 3000, b"{a: " * 500, b"- " * 2000),
    *(b"10" * 160, "\N{GRINNING FACE}".encode(), b"x" * 70_000, b"10000000000000000000"),
    b"a0: &a0 [lol]\n" + LAUGHS,
)
SECTIONS = json.loads(config.as_json(config.Experiment()))


def _config_seeds():
    few = "training:\n  steps: 10\n  rate: 3e-4\ndata: {source: digits, flip: on}\nseed: 1\n"
    other = "network: {kind: UNet, width: 8, multipliers: [1, 2]}\nlevels:\n  sigma_max: 8\n"
    texts = [config.as_json(config.Experiment()), few, other, few + other, ""]
    return [{"x.yaml": text.encode()} for text in texts]


def _read_config(folder, experiment=None):
    """Check that the file of a run gives the experiment back."""
    experiment = config.check_experiment(experiment or config.read(folder / "x.yaml"), DATASETS)
    text = config.as_json(experiment)
    assert len(text) < 10**6
    (folder / "config.json").write_text(text)
    assert config.read(folder / "config.json") == experiment


def _names_section(files, message):
    return any(name in message for name in (*files, *SECTIONS))


def _setting_seeds():
    fields = config.flat_fields(SECTIONS)
    return [{"x.txt": f"{name}={json.dumps(value)}".encode()} for name, value in fields]


def _setting_lines(content):
    # as a shell hands over what is not text
    return content.decode("utf-8", "surrogateescape").split("\n")


def _read_settings(folder):
    lines = _setting_lines((folder / "x.txt").read_bytes())
    _read_config(folder, config.override(PRESETS["digits"], lines))


def _names_setting(files, message):
    return any(re.split("[=.]", line)[0][:20] in message for line in _setting_lines(files["x.txt"]))


JSON = (
    *b"null true false 0 1 -1 2 3 7 64 1000 2147483648 9223372036854775808 0.5 -0.0".split(),
    *b'1e-320 1e308 NaN Infinity -Infinity "" "x" "\\u0000" "1e5" "nan" "EDM" "UNet" [] {}'.split(),
    *b'[[]] [1,2] ["x"] {"predicts":"mixture"} {"tensor":"net.stem.weight"} "../../x"'.split(),
    *(b'{"clock":"index"}', b'{"":{"":0}}', b"1" + b"0" * 400, b'"' + b"a" * 3000 + b'"'),
    *(b"[" * depth + b"]" * depth for depth in (300, 900, 960, 990, 2000, 100_000)),
    *(b'{"precondition":' * 300 + b"0" + b"}" * 300, b"[0" + b",0" * 300 + b"]"),
)


def _checkpoint_seeds():
    torch.manual_seed(0)
    net, prior = MLP(3, width=4, blocks=1), Prior(torch.zeros(3), torch.eye(3))
    unet = UNet(channels=1, width=4, multipliers=(1, 1), blocks=1, attention=())
    models = [
        ScoreModel(net, EDM(), prior=prior),
        ScoreModel(net, VP().rescale(), shape=(3,)),
        ScoreModel(net, VEDiscrete(torch.tensor([4.0, 1.0, 0.2])), prior=prior),
        ScoreModel(unet, NCSNv2(), shape=(1, 8, 8)),
    ]
    return [_write(functools.partial(checkpoint.save, model)) for model in models]


def _change_checkpoint(rng, seeds, tokens):
    """Damage a checkpoint's bytes; or change a tensor or the header, and correct the checksum."""
    kind, content = rng.randrange(5), rng.choice(seeds)["model.safetensors"]
    if kind == 0:
        return {"model.safetensors": damage(rng, content, (), tokens)}
    tensors, size = load_tensors(content), int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])["__metadata__"]["scorefield"]
    if kind == 1:
        name = rng.choice(sorted(tensors))
        value = tensors.pop(name)
        kinds = torch.half, torch.bfloat16, torch.double, torch.long, torch.bool, torch.complex64
        values = [value, value.flatten(), value[None], value[..., :0], torch.ones(3000)]
        values += [value.to(kind) for kind in kinds]
        values += [value * factor for factor in (torch.nan, torch.inf, 0, -1, 1e30)]
        value, many = rng.choice(values), [f"net.{i}" for i in range(500)]
        more = rng.choice([[], [], [], [name + "x"], many, ["precondition.levels", "prior.factor"]])
        tensors |= {key: value.clone() for key in [name, *more][rng.randrange(2) :]}
    else:
        header = damage(rng, header.encode(), (), tokens).decode(errors="replace")
    with suppress(ValueError, TypeError, AttributeError, RecursionError):  # no JSON, or no object
        fields = json.loads(header)
        fields.pop("sha256", None)
        header = json.dumps(fields | {"sha256": checkpoint._digest(fields, tensors)})
    return {"model.safetensors": serialise(tensors, {"scorefield": header})}


def _read_checkpoint(folder):
    path = folder / "model.safetensors"
    model, file = load(path), checkpoint.read_tensors(path)
    weights, saved = model.net.state_dict(), file.under("net")
    assert type(model.net).__name__ == file.description["network"]["kind"]
    assert saved.keys() == weights.keys()
    for name, value in saved.items():
        assert weights[name].dtype == value.dtype
        # the bits, because a NaN does not equal itself
        assert torch.equal(*(x.flatten().view(torch.uint8) for x in (weights[name], value)))
    assert 1e309 > model.precondition.sigma_max >= model.precondition.sigma_min > 0
    # none is left on the device without memory, where the network is built
    assert all(x.device.type == "cpu" for x in (*model.net.parameters(), *model.net.buffers()))


def _pickle_seeds():
    content = {"model": {"a": torch.ones(2, 3), "b": torch.zeros(4)}, "step": 3, "rates": [0.1]}
    write = functools.partial(torch.save, content)
    return [{"x.pth": _save(write, _use_new_zipfile_serialization=new)} for new in (True, False)]


def _read_pickle(folder):
    read_pickle(folder / "x.pth")


def _edm_seeds():
    small = dict(width=8, multipliers=(1,), attention=(), side=4)
    forms = dict(classes=2), dict(kind="DhariwalUNet", precond="VPPrecond")
    return [{"x.pkl": dump({"ema": draw_network(**small, **form)})} for form in forms]


def _read_edm(folder):
    model = from_official(folder / "x.pkl")
    weights = sum(value.numel() for value in model.net.parameters())
    # float32 of float16 are twice as many bytes, and no class has a vector
    assert 4 * weights <= 2 * (folder / "x.pkl").stat().st_size


class Target(NamedTuple):
    seeds: Callable  # returns sound inputs, each a dictionary of contents by file names
    read: Callable  # reads a folder, and asserts that the result is right
    tokens: tuple = ()
    names: Callable = _names_file  # true if an error's message names what is wrong
    change: Callable = _change_file


TARGETS = {
    "idx": Target(lambda: [_write(write_mnist, 3, zipped=z) for z in (False, True)], _read_mnist),
    "cifar": Target(_cifar_seeds, _read_cifar, PICKLES),
    "cifar-binary": Target(functools.partial(_cifar_seeds, binary=True), _read_cifar),
    "npz": Target(_npz_seeds, _read_npz, NUMPY),
    "folder": Target(_picture_seeds, _read_images),
    "celeba": Target(_celeba_seeds, _read_celeba, LINES),
    "csv": Target(_csv_seeds, _read_csv, CELLS),
    "parquet": Target(_parquet_seeds, _read_parquet),
    "table": Target(_table_seeds, _read_table, JSON),
    "config": Target(_config_seeds, _read_config, YAML, _names_section),
    "settings": Target(_setting_seeds, _read_settings, YAML, _names_setting),
    "checkpoint": Target(_checkpoint_seeds, _read_checkpoint, JSON, change=_change_checkpoint),
    "pickle": Target(_pickle_seeds, _read_pickle, PICKLES),
    "edm": Target(_edm_seeds, _read_edm, PICKLES + NETWORKS),
}


@functools.cache
def _seeds(name):
    return TARGETS[name].seeds()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_a_sound_file_is_read(name, tmp_path):
    for files in _seeds(name):
        assert _check(TARGETS[name].read, files, tmp_path / "input") == "read"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("unchecked")  # as users run it
@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=max(100, settings.default.max_examples), suppress_health_check=list(HealthCheck)
)
@given(rng=st.randoms())
def test_no_damaged_file_does_harm(name, rng, tmp_path):
    target = TARGETS[name]
    files = target.change(rng, _seeds(name), target.tokens)
    event(_check(target.read, files, tmp_path / "input", target.names))


SPECIAL = {
    "FIFO": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(os.name != "posix", reason="has none of these files")
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {"settings"}))
def test_a_file_without_an_end_is_refused(name, kind, tmp_path):
    files = _seeds(name)[0]
    for special in files.keys() - {"model.json"}:  # which is for people
        changed = files | {special: SPECIAL[kind]}

        def names(_, message, stem=Path(special).stem):
            return stem in message

        result = _check(TARGETS[name].read, changed, tmp_path / "input", names, seconds=5)
        assert result == "refused"


FAULTS = {
    "a key": Mock(side_effect=KeyError("x")),
    "no name": Mock(side_effect=ValueError("something is wrong")),
    "encoding": Mock(side_effect=UnicodeDecodeError("x.bin", b"", 0, 1, "")),
    "a long message": Mock(side_effect=ValueError("x.bin" + "x" * 4996)),
    "a wrong result": Mock(side_effect=AssertionError()),
    "no end": lambda folder: any(0 for _ in itertools.repeat(0)),
    "a wait": lambda folder: time.sleep(600),
    "1 GB": lambda folder: b"x" * 2**30,
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_reported(name, tmp_path):
    if name == "1 GB" and not _peak():
        pytest.skip("peaks of memory are measured in Linux only")
    gc.collect()  # garbage of earlier tests, freed during the check, would lower the peak
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        _check(FAULTS[name], {"x.bin": b"x"}, tmp_path / "input", seconds=0.5)
