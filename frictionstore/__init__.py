"""frictionstore: per-image eigensolver telemetry of frozen encoders, kept in a Zarr store.

    >>> import frictionstore as fs
    >>> store = fs.open("data/digits-speckle.zarr")  # doctest: +SKIP
    >>> store.friction[:2].shape  # doctest: +SKIP
    (2, 16, 16, 4)

Importing this package imports neither torch nor zarr; each name loads what it needs on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from frictionstore.version import __version__

if TYPE_CHECKING:
    from frictionstore.errors import FrictionstoreError
    from frictionstore.store.importing import from_arrays
    from frictionstore.store.reader import Store
    from frictionstore.store.reader import open_store as open

__all__ = ["FrictionstoreError", "Store", "__version__", "analyses", "from_arrays", "open"]

_PUBLIC = {
    "FrictionstoreError": ("frictionstore.errors", "FrictionstoreError"),
    "Store": ("frictionstore.store.reader", "Store"),
    "from_arrays": ("frictionstore.store.importing", "from_arrays"),
    "open": ("frictionstore.store.reader", "open_store"),
}


def __getattr__(name: str) -> Any:
    if name == "analyses":
        return import_module("frictionstore.analyses")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "analyses"})
