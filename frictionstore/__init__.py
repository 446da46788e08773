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
    from frictionstore.check.diff import diff
    from frictionstore.check.opening import open_store as open
    from frictionstore.check.verify import verify
    from frictionstore.errors import FrictionstoreError
    from frictionstore.format.own_maps import OwnMap
    from frictionstore.share.pack import pack, unpack
    from frictionstore.share.push_pull import pull, push
    from frictionstore.store.combine import merge, subset
    from frictionstore.store.importing import from_arrays
    from frictionstore.store.reader import Store

__all__ = [
    "FrictionstoreError",
    "OwnMap",
    "Store",
    "__version__",
    "analyses",
    "diff",
    "from_arrays",
    "merge",
    "open",
    "pack",
    "pull",
    "push",
    "subset",
    "unpack",
    "verify",
]

_PUBLIC = {
    "FrictionstoreError": ("frictionstore.errors", "FrictionstoreError"),
    "OwnMap": ("frictionstore.format.own_maps", "OwnMap"),
    "Store": ("frictionstore.store.reader", "Store"),
    "diff": ("frictionstore.check.diff", "diff"),
    "from_arrays": ("frictionstore.store.importing", "from_arrays"),
    "merge": ("frictionstore.store.combine", "merge"),
    "open": ("frictionstore.check.opening", "open_store"),
    "pack": ("frictionstore.share.pack", "pack"),
    "pull": ("frictionstore.share.push_pull", "pull"),
    "push": ("frictionstore.share.push_pull", "push"),
    "subset": ("frictionstore.store.combine", "subset"),
    "unpack": ("frictionstore.share.pack", "unpack"),
    "verify": ("frictionstore.check.verify", "verify"),
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
