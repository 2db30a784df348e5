"""Damaged and hostile files, as functions of a random generator and bytes."""

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from copy import deepcopy

EXTREMES = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1)
HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 2**31, 2**63, -(10**9), 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), "", "x", "\0", "1e5", "nan", "∞"),
    *("../../x", "a" * 3000, "EDM", "MLP", "kind", [], {}, [[]], [0] * 300, [1, 2], ["x"]),
    *({"predicts": "mixture"}, {"tensor": "net.stem.weight"}, {"clock": "index"}, {"": {"": 0}}),
)
"""Values to put anywhere in JSON."""


def _number(rng, data):
    """Write an extreme integer, in any width and byte order; most lengths are near the start."""
    width = rng.choice([1, 2, 4, 8])
    value = rng.choice([*EXTREMES, len(data), len(data) + 1]) % 256**width
    place = rng.randrange(max(1, rng.choice([len(data), min(len(data), 64)])))
    number = value.to_bytes(width, rng.choice(["big", "little"]))
    return data[:place] + number + data[place + width :]


def _digits(rng, data):
    """Replace digits by an extreme number."""
    numbers = [*map(str, EXTREMES), "-1", str(10**30), "9" * 5000, "1e999", "0.5", ""]
    start, end = rng.choice([m.span() for m in re.finditer(rb"[0-9]+", data)] or [(0, 0)])
    return data[:start] + rng.choice(numbers).encode() + data[end:]


def _change(rng, data, others, tokens):
    """Change one place of bytes."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + int(2 ** rng.uniform(0, 10)))
    before, span, after = data[:start], data[start:end], data[end:]
    kind, count = rng.randrange(10), int(2 ** rng.uniform(0, 10))
    if kind == 0 and others:
        other = rng.choice(others)
        return before + other[rng.randrange(len(other) + 1) :]
    if kind < 5 and tokens:
        return before + rng.choice(tokens) + rng.choice([span, b""]) + after
    few = rng.randint(1, 8)
    flips = bytes(byte ^ 1 << rng.randrange(8) for byte in span[:few])
    noise = rng.choice([bytes(count), b"\xff" * count, rng.randbytes(count)])
    numbers = [_number(rng, data), _number(rng, data), _digits(rng, data)]
    repeated = span * rng.choice([2, 3, 101])
    middles = [flips + span[few:], b"", noise + span, repeated]
    return rng.choice([before, *(before + middle + after for middle in middles), *numbers])


def damaged(rng, data, others=(), tokens=()):
    """Change one to four places of bytes; `others` are spliced with, `tokens` inserted."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        data = _change(rng, data, others, tokens)
    return data


def deflated(count, head=b"", wbits=-15):
    """Compress some bytes and `count` MiB of zeros into `count` KiB; the zeros only once."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    first = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    again = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + again * count + pack.flush()


def zipped(members, packing=lambda: zipfile.ZIP_STORED, mode=0o600):
    """Make a zip of (name, content), without the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, packing(), 1)
    return out.getvalue()


def _zip(rng, data, change):
    """Change a member of a zip, compressed in any way, and numbers in the headers."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    i = rng.randrange(len(members))
    name, content = members[i]
    names = [name] * 8 + [f"../{name}", f"/{name}", name.upper(), f"é{name}", name[-4:], "a/"]
    members[i] = rng.choice(names), rng.choice([change, lambda content: content])(content)
    members += [(rng.choice(["labels.npy", "y.npy", "x", name]), content)] * (rng.random() < 0.1)
    packings = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 4
    packings += [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    data = zipped(members, lambda: rng.choice(packings))
    for _ in range(rng.choice([0, 0, 1, 2])):
        mark = rng.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6"])  # records of a member, or the end
        start = rng.choice([*re.finditer(mark, data)]).start() + rng.randrange(4, 46)
        width = rng.choice([1, 2, 4])
        value = rng.choice([*EXTREMES, 1, 8, 12, 14, 99]) % 256**width
        data = data[:start] + value.to_bytes(width, "little") + data[start + width :]
    return data


def _tar(rng, data, change):
    """Change the header or the content of a member of a tar; its size and checksum are right."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        info = rng.choice(archive.getmembers())
    end = info.offset_data + info.size
    header, content = data[info.offset : info.offset + 512], data[info.offset_data : end]
    if rng.random() < 0.5:
        header = damaged(rng, header)[:512].ljust(512, b"\0")
    else:
        content = change(content)
        header = header[:124] + b"%011o\0" % len(content) + header[136:]
    total = sum(header[:148] + b" " * 8 + header[156:])
    header = header[:148] + b"%06o\0 " % total + header[156:]
    rest = data[end + -info.size % 512 :]
    return data[: info.offset] + header + content + bytes(-len(content) % 512) + rest


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


