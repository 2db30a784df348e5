"""Which way of running a network pays, on which device, and why.

    CPU     Winograd convolutions in float32, where the network has 3 × 3 ones and a C++ compiler is
            there: the score moves by less than 1e-5; an MLP's products by oneDNN (in training where
            that is known to be faster), and in sampling what depends on σ alone once a batch, error
            1e-6
    CUDA    in training bfloat16 with channels innermost; torch.compile in long runs

Gradients move by what the same rounding makes of them: in float32 by some 1e-5, but where maxima
are taken, as in NCSNv2, by 1e-3 like those of any two ways in float32; in bfloat16 by several per
cent.

The model stays the object that it is, its parameters too: only how it computes is changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from ..model import ScoreModel
from ..nn import MLP, RefineNet, dense, kernels

Precision = Literal["auto", "float32", "bfloat16"]

BUILD = 20.0
"""Seconds of work that are worth the building of the convolutions, which takes some five."""
COMPILE = 2000
"""Evaluations that are worth a compilation, which takes a minute or more."""
EXACT = "a quarter of the multiplications, error 1e-5"
HALF = "in bfloat16: error of the score up to 2 %"
BETTER = "more exact than bfloat16 and as fast on a CPU"
RATE = 5e10
"""Operations a second of one core, roughly, by which work is told from play."""


@dataclass(frozen=True)
class Choice:
    """How a network is to be run; `str` of it says why.

    Attributes:
        winograd: Convolutions with fewer multiplications, in float32 on a CPU.
        coarse: Fewer still, where no gradients are wanted and 2 % of error are allowed.
        onednn: An MLP's products by oneDNN, in float32 on a CPU.
        channels_last: Images with their channels innermost in memory.
        autocast: The network in bfloat16, its weights in float32.
        compile: Through torch.compile.
        reasons: A sentence for each thing chosen, and for what was not to be had.
    """

    winograd: bool = False
    coarse: bool = False
    onednn: bool = False
    channels_last: bool = False
    autocast: bool = False
    compile: bool = False
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return "; ".join(self.reasons)

    def apply(self, model: ScoreModel) -> None:
        """Let the model compute so. What is not to be had any more is left out, with a warning."""
        lacking = kernels.why_not() if self.winograd else None
        if lacking is not None:
            warnings.warn(f"ordinary convolutions, for {lacking}", stacklevel=2)
        fast: Any = self.winograd and lacking is None
        coarse: Any = fast and self.coarse
        for module in model.net.modules():
            if hasattr(module, "fast"):
                module.fast = fast
            if hasattr(module, "coarse"):
                module.coarse = coarse
            if isinstance(module, MLP):
                module.onednn = self.onednn
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.net.to(memory_format=layout)  # type: ignore[call-overload]
        model.autocast = torch.bfloat16 if self.autocast else None
        model.net._compiled_call_impl = None
        if self.compile:
            self.compiled(model)

    @staticmethod
    def compiled(model: ScoreModel) -> None:
        """Compile a model's network; on a GPU its launches are replayed as CUDA graphs."""
        device = model.device or torch.device("cpu")
        if (lacking := why_not_compiled(device.type)) is not None:
            warnings.warn(f"not compiled, for {lacking}", stacklevel=2)
            return
        model.net.compile(mode="reduce-overhead" if device.type == "cuda" else None)


@cache
def why_not_compiled(device: str) -> str | None:
    """What torch.compile lacks on a device, as a compiler or Triton; found by a small function.

    A network that cannot be compiled says so no sooner than when it is called.
    """
    try:
        torch.compile(lambda: torch.ones(8, device=device).sin() + 1)()
    except Exception as error:  # of many kinds, those of the compilers among them
        return f"torch.compile cannot work here: {str(error).strip().splitlines()[0]:.200}"
    return None


def optimize(
    model: ScoreModel,
    *,
    batch: int = 1,
    evaluations: int | None = None,
    train: bool = False,
    precision: Precision = "auto",
) -> Choice:
    """Let a model compute in the way that pays where it is, and say which.

    Args:
        model: changed in place; call this after `to`.
        batch: samples at once.
        evaluations: how often the network will be called; not given, often.
        train: whether its gradients are wanted.
        precision: "float32" keeps the score to 1e-5 on a CPU, and on a GPU to what torch's own
            convolutions do (TF32, 1e-3, unless `torch.backends.cudnn.allow_tf32` is off);
            "bfloat16" keeps it to 2 %, which a CPU need not use up; "auto" is float32, but bfloat16
            for training on a GPU that has it.
    """
    choice = choose(model, batch=batch, evaluations=evaluations, train=train, precision=precision)
    choice.apply(model)
    return choice


