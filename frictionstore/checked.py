"""A read-only zarr store that knows which files must be there.

zarr reads a missing chunk as the fill value. Under this wrapper, a file that the manifest names
and that is missing or shorter than it was is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from frictionstore.errors import StoreError
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.store import Header


class CheckedStore(WrapperStore[Any]):
    """`header` decides what must exist; the group's metadata is served from it."""

    header: Header

    @classmethod
    def of(cls, header: Header) -> CheckedStore:
        made = cls(header.location.zarr_store())
        made.header = header
        return made

    def _with_store(self, store: Any) -> CheckedStore:
        made = type(self)(store)
        made.header = self.header
        return made

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == "zarr.json" and byte_range is None:
            return prototype.buffer.from_bytes(self.header.document)
        found = await self._store.get(key, prototype, byte_range)
        return self._checked(key, found)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        pairs = list(key_ranges)
        found = await self._store.get_partial_values(prototype, pairs)
        return [self._checked(key, value) for (key, _), value in zip(pairs, found, strict=True)]

    def _checked(self, key: str, found: Buffer | None) -> Buffer | None:
        if found is None and key in self.header.manifest:
            raise StoreError(
                f"{printable(self.header.location.text)} is damaged: {key} is missing; "
                "see what else is with frictionstore verify"
            )
        return found
