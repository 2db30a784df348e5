"""A network as a score.

    s(x, σ) = skip·u + out·F(scale·u, cond),   u = x − centre

with the coefficients of `precondition`. This module hides what differs between networks: dtype,
conditioning on σ and the levels of the training.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ._ops import Samples, Sigma, check_finite, check_floats, check_sigma, match, widest
from .noise import Discrete
from .precondition import Precondition
from .prior import Prior
from .score import Score, keep_shape_and_device
from .values import check_names, spelling_hint

Label = int | Int[Tensor, ""] | Int[Tensor, "batch"]
"""A class, one for all samples or one for each."""
Condition = (
    Label | str | float | Sequence[float] | NDArray[Any] | Float[Tensor, "..."] | Mapping[str, Any]
)
"""A class by number or name, the model's only number, vector or image, or several conditions by
name, where the class is called label; one of each for all samples, or one for each sample."""
CLASS_DTYPES = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of classes."""


class ScoreModel(nn.Module):
    """The score of a network under a preconditioner; a `Score`.

    It takes and returns x of any float type, and runs the network in the network's own type.

    `net` is F(x, cond), or F(x, cond, condition) with classes or with tensors by name; x has the
    type of its parameters, and cond is an index or at least float32. `classes` are the names of the
    classes, by default their numbers. Chains start from the `prior`. Without one, `shape` is that
    of a sample, and samplers refuse others. For a model `tuned` to consistency, D is the end of the
    ODE, which only the sampler "consistency" can use.
    """

    def __init__(
        self,
        net: nn.Module,
        precondition: Precondition,
        *,
        prior: Prior | None = None,
        shape: torch.Size | tuple[int, ...] | None = None,
        classes: Sequence[str] = (),
        tuned: bool = False,
    ):
        super().__init__()
        if prior is not None and shape is not None and prior.mean.shape != torch.Size(shape):
            raise ValueError(
                f"shape is {tuple(shape)}, but the prior's mean {tuple(prior.mean.shape)}: "
                "leave shape out, the prior has it"
            )
        # a network's table of levels, as a RefineNet has, must fit the ladder
        table, ladder = getattr(net, "arguments", {}).get("levels"), precondition.levels
        if table is not None and ladder is not None and len(ladder) != table:
            raise ValueError(
                f"the network was built with levels={table}, but the ladder has {len(ladder)}: "
                "make them equal"
            )
        count = getattr(net, "arguments", {}).get("labels")
        self.classes = tuple(classes) or tuple(map(str, range(count or 0)))
        """Names of the classes, where their number is known."""
        if len({*self.classes}) != (len(self.classes) if count is None else count):
            raise ValueError(
                f"classes={list(self.classes)!r:.100}: give each class of the network its own name"
                + f", {count} in all" * (count is not None)
            )
        self.net = net
        self.precondition = precondition
        self.prior = prior
        self.sigma_max = precondition.sigma_max
        """Largest noise level of the training."""
        self.sigma_min = precondition.sigma_min
        """Smallest noise level of the training."""
        sample = shape if prior is None else prior.mean.shape
        self.shape = None if sample is None else torch.Size(sample)
        """Shape of one sample, if the model is for one shape only."""
        self.tuned = tuned
        """True after consistency tuning; the model is then not a score."""
        self.autocast: torch.dtype | None = None
        """Type in which the network runs, if not its own."""
        self._warned = False

    def forward(
        self,
        x: Samples,
        sigma: Sigma,
        condition: Label | Mapping[str, Any] | None = None,
    ) -> Samples:
        """Return the score of each sample; `given` makes a function of (x, σ) of it."""
        check_floats(x)
        self._check_sigma(sigma)
        u = x.to(torch.promote_types(x.dtype, torch.float32)) - self.precondition.centre
        skip, out, scale, cond = self.precondition(_widen(sigma, x))
        skip, out, scale = (match(c, u) if c.ndim else c.to(u.dtype) for c in (skip, out, scale))
        f = self._run(scale * u, cond, condition)
        return (skip * u + out * f).to(x.dtype)

    def given(self, condition: Condition) -> Score:
        """Return the score under a condition, as a function of (x, σ); see `Condition`.

        Also in training: `loss(model.given(labels), x)`. Conditions that are left out of several
        are free. `guide(model.given(condition), model, 2.0)` strengthens it.
        """
        values: Any = self.name_condition(condition)
        if values.keys() <= {"label"}:  # a network without names takes it alone
            values = values.get("label")
        return keep_shape_and_device(self, lambda x, sigma: self(x, sigma, values))

    def name_condition(self, condition: Condition) -> dict[str, Any]:
        """Return a condition's values by name, on the model's device, after a check of the names.

        That of a class, which is called label, is its number.
        """
        shapes, values = self.condition_shapes, dict[str, Any]()
        scalar = [[*shape] for shape in shapes.values()] == [[1]] and not self.classes
        scalar = scalar and not isinstance(condition, (Mapping, str))
        if scalar or (isinstance(condition, Tensor) and condition.is_floating_point()):
            if len(shapes) != 1:
                raise ValueError(
                    f"condition is a tensor, but the model has {', '.join(shapes) or 'none'}: give "
                    "a mapping of names to tensors"
                )
            condition = {next(iter(shapes)): condition}
        if not isinstance(condition, Mapping):
            condition = {"label": condition}
        for name, value in condition.items():
            if name == "label":
                values[name] = self._read_label(value)
                continue
            check_names([name], shapes, "condition ")
            value = _read_scalars(value, name) if [*shapes[name]] == [1] else value
            waits = isinstance(value, Tensor) and value.device.type != "cpu"
            (check_floats if waits else check_finite)(value, name)
            values[name] = value.to(self.device)
        return values

    @property
    def condition_shapes(self) -> Mapping[str, Sequence[int]]:
        """Shapes of the network's conditions by name, besides its class."""
        arguments: Mapping[str, Any] = getattr(self.net, "arguments", {})
        shapes: Mapping[str, Sequence[int]] = arguments.get("conditions", {})
        return shapes

    @property
    def always_labelled(self) -> bool:
        """True if the network was never trained without a class."""
        return bool(getattr(self.net, "arguments", {}).get("label_dropout") == 0)

    def _read_label(self, label: Label | str) -> Label:
        """Return the number of a class, on the model's device."""
        label = self.find_class(label) if isinstance(label, str) else label
        label = label.to(self.device) if isinstance(label, Tensor) else label
        try:
            inspect.signature(self.net.forward).bind(None, None, label)
        except TypeError:
            kind = type(self.net).__name__
            raise ValueError(f"label={label}: the network, {kind}, has no classes") from None
        return label

    def find_class(self, label: Label | str) -> Label:
        """Return the number of a class with this name or number, after a check that it exists."""
        count = getattr(self.net, "arguments", {}).get("labels")
        if count == 0:
            raise ValueError(f"label={label}: the model was trained without classes")
        if isinstance(label, str):
            if label in self.classes:
                return self.classes.index(label)
            if not label.isdecimal():
                hint = spelling_hint(label, self.classes)
                raise ValueError(f"label={label!r} is not a class of the model: {hint}")
            label = int(label)
        low, high = expand_label(label, torch.as_tensor(label).numel()).aminmax()
        if count is not None and not 0 <= low <= high < count:
            raise ValueError(f"label={label}: the model's classes are 0 to {count - 1}")
        return label

    def push_to_hub(
        self,
        name: str,
        *,
        dry_run: str | Path | None = None,
        private: bool = False,
        message: str | None = None,
        license: str | None = None,
    ) -> str:
        """Upload the model and its card to the Hugging Face Hub, and return the commit's address.

        The arguments are those of `scorefield.evaluate.push`, which also takes a run, with its
        configuration and figures. `load("hub:OWNER/NAME")` loads the model.
        """
        from .evaluate import push  # when it is called: everything there needs this module

        return push(self, name, dry_run=dry_run, private=private, message=message, license=license)

    def round(self, sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "rounded"]:
        """Move the levels of a grid to the nearest ones of the training, without repetition."""
        levels = self.precondition.levels
        near = sigmas.clamp(self.sigma_min, self.sigma_max)
        if levels is not None:
            near = levels.to(sigmas)[Discrete(levels).index(sigmas)]
        rounded: Tensor = torch.unique_consecutive(near)
        return rounded

    @property
    def device(self) -> torch.device | None:
        """Device of the network; None if it has no parameters."""
        parameter = next(self.net.parameters(), None)
        return None if parameter is None else parameter.device

    def check_weights(self) -> None:
        """Raise if a weight is not finite or a buffer is NaN, and name it."""
        for name, value in (*self.named_parameters(), *self.named_buffers()):
            good = value.isfinite() if isinstance(value, nn.Parameter) else ~value.isnan()
            if not good.all():
                raise ValueError(
                    f"{name} has NaN or infinite values, and so would each sample: take weights "
                    "from before the training diverged"
                )

    def _check_sigma(self, sigma: Sigma) -> None:
        """Raise if σ ≤ 0, and warn once if σ is outside the training's range.

        A tensor on another device is not read, because the caller would have to wait for it.
        """
        if torch.compiler.is_compiling():
            return
        if isinstance(sigma, Tensor):
            if sigma.device.type != "cpu" or sigma.numel() == 0:
                return
            low, high = (float(end) for end in sigma.detach().aminmax())
        else:
            check_sigma(sigma)
            low = high = sigma
        if not 0 < low <= high < math.inf:
            raise ValueError(f"sigma from {low} to {high}: give finite noise levels above 0")
        # the ends of a ladder in float32 and in float64 differ by rounding
        within = low > 0.999 * self.sigma_min and high < 1.001 * self.sigma_max
        if not within and not self._warned:
            self._warned = True
            warnings.warn(
                f"sigma from {low:.4g} to {high:.4g} is outside the range of the training, "
                f"{self.sigma_min:.4g} to {self.sigma_max:.4g}, where the score is a guess: "
                "`round` moves a grid into it",
                stacklevel=2,
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScoreModel":
        """Move the prior with the network; `.to`, `.cuda` and `.double` call this."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.prior is not None:
            factor = None if self.prior.factor is None else fn(self.prior.factor)
            self.prior = Prior(fn(self.prior.mean), fn(self.prior.cov), factor)
        return self

    def expand_condition(self, condition: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """Return conditions with a row for each of n samples."""
        values = dict[str, Tensor]()
        for name, value in condition.items():
            if name == "label":
                values[name] = expand_label(value, n, self.device)
            else:
                shape = self.condition_shapes[name]
                values[name] = value.expand(n, *value.shape) if value.ndim == len(shape) else value
                if len(values[name]) != n:
                    raise ValueError(
                        f"condition {name!r:.80} has {len(value)} rows: give one, of shape "
                        f"{tuple(shape)}, or one for each of {n} samples"
                    )
        return values

    def _run(
        self, y: Tensor, cond: Tensor | None, condition: Label | Mapping[str, Any] | None
    ) -> Tensor:
        """Return F, computed in the network's own type, in the type of y."""
        dtype = next(self.net.parameters(), y).dtype
        inputs: list[Any] = [y.to(dtype), None if cond is None else _network_cond(cond, y, dtype)]
        if isinstance(condition, Mapping):
            inputs.append(self.expand_condition(condition, len(y)))
        elif condition is not None:
            inputs.append(expand_label(condition, len(y), y.device))
        # without a type of its own, the caller's autocast, if any, holds
        own = torch.autocast(y.device.type, self.autocast) if self.autocast else nullcontext()
        with own:
            out: Tensor = self.net(*inputs)
        if out.shape != y.shape:
            raise ValueError(
                f"{type(self.net).__name__} returned shape {tuple(out.shape)} for x of "
                f"{tuple(y.shape)}: a network returns the shape of x"
            )
        return out.to(y.dtype)


def _read_scalars(values: Any, name: str) -> Tensor:
    """Return a condition of one number, or n of them as n rows."""
    try:
        x = torch.as_tensor(values)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"condition {name!r:.80}={values!r:.80}: give a number, or one for each sample"
        ) from None
    x = x if x.is_floating_point() else x.float()
    return x.reshape(1) if x.numel() == 1 and x.ndim < 2 else x[:, None] if x.ndim == 1 else x