def choose(
    model: ScoreModel,
    *,
    device: torch.device | None = None,
    batch: int = 1,
    evaluations: int | None = None,
    train: bool = False,
    precision: Precision = "auto",
) -> Choice:
    """Return what `optimize` would do, here or on another device; the arguments are its own."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: one of auto, float32, bfloat16")
    device = device or model.device or torch.device("cpu")
    if device.type == "cuda":
        return _on_cuda(model, evaluations, train, precision)
    if device.type != "cpu":
        return Choice(reasons=(f"as it is: nothing has been measured on {device.type}",))
    return _on_cpu(model, batch, evaluations, train, precision)


def _on_cpu(
    model: ScoreModel, batch: int, evaluations: int | None, train: bool, precision: Precision
) -> Choice:
    perceptron = isinstance(model.net, MLP)
    convolves = any(getattr(module, "fast", None) is not None for module in model.net.modules())
    if not perceptron and not convolves:
        return Choice(reasons=("as it is: the network has no 3 × 3 convolutions",))
    dtypes = {p.dtype for p in model.net.parameters()}
    if dtypes != {torch.float32}:
        return Choice(reasons=(f"as it is: the weights are {_names(dtypes)}, not float32",))
    if perceptron:
        return _of_vectors(model, batch, train, precision)
    return _of_images(model, batch, evaluations, train, precision)


def _of_vectors(model: ScoreModel, batch: int, train: bool, precision: Precision) -> Choice:
    large = batch * max(p.numel() for p in model.net.parameters()) >= dense.LEAST_TRAINED
    if precision == "bfloat16" and train and large and _has_bfloat16():
        return Choice(autocast=True, reasons=(HALF,))
    if not dense.available():
        return Choice(reasons=("as it is: this torch has no oneDNN",))
    if train and not dense.trains_faster():
        reason = "as it is: only on AMD's processors oneDNN is known to be faster in training"
        return Choice(reasons=(reason,))
    told_of_levels = model.precondition.levels is not None
    once = not train and not told_of_levels and getattr(model.net, "label", None) is None
    also = ", and of σ alone once a batch" if once else ""
    reason = f"products by oneDNN{also}, in float32: error 1e-6"
    return Choice(onednn=True, reasons=(reason, *(BETTER,) * (precision == "bfloat16")))


def _of_images(
    model: ScoreModel, batch: int, evaluations: int | None, train: bool, precision: Precision
) -> Choice:
    seconds = _seconds(model, batch, evaluations) * (3 if train else 1)
    if seconds < BUILD:  # built or not: the choice is to be the same tomorrow
        return Choice(reasons=(f"as it is: {seconds:.0f} s of work do not repay a build",))
    if (lacking := kernels.why_not()) is None:
        coarse = precision == "bfloat16" and not train
        error = "a fifth of the multiplications, error 1e-4" if coarse else EXACT
        reason = f"Winograd convolutions in float32: {error}"
        also = (BETTER,) * (precision == "bfloat16")
        return Choice(winograd=True, coarse=coarse, reasons=(reason, *also))
    reasons = (f"ordinary convolutions, for {lacking}",)
    # a UNet's small images and group norms were measured to be slower
    if precision == "bfloat16" and isinstance(model.net, RefineNet) and _has_bfloat16():
        return Choice(channels_last=True, autocast=True, reasons=(*reasons, HALF))
    return Choice(reasons=reasons)


def _on_cuda(
    model: ScoreModel, evaluations: int | None, train: bool, precision: Precision
) -> Choice:
    half = precision == "bfloat16" or (precision == "auto" and train)
    half = half and torch.cuda.is_bf16_supported(including_emulation=False)
    images = any(isinstance(module, nn.Conv2d) for module in model.net.modules())
    long = evaluations is None or evaluations >= COMPILE
    lacking = why_not_compiled("cuda") if long else None
    long = long and lacking is None
    reasons = [
        *["bfloat16, the tensor cores' type: error of the score up to 2 %"] * half,
        *["channels innermost: the layout of their convolutions"] * images,
        *["compiled, replayed as CUDA graphs: the run is long enough"] * long,
        *[f"not compiled, for {lacking}"] * (lacking is not None),
    ]
    return Choice(
        channels_last=images, autocast=half, compile=long, reasons=tuple(reasons or ["as it is"])
    )


def _has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; where it is imitated it is slower."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in tests)


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)) or "missing"


def _seconds(model: ScoreModel, batch: int, evaluations: int | None) -> float:
    """Of the ordinary way, at most: as if all convolutions were of the full size."""
    if evaluations is None or model.shape is None:
        return float("inf")
    pixels = model.shape[-2:].numel()
    weights = sum(p.numel() for p in model.net.parameters() if p.ndim == 4)
    return 2 * weights * pixels * batch * evaluations / (RATE * torch.get_num_threads())
