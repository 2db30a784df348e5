"""score_sde's UNet as a flat list of modules, made at random while it is computed, in float64.

Written from the architecture's description alone: zero insertion for resampling, einsum for
attention, moments for the normalisation. It shares nothing with the package.
"""

import math

import torch
import torch.nn.functional as F


def insert_zeros(x, up):
    spread = x.new_zeros(*x.shape[:2], x.shape[2] * up, x.shape[3] * up)
    spread[:, :, ::up, ::up] = x
    return spread


def convolve(x, taps, *, up=1, down=1, pad):
    """Insert zeros, pad, convolve with taps ⊗ taps, keep every `down`-th pixel."""
    batch, channels = x.shape[:2]
    spread = insert_zeros(x, up)
    row = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    padded = F.pad(spread, (*pad, *pad)).flatten(0, 1)[:, None]
    out = F.conv2d(padded, torch.outer(row, row).flip(0, 1)[None, None] * up**2)
    return out.view(batch, channels, *out.shape[2:])[:, :, ::down, ::down]


def group_norm(x, weight, bias, groups, eps=1e-6):
    parts = x.reshape(len(x), groups, -1)
    mean, var = parts.mean(2, keepdim=True), parts.var(2, unbiased=False, keepdim=True)
    out = ((parts - mean) / (var + eps).sqrt()).view_as(x)
    return out * weight[:, None, None] + bias[:, None, None]


def attention(x, q, k, v):
    w = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
    w = w.flatten(3).softmax(-1).view_as(w)
    return torch.einsum("bhwij,bcij->bchw", w, v)


