"""Checkpoints of EDM of other shapes than the authors', and files that are refused."""

import functools
import pickle
import pickletools
import re
import struct
from contextlib import nullcontext

import pytest
import torch
from edm_reference import EDMReference, Persistent, draw_network, dump
from standins import little_memory

from benchmarks.authors import denoise, difference
from scorefield import load, save
from scorefield.convert import from_official, pickles
from scorefield.fast import optimize
from scorefield.fast.twins import FastConv3, FastGroupNorm, FastHead

NCSNPP = dict(embedding="fourier", encoder="residual", taps=(1, 3, 3, 1))
ADM = dict(kind="DhariwalUNet", classes=3)
SHAPES = {
    "deep": dict(multipliers=(1, 3, 2), blocks=2, side=16, attention=(16, 4), augment=9),
    "one level": dict(multipliers=(2,), attention=(), channels=1),
    "no attention": dict(attention=(), width=12, multipliers=(1, 1)),
    "classes": dict(classes=4, dropout=0.13),
    "one class": dict(classes=1, **NCSNPP),
    "NCSN++": dict(NCSNPP, precond="VEPrecond", multipliers=(1, 2, 2), side=16, augment=9),
    "taps of 0": dict(NCSNPP, taps=(0, 1, 1, 0)),
    "six taps": dict(NCSNPP, taps=(1, 5, 10, 10, 5, 1), side=16),
    "plain residual": dict(NCSNPP, taps=(1, 1)),
    "skips": dict(NCSNPP, encoder="skip", decoder="skip", multipliers=(1, 2, 1)),
    "VP": dict(precond="VPPrecond", channels=2, blocks=2),
    "ADM without heads": dict(ADM, width=16, blocks=2),
    "ADM of several heads": dict(ADM, head=8, multipliers=(2, 4), attention=(8, 4)),
    "ADM of two sizes": dict(ADM, head=8, width=12, attention=(8, 4), classes=0),
    "ADM of VP": dict(ADM, precond="VPPrecond", width=16, multipliers=(1, 2, 2), side=16),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_compute_what_the_papers_say(name, tmp_path):
    torch.manual_seed(0)
    reference = EDMReference(**SHAPES[name])
    x = torch.randn(3, reference.channels, reference.side, reference.side).double()
    sigma = torch.tensor([0.05, 0.7, 12.0]).double()
    x = x * (0.25 + sigma**2).sqrt()[:, None, None, None]
    labels = torch.tensor([0, 2, 1]) % reference.classes if reference.classes else None
    expected = reference.run(x, sigma, labels)
    model = from_official(write(tmp_path / "x.pkl", reference.network)).double()
    # float64, but sinusoidal frequencies and the network's input for σ are float32
    assert difference(denoise(model, x, sigma, labels), expected) <= 1e-5


def write(path, network):
    path.write_bytes(dump({"ema": network, "loss_fn": None, "augment_pipe": None}))
    return path


def test_values_read_assumed_and_left_out_are_reported(tmp_path):
    path, lines = tmp_path / "network-snapshot.pkl", []
    write(path, draw_network(augment=9, classes=2))
    model = from_official(path, report=lines.append)
    assert lines[:3] == [
        "inferred: weights averaged (EMA)",
        "inferred: preconditioned by EDMPrecond, for images in [−1, 1]",
        "assumed: sigma_max = 40, sigma_min = 0.001",
    ]
    assert (
        "left out: map_augment, the embedding of augmentations, which samples do not have" in lines
    )
    assert "inferred: image_size = 8" in lines
    assert (model.shape, model.classes, model.training) == ((3, 8, 8), ("0", "1"), False)
    model = from_official(path, sigma_max=30, image_size=(16, 8))
    assert (model.shape, model.sigma_max, model.sigma_min) == ((3, 16, 8), 30, 0.001)
    # 80 to 0.002 are half of that where images are in [0, 1]
    assert model.precondition(torch.tensor(0.5)).cond.item() == 0  # ¼ log 1


def build(code, *arguments):
    """Return the pickle of a call."""
    module, name = code.rsplit(".", 1)
    strings = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    values = b"".join(pickle.dumps(argument, 4)[2:-1] for argument in arguments)
    return b"\x80\x04}\x8c\x03ema" + strings + b"\x93(" + values + b"tRs."


class Call:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


GIGABYTES = struct.pack("<Q", 10 * 2**30)
SHARED = b")" + b"q\xffh\xff\x86" * 24  # (x, x) of x, 24 times: 2²⁴ empty tuples
DEEP = b"\x80\x04)" + b"\x85" * 5_000
REFUSED = {
    "os.system": (build("os.system", "touch ran"), r"it asks for 'os\.system"),
    "posix.system": (build("posix.system", "touch ran"), r"it asks for 'posix\.system"),
    "eval": (pickle.dumps({"ema": Call()}), r"it asks for 'builtins\.eval"),
    "eval in Python 2": (pickle.dumps({"ema": Call()}, 2), r"it asks for '__builtin__\.eval"),
    "an attribute": (build("torch.storage._load_from_bytes.__globals__"), "it asks for 'torch"),
    "a wrong class": (build("torch.nn.modules.linear.Linear"), "it asks for 'torch.nn.*Linear"),
    "a call of a result": (b"\x80\x04))R.", "it calls what is not a name"),
    "a state of a list": (b"\x80\x04]}b.", "as if it were a PlainObject"),
    "an extension": (b"\x80\x04\x82\x01.", "operation EXT1"),
    "a frame of 10 GB": (
        b"\x80\x04\x95" + GIGABYTES + b"}.",
        "it claims 10737418240 bytes where 2",
    ),
    "bytes of 10 GB": (b"\x80\x04\x8e" + GIGABYTES + b"x.", "expected 10737418240 bytes"),
    "text of 10 GB": (b"\x80\x04\x8d" + GIGABYTES + b"x.", "expected 10737418240 bytes"),
    "a million lists": (b"\x80\x04" + b"]" * 10**6 + b".", "more than 9999 operations"),
    "endless hashing": (DEEP + b"q\0}h\0Ns.", "it has a tuple for a key"),
    "a name of shared tuples": (b"\x80\x04\x8c\1x" + SHARED + b"\x93.", "TypeError"),
    "a number of a shared type": (
        b"\x80\x04cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n"
        + (SHARED + b"\x85R(NX\1\0\0\0<tbC\4\0\0\0\0tR."),
        "a scalar that is not one of",
    ),
    "integers that hash alike": (
        pickle.dumps(dict.fromkeys((2**61 - 1) * i for i in range(9))),
        "an integer beyond ±281474976710656 for a key",
    ),
    "a float as a key": (pickle.dumps({0.5: 1}), "it has a float for a key"),
    "copies of arguments": (
        b"\x80\x04cnumpy\ndtype\n(" + b"]" * 9 + b"tR.",
        "calls numpy.dtype with 9 arguments",
    ),
    "a thousand dimensions": (
        dump({"ema": torch.ones(1)}, 3).replace(b"K\1\x85", b"(" + b"K\1" * 1000 + b"t"),
        "a tensor of 1000 dimensions",
    ),
    "cut": (dump({"ema": torch.ones(9)}, 3)[:-60], "exhausted"),
    "nothing": (b"\x80", "refused"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_would_run_code_or_take_memory_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 9999)
    content, message = REFUSED[name]
    (tmp_path / "x.pkl").write_bytes(content)
    wrong = pytest.raises(ValueError, match=rf"x\.pkl is not a checkpoint .*{message}")
    with little_memory(), wrong:
        from_official(tmp_path / "x.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_a_set_that_is_asked_for_again_takes_no_memory():
    """10,000 sets of 64 numbers would take 80 MB."""
    numbers = b"".join(b"K" + bytes([i]) for i in range(64))
    again = b"cbuiltins\nset\nq\1](" + b"h\1h\2R" * 10_000 + b"e"
    with little_memory():
        _, sets = pickles.read_network(b"\x80\x04](" + numbers + b"e\x85q\2" + again + b"\x86.")
    assert sets[-1] == [*range(64)]


TENSOR = dump({"ema": torch.arange(300.0)})
STORAGE = next(value for _, value, _ in pickletools.genops(TENSOR) if type(value) is bytes)
SIZE = b"M,\x01\x85\x94K\x01\x85"
HUGE = b"J\xff\xff\xff\x7f"
CLAIMS = {
    "a storage of 10 GB": (
        STORAGE.replace(b"M,\x01N", HUGE + b"N"),
        "storage of 2147483647 numbers",
    ),
    "a storage that ends early": (STORAGE[:-4], "storage of 300 numbers, .* in 1196 bytes"),
    "a storage of a shared number": (
        STORAGE.replace(b"M,\x01N", SHARED + b"N"),
        "a storage that torch did not write",
    ),
    "a storage of a shared name": (
        re.sub(rb"X.\0\0\0\d+", lambda match: SHARED, STORAGE, flags=re.S),
        "a storage that torch did not write",
    ),
    "another kind of storage": (
        STORAGE.replace(b"ctorch\nF", b"ctorch\nf"),
        "asks for 'torch.float",
    ),
    "a tensor of 10 GB": (TENSOR.replace(SIZE, HUGE + SIZE[3:]), "RuntimeError"),
    "a repeated number": (TENSOR.replace(SIZE, HUGE + b"\x85\x94K\0\x85"), "a tensor of the shape"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_tensor_that_claims_more_than_is_there_is_refused(name, tmp_path):
    content, message = CLAIMS[name]
    assert content not in (STORAGE, TENSOR)
    if "storage" in name:
        content = build("torch.storage._load_from_bytes", content)
    (tmp_path / "x.pkl").write_bytes(content)
    wrong = pytest.raises(ValueError, match=rf"x\.pkl is not a checkpoint .*{message}")
    with little_memory(), wrong:
        from_official(tmp_path / "x.pkl")


def test_a_storage_that_is_asked_for_again_is_not_read_again():
    stored = b"B" + struct.pack("<I", len(STORAGE)) + STORAGE
    ask = b"ctorch.storage\n_load_from_bytes\nq\0" + stored + b"q\1\x85R" + b"h\0h\1\x85R\x86."
    one, again = pickles.read_network(b"\x80\x04" + ask)
    assert one is again
    assert torch.equal(one, torch.arange(300.0))


def first(network, part):
    """Return the first module of this name."""
    if part in network.parts:
        return network.parts[part]
    inner = (first(module, part) for module in network.parts.values() if module)
    return next((module for module in inner if module), None)


def share(network):
    conv0, conv1 = first(network, "conv0"), first(network, "conv1")
    conv0.tensors, conv1.tensors = (dict(weight=torch.nn.Parameter(torch.ones(8, 8, 3, 3))),) * 2


def reuse(network):
    parts = first(network, "dec").parts
    parts["8x8_block1"] = parts["8x8_block0"]


def skew(network):
    down = first(network, "4x4_down").parts["conv0"].buffers
    down["resample_filter"] = torch.tensor([[0.1, 0.2], [0.2, 0.5]])[None, None]


def spoil(network):
    first(network, "conv1").tensors["weight"][0, 0, 0, 0] = torch.nan


def lengthen(network):
    first(network, "4x4_down").parts["conv0"].buffers["resample_filter"] = torch.ones(1, 1, 5000, 1)


NESTED = functools.reduce(lambda x, _: [x, x], range(24), [])  # 2²⁴ lists of 25
CHANGES = {
    "a preconditioner": (
        lambda n: vars(n).update(kind="iDDPMPrecond"),
        "by iDDPMPrecond: supported",
    ),
    "a network": (
        lambda n: vars(first(n, "model")).update(kind="Other"),
        "is a Other: supported are",
    ),
    "no network": (lambda n: n.parts.clear(), "ema, of EDMPrecond, has no part model"),
    "many modules": (
        lambda n: first(n, "enc").parts.update({f"8x8_x{i}": Persistent("Y") for i in range(1024)}),
        r"the network has 1\d{3} modules: at most 1024",
    ),
    "a side": (lambda n: n.facts.update(img_resolution=1032), "is 1032: .* give image_size"),
    "a part less": (lambda n: first(n, "model").parts.pop("map_layer0"), "no part map_layer0"),
    "an unknown part": (
        lambda n: first(n, "dec").parts.update(x=Persistent("Y")),
        "unknown parts .'x'",
    ),
    "a scale": (
        lambda n: first(n, "8x8_block0").facts.update(skip_scale=0.5),
        "skip_scale is .0.5, 0.7",
    ),
    "dropout": (
        lambda n: first(n, "8x8_block0").facts.update(dropout="x"),
        "dropout is 'x': the file",
    ),
    "shared lists": (
        lambda n: first(n, "8x8_block0").facts.update(dropout=NESTED),
        r"dropout is .*\[\.\.\.\].*: the file",
    ),
    "a class of shared lists": (
        lambda n: vars(n).update(kind=NESTED),
        "ema is not a module of torch",
    ),
    "a long name": (
        lambda n: first(n, "dec").parts.update({101 * "x": Persistent("Y")}),
        "dec is not a module of torch",
    ),
    "a frequency": (
        lambda n: first(n, "map_noise").facts.update(max_positions=1000),
        "map_noise.max_positions is 1000: supported is 10000",
    ),
    "a size": (
        lambda n: first(n, "4x4_down").parts["skip"].facts.update(down=False),
        "4x4_down.skip.down is False: unsupported",
    ),
    "a size twice": (
        lambda n: first(n, "8x8_up").parts["conv1"].facts.update(up=True),
        "8x8_up.conv1.up is True: unsupported",
    ),
    "NaN": (spoil, "conv_out.weight has NaN or infinite values"),
    "a long filter": (lengthen, "resample_filter is .* one symmetric filter"),
    "groups": (
        lambda n: first(n, "norm0").facts.update(num_groups=1),
        r"norm0 has .groups, ε. = .1, 1e-06",
    ),
    "ε": (lambda n: first(n, "norm1").facts.update(eps=1e-5), r"norm1 has .groups, ε. = .2, 1e-05"),
    "a filter": (skew, "4x4_down.conv0.resample_filter is .* one symmetric filter"),
    "one tensor": (share, "conv1.weight and .*conv0.weight are one tensor"),
    "one module": (reuse, "8x8_block1 is not a network of EDM: it is of PlainObject, or twice"),
    "shared contents": (
        lambda n: first(n, "8x8_block1").__dict__.update(parts=first(n, "8x8_block0").parts),
        "shares its contents with another module",
    ),
    "a width": (
        lambda n: first(n, "conv0").tensors.update(weight=torch.ones(9, 8, 3, 3)),
        r"\[9, 16\] channels",
    ),
}


LARGE = ("a side", "shared lists", "a class of shared lists", "shared contents", "a long filter")
"""Changes that would take memory if the network were built or the error showed all of them."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_that_is_not_one_of_edm_is_refused_where_it_differs(name, tmp_path):
    network, (change, message) = draw_network(), CHANGES[name]
    change(network)
    write(tmp_path / "x.pkl", network)
    wrong = pytest.raises(ValueError, match=rf"x\.pkl.*{message}")
    with little_memory() if name in LARGE else nullcontext(), wrong as error:
        from_official(tmp_path / "x.pkl")
    assert "no model can be built" not in str(error.value)


def test_an_option_that_the_file_decides_is_refused(tmp_path):
    for precond, options, message in (
        ("VPPrecond", dict(sigma_max=3.0), "β in the file sets them"),
        ("VEPrecond", dict(sigma_max=0.001), "give sigma_max > sigma_min > 0"),
        ("EDMPrecond", dict(ema=False), "ema: not an option for checkpoints of edm"),
        ("EDMPrecond", dict(image_size=9), "give a multiple of 2"),
    ):
        write(tmp_path / "x.pkl", draw_network(precond=precond))
        with pytest.raises(ValueError, match=message):
            from_official(tmp_path / "x.pkl", **options)


@torch.no_grad()
def test_an_optimised_adm_computes_the_same_and_keeps_its_blocks(tmp_path):
    """No twin knows the adaptive norm; the convolutions and norms in its blocks have theirs."""
    write(tmp_path / "x.pkl", draw_network(kind="DhariwalUNet", width=32, multipliers=(2,)))
    model = from_official(tmp_path / "x.pkl")
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 2.0])
    before = model(x, sigma)
    kinds = [type(part) for part in model.net.modules()]
    choice = optimize(model, evaluations=None)
    twins = {type(part) for part in model.net.modules()} - {*kinds}
    assert twins == ({FastConv3, FastGroupNorm, FastHead} if choice.winograd else set())
    assert difference(model(x, sigma), before) <= 1e-4  # of the kernels, as measured for UNets
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(x, sigma), before)
