"""One UNet for DDPM, DDPM++, NCSN++ (Ho et al. 2020; Song et al. 2021, appendix H) and ADM.

    h ← conv(x)
    down   h ← attend(block(h, e)) ..., keeping every h; half the size; join the shrunken image
    middle h ← block(attend(block(h, e)), e)
    up     h ← block([h, skip], e) ...; attend; add to the output so far; twice the size
    F      = conv(φ(norm(h))), or the output so far

e is the embedded noise level, and a condition if there is one. ADM (Dhariwal & Nichol 2021) attends
after each block upwards, and its norms have torch's ε. The network is F alone: centring its
input and dividing by σ, which the originals do inside, belong to the formula around it. Widths,
forms and paths are arguments; `PUBLISHED_UNETS` has those of the papers. An image of any height and
width will do: it is padded inside to what the halvings allow. With `dims=1` all of it is for
signals of any length: convolutions, filters and halvings along one axis; with `dims=3` for volumes.
With `patch=2` the network sees an image of half the height and width and four times the channels
(Shi et al. 2016).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias, get_args

from jaxtyping import Float, Real
from torch import Tensor, nn

from .._ops import RowCondition
from . import levels
from .arguments import check_arguments, constructor_arguments
from .blocks import (
    AdaptiveBlock,
    Attention,
    Form,
    GroupNorm,
    ResidualBlock,
    convolution,
    kernels_with_derivatives,
)
from .condition import ConditionalNetwork
from .embedding import EmbeddingKind
from .images import check_image, crop, fold, pad, unfold
from .resample import BOX, Downsample, Resample, Taps, Upsample, double_size, half_size

Progressive: TypeAlias = Literal["none", "skip", "residual"]
Combine: TypeAlias = Literal["sum", "cat"]
FIR = (1.0, 3.0, 3.0, 1.0)
"""The taps of the anti-aliasing filter."""
ADM_EPSILON = 1e-5
"""Added to the variance in ADM's norms."""


