"""Damaged and hostile files, as functions of a random generator and a sound file."""

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib

EXTREMES = [2**i + d for i in (0, 3, 7, 8, 15, 16, 24, 31, 32, 62) for d in (-1, 0)] + [12, 14, 99]
DIGITS = [b"%d" % n for n in (*EXTREMES, -1, 10**30)] + [b"9" * 5000, b"1e999", b"0.5", b""]
EXIF_OF_TEXT = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\0" + b"6\0\0\0" + bytes(4)
"""Whose orientation is text."""
VALUE = rb"""(?=("[^"]*"|'[^']*'|\[[^][]*\]|\{[^{}]*\}|\([^()]*\)|(?<![-+.\w])[-+.\w]+))"""
"""A word, a string or what is in brackets, in any text format."""


def _write_number(rng, data, start):
    """Write an extreme integer, in any width and byte order, over bytes."""
    width, order = rng.choice([1, 2, 4, 8]), rng.choice(["big", "little"])
    value = rng.choice([*EXTREMES, 2**64 - 1, len(data), len(data) + 1]) % 256**width
    return data[:start] + value.to_bytes(width, order) + data[start + width :]


def _replace(rng, data, pattern, values):
    """Replace a match of a pattern by a value or by another match."""
    spans = [match.span(1) for match in re.finditer(pattern, data)] or [(0, 0)]
    (start, end), other = rng.choice(spans), slice(*rng.choice(spans))
    return data[:start] + rng.choice([*values, data[other]]) + data[end:]


def damage(rng, data, others=(), tokens=()):
    """Change one to four places of bytes; splice with one of `others`, insert `tokens`."""
    kinds = ["cut", "remove", "repeat", "insert", "flip", "number", "number", "digits"]
    kinds += ["splice"] * bool(others) + ["token", "token", *["value"] * 5] * bool(tokens)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        kind, start = rng.choice(kinds), rng.randrange(len(data) + 1)
        length = 2 ** rng.randrange(11)
        before, span, after = data[:start], data[start : start + length], data[start + length :]
        if kind == "cut":
            data = before
        elif kind == "remove":
            data = before + after
        elif kind == "repeat":
            data = before + span * rng.choice([2, 3, 101]) + after
        elif kind == "insert":
            noise = [bytes(length), b"\xff" * length, rng.randbytes(8) * (length // 8)]
            data = before + rng.choice(noise) + span + after
        elif kind == "flip":
            flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in span[: rng.randint(1, 8)])
            data = before + flipped + data[start + len(flipped) :]
        elif kind == "number":
            data = _write_number(rng, data, rng.choice([0, start, start % 64]))
        elif kind == "digits":
            data = _replace(rng, data, rb"([0-9]+)", DIGITS)
        elif kind == "value":
            data = _replace(rng, data, VALUE, tokens)
        elif kind == "token":
            data = before + rng.choice(tokens) + span + after
        else:
            other = rng.choice(others)
            data = before + other[rng.randrange(len(other) + 1) :]
    return data


def make_hostile(rng, data, others=(), tokens=()):
    """Damage a file, or what is inside of it if it is packed."""

    def change(content):
        return make_hostile(rng, content, others, tokens)

    if rng.randrange(5) == 0:
        return damage(rng, data, others, tokens)
    if data[:2] == b"\x1f\x8b":
        inside = change(gzip.decompress(data))
        return rng.choice([gzip.compress(inside, 1, mtime=0), inside])
    if data[257:262] == b"ustar":
        return _change_tar(rng, data, change)
    if data[:2] == b"PK":
        return _change_zip(rng, data, change)
    if data[:8] == b"\x93NUMPY\1\0" and rng.randrange(2):
        header = damage(rng, data[10:128], (), tokens)[:65535]
        return data[:8] + struct.pack("<H", len(header)) + header + data[128:]
    return damage(rng, data, others, tokens)


def _change_zip(rng, data, change):
    """Change a member, pack in any format, and change numbers in the headers."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members])
    content = members[name] if rng.randrange(10) == 0 else members.pop(name)
    names = [name] * 9 + [f"../{name}", f"/{name}", name.upper(), f"é{name}", name[-4:], "a/", "x"]
    changed = rng.choice(names), change(content) if rng.randrange(2) else content
    packings = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 4
    packings += [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    data = make_zip([*members.items(), changed], rng.choice(packings))
    for _ in range(rng.choice([0, 0, 1, 2])):
        records = [match.start() for match in re.finditer(b"PK(\1\2|\3\4|\5\6)", data)] or [0]
        data = _write_number(rng, data, rng.choice(records) + rng.randrange(4, 46))
    return data


def _change_tar(rng, data, change):
    """Change the header or the content of a member of a tar; its size and checksum are right."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        info = rng.choice(archive.getmembers())
    start, end = info.offset_data, info.offset_data + info.size
    header, content = data[info.offset : start], data[start:end]
    if rng.randrange(2):
        header = damage(rng, header)[:512].ljust(512, b"\0")
    else:
        content = change(content)
        header = header[:124] + b"%011o\0" % len(content) + header[136:]
    total = sum(header[:148] + b" " * 8 + header[156:])
    header = header[:148] + b"%06o\0 " % total + header[156:]
    rest = data[end + -info.size % 512 :]
    return data[: info.offset] + header + content + bytes(-len(content) % 512) + rest


def make_png(width, height, depth, colour, rows):
    """Return a PNG of rows of bytes, each after its filter."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + head, b"IDAT" + zlib.compress(rows), b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


def make_zip(members, packing=zipfile.ZIP_STORED, mode=0o600):
    """Make a zip of (name, content), without the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, packing, 1)
    return out.getvalue()


def zip_bomb(name, mebibytes, *, claimed=None, head=b""):
    """Make a zip of one file, mostly zeros; its headers may claim another size."""
    content = head + bytes(mebibytes * 2**20)
    data = make_zip([(name, content)], zipfile.ZIP_DEFLATED)
    size, claimed = (struct.pack("<I", n) for n in (len(content), claimed or len(content)))
    return data.replace(size, claimed)
