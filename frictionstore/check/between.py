"""What repeats of the measurement say of the differences between two stores of the same images.

A value of one store and its repeats are draws of one measurement, and so are those of the other
store. If nothing but a unit in the last place of the matrix differs, all of them are exchangeable:
then the m of one store are all above or all below the n of the other with probability
`2 / C(m + n, m)` at most (0.1 with two repeats in each). `apart_by_chance` is that probability.

Rounding before the matrix, in the encoder, is in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.check.agreement import CHANGED, SCALES, Agreement, RankAgreement, on_scale
from frictionstore.check.changes import Differences
from frictionstore.format import schema
from frictionstore.store.gather import gather
from frictionstore.store.reader import Store

SAMPLES = 1000  # of the bootstrap over images
STORES = ("a", "b")


@dataclass
class Block:
    """Some images' values of one map in both stores, shape (image, row, col, mode), and repeats."""

    rows: list[int]  # in the first store
    measured: dict[str, list[NDArray[Any]]]  # by store, the measurement first where it is there

    def like(self, values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """`apart` and `spread` beside values of that shape, which may have repeats before modes."""
        between = (slice(None),) * 3 + (None,) * (values.ndim - 4)
        return self.apart[between], np.broadcast_to(self.spread[between], values.shape)

    @cached_property
    def apart(self) -> NDArray[np.bool_]:
        """Where one store's measurements are all above or all below the other's; NaN is apart."""
        (low, high), (other_low, other_high) = self._ranges
        return ~((low <= other_high) & (other_low <= high))

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """Range of all measurements."""
        (low, high), (other_low, other_high) = self._ranges
        return np.maximum(high, other_high) - np.minimum(low, other_low)

    @cached_property
    def _ranges(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return [
            (
                np.minimum.reduce(self.measured[of]).astype(np.float64),
                np.maximum.reduce(self.measured[of]).astype(np.float64),
            )
            for of in STORES
        ]


@dataclass
class Pair:
    """One map in two stores, with its repeats, and which images they share.

    Attributes
    ----------
    matched
        For each image of `a` its row in `b`, -1 for none.
    repeats
        By store, how many repeats it has of the map; 0 for none.
    """

    a: Store
    b: Store
    name: str
    matched: NDArray[np.int64]
    repeats: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        again = f"{self.name}_repeats"
        self.repeats = {
            of: store.header.arrays[again].shape[-1] if again in store.maps else 0
            for of, store in zip(STORES, (self.a, self.b), strict=True)
        }

    @property
    def apart_by_chance(self) -> float:
        """Largest probability that a value's measurements are apart; 1 without repeats."""
        m, n = (1 + count for count in self.repeats.values())
        return 2.0 / math.comb(m + n, m)

    def blocks(self) -> Iterator[Block]:
        """The images of both, a chunk at a time."""
        names = [
            (self.name, f"{self.name}_repeats")[: 1 + (count > 0)]
            for count in self.repeats.values()
        ]
        for rows, arrays in self.a.iter_chunks(names[0]):
            other = self.matched[rows]
            keep = np.flatnonzero(other >= 0)
            if not keep.size:
                continue
            left = [arrays[name][keep] for name in names[0]]
            right = [gather(self.b, name, other[keep]) for name in names[1]]
            measured = {"a": _each(left), "b": _each(right)}
            yield Block((keep + rows.start).tolist(), measured)


def _each(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The measurement and each repeat."""
    return [arrays[0], *(np.moveaxis(arrays[1], -1, 0) if len(arrays) > 1 else ())]


class Reliability:
    """Reliability of a map between two stores, and of the repeats that each has of it.

    Attributes
    ----------
    agreement
        By scale, of "between", "a" and "b" as far as there are repeats.
    changes
        Of the same: share of values that moved by more than 10%.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        n_images = int((pair.matched >= 0).sum())
        row = pair.a.header.arrays[pair.name].shape[1:]
        bytes_per_image = 4 * math.prod(row)
        of: dict[str, list[str]] = {"between": ["a@0", "b@0"]}
        for store, count in pair.repeats.items():
            if count:
                of[store] = [f"{store}@{k}" for k in range(count + 1)]
        none = np.full(n_images, -1)
        self.agreement: dict[str, dict[str, Agreement | RankAgreement]] = {
            scale: {
                what: on_scale(scale, names, bytes_per_image, n_images, samples=SAMPLES)
                for what, names in of.items()
            }
            for scale in SCALES
        }
        self.changes = {
            what: Differences(names[0], names[1:], none, 0, CHANGED) for what, names in of.items()
        }
        active: list[Any] = [one for each in self.agreement.values() for one in each.values()]
        active += self.changes.values()
        while active:
            done = 0
            for block in pair.blocks():
                rows = slice(done, done + len(block.rows))
                arrays = {
                    f"{store}@{k}": values if values.ndim == 4 else values[..., None]
                    for store, each in block.measured.items()
                    for k, values in enumerate(each)
                }
                for one in active:
                    one.update(rows, arrays)
                done = rows.stop
            active = [one for one in active if one.end_pass()]

    def as_json(self) -> dict[str, Any]:
        """By mode: of each scale the reliability with its interval, and the share that moved."""
        found: dict[str, Any] = {
            scale: {
                what: {
                    key: [float(x) if np.isfinite(x) else None for x in getattr(one.found, key)]
                    for key in ("reliability", "low", "high")
                }
                for what, one in each.items()
            }
            for scale, each in self.agreement.items()
        }
        moved = {what: one.share.mean(axis=(0, 1)).tolist() for what, one in self.changes.items()}
        return {"repeats": self._pair.repeats, "moved_more_than_10_percent": moved, **found}

    def lines(self) -> list[str]:
        """A table by mode: between the stores, and in brackets of the repeats in a and in b."""
        heads = ["mode", f"moved > {CHANGED:.0%}", *SCALES]
        shares = {what: one.share.mean(axis=(0, 1)) for what, one in self.changes.items()}
        columns = [
            [str(mode) for mode in range(len(shares["between"]))],
            _column({what: [f"{x:.2%}" for x in share] for what, share in shares.items()}),
        ]
        for each in self.agreement.values():
            columns.append(
                _column({what: _texts(one.found.reliability) for what, one in each.items()})
            )
        rows = [heads, *(list(row) for row in zip(*columns, strict=True))]
        widths = [max(len(row[k]) for row in rows) for k in range(len(heads))]
        table = [
            "    " + "  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        there = [store for store, count in self._pair.repeats.items() if count]
        of = f", in brackets of the repeats in {' and in '.join(there)}" if there else ""
        return [f"  reliability between a and b{of}:", *table]


def _column(texts: dict[str, list[str]]) -> list[str]:
    """Each mode's figure between the stores, and those of the repeats in brackets."""
    between, *repeats = texts.values()
    beside = [f" ({', '.join(each)})" for each in zip(*repeats, strict=True)] if repeats else []
    return [
        f"{text}{more}" for text, more in zip(between, beside or [""] * len(between), strict=True)
    ]


def _texts(values: NDArray[np.float64]) -> list[str]:
    # Rounded down: what is not 1 is not shown as 1.
    return ["-" if np.isnan(x) else f"{math.floor(x * 1e4) / 1e4:.4f}" for x in values]


def is_measured(name: str) -> bool:
    """Whether a map is a measurement on the patch grid whose reliability says something."""
    dims = schema.MAPS[name].dims
    return dims[:3] == ("image", "row", "col") and "repeat" not in dims and name != "slot"