def expand_label(label: Label, n: int, device: torch.device | None = None) -> Int[Tensor, "n"]:
    """Return the class of each of n samples."""
    classes = None
    with suppress(TypeError, ValueError, RuntimeError):  # a text, or a list of them
        # a number is filled on the device, without a copy to wait for
        to_tensor = partial(torch.full, ()) if isinstance(label, int) else torch.as_tensor
        classes = to_tensor(label, device=device)
    if classes is None or classes.dtype not in CLASS_DTYPES or classes.shape not in ((), (n,)):
        value = repr(label)
        if isinstance(label, Tensor):
            value = f"a tensor of {label.dtype} and shape {tuple(label.shape)}"
        raise ValueError(
            f"label={value:.80}: give the class of all samples, a whole number, or a tensor with "
            f"that of each of {n} samples"
        )
    return classes.long().expand(n)


def _widen(sigma: Sigma, x: Tensor) -> Float[Tensor, "*batch"]:
    """Return σ, one for all samples or one for each, in the widest type.

    A table of levels and the inverse of σ(t) need more digits than the images have.
    """
    if not isinstance(sigma, Tensor) or (sigma.ndim == 0 and sigma.device.type == "cpu"):
        return torch.as_tensor(sigma, dtype=torch.float64)  # it can be used on any device
    return match(sigma, x.new_empty(len(x), dtype=widest(x.device)))


def _network_cond(cond: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the network's input for the noise level of each sample, an index or a float.

    At least float32: in float16 log σ would round to a different σ.
    """
    if cond.is_floating_point():
        cond = cond.to(torch.promote_types(dtype, torch.float32))
    if cond.device != x.device and not cond.requires_grad:
        # one for all: a copy would wait for that device
        cond = torch.full((), cond.item(), dtype=cond.dtype, device=x.device)
    return cond.to(x.device).expand(len(x))
