"""Choose the fastest computation of a network on its device, with reasons.

    CPU     Winograd convolutions in float32, where the network has 3 × 3 ones and a C++ compiler is
            available: the score moves by less than 1e-5. An MLP multiplies by oneDNN (in training
            where that is known to be faster), and embeds a σ that a batch shares once: error 1e-6
    CUDA    channels innermost, and bfloat16 in training; in long runs torch.compile, whose kernels
            are replayed as CUDA graphs. TF32 only where it is allowed, in whatever torch computes

Gradients move by 1e-5 in float32 (by 1e-3 in NCSNv2, which takes maxima) and by several per cent in
bfloat16. The model stays the same object with the same parameters.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .._ops import has_bfloat16
from ..model import ScoreModel
from ..nn import MLP, RefineNet
from ..nn.layers import Conv3
from . import kernels, onednn
from .twins import swap

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
"""Precision of a network's computation; "auto" is that of `optimize` on the device."""

MIN_SECONDS = 20.0
"""Seconds of work that are worth compiling the kernels, which takes about five."""
MIN_EVALUATIONS = 2000
"""Network calls that are worth torch.compile, which takes a minute or more."""
FLOPS_PER_CORE = 5e10
"""A rough rate of one core, to estimate the seconds of work."""
BFLOAT16_ERROR = "error of the score up to 2 %"
TF32_ERROR = "error of the score about 1e-3"
MORE_EXACT = "more exact than bfloat16 and as fast on a CPU"


@dataclass(frozen=True)
class Choice:
    """A method of computing a network; `str(choice)` gives the reasons.

    `winograd` convolutions need fewer multiplications, in float32 on a CPU, and `coarse` ones fewer
    still, where no gradients are needed and 2 % of error are allowed. `onednn` multiplies in an
    MLP. With `autocast` the network computes in bfloat16 and its weights stay float32. On a GPU
    `tf32` rounds the factors of products and convolutions in float32. `reasons` has a sentence for
    each choice, and for each that is not available.
    """

    winograd: bool = False
    coarse: bool = False
    onednn: bool = False
    channels_last: bool = False
    autocast: bool = False
    tf32: bool = False
    compile: bool = False
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return "; ".join(self.reasons)

    def apply(self, model: ScoreModel) -> None:
        """Set up the model; skip an unavailable method, with a warning."""
        reason = kernels.unavailable_reason() if self.winograd else None
        if reason is not None:
            warnings.warn(f"standard convolutions, because {reason}", stacklevel=2)
        fast = self.winograd and reason is None
        swap(model.net, winograd=fast, coarse=self.coarse, onednn=self.onednn)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.net.to(memory_format=layout)  # type: ignore[call-overload]
        model.autocast = torch.bfloat16 if self.autocast else None
        if model.device is not None and model.device.type == "cuda":
            allow_tf32(self.tf32)
        model.net._compiled_call_impl = None
        if self.compile:
            self.compile_network(model)

    @staticmethod
    def compile_network(model: ScoreModel, *, graphs: bool = True) -> None:
        """Compile a model's network; on a GPU its kernels are replayed as CUDA graphs.

        A replay overwrites the last output and the last gradients, so `graphs` must be off where
        gradients are summed over several calls. A call that is differentiated by x is not compiled,
        because guidance, likelihoods and some losses run its backward pass more than once.
        """
        device, net = model.device or torch.device("cpu"), model.net
        if (reason := compile_unavailable_reason(device.type)) is not None:
            warnings.warn(f"not compiled, because {reason}", stacklevel=2)
            return
        mode = "reduce-overhead" if graphs and device.type == "cuda" else None
        eager: Callable[..., Tensor] = net._call_impl
        compiled = torch.compile(eager, mode=mode)

        def call(*inputs: Tensor) -> Tensor:
            return (eager if inputs[0].requires_grad else compiled)(*inputs)

        net._compiled_call_impl = call


def allow_tf32(allowed: bool) -> None:
    """Let torch round float32 to TF32 on GPUs, or forbid it; by default it does in convolutions.

    The setting is the whole process's. The flags are those that all versions of torch have: where
    they are mixed with the newer `fp32_precision`, torch.compile fails.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@cache
def compile_unavailable_reason(device: str) -> str | None:
    """Return why torch.compile does not work on a device, for lack of a compiler or Triton."""
    try:  # a network would only fail when it is first called
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TF32 would be faster
            torch.compile(lambda: torch.ones(8, device=device).sin() + 1)()
    except Exception as error:  # compilers raise many kinds
        first, *rest = str(error).strip().splitlines()
        reason = f"{first} {rest[0]}" if first.endswith(":") and rest else first
        return f"torch.compile does not work here: {reason:.200}"
    return None


def optimize(
    model: ScoreModel,
    *others: ScoreModel,
    batch: int = 1,
    evaluations: int | None = None,
    train: bool = False,
    precision: Precision = "auto",
) -> Choice:
    """Choose the fastest computation on the model's device, apply the choice, and return it.

    Call this after `to`: the model is changed in place, and so are `others`, models of its kind.
    `batch` is the number of samples at once, `evaluations` that of network calls (None means many),
    and training needs gradients. The error of the score by `precision` is 1e-5 for "float32", 1e-3
    for "tf32" and up to 2 % for "bfloat16"; "auto" is float32, except in training on a GPU that has
    bfloat16. On a GPU, TF32 is a setting of the whole process, which is switched off unless "tf32"
    allows it.
    """
    choice = choose(model, batch=batch, evaluations=evaluations, train=train, precision=precision)
    for changed in (model, *others):
        choice.apply(changed)
    return choice


def undo(model: ScoreModel) -> None:
    """Return a model to torch's own operations in float32."""
    Choice().apply(model)


