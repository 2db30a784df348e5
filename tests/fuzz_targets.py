"""The parsers that `fuzz` tests: sound files for each, and how to damage them."""

import io
import json
import re
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import standins
import torch
from fuzz import Files, Target
from mutations import changed_tree, damaged, hostile, zipped
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialise

from scorefield import checkpoint, load
from scorefield.data import DATASETS, load_data
from scorefield.data.image import image_formats
from scorefield.model import ScoreModel
from scorefield.nn import MLP, UNet
from scorefield.precondition import EDM, VP, NCSNv2, VEDiscrete
from scorefield.prior import Prior
from scorefield.runs.config import Experiment, as_json, check_experiment, override, read
from scorefield.runs.presets import PRESETS


def _mutate(tokens=()):
    """A function that changes one file of one of the seeds; `tokens` are put anywhere."""

    def mutate(rng, seeds):
        files = rng.choice(seeds)
        name = rng.choice(sorted(files))
        others = [content for seed in seeds for content in seed.values()]
        return files | {name: hostile(rng, files[name], others, tokens)}

    return mutate


def _named(name, contents) -> list[Files]:
    return [{name: content} for content in contents]


def _folder(write, *args, **options) -> Files:
    """Return the files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), *args, **options)
        paths = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in paths}


def _all_samples(dataset, most=100):
    """All samples of a data set, of which the shape and the labels have been checked."""
    samples = []
    for part in [dataset.train] + [dataset.test] * (dataset.test is not None):
        x, labels = part.take(torch.arange(min(len(part), most)))
        assert len(x)
        assert x.shape[1:] == part.shape == dataset.train.shape
        assert x.isfinite().all()
        assert (labels is None) == (dataset.classes == 0)
        assert labels is None or labels.dtype == torch.int64
        assert labels is None or 0 <= labels.min() <= labels.max() < dataset.classes
        samples.append(x)
    return torch.cat(samples)


def _read_images(name, *shapes, **options):
    """A reader of images of one of these shapes, or of a folder if there is no name."""

    def read(folder):
        data = load_data(name, root=folder, **options) if name else load_data(folder)
        x = _all_samples(data)
        assert x.dtype == torch.uint8
        assert x.shape[1:] in shapes or (not shapes and x.shape[1] in (1, 3))
        assert data.classes == (10 if name in ("mnist", "cifar10") else 0)

    return read


PICKLES = (
    *(b"(", b")", b"]", b"}", b"N", b"R", b"b", b"t", b"e", b"u", b"s", b"a", b".", b"0", b"2"),
    *(b"\x85", b"\x86", b"\x87", b"K\x01", b"q\x01", b"h\x01", b"r\xff\xff\xff\x7f", b"h\xff"),
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"cnumpy\nndarray\n", b"X\xff\xff\xff\x7f", b"j"),
    *(b"T\xff\xff\xff\x7f", b"T\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x8a\xffa", b"I99\n"),
    *(b"(" * 2000, b"]" * 2000, b"}" * 999, b"\x85" * 5000, b"h\x01" * 999, b"I" + b"9" * 9999),
)


def _saved(save, *args, **options):
    out = io.BytesIO()
    save(out, *args, **options)
    return out.getvalue()


def _npz_seeds():
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((4, 1, 5))
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    arrays = [rng.random((6, 3), np.float32), images, signals[:, 0].astype(">f2"), np.arange(6) % 3]
    x, z, *more, y = (_saved(np.save, array) for array in (*arrays[:3], signals % 1, arrays[3]))
    # not by np.savez, which writes the time
    return [
        *_named("x.npy", [x, z, *more]),
        {"signals.npy": _saved(np.save, signals)},
        {"signals.npz": zipped([("x.npy", _saved(np.save, signals))])},
        {"x.npz": zipped([("x.npy", x), ("y.npy", y)])},
        {"x.npz": zipped([("x.npy", z)], lambda: zipfile.ZIP_DEFLATED)},
    ]


def _read_npz(folder):
    (path,) = folder.iterdir()
    signals = path.stem == "signals"
    try:
        again = _all_samples(load_data(path, signals=signals, memory=0))  # from the file
    except (ValueError, OSError):
        again = torch.empty(0)
    x = _all_samples(load_data(path, signals=signals))
    assert torch.equal(x, again)
    assert path.suffix == ".npz" or x.nbytes <= path.stat().st_size
    # as batches have it: in 64 bits a number may be beyond by too little
    u = x.float()
    assert x.ndim != 4 or x.dtype == torch.uint8 or 0 <= u.min() <= u.max() <= 1


def _picture(name, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    return _saved(lambda out: image.save(out, name, **options))


def _folder_seeds():
    seeds = []
    for name in image_formats():
        for mode in ("RGB", "L", "RGBA", "P", "1", "I;16") if name != "SPIDER" else ():
            # not of this mode, or not written at all
            with suppress(OSError, KeyError, ValueError, TypeError, AttributeError):
                content = _picture(name, mode)
                Image.open(io.BytesIO(content), formats=image_formats()).load()
                seeds.append(content)
                if name not in ("PNG", "TIFF"):
                    break
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    seeds += [_picture(name, exif=exif) for name in ("PNG", "JPEG", "WEBP", "TIFF")]
    return _named("x.png", seeds)


LINES = (b"\n", b" ", b"3", b"2.jpg 1\n", b"\x85", b"\xff", b"\0", b"9" * 9999)


def _celeba_seeds():
    faces = zipped((f"img_align_celeba/{i}.jpg", _picture("JPEG")) for i in (1, 2, 3))
    packed = {"img_align_celeba.zip": faces}
    return [packed, packed | {"list_eval_partition.txt": b"1.jpg 0\n2.jpg 0\n3.jpg 2\n"}]


def _csv_seeds():
    kinds = ["red", "green", "blue"]
    rows = [f"{i / 7:.3f},{i},{kinds[i % 3]},{i % 2}" for i in range(25)]
    plain = "size,count,colour,flag\n" + "\n".join(rows) + "\n"
    quoted = plain.replace("red", '"a ""red"", one"').replace("\n", "\r\n")
    tabs = plain.replace(",", "\t").replace("size", "größe")
    texts = [plain, "\ufeff" + quoted, plain.replace(",", ";").replace(".", "e-1")]
    return [{"x.tsv": tabs.encode()}, *_named("x.csv", [text.encode() for text in texts])]


CELLS = (
    *b'" "" "," , ,, ; nan NA ? 1e999 -1e99 1e-400 inf 0x10 1_000 +5 -0 1. . e5 0.5 -7'.split(),
    *(b"\n", b"\r", b"\r\n", b"\t", b"\0", b" ", b"1 2", b"\xff", b"\xef\xbb\xbf", b"\x1c", b"\\"),
    *(b"\x85", "\u0663".encode(), "\u2028".encode(), b"9" * 400, b"x" * 1_100_000, b"a," * 3000),
    *(b"\n" * 3000, b"1\n" * 500, b'"' * 999, b"1e" + b"9" * 40, b"\n1.0,2,red,1"),
    *(b"\n1e99,1e99,red,1", b"\n1,99999999999999999999,x,1"),
)


def _read_csv(folder):
    (path,) = folder.iterdir()
    data = load_data(path)
    x, text = _all_samples(data, 10**6), path.read_text("utf-8-sig")
    assert x.dtype == torch.float32
    assert x.shape == (len(data.train) + len(data.test), data.table.size)
    assert 2 <= len(x) <= text.count("\n") + text.count("\r") + 1
    rows = list(data.table.decode(x))
    assert len(rows) == len(x)
    for column, texts in zip(data.table.columns, zip(*rows, strict=True), strict=True):
        if column.kind == "category":
            assert set(texts) == set(column.categories)
            assert all(cell in text or '""' in text for cell in texts)
        else:
            numbers, (low, high) = [float(cell) for cell in texts], column.range
            beyond = max(map(abs, column.range)) > 1e15  # where halves are rounded away
            assert beyond or low - 0.5 <= min(numbers) <= max(numbers) <= high + 0.5


# ── Configurations ───────────────────────────────────────────────────────────────────────────────

LAUGHS = b"a0: &a0 [lol]\n"
LAUGHS += b"".join(b"a%d: &a%d [%s]\n" % (i, i, b"*a%d," % (i - 1) * 9) for i in range(1, 12))
YAML = (
    *b"&a |*a|<<: *a\n|? |- |{|}|[|]|: |\t|---\n|#|!!binary |!!set |!!int |!!float x|~".split(b"|"),
    *b"!!python/object/apply:os.system [ls]|2001-01-01|2001-99-99|.nan|.inf|-.inf".split(b"|"),
    *b"1:60:60|!!int ''|!!timestamp x|!!bool x|%YAML 9.9\n|\xc2\x85|\xff|\0|&a [*a]".split(b"|"),
    *b"{x: &a [x], y: *a}|1e999|0o7|0b1|on|seed: |network: |data: |options: ".split(b"|"),
    *b"{kind: MLP, width: |training.steps|1.2.3|'|null|true|-1|0.5|5e-324".split(b"|"),
    *(b"|\n", b'"', b"0x" + b"f" * 5000, b"9" * 5000, b"[" * 3000, b"{a: " * 500, b"- " * 2000),
    *(LAUGHS, b"10" * 160, "\N{GRINNING FACE}".encode(), b"x" * 70_000, b"10000000000000000000"),
)


def _config_seeds():
    few = "training:\n  steps: 10\n  rate: 3e-4\ndata: {source: digits, flip: on}\nseed: 1\n"
    other = "network: {kind: UNet, width: 8, multipliers: [1, 2]}\nlevels:\n  sigma_max: 8\n"
    texts = [as_json(Experiment()), few, other, few + other, ""]
    return _named("x.yaml", [text.encode() for text in texts])


def _check_round_trip(folder, experiment=None):
    """Check that the file of a run gives the experiment back."""
    config = check_experiment(experiment or read(folder / "x.yaml"), DATASETS)
    text = as_json(config)
    assert len(text) < 10**6
    (folder / "config.json").write_text(text)
    assert read(folder / "config.json") == config


SECTIONS = json.loads(as_json(Experiment()))
FIELDS = [*SECTIONS, "network.kind", "network.width", "data.options.size", "x.y"]
FIELDS += [f"{part}.{name}" for part in SECTIONS if part != "seed" for name in SECTIONS[part] or ()]


def _settings(rng, seeds):
    texts = []
    for _ in range(rng.choice([1, 1, 2])):
        value = rng.choice([b"1", b"0.5", b"x", b"[1, 2]", b"{a: 1}", b"digits", b"on"])
        value = damaged(rng, value, (), YAML) if rng.random() < 0.8 else value
        texts.append(rng.choice(FIELDS).encode() + b"=" + value.replace(b"\n", b" "))
    whole, tokens = b"\n".join(texts), (b".", b"=", b"a.", b"x" * 999)
    return {"x.txt": damaged(rng, whole, (), tokens) if rng.random() < 0.2 else whole}


def _read_settings(folder):
    # as a shell hands over what is not text
    lines = (folder / "x.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    _check_round_trip(folder, override(PRESETS["digits"](), lines))


def _names_field(files, message):
    return any(name in message for name in (*files, *FIELDS))


def _names_setting(files, message):
    lines = files["x.txt"].decode("utf-8", "surrogateescape").split("\n")
    return any(re.split("[=.]", line)[0][:20] in message for line in lines)


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

    def write(folder, model):
        checkpoint.save(model, folder / "x.safetensors", about={"loss": 1.0})

    return [_folder(write, model) for model in models]


def _checkpoint(rng, seeds):
    contents = [seed["x.safetensors"] for seed in seeds]
    content = rng.choice([*contents[:3], *contents])
    if rng.random() < 0.2:
        return {"x.safetensors": damaged(rng, content, contents)}
    size = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["scorefield"])
    tensors = load_tensors(content)
    if rng.random() < 0.2:
        tensors = _changed_tensors(rng, tensors)
    elif part := rng.choice(["network", "precondition", "prior", "shape", None]):
        description[part] = changed_tree(rng, {part: description[part]}).get(part)
    else:
        description = changed_tree(rng, description)
    return {"x.safetensors": _sealed(rng, description, tensors)}


def _sealed(rng, description, tensors):
    """A file with a right checksum, whatever it says."""
    description.pop("sha256", None)
    text = json.dumps(description)
    if rng.random() < 0.02:
        deep = rng.choice([300, 900, 960, 990, 2000, 100_000])
        text = text.replace('"about": ', f'"more": {"[" * deep}{"]" * deep}, "about": ')
    try:
        digest = checkpoint._digest(json.loads(text), tensors)
    except (RecursionError, ValueError):
        digest = "0"
    return serialise(tensors, {"scorefield": f'{text[:-1]}, "sha256": "{digest}"}}'})


def _changed_tensors(rng, tensors):
    name = rng.choice(sorted(tensors))
    value, others = tensors.pop(name), {f"net.{i}": torch.zeros(1) for i in range(500)}
    kinds = [torch.float16, torch.int64, torch.bool, torch.float64, torch.complex64, torch.bfloat16]
    values = [value.flatten(), value[None], value[..., :0].contiguous(), torch.zeros(3000)]
    values += [value.to(rng.choice(kinds)), value * rng.choice([torch.nan, torch.inf, 0, -1, 1e30])]
    more = [others, {"precondition.levels": value.clone()}, {"prior.factor": torch.ones(3, 2)}]
    changed = [{}, {name + "x": value}, *({name: value} | another for another in more)]
    return tensors | rng.choice([*changed, *({name: new} for new in values)])


def _read_checkpoint(folder):
    path = folder / "x.safetensors"
    model, stored = load(path), checkpoint.read_tensors(path)
    assert type(model.net).__name__ == stored.description["network"]["kind"]
    for name, value in stored.under("net").items():
        weight = model.net.state_dict()[name]
        assert weight.dtype == value.dtype
        # the bits, because a NaN does not equal itself
        assert torch.equal(weight.flatten().view(torch.uint8), value.flatten().view(torch.uint8))
    assert set(stored.under("net")) == set(model.net.state_dict())
    assert 1e309 > model.precondition.sigma_max >= model.precondition.sigma_min > 0
    # none is left on the device without memory, where the network is built
    assert all(x.device.type == "cpu" for x in (*model.net.parameters(), *model.net.buffers()))


TARGETS = {
    "idx": Target(
        lambda: [_folder(standins.write_mnist, 3, zipped=zipped) for zipped in (False, True)],
        _mutate(),
        _read_images("mnist", (1, 28, 28)),
    ),
    "cifar": Target(
        lambda: [_folder(standins.write_cifar10, 1, packed=packed) for packed in (False, True)],
        _mutate(PICKLES),
        _read_images("cifar10", (3, 32, 32)),
    ),
    "npz": Target(_npz_seeds, _mutate(), _read_npz),
    "folder": Target(_folder_seeds, _mutate(), _read_images(None)),
    "celeba": Target(
        _celeba_seeds, _mutate(LINES), _read_images("celeba", (3, 4, 4), size=4, crop=6)
    ),
    "csv": Target(_csv_seeds, _mutate(CELLS), _read_csv),
    "config": Target(_config_seeds, _mutate(YAML), _check_round_trip, _names_field),
    "settings": Target(
        lambda: _named("x.txt", [b"seed=1\ntraining.rate=3e-4"]),
        _settings,
        _read_settings,
        _names_setting,
    ),
    "checkpoint": Target(_checkpoint_seeds, _checkpoint, _read_checkpoint),
}
