"""A pretend accelerator, which rehearses device code on a machine without one.

    x = torch.randn(4, 2).to("pretend:0")  # or "pretend:1", without float64, like an Apple GPU
    with pretend.counting() as counts:
        final(heun(score, x, sigmas))
    counts.copies, counts.reads  # such as {"samplers/state.py:53": 1}
    assert not pretend.growth(lambda steps: sample(model, steps=steps))  # what more steps add

A tensor there wraps one on the CPU, whose kernels do the work, so results are the CPU's bit for
bit. As on CUDA, devices do not mix, except that a CPU tensor may be the index of another one, or
have no dimension. A copy crosses between devices. A read makes the host wait, for a value or for a
shape that depends on values. Each is counted at the innermost line of scorefield that caused it.
Random numbers are those of the CPU's generator, and there is no `torch.Generator` of the device.

Importing this module registers the device, for the rest of the process. From then on, backward
passes run in the thread that asks for them, where their copies and reads can be placed.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import scorefield

FACES = ("pretend:0", "pretend:1")
"""The device with float64, and the one without."""
PACKAGE = str(Path(scorefield.__file__).parent) + "/"
WIDE = {torch.float64, torch.complex128}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
WAITING = {"_linalg_eigh", "_linalg_svd", "_linalg_check_errors"}  # CUDA reads whether they failed
LOWERED = ("linear", "matmul", "bmm", "conv2d", "scaled_dot_product_attention")  # by autocast
WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@dataclass
class Counts:
    """Copies and reads, by the line that caused them."""

    copies: Counter = field(default_factory=Counter)
    reads: Counter = field(default_factory=Counter)


_open = []


@contextmanager
def counting():
    """Count copies and reads within the block."""
    _open.append(Counts())
    try:
        yield _open[-1]
    finally:
        _open.pop()


def growth(run, few=1, many=2):
    """Return the copies and reads that run(many) has more than run(few), by the line."""
    run(few)  # what is computed once and kept
    with counting() as first:
        run(few)
    with counting() as second:
        run(many)
    return second.copies - first.copies + (second.reads - first.reads)


def _count(kind):
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    place = f"{frame.f_code.co_filename[len(PACKAGE) :]}:{frame.f_lineno}" if frame else "elsewhere"
    for counts in _open:
        getattr(counts, kind)[place] += 1


class There(Tensor):
    """A tensor on the pretend device, around the tensor `raw` on the CPU."""

    @staticmethod
    def __new__(cls, raw, device):
        if raw.dtype in WIDE and device == torch.device(FACES[1]):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        layout = (raw.size(), raw.stride(), raw.storage_offset())
        there = Tensor._make_wrapper_subclass(cls, *layout, dtype=raw.dtype, device=device)
        there.raw = raw
        return there

    def __repr__(self):
        return f"{self.raw} on {self.device}"

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        with torch._C._DisableTorchDispatch():
            Tensor.data.__set__(self, other)
        self.raw = other.raw

    def tolist(self):
        _count("reads")
        return self.raw.tolist()

    def numpy(self, **options):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy: use .cpu()")

    def new_tensor(self, values, *, dtype=None):
        return torch.tensor(values, dtype=dtype or self.dtype, device=self.device)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, *args, **(kwargs or {}))


def _run(operation, *args, **kwargs):
    """Run an operation with a tensor of the device, or with a result there."""
    tensors = list[Tensor]()
    raw, options = _strip(args, tensors), {k: _strip(v, tensors) for k, v in kwargs.items()}
    there = [t for t in tensors if isinstance(t, There)]
    target = kwargs.get("device") or there[0].device
    if target.type == "pretend":
        target = torch.device("pretend", target.index or 0)
    _check(operation, args, kwargs, tensors, target)
    if options.get("device"):
        options["device"] = torch.device("cpu")
    result = operation(*raw, **options)
    if not (writes := _about(operation)[2]) and isinstance(result, Tensor):
        return result if target.type == "cpu" else There(result, target)
    for t in (t for t in there if t.raw.shape != t.shape):  # it was resized
        t.data = There(t.raw, t.device)
    if target.type == "cpu":
        return result
    # a tensor that was written to is returned itself
    written = {id(getattr(t, "raw", t)): t for t in tensors} if writes else {}

    def move(x):
        if not isinstance(x, Tensor):
            return x
        return written[id(x)] if id(x) in written else There(x, target)

    return _map(move, result)


def _strip(value, tensors):
    """Return a value with the tensors that the CPU has, and collect the tensors that it holds."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.raw if isinstance(value, There) else value
    if isinstance(value, (list, tuple)):
        return type(value)([_strip(part, tensors) for part in value])
    return value