class Reference:
    """`run` returns F; `state` then contains the modules as the authors number them."""

    def __init__(self, *, gaps=True, **arguments):
        self.state, self.number, self.gaps = {}, 0, gaps
        self.__dict__.update(arguments)
        self.rescale = math.sqrt(2) if self.skip_rescale else 1.0

    def draw(self, **shapes):
        """Add a module of parts that have a weight of this shape and a bias; "_" has no name."""
        tensors = {}
        for part, shape in shapes.items():
            names, out = (("W", "b"), shape[1]) if "NIN" in part else (("weight", "bias"), shape[0])
            fan = math.prod(shape) // out
            weight, bias = (torch.randn(s, dtype=torch.float64) for s in (shape, out))
            weight = 1 + 0.1 * weight if len(shape) == 1 else weight / math.sqrt(fan)
            for name, value in zip(names, (weight, bias / math.sqrt(out)), strict=True):
                tensors[f"{part}.{name}".removeprefix("_.")] = value
        self.state |= {f"module.all_modules.{self.number}.{k}": v for k, v in tensors.items()}
        self.number += 1
        return tensors

    def norm(self, x, t, name=""):
        channels = x.shape[1]
        groups = self.groups or min(channels // 4, 32)
        return group_norm(x, t[f"{name}weight"], t[f"{name}bias"], groups)

    def conv(self, x, out, size=3):
        t = self.draw(_=(out, x.shape[1], size, size))
        return F.conv2d(x, t["weight"], t["bias"], padding=size // 2)

    def head(self, h, out):
        t = self.draw(_=(h.shape[1],))
        return self.conv(F.silu(self.norm(h, t)), out)

    def plain(self, x, change):
        if self.fir is None:
            return F.avg_pool2d(x, 2) if change == "down" else F.interpolate(x, scale_factor=2)
        resampling = dict(down=2, pad=(1, 1)) if change == "down" else dict(up=2, pad=(2, 1))
        return convolve(x, self.fir, **resampling)

    def resample(self, x, out, change):
        name = "Conv_0" if self.fir is None else "Conv2d_0"
        t = self.draw(**{name: (out, x.shape[1], 3, 3)})
        weight, bias = t[f"{name}.weight"], t[f"{name}.bias"]
        if self.fir is None and change == "down":
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
        if self.fir is None:
            return F.conv2d(self.plain(x, "up"), weight, bias, padding=1)
        if change == "down":
            return F.conv2d(convolve(x, self.fir, pad=(2, 2)), weight, bias, stride=2)
        spread = F.conv2d(F.pad(insert_zeros(x, 2), (2, 1, 2, 1)), weight)
        return 4 * convolve(spread, self.fir, pad=(1, 1)) + bias[:, None, None]

    def block(self, x, out, change=None):
        channels, biggan = x.shape[1], self.form == "biggan"
        shapes = dict(GroupNorm_0=(channels,), Conv_0=(out, channels, 3, 3))
        shapes |= dict(Dense_0=(out, 4 * self.width), GroupNorm_1=(out,), Conv_1=(out, out, 3, 3))
        if biggan and (channels != out or change):
            shapes["Conv_2"] = (out, channels, 1, 1)
        if not biggan and channels != out:
            shapes["NIN_0"] = (channels, out)
        t = self.draw(**shapes)
        h = F.silu(self.norm(x, t, "GroupNorm_0."))
        if change:
            h, x = self.plain(h, change), self.plain(x, change)
        h = F.conv2d(h, t["Conv_0.weight"], t["Conv_0.bias"], padding=1)
        h = h + (self.conditioning @ t["Dense_0.weight"].T + t["Dense_0.bias"])[:, :, None, None]
        h = F.silu(self.norm(h, t, "GroupNorm_1."))
        h = F.conv2d(h, t["Conv_1.weight"], t["Conv_1.bias"], padding=1)
        if "Conv_2.weight" in t:
            x = F.conv2d(x, t["Conv_2.weight"], t["Conv_2.bias"])
        elif "NIN_0.W" in t:
            x = self.nin(x, t)
        return (x + h) / self.rescale

    def nin(self, x, t, i=0):
        return torch.einsum("bihw,io->bohw", x, t[f"NIN_{i}.W"]) + t[f"NIN_{i}.b"][:, None, None]

    def attend(self, x):
        c = x.shape[1]
        t = self.draw(GroupNorm_0=(c,), **{f"NIN_{i}": (c, c) for i in range(4)})
        h = self.norm(x, t, "GroupNorm_0.")
        h = attention(h, *(self.nin(h, t, i) for i in range(3)))
        return (x + self.nin(h, t, 3)) / self.rescale

    def embed(self, cond):
        if self.embedding == "fourier":
            frequencies = 16 * torch.randn(self.width, dtype=torch.float64)
            self.state["module.all_modules.0.W"] = frequencies
            self.number = 1
            phase = 2 * math.pi * cond[:, None] * frequencies
        else:
            half = self.width // 2
            powers = torch.arange(half, dtype=torch.float64) / (half - 1)
            phase = cond[:, None] * 10_000.0**-powers
        h = torch.cat([phase.sin(), phase.cos()], 1)
        for _ in range(2):
            t = self.draw(_=(4 * self.width, h.shape[1]))
            h = F.silu(h @ t["weight"].T + t["bias"])
        return h

    def resize(self, h, change):
        if self.form == "ddpm":
            return self.resample(h, h.shape[1], change)
        return self.block(h, h.shape[1], change)

    def enter(self, image, h):
        if self.progressive_input == "skip":
            # resampling without weights still has a number in the list
            self.number += self.gaps
            image, out = self.plain(image, "down"), h.shape[1]
            t = self.draw(Conv_0=(out, image.shape[1], 1, 1))
            seen = F.conv2d(image, t["Conv_0.weight"], t["Conv_0.bias"])
            return image, torch.cat([seen, h], 1) if self.combine == "cat" else seen + h
        if self.progressive_input == "residual":
            image = (self.resample(image, h.shape[1], "down") + h) / self.rescale
            return image, image
        return image, h

    def leave(self, image, h):
        if self.progressive_output == "skip":
            if image is None:
                return self.head(h, self.channels), h
            self.number += self.gaps
            return self.plain(image, "up") + self.head(h, self.channels), h
        if self.progressive_output == "residual":
            if image is None:
                return self.head(h, h.shape[1]), h
            image = (self.resample(image, h.shape[1], "up") + h) / self.rescale
            return image, image
        return image, h

    def run(self, x, cond):
        self.conditioning = self.embed(cond)
        image, last = x, len(self.multipliers) - 1
        kept = [h := self.conv(x, self.width)]
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.blocks):
                h = self.block(h, multiplier * self.width)
                h = self.attend(h) if level in self.attention else h
                kept.append(h)
            if level < last:
                image, h = self.enter(image, self.resize(h, "down"))
                kept.append(h)
        h = self.block(self.attend(self.block(h, h.shape[1])), h.shape[1])
        out = None
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks + 1):
                h = self.block(torch.cat([h, kept.pop()], 1), multiplier * self.width)
            h = self.attend(h) if level in self.attention else h
            out, h = self.leave(out, h)
            h = self.resize(h, "up") if level > 0 else h
        return out if self.progressive_output == "skip" else self.head(h, self.channels)
