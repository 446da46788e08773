"""A store of many repeats as the report has it analysed: with the first of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from frictionstore.analyses.core.derived import n_repeats
from frictionstore.analyses.core.groups import View
from frictionstore.analyses.core.source import REPEATS, MapStore, chunks

MOST_REPEATS = 8
"""Every analysis is done on each repeat: hundreds of them would take minutes for a few images."""


class FirstRepeats(View):
    """A store without its repeats after the first few."""

    def __init__(self, store: MapStore, held: int) -> None:
        self._store = store
        self._held = held

    def __reduce__(self) -> tuple[Any, ...]:
        return FirstRepeats, (self._store, self._held)

    def caveats(self) -> list[str]:
        """Return the sentence that says what is left out, after those of the store."""
        return [
            *getattr(self._store, "caveats", list)(),
            f"of the {self._held} repeats of the measurement the first {MOST_REPEATS} are used; "
            "frictionstore analyze all uses every one",
        ]

    def iter_chunks(
        self, names: Sequence[str], batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
        """As the store's, maps of repeats cut to the first."""
        for rows, arrays in chunks(self._store, names, batch, threads, part):
            yield (
                rows,
                {
                    name: values[..., :MOST_REPEATS] if name.endswith(REPEATS) else values
                    for name, values in arrays.items()
                },
            )


def first_repeats(store: MapStore) -> MapStore:
    """Return the store, without the repeats after the first few where it has more."""
    held = n_repeats(store)
    return FirstRepeats(store, held) if held > MOST_REPEATS else store