def _map(function, value):
    """Apply a function to all that lists and dictionaries hold, at half the cost of a pytree."""
    if isinstance(value, dict):
        return {name: _map(function, part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_map(function, part) for part in value])
    return function(value)


@cache
def _about(operation):
    """Return the name, and whether the host waits for it, and whether it writes to a tensor."""
    name = operation._schema.name.removeprefix("aten::")
    waits = name in WAITING or not WAITING_TAGS.isdisjoint(operation.tags)
    return name, waits, operation._schema.is_mutable


def _check(operation, args, kwargs, tensors, target):
    """Refuse what CUDA refuses, and count copies and reads."""
    name, waits, writes = _about(operation)
    if name in ("copy_", "_to_copy"):
        if {t.device for t in tensors} != {target}:
            _count("copies")
        return
    if name == "where":  # CUDA copies a number on the host before it chooses
        for _ in (t for t in tensors if not isinstance(t, There)):
            _count("copies")
    if name in INDEXING and isinstance(args[0], There):
        indices = [i for i in args[1] if i is not None]
        one_value = len(args) > 2 and args[2].numel() == 1  # a masked fill
        waits = not one_value and any(i.dtype in (torch.bool, torch.uint8) for i in indices)
        for _ in (i for i in indices if i.device != target):
            _count("copies")
        tensors = [args[0], *args[2:3]]
    if waits and kwargs.get("output_size") is None:
        _count("reads")
    homes = {t.device for t in tensors if isinstance(t, There) or t.dim()}
    if writes and isinstance(args[0], Tensor):
        homes.add(args[0].device)
    if len(homes) > 1:
        raise RuntimeError(f"{name}: expected tensors on one device, not {[*map(str, homes)]}")
    if kwargs.get("generator"):
        raise RuntimeError("Expected a 'pretend' device type for generator but found 'cpu'")


class _Module(_DummyBackendModule):
    """The module `torch.pretend`, with what torch asks of one."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)


# autograd starts a thread for each device when it is first used; with one, nobody may fork
torch.ones((), requires_grad=True).backward()
_setup_privateuseone_for_python_backend("pretend", _Module())
torch.autograd.set_multithreading_enabled(False)
_library = torch.library.Library("_", "IMPL", "PrivateUse1")
_library.fallback(_run, with_keyset=False)
# what does not reach the fallback: the copy of `torch.tensor`, and a gradient by another formula
_direct = torch.library.Library("aten", "IMPL", "PrivateUse1")
for _name in ("copy_", "silu_backward"):
    _direct.impl(_name, partial(_run, getattr(torch.ops.aten, _name).default))


def _attend(query, key, value):
    """Attend by the kernel of a CPU, which torch takes on no device that it does not know."""
    if torch._fused_sdp_choice(query, key, value) == SDPBackend.FLASH_ATTENTION.value:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value)[0]


_differentiated = torch.library.Library("aten", "IMPL", "AutogradPrivateUse1")
for _part in (_direct, _differentiated):
    _part.impl("scaled_dot_product_attention", _attend)


def _run_lowered(operation, *args, **kwargs):
    """Run an operation on float32 tensors in the dtype of `torch.autocast`."""
    dtype = torch.get_autocast_dtype("pretend")

    def lower(x):
        return x.to(dtype) if isinstance(x, Tensor) and x.dtype == torch.float32 else x

    args, kwargs = _map(lower, (args, kwargs))
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet("AutocastPrivateUse1")):
        return operation(*args, **kwargs)


_as_written = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_as_written.fallback(torch.library.fallthrough_kernel)
_lowered = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
for _name in LOWERED:
    _lowered.impl(_name, partial(_run_lowered, getattr(torch.ops.aten, _name).default))