def _npy(rng, content):
    """An array whose header says something else."""
    kind, shape = rng.choice(TYPES[:4] + TYPES), rng.choice(SHAPES[3:4] * 4 + SHAPES)
    order = rng.choice(["False", "False", "True", "None", "2"])
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + content[128:]


def hostile(rng, data, others=(), tokens=()):
    """Damage a file, or what is inside of it if it is packed, or its JSON or NumPy header."""

    def change(content):
        return hostile(rng, content, others, tokens)

    if rng.random() < 0.2:
        return damaged(rng, data, others, tokens)
    if data[:2] == b"\x1f\x8b":
        inside = change(gzip.decompress(data))
        return rng.choice([inside, gzip.compress(inside, 1, mtime=0)])
    if data[257:262] == b"ustar":
        return _tar(rng, data, change)
    if data[:2] == b"PK":
        return _zip(rng, data, change)
    if data[:6] == b"\x93NUMPY" and rng.random() < 0.6:
        return _npy(rng, data)
    if data[:1] == b"{":
        return json.dumps(changed_tree(rng, json.loads(data))).encode()
    return damaged(rng, data, others, tokens)


def zip_bomb(name, count, size=None, head=b""):
    """Make a zip of one file of `count` MiB, mostly zeros; its header may claim another size."""
    pressed = deflated(count, head)
    size = count * 2**20 if size is None else size
    lengths = struct.pack("<IIH", len(pressed), size, len(name))
    fields = b"\x14\0\0\0\x08\0\0\0\x21\0" + bytes(4) + lengths
    local = b"PK\3\4" + fields + bytes(2) + name.encode() + pressed
    central = b"PK\1\2\x14\0" + fields + bytes(16) + name.encode()
    end = struct.pack("<IIHHIIH", 0x06054B50, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def _places(tree):
    """List each place in a tree as (container, key)."""
    places, containers = [], [tree]
    for container in containers:  # it grows; a recursion could be too deep
        keys = [*container] if isinstance(container, dict) else range(len(container))
        places += [(container, key) for key in keys]
        containers += [container[key] for key in keys if isinstance(container[key], (dict, list))]
    return places


def changed_tree(rng, tree):
    """Return a copy of a tree of JSON with one to three places changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = _places(tree)
        if not places:
            break
        holder, key = rng.choice(places)
        kind, value = rng.randrange(8), holder[key]
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(rng.choice(HOSTILE))[:50]] = holder.pop(key)
        elif kind == 2:
            other, where = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[where]))
        elif kind == 3:
            number = value if isinstance(value, (int, float)) else 1
            holder[key] = rng.choice([number + 1, -number, number * 1000, number != 0, [number]])
        elif kind == 4:
            holder[key] = nested(rng.choice([10, 100, 300]), value)
        else:
            holder[key] = deepcopy(rng.choice(HOSTILE))
    return tree


def nested(depth, value):
    """Return a value inside `depth` lists, or dictionaries in dictionaries."""
    for _ in range(depth):
        value = {"precondition": value} if isinstance(value, dict) else [value]
    return value
