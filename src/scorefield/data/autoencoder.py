"""The autoencoder behind latents: z = encode(x), x ≈ decode(z), with images x in [0, 1].

Its code is imported only because the user names it, never because a file does.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..disk import read_text
from ..values import IMPORTED

LATENTS_FILE = "latents.json"
"""File of a run that names the autoencoder of its latents."""
DECODED_AT_ONCE = 16
"""Latents that are decoded at a time; an image may take a thousand times as much memory."""


@dataclass(frozen=True)
class Latents:
    """The autoencoder of latents, which decodes them."""

    autoencoder: str  # MODULE:NAME, or the folder of an autoencoder of diffusers
    weights: str  # checksum

    @property
    def is_available(self) -> bool:
        """True if `decode` needs no other code than what is imported or installed."""
        return self.autoencoder in IMPORTED or (
            Path(self.autoencoder).is_dir() and find_spec("diffusers") is not None
        )

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents."""
        module = open_autoencoder(self.autoencoder)
        if checksum(module) != self.weights:
            raise ValueError(
                f"{self.autoencoder} has other weights than those that encoded the latents: put "
                "them back, or encode the data again and train on them"
            )
        parts = torch.split(z, DECODED_AT_ONCE)
        return torch.cat([module.to(z.device).decode(part).float() for part in parts])

    def as_json(self) -> str:
        """Return the content of a file for `read`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: str | Path) -> "Latents":
        """Return the latents of a run, from its directory, or of a file in JSON."""
        path = Path(path, LATENTS_FILE) if Path(path).is_dir() else Path(path)
        content = read_about(path)
        if not content:
            raise ValueError(f"{path} names no autoencoder: this is not a run trained on latents")
        return cls(str(content["autoencoder"]), str(content.get("weights")))


def open_autoencoder(name: str) -> Any:
    """Return the module of a name that the user has imported, or of a folder of diffusers."""
    if name in IMPORTED:
        module = IMPORTED[name]
        if callable(module) and not isinstance(module, nn.Module):
            module = IMPORTED[name] = module()
    elif Path(name).is_dir():
        module = _open_folder(name)
    elif ":" in name:
        raise ValueError(
            f"the autoencoder {name} is code, which is not imported because a file names it; if "
            f"you trust it, add --import {name}, or call scorefield.values.import_object in Python"
        )
    else:
        raise ValueError(
            f"the folder of the autoencoder, {name}, is gone: put it back, or write its new place "
            f"into the run's {LATENTS_FILE}"
        )
    methods = (getattr(module, method, None) for method in ("encode", "decode"))
    if not (isinstance(module, nn.Module) and all(map(callable, methods))):
        raise ValueError(
            f"{name} is not an autoencoder: name a torch.nn.Module with encode(x) and decode(z), "
            "or a class or function that returns one without arguments"
        )
    return module.eval()


@cache
def _open_folder(name: str) -> nn.Module:
    from ..convert.hub import read_autoencoder

    return read_autoencoder(Path(name))


def checksum(module: nn.Module) -> str:
    """Return a checksum of a module's weights."""
    total = 0
    for value in module.state_dict().values():
        total = zlib.crc32(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def read_about(path: Path) -> dict[str, Any]:
    """Return the content of a file in JSON that names an autoencoder; nothing if it does not."""
    try:
        content = json.loads(read_text(path)) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return content if isinstance(content, dict) and "autoencoder" in content else {}