class UNet(ConditionalNetwork):
    """DDPM, DDPM++, NCSN++ or ADM, for images, signals or volumes; by default CIFAR-10's NCSN++.

    Args:
        channels: channels of the image
        width: channels at full size
        multipliers: each level's channels, in widths; each level has half the size of the last
        blocks: residual blocks a level
        attention: levels with attention, 0 at full size; the middle always has it
        head_channels: channels of a head of attention, as in ADM 64; null is one head
        form: residual blocks as in "ddpm", "biggan" or "adm"
        embedding: "fourier", where cond is log σ, or "sinusoidal", where it is a timestep or index,
            or "adm", the same with other frequencies
        fourier_scale: standard deviation of the Fourier frequencies
        fir: taps of the filter that changes sizes, by default 1, 3, 3, 1; null is plain resampling
        progressive_input: how the shrunken image enters at each level: "none", "skip" or "residual"
        progressive_output: how the levels make up the image: "none", "skip" or "residual"
        combine: join a "skip" input by a sum ("sum") or concatenation ("cat")
        skip_rescale: divide sums of two branches by √2
        groups: groups of all normalisations; null is min(channels/4, 32), DDPM's is 32
        dropout: fraction of features dropped in each block while training
        init_scale: scale of the first weights that end a branch
        labels: number of classes, 0 for none
        label_dropout: fraction of a training batch whose class or condition is withheld
        early_condition: add classes and vectors before the layers that embed the noise level
        conditions: names and shapes of further conditions, [size], or [channels, ...] like x
        withhold: other fractions than label_dropout, by the name of the condition
        dims: 2 for images, 1 for signals (batch, channels, length), 3 for volumes
        patch: pixels along each side of a patch whose pixels are channels inside the network, which
            makes a wide network affordable; 1 for none
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (1,),
        head_channels: int | None = None,
        form: Form = "biggan",
        embedding: EmbeddingKind = "fourier",
        fourier_scale: float = 16.0,
        fir: Taps = FIR,
        progressive_input: Progressive = "residual",
        progressive_output: Progressive = "none",
        combine: Combine = "sum",
        skip_rescale: bool = True,
        groups: int | None = None,
        dropout: float = 0.1,
        init_scale: float = 0.0,
        labels: int = 0,
        label_dropout: float = 0.1,
        early_condition: bool = False,
        conditions: Mapping[str, Sequence[int]] = {},
        withhold: Mapping[str, float] = {},
        dims: Literal[1, 2, 3] = 2,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.arguments = constructor_arguments(locals())
        _check_arguments(self.arguments)
        make = Layers(self.arguments)
        first, last = make.widths[0], make.widths[-1]
        self.channels, self.dims, self.patch = channels, dims, patch
        self.factor = patch * 2 ** (len(multipliers) - 1)
        self.add_embeddings(width, axes=dims + 1, early=early_condition)
        entering = make.image + self.conditions.channels * patch**dims
        self.stem = convolution(entering, width, dims=dims)
        self.down, skips = make.down()
        middle = make.block(last, last), make.attend(last), make.block(last, last)
        self.middle = nn.ModuleList(middle)
        self.up = make.up(skips)
        no_head = progressive_output == "skip"
        self.head = None if no_head else make.head(first, make.image, scale=init_scale)
        for norm in (part for part in self.modules() if isinstance(part, GroupNorm)):
            norm.eps = ADM_EPSILON if form == "adm" else norm.eps

    def forward(
        self,
        x: Float[Tensor, "batch channels *size"],
        cond: Real[Tensor, "batch"],
        condition: RowCondition = None,
    ) -> Float[Tensor, "batch channels *size"]:
        """Return F of a batch: one conditioning number a sample, and conditions."""
        check_image(x, self.channels, self.dims)
        embedding = self.embed_conditions(cond, condition)
        with kernels_with_derivatives(x, cond):
            image = fold(pad(self.conditions.join(x, condition), self.factor), self.patch)
            skips, image = [self.stem(image)], image[:, : self.channels * self.patch**self.dims]
            for down in self.down:
                image, features = down(image, skips[-1], embedding)
                skips += features
            first, attention, second = self.middle
            h = second(attention(first(skips[-1], embedding)), embedding)
            out: Any = None
            for up in self.up:
                out, h = up(out, h, skips, embedding)
            out = unfold(out if self.head is None else self.head(h), self.patch)
            return crop(out, x.shape[2:])


class Layers:
    """Functions that make the layers of a UNet from its arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.own = own = SimpleNamespace(**arguments)
        self.widths = [own.width * multiplier for multiplier in own.multipliers]
        self.image = own.channels * own.patch**own.dims
        self.norm: dict[str, Any] = dict(groups=own.groups, dims=own.dims)
        self.branch = dict(rescale=own.skip_rescale, init_scale=own.init_scale, **self.norm)
        self.filter: dict[str, Any] = dict(taps=own.fir, dims=own.dims)

    def down(self) -> tuple[nn.ModuleList, list[int]]:
        """Return the levels downwards, and the channels of the features that they keep."""
        own, last, skips = self.own, len(self.widths) - 1, [self.own.width]
        doubled = 2 if (own.progressive_input, own.combine) == ("skip", "cat") else 1
        entering = [own.width, *(doubled * here for here in self.widths[:-1])]
        grows = own.progressive_input == "residual"
        images, down = [self.image, *(self.widths if grows else [self.image] * last)], []
        for level, here in enumerate(self.widths):
            sizes = [entering[level]] + [here] * (own.blocks - 1)
            stages = [self.block(size, here) for size in sizes]
            attends = [self.attend(here) for _ in sizes if level in own.attention]
            smaller = self.resize(here, Downsample, half_size) if level < last else None
            joined = self.join(images[level], here) if level < last else None
            down.append(levels.DownLevel(stages, attends, smaller, joined))
            skips += [here] * own.blocks + entering[level + 1 : level + 2]
        return nn.ModuleList(down), skips

    def up(self, skips: list[int]) -> nn.ModuleList:
        """Return the levels upwards, which take the features of these channels from the end."""
        own, last, up = self.own, len(self.widths) - 1, nn.ModuleList()
        for level, here in reversed(list(enumerate(self.widths))):
            below = self.widths[min(level + 1, last)]
            entering = [below] + [here] * own.blocks
            stages = [self.block(size + skips.pop(), here) for size in entering]
            attends, adm = level in own.attention, own.form == "adm"
            if attends and adm:
                stages = [levels.AttendedBlock(stage, self.attend(here)) for stage in stages]
            attended = self.attend(here) if attends and not adm else None
            larger = self.resize(here, Upsample, double_size) if level > 0 else None
            part = self.output(here, below if level < last else None)
            up.append(levels.UpLevel(stages, attended, part, larger))
        return up

    def block(self, channels: int, out: int, **resample: Callable[[Tensor], Tensor]) -> nn.Module:
        """Return a residual block, which may change the size."""
        options = dict(form=self.own.form, dropout=self.own.dropout, **resample, **self.branch)
        kind = AdaptiveBlock if self.own.form == "adm" else ResidualBlock
        return kind(channels, out, 4 * self.own.width, **options)

    def attend(self, channels: int) -> nn.Module:
        """Return attention between pixels."""
        return Attention(channels, head_channels=self.own.head_channels, **self.branch)

    def head(self, channels: int, out: int, scale: float) -> levels.Head:
        """Return the end of a path, from features to an image."""
        return levels.Head(channels, out, scale=scale, **self.norm)

    def resize(self, here: int, layer: type[Resample], change: Callable[..., Tensor]) -> nn.Module:
        """Return the change of size at the end of a level."""
        if self.own.form == "ddpm":
            return layer(here, here, **self.filter)
        return self.block(here, here, resample=partial(change, taps=self.own.fir or BOX))

    def join(self, image: int, here: int) -> nn.Module | None:
        """Return the entry of the shrunken image, or of the features so far, at a level."""
        if self.own.progressive_input == "skip":
            return levels.SkipInput(image, here, cat=self.own.combine == "cat", **self.filter)
        if self.own.progressive_input == "residual":
            return levels.ResidualInput(image, here, rescale=self.own.skip_rescale, **self.filter)
        return None

    def output(self, here: int, below: int | None) -> nn.Module | None:
        """Return the part of a level in the output; `below` are the channels of the level below."""
        if self.own.progressive_output == "skip":
            head = self.head(here, self.image, scale=self.own.init_scale)
            return levels.SkipOutput(head, taps=self.own.fir)
        if self.own.progressive_output == "residual":
            first = self.head(here, here, scale=1.0) if below is None else None
            enlarge = None if below is None else Upsample(below, here, **self.filter)
            return levels.ResidualOutput(first, enlarge, rescale=self.own.skip_rescale)
        return None


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    kinds: dict[str, Any] = dict(form=Form, embedding=EmbeddingKind, combine=Combine)
    kinds |= dict.fromkeys(("progressive_input", "progressive_output"), Progressive)
    choices = {name: get_args(kind) for name, kind in kinds.items()} | {"dims": (1, 2, 3)}
    minimum = dict(channels=1, blocks=1, labels=0, init_scale=0, groups=1, patch=1)
    minimum["head_channels"] = 1
    # a sinusoidal embedding divides by width/2 − 1
    width = 1 if arguments["embedding"] == "fourier" else 4
    check_arguments(arguments, choices, width=width, **minimum)
    multipliers, attention = arguments["multipliers"], arguments["attention"]
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers={multipliers}: one for each level, 1 at least")
    if not set(attention) <= set(range(len(multipliers))):
        valid = f"0 to {len(multipliers) - 1}, as many as multipliers"
        raise ValueError(f"attention={attention}: the levels are {valid}")


