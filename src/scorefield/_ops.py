"""Operations of every formula: σ against a batch, norms, pullbacks, random words."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Sigma: TypeAlias = float | Float[Tensor, ""] | Float[Tensor, "batch"]
"""A noise level: a float, a scalar tensor, or one per sample."""

Samples: TypeAlias = Float[Tensor, "batch *shape"]
"""A batch of samples, or a number for each of their numbers, such as the score."""

Noise: TypeAlias = Callable[[Tensor], Tensor]
"""A source of randomness: standard normal numbers in the shape, type and device of its argument."""

RowCondition: TypeAlias = Tensor | Mapping[str, Tensor] | None
"""The classes of a batch, or tensors by name, in which the classes are called label; a row each."""

NO_FLOAT64 = {"mps"}
"""Types of devices that have no float64."""


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device without it, where results must stay on the device."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def wide(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU if its device has none, for what is computed only once."""
    return (x.cpu() if x.device.type in NO_FLOAT64 else x).double()


def has_bfloat16(device: str = "cpu") -> bool:
    """Return True if a device multiplies in bfloat16; emulation is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch may be kept from what the processor can do, by ATEN_CPU_CAPABILITY
    if device != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, k, lambda: False)() for k in tests)


def check_floats(x: object, name: str = "x") -> None:
    """Raise unless x is a tensor of floats; σ in the type of integers would be cut off."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{name} is {kind}: give a tensor of floats, {name}.float() / 255 for 8-bit images, "
            f"torch.as_tensor({name}).float() for other data"
        )


def check_batch(x: object, name: str = "x") -> None:
    """Raise unless x is a batch of floats, of at least one sample."""
    check_floats(x, name)
    if isinstance(x, Tensor) and (x.ndim < 2 or len(x) == 0):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}: give a batch, {name}[None] for one sample"
        )


def check_finite(x: object, name: str = "x") -> None:
    """Raise unless x is a tensor of finite floats."""
    check_floats(x, name)
    if isinstance(x, Tensor) and not x.is_meta and not x.isfinite().all():
        raise ValueError(f"{name} has NaN or infinite values: replace them, or leave them out")


def check_fits(x: Tensor, shape: torch.Size, device: torch.device | None, name: str) -> None:
    """Raise unless x has samples of that shape, in floats and on that device, or on any if None."""
    check_floats(x)
    device = device or x.device
    if x.shape[1:] != shape or x.device != device:
        raise ValueError(
            f"x is a batch of {tuple(x.shape[1:])} on {x.device}, but {name} is for samples of "
            f"{tuple(shape)} on {device}: reshape x or move one of them"
        )


def check_returned(value: Tensor, x: Tensor, name: str, *, per_sample: bool = False) -> None:
    """Raise unless a function of x returned a number for each number of x, or for each sample."""
    if value.shape != (x.shape[:1] if per_sample else x.shape):
        wanted = "one number per sample" if per_sample else "one number for each number of x"
        raise ValueError(
            f"{name} returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}: return "
            f"{wanted}"
        )


