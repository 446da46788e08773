"""The conduit measurement: `conduit(A)` for the whole packet, `conduit_maps(A)` for chosen maps.

`constants.py` holds the numbers the measurement depends on, `reference.py` its definition,
`kernels/cpu/conduit.py` and `kernels/gpu/conduit.py` the same arithmetic in one pass,
`dispatch.py` the choice. Nothing here imports torch or numba before a name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from frictionstore.extract.conduit.constants import DEFAULTS, ConduitConstants

if TYPE_CHECKING:
    from frictionstore.extract.conduit.dispatch import (
        Packet,
        conduit,
        conduit_maps,
        kernel_name,
    )

__all__ = [
    "DEFAULTS",
    "ConduitConstants",
    "Packet",
    "conduit",
    "conduit_maps",
    "kernel_name",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("frictionstore.extract.conduit.dispatch"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
