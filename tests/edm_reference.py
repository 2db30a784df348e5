"""EDM's networks as pickled modules, made at random while they are computed, in float64.

Written from the papers (Karras et al. 2022; Song et al. 2021; Dhariwal & Nichol 2021) and the names
in the authors' files. It shares nothing with the package.
"""

import io
import math
import pickle
import sys
from collections import OrderedDict
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from score_sde_reference import attention, convolve, group_norm


def _reconstruct_persistent_obj(meta):
    raise AssertionError("nothing in a file may be called")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """A module as `torch_utils.persistence` pickles it, and containers as torch does."""

    def __init__(self, kind, **facts):
        self.kind, self.tensors, self.parts, self.facts = kind, {}, {}, facts
        self.buffers = {}

    def __reduce_ex__(self, protocol):
        trained = {
            k: v if isinstance(v, torch.nn.Parameter) else torch.nn.Parameter(v.float(), False)
            for k, v in self.tensors.items()
        }
        buffers = {k: None if v is None else v.float() for k, v in self.buffers.items()}
        state = {"training": False, "_parameters": trained, "_buffers": buffers}
        state |= {"_non_persistent_buffers_set": set(), "_forward_hooks": OrderedDict()}
        state |= {"_modules": self.parts, **self.facts, "_init_args": (), "_init_kwargs": {}}
        if self.kind == "ModuleDict":
            return torch.nn.ModuleDict, (), state
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": self.kind}
        return _reconstruct_persistent_obj, (meta | {"state": state},)


def dump(content, protocol=4):
    """Return the pickle of networks, as the training program writes it."""
    persistence = ModuleType("torch_utils.persistence")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    names = {"torch_utils": ModuleType("torch_utils"), "torch_utils.persistence": persistence}
    with patch.dict(sys.modules, names):
        out = io.BytesIO()
        pickle.dump(content, out, protocol)
        return out.getvalue()