def check_number(value: object, name: str) -> None:
    """Raise unless a value is a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r:.80}: give a finite number")


def check_count(least: int = 1, **counts: Any) -> None:
    """Raise unless each is an integer, `least` or more; None is not checked."""
    for name, value in counts.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise ValueError(f"{name}={value!r:.80}: give a whole number, {least} or more")


def lowest(sigma: Sigma) -> float:
    """Return the least σ, ∞ for an empty batch, after checking that it is not below 0.

    It is ∞ also on a device other than the CPU, which is not read: the caller would have to wait.
    """
    check_sigma(sigma)
    if isinstance(sigma, Tensor):
        sigma = sigma.min().item() if sigma.device.type == "cpu" and sigma.numel() else math.inf
    if not sigma >= 0:
        raise ValueError(f"sigma={sigma}: give a noise level ≥ 0")
    return sigma


def match(sigma: Sigma, x: Tensor) -> Tensor:
    """Return σ in the type and on the device of x, in a shape that broadcasts against it."""
    check_floats(x)
    if not x.is_meta:
        check_sigma(sigma)
    if not isinstance(sigma, Tensor):  # filled on the device, without a copy to wait for
        return torch.full((), float(sigma), dtype=x.dtype, device=x.device)
    sigma = sigma.to(x)
    if sigma.ndim == 0:
        return sigma
    if sigma.shape != x.shape[:1]:
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)} for a batch of {len(x)}: "
            "give a float, a scalar tensor or one value per sample"
        )
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def check_sigma(sigma: object) -> None:
    """Raise unless σ is a number or a tensor with values."""
    if not isinstance(sigma, (Real, Tensor)):
        raise TypeError(
            f"sigma is {type(sigma).__name__}: give a float, a scalar tensor or a tensor "
            "of one value per sample"
        )
    if isinstance(sigma, Tensor) and sigma.is_meta:
        raise ValueError("sigma is on the device meta, without values: give it on the device of x")


def positive(sigma: Sigma, x: Tensor) -> Tensor:
    """Return `match(sigma, x)` as a divisor, after checking that σ > 0."""
    least = lowest(sigma)
    if not least > 0:
        raise ValueError(f"sigma={least}: give a noise level above 0")
    return match(sigma, x)


def sq_norm(x: Samples) -> Float[Tensor, "batch"]:
    """Return ‖x‖² of each sample."""
    return x.flatten(1).square().sum(1)


def linearize(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
    """Return y = f(x) and the pullback v ↦ vᵀ∂f/∂x.

    In grad mode both can be differentiated again, otherwise y has no graph, so that one function
    serves training and sampling. `pullback(v, batched=True)` takes a stack of v in one vectorised
    backward pass.
    """
    check_floats(x)
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if training and x.requires_grad else x.detach().requires_grad_()
        y = f(x)
    if not y.requires_grad:
        raise ValueError(
            "autograd does not see the score, energy or operator depend on x: call it without "
            "no_grad or detach, and write a constant as c + 0 * x"
        )

    def pullback(v: Tensor, batched: bool = False) -> Tensor:
        return torch.autograd.grad(
            y,
            x,
            v,
            create_graph=training,
            retain_graph=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )[0]

    return (y if training else y.detach()), pullback


def trace(
    pullback: Callable[..., Tensor], y: Float[Tensor, "batch *shape"], *, chunk: int = 64
) -> Float[Tensor, "batch"]:
    """Return tr ∂y/∂x of each sample, exactly: the Jacobian's rows, `chunk` at a time.

    The samples of a batch must not influence each other. `chunk=1` avoids the vectorised backward
    pass, which some operations lack.
    """
    check_count(chunk=chunk)
    size = y.shape[1:].numel()
    total = y.new_zeros(len(y))
    for start in range(0, size, chunk):
        rows = torch.arange(start, min(start + chunk, size), device=y.device)
        basis = torch.nn.functional.one_hot(rows, size).to(y.dtype)
        probes = basis.view(-1, 1, *y.shape[1:]).expand(-1, *y.shape)
        grads = pullback(probes, batched=True) if chunk > 1 else pullback(probes[0])[None]
        total = total + (grads * probes).flatten(2).sum((0, 2))
    return total


# ── Random words, a function of a counter ────────────────────────────────────────────────────────

WORD = 0xFFFFFFFF


def random_words(
    seed: int, rows: range, blocks: int, use: int, step: int, device: torch.device
) -> tuple[Int[Tensor, "rows blocks"], ...]:
    """Return four random words for each block of each row, a function of all numbers given."""
    arange = partial(torch.arange, device=device)
    full = partial(torch.full, (), dtype=torch.long, device=device)
    counter = arange(blocks), arange(rows.start, rows.stop)[:, None], full(use), full(step)
    return philox(counter, (int(seed) & WORD, int(seed) >> 32))


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return four random words of 32 bits: Philox 4×32-10 of Salmon et al. 2011.

    The words are integers of 64 bits. The four of the counter broadcast, so that the first rounds
    cost little.
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        # 64 bits of a product that is unsigned: only the lower 32 bits of what follows count
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, c = (q >> 32) ^ b, (p >> 32) ^ d
        a ^= k
        c ^= m
        a &= WORD
        c &= WORD
        b, d = q, p
        k, m = (k + 0x9E3779B9) & WORD, (m + 0xBB67AE85) & WORD
    return a, b & WORD, c, d & WORD


def box_muller(words: Sequence[Tensor], dtype: torch.dtype) -> Float[Tensor, "*shape 4"]:
    """Return normal numbers √(−2 log u)·(cos 2πv, sin 2πv) of two pairs of words, u > 0."""
    u, angle = (torch.stack([w.to(dtype) for w in words[i::2]], -1) for i in (0, 1))
    radius = u.add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle *= 2 * math.pi * 2.0**-32
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)