_DDPMPP: dict[str, Any] = dict(embedding="sinusoidal", fir=None, progressive_input="none")
_DDPM = dict(_DDPMPP, blocks=2, form="ddpm", skip_rescale=False, groups=32)
_SKIPS: dict[str, Any] = dict(progressive_input="skip", progressive_output="skip", dropout=0.0)
PUBLISHED_UNETS: dict[str, dict[str, Any]] = {
    "ncsnpp_cifar10": {},
    "ddpmpp_cifar10": _DDPMPP,
    "ddpm_cifar10": _DDPM,
    "ddpm_celebahq256": dict(_DDPM, multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), dropout=0.0),
    "ncsnpp_ffhq256": dict(_SKIPS, multipliers=(1, 1, 2, 2, 2, 2, 2), blocks=2, attention=(4,)),
    "ncsnpp_ffhq1024": dict(
        _SKIPS, width=16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), blocks=1, attention=(6,)
    ),
}
"""Arguments of the published networks: `UNet(**PUBLISHED_UNETS["ncsnpp_cifar10"])`.

NCSN++ and DDPM++ for 32×32 have a "deep" form by `blocks=8`; the discrete NCSN++ takes an index, by
`embedding="sinusoidal"`. `ddpm_cifar10` has one attention a level upwards (Ho et al. have three).
The 256×256 of DDPM are CelebA-HQ and LSUN; of NCSN++ FFHQ, CelebA-HQ, and LSUN's bedrooms and
churches; 1024×1024 are FFHQ and CelebA-HQ.
"""
