"""Features that are made of a store's maps while it is read, so that every analysis has them.

Their names, and what each is made of, are in `source`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import UndefinedError
from frictionstore.analyses.core.quantile_sketch import QuantileSketch
from frictionstore.analyses.core.source import (
    DELTA,
    ERANK,
    LOG,
    MADE_OF,
    RANK,
    RATIO,
    REPEATS,
    ROUNDING_ERROR,
    MapStore,
    chunks,
    is_repeated,
    stored_maps,
)
from frictionstore.text import printable

Arrays = Mapping[str, NDArray[Any]]
AT = "@"
"""What stands between a feature's name and the number of the repeat that is meant."""
NOISY = (*MADE_OF[ROUNDING_ERROR], "settle", "settle_exact")
"""Maps that arithmetic makes noise in: what the noise is their repeats tell."""


class Derived:
    """A store that also gives what its maps have in them; in float32, as maps are.

    `log_X` is the decimal logarithm of X: friction is a sum of reciprocals, over a whole store it
    may span eight orders of magnitude, and what is squared or averaged then rests on few values.
    Its logarithm does not. `rank_X` is the share of the store's values of X in the same mode that
    are smaller, equal ones counting half: whatever increases X does not change it. X may itself be
    made of maps:

        rounding_error  |friction - friction_exact| / friction_exact
        erank           exp(-sum_m p_m log p_m), p = S / sum S     the effective rank of a patch
        ratio           S_0 / S_last                               one number a patch, as erank
        delta           S - S_orig                                 what cross-attention changed

    `X@k` is X in repeat k (1, 2, ...) of the measurement, where X has repeats; the rank in a repeat
    is that among the values of the measurement.

    References
    ----------
    Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality, European
    Signal Processing Conference, 606-610.
    """

    def __init__(self, store: MapStore) -> None:
        self._store = store
        self._sketches: dict[str, list[QuantileSketch]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """With what ranks it knows: its `__getattr__` must not be asked before there is a store."""
        return _derived, (self._store, self._sketches)

    def iter_chunks(
        self, names: Sequence[str], batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
        """As the store's. The first ranks of a feature take a pass over it by themselves.

        Raises
        ------
        UndefinedError
            If a map holds a value of which what is asked for is not defined.
        """
        for feature in self.unranked(names):
            sketches = Sketches(feature)
            for rows, arrays in self.iter_chunks((feature,)):
                sketches.update(rows, arrays)
            self.know_ranks(sketches)
        sources = {name: self._sources(name) for name in names}
        stored = dict.fromkeys(map_name for of in sources.values() for _, map_name, _ in of)
        for rows, arrays in chunks(self._store, tuple(stored), batch, threads, part):
            given = {}
            for name in names:
                maps = {
                    base: arrays[held] if which is None
                    else np.ascontiguousarray(arrays[held][..., which])
                    for base, held, which in sources[name]
                }  # fmt: skip
                given[name] = self._value(name.partition(AT)[0], maps, rows)
            yield rows, given

    def _sources(self, name: str) -> list[tuple[str, str, int | None]]:
        """Return the maps that a name is made of, where each is stored, and which repeat of it."""
        feature, _, repeat = name.partition(AT)
        return [
            (base, f"{base}{REPEATS}", int(repeat) - 1)
            if repeat and f"{base}{REPEATS}" in self._store.maps
            else (base, base, None)
            for base in stored_maps(self._store, feature)
        ]

    def _value(self, feature: str, maps: Arrays, rows: slice) -> NDArray[Any]:
        if feature in self._store.maps:
            return maps[feature]
        if feature.startswith(LOG):
            inner = feature.removeprefix(LOG)
            values = self._value(inner, maps, rows)
            self._refuse(values <= 0, rows, inner, "no logarithm", "of 0 or less", inner)
            return np.asarray(np.log10(values, dtype=np.float32))
        if feature.startswith(RANK):
            inner = feature.removeprefix(RANK)
            return self._ranks(inner, self._value(inner, maps, rows))
        make = {
            ROUNDING_ERROR: self._rounding_error, ERANK: self._erank, RATIO: self._ratio,
            DELTA: self._delta,
        }[feature]  # fmt: skip
        exact = make(maps, rows)
        with np.errstate(over="ignore"):
            made = exact.astype(np.float32)
        beyond = np.isinf(made) & np.isfinite(exact)
        self._refuse(beyond, rows, feature, "no float32", "above 3.4e38", MADE_OF[feature][0])
        return made

    def _rounding_error(self, maps: Arrays, rows: slice) -> NDArray[Any]:
        friction, exact = (maps[name].astype(np.float64) for name in MADE_OF[ROUNDING_ERROR])
        self._refuse(exact == 0, rows, "friction_exact", "no relative error", "of 0", "friction")
        return np.asarray(np.abs(friction - exact) / np.abs(exact))

    def _erank(self, maps: Arrays, rows: slice) -> NDArray[Any]:
        s = maps["S"].astype(np.float64)
        total = s.sum(axis=-1)
        bad = (s < 0).any(axis=-1) | (total == 0)
        self._refuse(bad, rows, "S", "no effective rank", "below 0 or a patch of zeros", "S")
        share = s / total[..., None]
        return np.asarray(np.exp(-(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)))

    def _ratio(self, maps: Arrays, rows: slice) -> NDArray[Any]:
        s = maps["S"].astype(np.float64)
        self._refuse(s[..., -1] == 0, rows, "S", "no ratio", "of 0 in the last mode", "S")
        return np.asarray(s[..., 0] / s[..., -1])

    def _delta(self, maps: Arrays, rows: slice) -> NDArray[Any]:
        return np.asarray(maps["S"].astype(np.float64) - maps["S_orig"])

    def _refuse(
        self, bad: NDArray[np.bool_], rows: slice, name: str, lacks: str, holds: str, instead: str
    ) -> None:
        images = bad.reshape(len(bad), -1).any(axis=1)
        if images.any():
            row = rows.start + int(images.argmax())
            raise UndefinedError.of(
                f"map {printable(name)!r} of {printable(self._store.name)} has {lacks}: image "
                f"{printable(str(self._store.image_ids[row]))!r} (row {row}) holds a value {holds}",
                printable(instead),
            )

    def unranked(self, names: Iterable[str]) -> list[str]:
        """Return the features whose values have to be known first, in the order to get them in."""
        needed: list[str] = []
        for name in names:
            feature = name.partition(AT)[0]
            while feature not in self._store.maps and feature.startswith((LOG, RANK)):
                is_rank = feature.startswith(RANK)
                feature = feature.removeprefix(RANK if is_rank else LOG)
                if is_rank and feature not in self._sketches:
                    needed.append(feature)
        return list(dict.fromkeys(reversed(needed)))

    def know_ranks(self, sketches: Sketches) -> None:
        """Take the values of a feature for those that its ranks are among."""
        self._sketches[sketches.features[0]] = sketches.by_mode

    def _ranks(self, feature: str, values: NDArray[Any]) -> NDArray[np.float32]:
        of_modes = zip(self._sketches[feature], _by_mode(values), strict=True)
        ranks = np.stack([sketch.ranks(of_mode) for sketch, of_mode in of_modes], axis=-1)
        if np.issubdtype(values.dtype, np.floating):
            ranks[~np.isfinite(_with_modes(values))] = np.nan  # refused by who reads it
        return ranks.reshape(values.shape)

    def caveats_of(self, features: Iterable[str]) -> list[str]:
        """Return the sentence that says how far ranks may be off, of features that were read."""
        inner = {name.partition(AT)[0].partition(RANK)[2] for name in features}
        bound = max(
            (one.bound for name in inner for one in self._sketches.get(name, [])), default=0
        )
        if not bound:
            return []
        return [
            f"ranks are from a sketch of the store's values: none is off by more than {bound:.1g} "
            "of them"
        ]


def _derived(store: MapStore, sketches: dict[str, list[QuantileSketch]]) -> Derived:
    made = Derived(store)
    made._sketches = sketches
    return made


class Sketches:
    """A collector of the values of a feature, by mode, to rank among."""

    state = ("by_mode",)

    def __init__(self, feature: str) -> None:
        self.features = (feature,)
        self.begin()

    def begin(self) -> None:
        self.by_mode: list[QuantileSketch] = []

    def update(self, rows: slice, arrays: dict[str, NDArray[Any]]) -> None:
        modes = _by_mode(arrays[self.features[0]])
        self.by_mode = self.by_mode or [QuantileSketch() for _ in modes]
        for sketch, values in zip(self.by_mode, modes, strict=True):
            sketch.add(values)

    def merge(self, found: dict[str, list[QuantileSketch]], *, first: bool) -> None:
        if first:
            self.by_mode = found["by_mode"]
            return
        for sketch, other in zip(self.by_mode, found["by_mode"], strict=True):
            sketch.absorb(other)

    def end_pass(self) -> bool:
        return False


def repeat_of(store: MapStore, feature: str, repeat: int) -> str:
    """Return the name of a feature in a repeat (1, 2, ...), its own where it has none."""
    return f"{feature}{AT}{repeat}" if is_repeated(store, feature) else feature


def n_repeats(store: MapStore) -> int:
    """Return how many repeats of the measurement a store holds: as many as all its maps of them."""
    names = [name for name in store.maps if name.endswith(REPEATS)]
    first = next(iter(store.iter_chunks(names)), None) if names else None
    return 0 if first is None else min(values.shape[-1] for values in first[1].values())


def _with_modes(values: NDArray[Any]) -> NDArray[Any]:
    return values[..., None] if values.ndim == 3 else values


def _by_mode(values: NDArray[Any]) -> list[NDArray[Any]]:
    with_modes = _with_modes(values)
    return [with_modes[..., mode] for mode in range(with_modes.shape[-1])]