class EDMReference:
    """`run` returns D; `network` is then what a checkpoint contains as `ema`."""

    def __init__(self, precond="EDMPrecond", *, side=8, classes=0, augment=0, **arguments):
        defaults = dict(kind="SongUNet", width=8, multipliers=(1, 2), blocks=1, attention=(4,))
        defaults |= dict(embedding="positional", encoder="standard", decoder="standard")
        defaults |= dict(taps=(1, 1), channels=3, head=64, dropout=0.1)
        self.__dict__.update(defaults | arguments, side=side, classes=classes)
        self.adm = self.kind == "DhariwalUNet"
        self.scale, self.eps = (1, 1e-5) if self.adm else (np.sqrt(0.5), 1e-6)
        self.model = Persistent(self.kind, label_dropout=0)
        self.model.parts |= {"map_noise": None, "map_label": None}
        if augment:
            self.linear(self.model, "map_augment", augment, self.width, bias=False)
        facts = dict(img_resolution=side, img_channels=self.channels, label_dim=classes)
        ends = {"VEPrecond": (0.02, 100.0), "VPPrecond": (9.77e-4, 152.2)}.get(
            precond, (0, math.inf)
        )
        facts |= dict(sigma_min=ends[0], sigma_max=ends[1], use_fp16=False)
        facts |= {"EDMPrecond": {"sigma_data": 0.5}}.get(precond, {})
        facts |= {"VPPrecond": dict(beta_d=19.9, beta_min=0.1, M=1000)}.get(precond, {})
        self.network = Persistent(precond, **facts)
        self.network.parts["model"] = self.model

    # ── Modules ──────────────────────────────────────────────────────────────────────────────────

    def draw(self, parent, name, module, shape, bias=True):
        """Put a module with a random weight of this shape, and a bias, into its parent."""
        fan = math.prod(shape[1:])
        weight = 1 + 0.1 * torch.randn(shape) if len(shape) == 1 else torch.randn(shape) / fan**0.5
        module.tensors["weight"] = weight
        if bias:
            module.tensors["bias"] = 0.1 * torch.randn(shape[0])
        parent.parts[name] = module
        return [tensor.double() for tensor in module.tensors.values()]

    def linear(self, parent, name, size, out, bias=True):
        return self.draw(parent, name, Persistent("Linear", in_features=size), (out, size), bias)

    def norm(self, parent, name, x):
        groups = max(1, min(32, x.shape[1] // 4))
        module = Persistent("GroupNorm", num_groups=groups, eps=self.eps)
        return group_norm(x, *self.draw(parent, name, module, (x.shape[1],)), groups, self.eps)

    def conv(self, parent, name, x, out, size=3, change=None, fused=False):
        module = Persistent("Conv2d", up=change == "up", down=change == "down")
        row = torch.tensor(self.taps, dtype=torch.float32)
        square = torch.outer(row, row)[None, None] / row.sum() ** 2
        module.buffers["resample_filter"] = square if change else None
        parent.parts[name] = module
        if not fused:
            x = self.resample(x, change)
        if size == 0:
            return x
        weight, bias = self.draw(parent, name, module, (out, x.shape[1], size, size))
        if not fused:
            return F.conv2d(x, weight, bias, padding=size // 2)
        reach = len(self.taps) // 2 - 1
        h = F.conv2d(x, weight, padding=size // 2 + reach)
        return convolve(h, self.taps, down=2, pad=(0, 0)) + bias[:, None, None]

    def resample(self, x, change):
        reach = len(self.taps) // 2 - 1
        if change == "down":
            return convolve(x, self.taps, down=2, pad=(reach, reach))
        return convolve(x, self.taps, up=2, pad=(reach + 1, reach)) if change == "up" else x

    def block(self, parent, name, x, out, change=None, attends=False):
        heads = attends * (out // self.head if self.adm else 1)
        facts = dict(skip_scale=self.scale, adaptive_scale=self.adm, num_heads=heads)
        block = parent.parts[name] = Persistent("UNetBlock", dropout=self.dropout, **facts)
        h = self.conv(block, "conv0", F.silu(self.norm(block, "norm0", x)), out, 3, change)
        weight, bias = self.linear(block, "affine", 4 * self.width, out * (1 + self.adm))
        shift = (self.e @ weight.T + bias)[:, :, None, None]
        if self.adm:
            gain, shift = shift.chunk(2, 1)
            h = self.norm(block, "norm1", h) * (1 + gain) + shift
        else:
            h = self.norm(block, "norm1", h + shift)
        h = self.conv(block, "conv1", F.silu(h), out)
        if x.shape[1] != out or change:
            x = self.conv(block, "skip", x, out, 0 if self.adm and x.shape[1] == out else 1, change)
        h = (h + x) * self.scale
        if heads:
            qkv = self.conv(block, "qkv", self.norm(block, "norm2", h), 3 * out, 1)
            q, k, v = qkv.reshape(len(h) * heads, out // heads, 3, *h.shape[2:]).unbind(2)
            h = h + self.conv(block, "proj", attention(q, q, k, v).reshape(h.shape), out, 1)
            h = h * self.scale
        return h

    # ── Computation ──────────────────────────────────────────────────────────────────────────────

    def embed(self, cond, labels):
        fourier = self.embedding == "fourier"
        noise = self.model.parts["map_noise"] = Persistent("PositionalEmbedding")
        if fourier:
            noise.kind, noise.buffers["freqs"] = "FourierEmbedding", 3 * torch.randn(self.width)
            phase = 2 * math.pi * cond[:, None] * noise.buffers["freqs"].double()
        else:
            noise.facts |= dict(endpoint=not self.adm, max_positions=10_000)
            half = self.width // 2
            powers = torch.arange(half, dtype=torch.float64) / (half - (not self.adm))
            phase = cond[:, None] * 10_000.0**-powers
        pair = (phase.cos(), phase.sin()) if self.adm else (phase.sin(), phase.cos())
        e = torch.cat(pair, 1)
        hot = torch.zeros(len(cond), self.classes, dtype=torch.float64)
        if labels is not None:
            hot = F.one_hot(labels, self.classes).double()
        if self.classes and not self.adm:
            weight, bias = self.linear(self.model, "map_label", self.classes, e.shape[1])
            e = e + hot * math.sqrt(self.classes) @ weight.T + bias
        weight, bias = self.linear(self.model, "map_layer0", e.shape[1], 4 * self.width)
        e = F.silu(e @ weight.T + bias)
        weight, bias = self.linear(self.model, "map_layer1", 4 * self.width, 4 * self.width)
        e = e @ weight.T + bias
        if self.classes and self.adm:
            (weight,) = self.linear(self.model, "map_label", self.classes, e.shape[1], bias=False)
            e = e + hot @ weight.T
        return F.silu(e)

    def encode(self, x):
        encoder = self.model.parts["enc"] = Persistent("ModuleDict")
        image, kept = x, []
        for level, multiplier in enumerate(self.multipliers):
            side = self.side >> level
            at = f"{side}x{side}_"
            if level == 0:
                kept.append(self.conv(encoder, f"{at}conv", x, self.width))
            else:
                h = self.block(encoder, f"{at}down", kept[-1], kept[-1].shape[1], "down")
                if self.encoder == "skip":
                    image = self.conv(encoder, f"{at}aux_down", image, 0, 0, "down")
                    h = h + self.conv(encoder, f"{at}aux_skip", image, h.shape[1], 1)
                if self.encoder == "residual":
                    name, out = f"{at}aux_residual", h.shape[1]
                    h = (h + self.conv(encoder, name, image, out, 3, "down", fused=True)) / 2**0.5
                    image = h
                kept.append(h)
            for i in range(self.blocks):
                out, attends = self.width * multiplier, side in self.attention
                kept.append(self.block(encoder, f"{at}block{i}", kept[-1], out, attends=attends))
        return kept

    def decode(self, kept):
        decoder = self.model.parts["dec"] = Persistent("ModuleDict")
        h, image, last = kept[-1], None, len(self.multipliers) - 1
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            side, out = self.side >> level, self.width * multiplier
            at = f"{side}x{side}_"
            if level == last:
                h = self.block(decoder, f"{at}in0", h, out, attends=True)
                h = self.block(decoder, f"{at}in1", h, out)
            else:
                h = self.block(decoder, f"{at}up", h, h.shape[1], "up")
            for i in range(self.blocks + 1):
                attends = side in self.attention and (self.adm or i == self.blocks)
                h = torch.cat([h, kept.pop()], 1)
                h = self.block(decoder, f"{at}block{i}", h, out, attends=attends)
            if not self.adm and (self.decoder == "skip" or level == 0):
                if image is not None:
                    image = self.conv(decoder, f"{at}aux_up", image, 0, 0, "up")
                part = self.norm(decoder, f"{at}aux_norm", h)
                part = self.conv(decoder, f"{at}aux_conv", F.silu(part), self.channels)
                image = part if image is None else image + part
        if self.adm:
            part = F.silu(self.norm(self.model, "out_norm", h))
            image = self.conv(self.model, "out_conv", part, self.channels)
        return image

    def run(self, x, sigma, labels=None):
        """Return D(x; σ) for x around [−1, 1], by table 1 of Karras et al. 2022."""
        s = sigma[:, None, None, None]
        skip, out, scale = (
            0.25 / (s**2 + 0.25),
            0.5 * s / (s**2 + 0.25) ** 0.5,
            1 / (s**2 + 0.25) ** 0.5,
        )
        cond = sigma.log() / 4
        if self.network.kind == "VEPrecond":
            skip, out, scale, cond = 1, s, 1, (sigma / 2).log()
        if self.network.kind == "VPPrecond":
            skip, out, scale = 1, -s, 1 / (s**2 + 1) ** 0.5
            cond = 999 * ((0.1**2 + 2 * 19.9 * torch.log1p(sigma**2)).sqrt() - 0.1) / 19.9
        self.e = self.embed(cond, labels)
        return skip * x + out * self.decode(self.encode(scale * x))


def draw_network(**arguments):
    """Return a small network whose modules are drawn."""
    torch.manual_seed(0)
    reference = EDMReference(**{"attention": (), "side": 8, **arguments})
    x = torch.zeros(1, reference.channels, reference.side, reference.side)
    reference.run(x.double(), torch.ones(1).double())
    return reference.network
