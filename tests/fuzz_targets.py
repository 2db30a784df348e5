"""The parsers that `fuzz` tests: sound files for each, and how to damage them."""

import gzip
import io
import json
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import standins
import torch
from fuzz import Files, Target
from mutations import changed_tree, damaged, deflated, gzipped, tar, untar, zip_bomb, zipped
from PIL import Image
from safetensors.torch import save as serialise

from scorefield import checkpoint, load
from scorefield.data import DATASETS, load_data
from scorefield.data.image import image_formats
from scorefield.model import ScoreModel
from scorefield.nn import MLP, UNet
from scorefield.precondition import EDM, VP, NCSNv2, Rescaled, VEDiscrete
from scorefield.prior import Prior
from scorefield.runs.config import Experiment, as_json, checked, overridden, read
from scorefield.runs.presets import PRESETS

RARE = 0.003
"""The share of inputs that unpack to hundreds of megabytes."""


def _folder(write, *args, **options) -> Files:
    """Return the files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), *args, **options)
        paths = [path for path in sorted(Path(name).rglob("*")) if path.is_file()]
        return {path.relative_to(name).as_posix(): path.read_bytes() for path in paths}


def _all_samples(dataset, most=100):
    """All samples of a data set, of which the shape and the labels have been checked."""
    parts = []
    for part in [dataset.train] + [dataset.test] * (dataset.test is not None):
        assert len(part) >= 1
        x, labels = part.take(torch.arange(min(len(part), most)))
        assert x.shape[1:] == part.shape == dataset.train.shape
        assert x.isfinite().all()
        assert (labels is None) == (dataset.classes == 0)
        if labels is not None:
            assert labels.dtype == torch.int64
            assert 0 <= labels.min() <= labels.max() < dataset.classes
        parts.append(x)
    return torch.cat(parts)


# ── MNIST and CIFAR-10 ───────────────────────────────────────────────────────────────────────────


def _idx_seeds():
    return [_folder(standins.write_mnist, 3, zipped=zipped) for zipped in (False, True)]


def _idx(rng, seeds):
    files = dict(seeds[0])
    name = rng.choice(sorted(files))
    if rng.random() < RARE:
        count = 5 * 2**17 if "images" in name else 2**18
        head = bytes([0, 0, 8, 3 if "images" in name else 1]) + count.to_bytes(4, "big")
        content = gzip.compress(head + struct.pack(">2I", 28, 28), mtime=0) + deflated(
            512, wbits=31
        )
        return files | {name: content}
    others = [content for other, content in files.items() if other != name]
    return files | {name: gzipped(rng, damaged(rng, files[name], others))}


def _read_images(name, *shapes, **options):
    """A reader of images of one of these shapes, or of a folder if there is no name."""

    def read(folder):
        data = load_data(name, root=folder, **options) if name else load_data(folder)
        x = _all_samples(data)
        assert x.dtype == torch.uint8
        assert x.shape[1:] in shapes or (not shapes and x.shape[1] in (1, 3))
        assert data.classes == (10 if name in ("mnist", "cifar10") else 0)

    return read


def _cifar_seeds():
    return [_folder(standins.write_cifar10, 1, packed=packed) for packed in (False, True)]


PICKLES = (
    *(b"(", b")", b"]", b"}", b"N", b"R", b"b", b"t", b"e", b"u", b"s", b"a", b".", b"0", b"2"),
    *(b"\x85", b"\x86", b"\x87", b"K\x01", b"q\x01", b"h\x01", b"r\xff\xff\xff\x7f", b"h\xff"),
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"cnumpy\nndarray\n", b"X\xff\xff\xff\x7f", b"j"),
    *(b"T\xff\xff\xff\x7f", b"T\xff\xff\xff\xff", b"\x8e" + b"\xff" * 8, b"\x8a\xffa", b"I99\n"),
    *(b"(" * 2000, b"]" * 2000, b"}" * 999, b"\x85" * 5000, b"h\x01" * 999, b"I" + b"9" * 9999),
)


def _cifar(rng, seeds):
    files, archive = seeds
    if rng.random() < RARE:
        return {next(iter(archive)): gzip.compress(bytes(5), mtime=0) + deflated(600, wbits=31)}
    name = rng.choice(sorted(files))
    batch = damaged(rng, files[name], (), PICKLES)
    if rng.random() < 0.5:
        return files | {name: batch}
    (packed,) = archive
    members = untar(gzip.decompress(archive[packed]))
    i = rng.randrange(len(members))
    if rng.random() < 0.5:
        members[i] = (damaged(rng, members[i][0])[:512].ljust(512, b"\0"), members[i][1])
    else:
        size = b"%011o\0" % len(batch)
        members[i] = (members[i][0][:124] + size + members[i][0][136:], batch)
    whole = tar(members)
    return {packed: gzipped(rng, damaged(rng, whole) if rng.random() < 0.2 else whole)}


# ── NumPy's files ────────────────────────────────────────────────────────────────────────────────


def _saved(save, *args, **arrays):
    out = io.BytesIO()
    save(out, *args, **arrays)
    return out.getvalue()


def _npz_seeds():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6, 3)).astype(np.float32)
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    # not by np.savez, which writes the time
    arrays = [_saved(np.save, each) for each in (vectors, np.arange(6) % 3, images)]
    return [
        {"x.npy": arrays[0]},
        {"x.npy": arrays[2]},
        {"x.npy": _saved(np.save, rng.random((4, 1, 5)))},
        {"signals.npy": _saved(np.save, rng.standard_normal((4, 1, 5)))},
        {"x.npy": _saved(np.save, rng.random((4, 5, 5)).astype(">f2"))},
        {"x.npz": _saved(_zip_of, [("x.npy", arrays[0]), ("y.npy", arrays[1])])},
        {"x.npz": _saved(_zip_of, [("x.npy", arrays[2])], zipfile.ZIP_DEFLATED)},
    ]


SHAPES = (
    *("()", "(0,)", "(1,)", "(2, 3)", "(-1, 3)", "(3, -1)", "(0, 5)", "(5, 0)", "(6, 3, 1)", "6"),
    *("(2**62, 3)", f"({2**62}, 4)", f"({2**31}, {2**31})", f"({2**63}, 1)", "(1e9, 3)", "None"),
    *(f"({2**28},)", f"({2**24}, 64)", "(" + "1, " * 70 + ")", "('6', 3)", "(6, 3", "[6, 3]"),
    "(True, 3)",
)
TYPES = (
    *("'<f4'", "'>f8'", "'<f2'", "'|u1'", "'|b1'", "'<i8'", "'|O'", "'<c8'", "'<U9'", "'|S0'"),
    *("'|V8'", "'<U999999999'", "'|V0'", "'<M8[s]'", "'<g'", "'<f16'", "'(2,)<f4'", "'f4,f4'", "8"),
    *("[('a', '<f4')]", "[('a', '|O')]", "[('a', '<f4', (99999, 99999))]", "{}", "'x'", "None"),
    *("'>'", "[]", "('<f4', (2,))", "('<f4', {})", "'<f4'" + " " * 9000, "(" * 90 + ")" * 90),
    "__import__",
)


def _header(kind, order, shape):
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()


def _npy(rng, content):
    """An array whose header says something else."""
    order = rng.choice(["False", "False", "True", "None", "2"])
    header = _header(rng.choice(TYPES[:4] + TYPES), order, rng.choice(SHAPES[3:4] * 4 + SHAPES))
    return header + content[128:]


def _npz(rng, seeds):
    if rng.random() < RARE:
        size = rng.choice([None, 100, 10_000, 2**32 - 1])
        # the length of the header is 4 GB, in its version 2, or that of the array is
        long, large = b"\x93NUMPY\2\0" + b"\xff" * 4, _header("'<f4'", "False", "(2**28, 4)")
        head = rng.choice([b"", long, large.replace(b"2**28", b"%d" % 2**28)])
        return {"x.npz": zip_bomb("x.npy", rng.choice([600, 3000]), size, head)}
    ((name, content),) = rng.choice(seeds).items()
    if name.endswith(".npy"):
        return {name: (_npy if rng.random() < 0.5 else damaged)(rng, content)}
    if rng.random() < 0.2:
        return {name: damaged(rng, content)}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(member, archive.read(member)) for member in archive.namelist()]
    i = rng.randrange(len(members))
    member, inside = members[i]
    change = rng.choice([_npy, damaged])
    members[i] = (member, change(rng, inside))
    more = ["z.npy", "y.npy", "labels.npy", "x", "../x.npy", "x.npy", "\u00e9.npy", ".npy", "a/"]
    members += [(rng.choice(more), inside)] * (rng.random() < 0.1)
    return {rng.choice([name, "signals.npz"]): zipped(rng, members)}


def _read_npz(folder):
    (path,) = folder.iterdir()
    signals = path.stem == "signals"
    x, again = (_samples(path, signals=signals, memory=memory) for memory in (2**30, 0))
    if isinstance(x, Exception):
        raise x
    assert torch.equal(x, again)
    assert path.suffix == ".npz" or x.nbytes <= path.stat().st_size
    # as batches have it: in 64 bits a number may be beyond by too little
    u = x.float()
    assert x.ndim != 4 or x.dtype == torch.uint8 or 0 <= u.min() <= u.max() <= 1


def _samples(path, **options):
    """Return the samples of a file, or the error."""
    try:
        return _all_samples(load_data(path, **options))
    except (ValueError, OSError) as error:
        return error


# ── Images ───────────────────────────────────────────────────────────────────────────────────────


def _picture(name, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    return _saved(lambda out: image.save(out, name, **options))


def _folder_seeds():
    seeds = []
    for name in image_formats():
        for mode in ("RGB", "L", "RGBA", "P", "1", "I;16") if name != "SPIDER" else ():
            try:
                content = _picture(name, mode)
                assert len(content) < 5000  # ICNS is an icon of all sizes
                Image.open(io.BytesIO(content), formats=image_formats()).load()
            except (OSError, KeyError, ValueError, TypeError, AttributeError, AssertionError):
                continue  # not of this mode, or not written at all
            seeds.append({"x.png": content})
            if name not in ("PNG", "TIFF"):
                break
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    seeds += [{"x.png": _picture(name, exif=exif)} for name in ("PNG", "JPEG", "WEBP", "TIFF")]
    return seeds


def _images(rng, seeds):
    if rng.random() < 2 * RARE:
        return {"x.png": _png_bomb(rng)}
    content = rng.choice(seeds)["x.png"]
    others = [each["x.png"] for each in rng.sample(seeds, 2)]
    return {"x.png": damaged(rng, content, others)}


def _png_bomb(rng):
    """A PNG of 9,000 × 9,000 pixels in some hundred kilobytes, of any kind; or in an icon."""
    depth, colour = rng.choice([(8, 0), (8, 2), (16, 6), (16, 0), (8, 6), (1, 3)])
    head, pixels = struct.pack(">IIBBBBB", 9000, 9000, depth, colour, 0, 0, 0), deflated(640)
    out = b"\x89PNG\r\n\x1a\n"
    palette = [(b"PLTE", bytes(6))] if colour == 3 else []
    for kind, data in [(b"IHDR", head), *palette, (b"IDAT", b"\x78\x9c" + pixels), (b"IEND", b"")]:
        out += (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )
    if rng.random() < 0.3:
        out = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(out), 22) + out
    return out


def _celeba_seeds():
    faces = {f"{i}.jpg": _picture("JPEG") for i in range(1, 4)}
    whole = _saved(_zip_of, [(f"img_align_celeba/{name}", jpg) for name, jpg in faces.items()])
    lines = b"1.jpg 0\n2.jpg 0\n3.jpg 2\n"
    packed = {"img_align_celeba.zip": whole}
    return [packed, packed | {"list_eval_partition.txt": lines}]


def _zip_of(out, members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, packing)


def _celeba(rng, seeds):
    files = dict(rng.choice(seeds))
    name = "img_align_celeba.zip"
    if rng.random() < RARE:
        size = rng.choice([None, 100, 10_000, 2**32 - 1])
        head = rng.choice([b"", _picture("JPEG")])
        return files | {name: zip_bomb("img_align_celeba/1.jpg", 600, size, head)}
    if len(files) == 2 and rng.random() < 0.5:
        lines = files["list_eval_partition.txt"]
        tokens = (b"\n", b" ", b"3", b"2.jpg 1\n", b"\x85", b"\xff", b"\0", b"9" * 9999)
        return files | {"list_eval_partition.txt": damaged(rng, lines, (), tokens)}
    if rng.random() < 0.4:
        return files | {name: damaged(rng, files[name])}
    with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
        members = [(each, archive.read(each)) for each in archive.namelist()]
    i = rng.randrange(3)
    if rng.random() < 0.5:
        members[i] = (members[i][0], damaged(rng, members[i][1]))
    if rng.random() < 0.2:
        members[i] = (rng.choice(["../1.jpg", "/1.jpg", "1.JPG", "é.jpg", ".jpg"]), members[i][1])
    return files | {name: zipped(rng, members)}


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────


def _csv_seeds():
    kinds = ["red", "green", "blue"]
    rows = [f"{i / 7:.3f},{i},{kinds[i % 3]},{i % 2}" for i in range(25)]
    plain = "size,count,colour,flag\n" + "\n".join(rows) + "\n"
    quoted = plain.replace("red", '"a ""red"", one"').replace("\n", "\r\n")
    return [
        {"x.csv": plain.encode()},
        {"x.csv": b"\xef\xbb\xbf" + quoted.encode()},
        {"x.tsv": plain.replace(",", "\t").replace("size", "größe").encode()},
        {"x.csv": plain.replace(",", ";").replace(".", "e-1").encode()},
    ]


CELLS = (
    *b'" "" "," , ,, ; nan NA ? 1e999 -1e99 1e-400 inf 0x10 1_000 +5 -0 1. . e5 0.5 -7'.split(),
    *(b"\n", b"\r", b"\r\n", b"\t", b"\0", b" ", b"1 2", b"\xff", b"\xef\xbb\xbf", b"\x1c", b"\\"),
    *(b"\x85", "\u0663".encode(), "\u2028".encode(), b"9" * 400, b"x" * 1_100_000, b"a," * 3000),
    *(b"\n" * 3000, b"1\n" * 500, b'"' * 999, b"1e" + b"9" * 40, b"\n1.0,2,red,1"),
    *(b"\n1e99,1e99,red,1", b"\n1,99999999999999999999,x,1"),
)


def _csv(rng, seeds):
    ((name, content),) = rng.choice(seeds).items()
    if rng.random() < RARE:
        header = ",".join(f"c{i}" for i in range(rng.choice([2000, 3000])))
        cells = ",".join("ab"[i % 2] for i in range(header.count(",") + 1))
        return {name: f"{header}\n{(cells + chr(10)) * 99}{cells.replace('a', 'd')}".encode()}
    others = [each for seed in seeds for each in seed.values()]
    return {name: damaged(rng, content, others, CELLS)}


def _read_csv(folder):
    (path,) = folder.iterdir()
    data = load_data(path)
    x, text = _all_samples(data, 10**6), path.read_text("utf-8-sig")
    assert x.dtype == torch.float32
    assert x.shape == (len(data.train) + len(data.test), data.table.size)
    assert 2 <= len(x) <= text.count("\n") + text.count("\r") + 1
    rows = list(data.table.decode(x))
    assert len(rows) == len(x)
    for i, column in enumerate(data.table.columns):
        texts = [row[i] for row in rows]
        if column.kind == "category":
            assert set(texts) == set(column.categories)
            assert all(each in text or '""' in text for each in texts)
        else:
            numbers = [float(each) for each in texts]
            assert column.range[0] - 0.5 <= min(numbers) <= max(numbers) <= column.range[
                1
            ] + 0.5 or (
                max(map(abs, column.range)) > 1e15  # where halves are rounded away
            )


# ── Configurations ───────────────────────────────────────────────────────────────────────────────

LAUGHS = b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1) if i else b"lol"] * 9))
    for i in range(12)
)
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
    shown = as_json(Experiment())
    few = "training:\n  steps: 10\n  rate: 3e-4\ndata: {source: digits, flip: on}\nseed: 1\n"
    other = "network: {kind: UNet, width: 8, multipliers: [1, 2]}\nlevels:\n  sigma_max: 8\n"
    return [{"x.yaml": text.encode()} for text in (shown, few, other, few + other, "")]


def _config(rng, seeds):
    content = rng.choice(seeds)["x.yaml"]
    if rng.random() < 0.3:
        tree = changed_tree(rng, json.loads(seeds[0]["x.yaml"]))
        return {"x.yaml": json.dumps(tree).encode()}
    return {"x.yaml": damaged(rng, content, [each["x.yaml"] for each in seeds], YAML)}


def _read_config(folder):
    _check_round_trip(folder, read(folder / "x.yaml"))


def _check_round_trip(folder, experiment):
    """Check that the file of a run gives the experiment back."""
    config = checked(experiment, DATASETS)
    text = as_json(config)
    assert len(text) < 10**6
    (folder / "config.json").write_text(text)
    assert read(folder / "config.json") == config


FIELDS = [
    *(
        "seed",
        "start",
        "network",
        "data",
        "network.kind",
        "network.width",
        "data.options.size",
        "x.y",
    ),
    *(
        f"{part}.{name}"
        for part, fields in json.loads(as_json(Experiment())).items()
        if isinstance(fields, dict)
        for name in fields
    ),
]


def _settings(rng, seeds):
    texts = []
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(FIELDS).encode()
        value = rng.choice([b"1", b"0.5", b"x", b"[1, 2]", b"{a: 1}", b"digits", b"on"])
        value = damaged(rng, value, (), YAML) if rng.random() < 0.8 else value
        texts.append(name + b"=" + value.replace(b"\n", b" "))
    whole = b"\n".join(texts)
    tokens = (b".", b"=", b"a.", b"x" * 999)
    return {"x.txt": damaged(rng, whole, (), tokens) if rng.random() < 0.2 else whole}


def _read_settings(folder):
    # as a shell hands over what is not text
    lines = (folder / "x.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    _check_round_trip(folder, overridden(PRESETS["digits"](), lines))


def _named_field(files, message):
    return any(name in message for name in (*files, *FIELDS))


def _named_setting(files, message):
    text = files["x.txt"].decode("utf-8", "surrogateescape")
    names = [line.partition("=")[0].partition(".")[0][:20] for line in text.split("\n")]
    return any(name in message for name in names)


# ── Models ───────────────────────────────────────────────────────────────────────────────────────


def _models():
    torch.manual_seed(0)
    unet = UNet(channels=1, width=4, multipliers=(1, 1), blocks=1, attention=())
    prior = Prior(torch.zeros(3), torch.eye(3))
    ladder = torch.tensor([4.0, 1.0, 0.2])
    return [
        ScoreModel(MLP(3, width=4, blocks=1), EDM(), prior=prior),
        ScoreModel(MLP(3, width=4, blocks=1), Rescaled(VP()), shape=(3,)),
        ScoreModel(MLP(3, width=4, blocks=1), VEDiscrete(ladder), prior=prior),
        ScoreModel(unet, NCSNv2(), shape=(1, 8, 8)),
    ]


def _checkpoint_seeds():
    def write(folder, model):
        checkpoint.save(model, folder / "x.safetensors", about={"loss": 1.0})

    return [_folder(write, model) for model in _models()]


def _stored(content):
    """The description of a file and its tensors."""
    from safetensors.torch import load as tensors

    size = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["scorefield"])
    return description, tensors(content)


def _checkpoint(rng, seeds):
    content = rng.choice([*seeds[:3], *seeds])["x.safetensors"]
    if rng.random() < 0.2:
        return {"x.safetensors": damaged(rng, content, [each["x.safetensors"] for each in seeds])}
    description, tensors = _stored(content)
    if rng.random() < 0.2:
        tensors = _changed_tensors(rng, tensors)
    else:
        part = rng.choice(["network", "precondition", "prior", "shape", None])
        value = {"here": description[part]} if part else description
        value = changed_tree(rng, value)
        description = description | {part: value.get("here")} if part else value
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
    value = tensors.pop(name)
    kinds = [torch.float16, torch.int64, torch.bool, torch.float64, torch.complex64, torch.bfloat16]
    changed = [
        {},
        {name: value.to(rng.choice(kinds))},
        {name: value * rng.choice([torch.nan, torch.inf, 0, -1, 1e30])},
        {name: value.flatten()},
        {name: value[None]},
        {name: value[..., :0].contiguous()},
        {name: torch.zeros(3000)},
        {name + "x": value},
        {name: value, "precondition.sigmas": value.clone()},
        {name: value, "prior.factor": torch.ones(3, 2)},
        {name: value, **{f"net.{i}": torch.zeros(1) for i in range(500)}},
    ]
    return tensors | rng.choice(changed)


def _read_checkpoint(folder):
    path = folder / "x.safetensors"
    model = load(path)
    description, tensors = _stored(path.read_bytes())
    assert type(model.net).__name__ == description["network"]["kind"]
    for name, value in model.net.state_dict().items():
        # the bits, for a weight may be none that equals itself
        assert value.dtype == tensors[f"net.{name}"].dtype
        bits = [each.reshape(-1).view(torch.uint8) for each in (value, tensors[f"net.{name}"])]
        assert torch.equal(*bits)
        assert value.device.type == "cpu"
    levels = model.precondition.sigma_max, model.precondition.sigma_min
    assert 1e309 > levels[0] >= levels[1] > 0
    # what is built in passing is in memory, and not on the device that has none
    assert all(buffer.device.type == "cpu" for buffer in model.net.buffers())


TARGETS = {
    "idx": Target(_idx_seeds, _idx, _read_images("mnist", (1, 28, 28))),
    "cifar": Target(_cifar_seeds, _cifar, _read_images("cifar10", (3, 32, 32))),
    "npz": Target(_npz_seeds, _npz, _read_npz),
    "folder": Target(_folder_seeds, _images, _read_images(None)),
    "celeba": Target(_celeba_seeds, _celeba, _read_images("celeba", (3, 4, 4), size=4, crop=6)),
    "csv": Target(_csv_seeds, _csv, _read_csv),
    "config": Target(_config_seeds, _config, _read_config, _named_field),
    "settings": Target(
        lambda: [{"x.txt": b"seed=1\ntraining.rate=3e-4"}],
        _settings,
        _read_settings,
        _named_setting,
    ),
    "checkpoint": Target(_checkpoint_seeds, _checkpoint, _read_checkpoint),
}
