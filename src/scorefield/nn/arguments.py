"""What a network was built with: `type(net)(**net.arguments)` is the same architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arguments(names: Mapping[str, Any]) -> dict[str, Any]:
    """Those among the `locals()` at the top of an `__init__`."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}
