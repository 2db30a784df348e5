"""Damaged and hostile files, as functions of a random generator and bytes."""

import gzip
import io
import json
import re
import zipfile
import zlib
from copy import deepcopy

EXTREMES = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1)
HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 2**31, 2**63, -(10**9), 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), "", "x", "\0", "1e5", "nan", "∞"),
    *("../../x", "a" * 3000, "EDM", "MLP", "kind", [], {}, [[]], [0] * 300, [1, 2], ["x"]),
    *({"kind": "EDM"}, {"tensor": "net.stem.weight"}, {"kind": "Rescaled"}, {"": {"": 0}}),
)
"""Values to put anywhere in JSON."""


# ── Bytes ────────────────────────────────────────────────────────────────────────────────────────


def _place(rng, data):
    return rng.randrange(len(data) + 1)


def _span(rng, data):
    start = _place(rng, data)
    return start, min(len(data), start + int(2 ** rng.uniform(0, 10)))


def _flip(rng, data):
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _cut(rng, data):
    return data[: _place(rng, data)]


def _drop(rng, data):
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _insert(rng, data):
    place, count = _place(rng, data), int(2 ** rng.uniform(0, 10))
    some = rng.choice([bytes(count), b"\xff" * count, rng.randbytes(count)])
    return data[:place] + some + data[place:]


def _repeat(rng, data):
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice([1, 2, 100]) + data[end:]


def _number(rng, data):
    """Write an extreme integer, in any width and byte order; most lengths are near the start."""
    width = rng.choice([1, 2, 4, 8])
    top = rng.choice([len(data), min(len(data), 64)])
    value = rng.choice([*EXTREMES, len(data), len(data) + 1]) % 256**width
    place = rng.randrange(max(1, top))
    return (
        data[:place] + value.to_bytes(width, rng.choice(["big", "little"])) + data[place + width :]
    )


def _digits(rng, data):
    """Replace digits by an extreme number."""
    matches = list(re.finditer(rb"[0-9]+", data))
    if not matches:
        return data
    match = rng.choice(matches)
    value = rng.choice([str(n) for n in (*EXTREMES, -1, 10**30)] + ["9" * 5000, "1e999", "0.5", ""])
    return data[: match.start()] + value.encode() + data[match.end() :]


def _splice(rng, data, other):
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def damaged(rng, data, others=(), tokens=()):
    """Change one to four places of bytes; `others` are spliced with, `tokens` inserted."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        kind = rng.randrange(10)
        if kind == 0 and others:
            data = _splice(rng, data, rng.choice(others))
        elif kind < 5 and tokens:
            start, end = rng.choice([_span(rng, data), (_place(rng, data),) * 2])
            data = data[:start] + rng.choice(tokens) + data[end:]
        else:
            change = rng.choice([_flip, _cut, _drop, _insert, _repeat, _number, _number, _digits])
            data = change(rng, data)
    return data


# ── Containers, packed again around something damaged ────────────────────────────────────────────


def deflated(count, head=b"", wbits=-15):
    """Compress some bytes and `count` MiB of zeros into `count` KiB; the zeros only once."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    first = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    again = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + again * count + pack.flush()


def gzipped(rng, data):
    """Gzip half of the time, and then damage it a tenth of the time."""
    packed = gzip.compress(data, 1, mtime=0) if rng.random() < 0.5 else data
    return damaged(rng, packed) if rng.random() < 0.1 else packed


def tar(members):
    """Make an archive of (header of 512 bytes, content), with correct checksums."""
    out = bytearray()
    for header, content in members:
        blank = header[:148] + b" " * 8 + header[156:]
        out += header[:148] + b"%06o\0 " % sum(blank) + header[156:]
        out += content + bytes(-len(content) % 512)
    return bytes(out + bytes(1024))


def untar(data):
    """Return (header, content) of each member of a sound archive."""
    members, at = [], 0
    while data[at : at + 512].strip(b"\0"):
        size = int(data[at + 124 : at + 135], 8)
        members.append((data[at : at + 512], data[at + 512 : at + 512 + size]))
        at += 512 + size + -size % 512
    return members


def zipped(rng, members):
    """Make a zip of (name, content) with any compression and damaged numbers in its headers."""
    out = io.BytesIO()
    packings = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 4
    packings += [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, rng.choice(packings), 1)
    data = out.getvalue()
    for _ in range(rng.choice([0, 0, 1, 2])):
        # a field of the record of a member, or of that of the end
        mark = rng.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6"])
        places = [match.start() for match in re.finditer(re.escape(mark), data)]
        start, width = rng.choice(places) + rng.randrange(4, 46), rng.choice([1, 2, 4])
        value = rng.choice([*EXTREMES, 1, 8, 12, 14, 99]) % 256**width
        data = data[:start] + value.to_bytes(width, "little") + data[start + width :]
    return data


def zip_bomb(name, count, size=None, head=b""):
    """Make a zip of one file of `count` MiB, mostly zeros; its header may claim another size."""
    pressed = deflated(count, head)
    size = count * 2**20 if size is None else size
    fields = (
        b"\x14\0\0\0\x08\0\0\0\x21\0" + bytes(4) + len(pressed).to_bytes(4, "little")
        + size.to_bytes(4, "little") + len(name).to_bytes(2, "little")
    )  # fmt: skip
    local = b"PK\3\4" + fields + bytes(2) + name.encode() + pressed
    central = b"PK\1\2\x14\0" + fields + bytes(16) + name.encode()
    lengths = len(central).to_bytes(4, "little") + len(local).to_bytes(4, "little")
    return local + central + b"PK\5\6" + bytes(4) + b"\1\0\1\0" + lengths + bytes(2)


# ── Trees of JSON ────────────────────────────────────────────────────────────────────────────────


def _nodes(tree):
    """Yield each place in a tree as (container, key)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _nodes(value)


def changed_tree(rng, tree):
    """Return a copy of a tree of JSON with one to three places changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice([1, 1, 2, 3])):
        nodes = list(_nodes(tree))
        if not nodes:
            break
        holder, key = rng.choice(nodes)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(rng.choice(HOSTILE))[:50]] = holder.pop(key)
        elif kind == 2:
            other, where = rng.choice(nodes)
            holder[key] = json.loads(json.dumps(other[where]))
        elif kind == 3:
            number = holder[key] if isinstance(holder[key], (int, float)) else 1
            holder[key] = rng.choice([number + 1, -number, number * 1000, number != 0, [number]])
        elif kind == 4:
            holder[key] = nested(rng.choice([10, 100, 400]), holder[key])
        else:
            holder[key] = deepcopy(rng.choice(HOSTILE))
    return tree


def nested(depth, value):
    """Return a value inside `depth` lists, or preconditioners of preconditioners."""
    for _ in range(depth):
        value = {"kind": "Rescaled", "precondition": value} if isinstance(value, dict) else [value]
    return value