def choose(
    model: ScoreModel,
    *,
    device: torch.device | None = None,
    batch: int = 1,
    evaluations: int | None = None,
    train: bool = False,
    precision: Precision = "auto",
) -> Choice:
    """Return the choice of `optimize` without applying it, for the model's or another device."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: one of {', '.join(get_args(Precision))}")
    device = device or model.device or torch.device("cpu")
    if device.type == "cuda":
        return _choose_on_cuda(model, evaluations, train, precision)
    if device.type != "cpu":
        return _no_speedup(f"nothing has been measured on {device.type}")
    perceptron = isinstance(model.net, MLP)
    if not perceptron and not any(isinstance(module, Conv3) for module in model.net.modules()):
        return _no_speedup("the network has no 3 × 3 convolutions")
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.net.parameters()}
    if dtypes != {"float32"}:
        return _no_speedup(f"the weights are {', '.join(sorted(dtypes)) or 'missing'}, not float32")
    if perceptron:
        return _choose_for_mlp(model, batch, train, precision)
    return _choose_for_images(model, batch, evaluations, train, precision)


def _no_speedup(reason: str) -> Choice:
    return Choice(reasons=(f"no speed-up expected: {reason}",))


def _choose_for_mlp(model: ScoreModel, batch: int, train: bool, precision: Precision) -> Choice:
    largest = max(p.numel() for p in model.net.parameters())
    large = batch * largest >= onednn.MIN_MULTIPLICATIONS_TRAINING
    if precision == "bfloat16" and train and large and has_bfloat16():
        return Choice(autocast=True, reasons=(f"bfloat16: {BFLOAT16_ERROR}",))
    if not onednn.onednn_available():
        return _no_speedup("this build of torch has no oneDNN")
    if train and not onednn.trains_faster():
        return _no_speedup("oneDNN is known to train faster only on AMD processors")
    indexed = model.precondition.levels is not None
    conditional = getattr(model.net, "label", None) or len(getattr(model.net, "conditions", ()))
    once = not train and not indexed and not conditional
    shared = ", a shared σ embedded once a batch" if once else ""
    reason = f"matrix products by oneDNN{shared}, in float32: error 1e-6"
    return Choice(onednn=True, reasons=(reason, *[MORE_EXACT] * (precision == "bfloat16")))


def _choose_for_images(
    model: ScoreModel, batch: int, evaluations: int | None, train: bool, precision: Precision
) -> Choice:
    seconds = float("inf")
    if evaluations is not None and model.shape is not None:  # as if all convolutions had full size
        weights = sum(p.numel() for p in model.net.parameters() if p.ndim == 4)
        flops = 2 * weights * model.shape[-2:].numel() * batch * evaluations * (3 if train else 1)
        seconds = flops / (FLOPS_PER_CORE * torch.get_num_threads())
    if seconds < MIN_SECONDS:  # compiled or not, so that the choice is the same tomorrow
        return _no_speedup(f"{seconds:.0f} s of work do not repay compiling the kernels")
    if (reason := kernels.unavailable_reason()) is None:
        coarse = precision == "bfloat16" and not train
        saving = ("a fifth", "1e-4") if coarse else ("a quarter", "1e-5")
        text = "Winograd convolutions in float32: {} of the multiplications, error {}"
        reasons = (text.format(*saving), *[MORE_EXACT] * (precision == "bfloat16"))
        return Choice(winograd=True, coarse=coarse, reasons=reasons)
    standard = f"standard convolutions, because {reason}"
    # bfloat16 was measured to be slower for a UNet's small images and group norms
    half = precision == "bfloat16" and isinstance(model.net, RefineNet) and has_bfloat16()
    reasons = (standard, *[f"bfloat16: {BFLOAT16_ERROR}"] * half)
    return Choice(channels_last=half, autocast=half, reasons=reasons)


def _choose_on_cuda(
    model: ScoreModel, evaluations: int | None, train: bool, precision: Precision
) -> Choice:
    wanted = precision == "bfloat16" or (precision == "auto" and train)
    half = wanted and has_bfloat16("cuda")
    tf32 = precision == "tf32"
    images = any(isinstance(module, nn.Conv2d) for module in model.net.modules())
    long = evaluations is None or evaluations >= MIN_EVALUATIONS
    reason = compile_unavailable_reason("cuda") if long else None
    compiles = long and reason is None
    reasons = [
        *[f"bfloat16 on the tensor cores: {BFLOAT16_ERROR}"] * half,
        *["float32, because this GPU has no bfloat16"] * (wanted and not half),
        *[f"TF32 in products and convolutions: {TF32_ERROR}"] * tf32,
        *["channels innermost in memory, as its convolutions work"] * images,
        *["compiled and replayed as CUDA graphs, except where x is differentiated"] * compiles,
        *[f"not compiled, because {reason}"] * (reason is not None),
    ]
    if not reasons:
        return _no_speedup("the run is short and the network has no convolutions")
    options = {"channels_last": images, "autocast": half, "tf32": tf32, "compile": compiles}
    return Choice(**options, reasons=tuple(reasons))
