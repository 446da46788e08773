"""Reliability: how much of a map's variance is the same when the same images are measured again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.cores import cores

Floats = NDArray[np.float64]
Scale = Callable[[NDArray[Any]], Floats]
Arrays = dict[str, NDArray[Any]]

SCALES = ("raw", "logarithm", "rank")
CHANGED = 0.1
"""A relative change that counts as one."""

_THIRDS = 3
_ROWS = 256
"""Images taken in at a time, so that memory does not depend on a store's chunks."""


def raw(values: NDArray[Any]) -> Floats:
    """Return the values themselves in float64."""
    return values.astype(np.float64)


def logarithm(values: NDArray[Any]) -> Floats:
    """Return decimal logarithms; NaN of what has none."""
    out = np.full(values.shape, np.nan)
    return np.log10(values, out=out, where=values > 0, dtype=np.float64)


@lru_cache(4096)  # every scale and map draws the same of one image
def poisson(seed: int, row: int, samples: int) -> NDArray[np.int64]:
    """Return weights of one image in so many samples of a bootstrap, Poisson of mean 1.

    Of a counter-based stream (Philox) that belongs to the seed and the image's row, so that they do
    not depend on which other images there are, nor on how many samples.
    """
    stream = np.random.Philox(key=np.array([seed % (1 << 64), row], np.uint64))
    found = np.searchsorted(_POISSON, stream.random_raw(samples), "right")
    found.flags.writeable = False
    return found


def _poisson_starts() -> NDArray[np.uint64]:
    """The numbers of 64 bits at which each value but 0 begins."""
    below, term, starts = Fraction(0), Fraction(1), []
    e = sum(Fraction(1, factorial(k)) for k in range(40))
    for k in range(21):
        below += term
        starts.append(min(int(below / e * (1 << 64)), (1 << 64) - 1))
        term /= k + 1
    return np.array(starts, np.uint64)


_POISSON = _poisson_starts()


class _Sums:
    """What the reliability of some measurements is made of, in some samples of the bootstrap."""

    def __init__(self, samples: slice, members: list[int]) -> None:
        self.samples = samples
        self.members = members
        self._per_image = 0
        self._n: Any = 0.0
        self._within: Any = 0.0
        self._mean: Any = 0.0
        self._square: Any = 0.0

    def add(self, weight: Floats, scaled: Sequence[Floats]) -> None:
        """Merge a block of images, (image, patch, mode), into every sample, as `Moments` merges."""
        mean = np.add.reduce(scaled) / len(scaled)
        centre = mean.mean(axis=1)
        apart = np.zeros_like(mean)
        square = np.zeros_like(centre)
        for values in scaled:
            apart += np.square(values - mean) / (len(scaled) - 1)
            square += np.square(values - centre[:, None]).sum(axis=1)
        within = apart.mean(axis=1)
        self._per_image = len(scaled) * mean.shape[1]
        count = weight.sum(axis=1, keepdims=True)
        shift = centre.mean(axis=0)
        offset = centre - shift
        safe = np.maximum(count, 1.0)
        mean = weight @ offset / safe
        square = weight @ square + self._per_image * (
            weight @ np.square(offset) - count * np.square(mean)
        )
        total = self._n + count
        moved = mean + shift - self._mean
        part = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
        self._within = self._within + weight @ within
        self._square = self._square + square + self._per_image * np.square(moved) * self._n * part
        self._mean = self._mean + moved * part
        self._n = total

    def anew(self) -> _Sums:
        """One that has seen nothing."""
        return _Sums(self.samples, self.members)

    def absorb(self, other: _Sums) -> None:
        """Merge what another has seen."""
        if not other._per_image:
            return
        self._per_image = other._per_image
        total = self._n + other._n
        apart = other._mean - self._mean
        part = np.divide(other._n, total, out=np.zeros_like(total), where=total > 0)
        self._within = self._within + other._within
        self._square = (
            self._square + other._square + self._per_image * np.square(apart) * self._n * part
        )
        self._mean = self._mean + apart * part
        self._n = total

    def reliability(self) -> Floats:
        """Of every sample and mode."""
        with np.errstate(divide="ignore", invalid="ignore"):
            total = self._square / (self._n * self._per_image - 1.0)
            found: Floats = 1.0 - (self._within / self._n) / total
        return found


class Agreement:
    """Reliability of one map on one scale, per mode, with an interval by a bootstrap over images.

        reliability = 1 - W / T

    W is the mean over patches and images of the variance between measurements (ddof 1), T the
    variance (ddof 1) of all values, the measurement and its repeats counting alike. Both come from
    three numbers per image and mode; the bootstrap gives every image a Poisson weight of mean 1 in
    each of its samples, which needs no image to be held. Of three measurements or more each sample
    leaves out a third, another third in turn: where few values decide, which ones they are differs
    from one measurement to another, and no weighting of images tells that.

    Parameters
    ----------
    names
        The map's name and its repeats'.
    scale
        What is applied to the values; a mode in which it gives NaN has no reliability.
    samples, seed
        Of the bootstrap; 0 for no interval.
    groups
        Group of every image, in the order in which they come: whole groups are drawn then.

    Attributes
    ----------
    reliability, low, high
        float64 of shape (n_modes,); NaN for a constant mode. `low` and `high` are the 2.5% and
        97.5% quantiles of the samples.
    constant
        bool of shape (n_modes,).

    References
    ----------
    Hanley and MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson
    frequencies, Computer Methods and Programs in Biomedicine 83, 57-62.
    """

    state = ("_sets", "_low", "_high")

    def __init__(
        self,
        names: Sequence[str],
        *,
        scale: Scale = raw,
        samples: int = 0,
        seed: int = 0,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.features = tuple(names)
        self._scale = scale
        self._seed = seed
        self._samples = samples
        self._of: NDArray[np.int64] | None = None
        if groups is not None:
            number, self._of = np.unique(groups, return_inverse=True)
            self._samples = samples = samples if len(number) > 1 else 0  # one tells of no other
        every = range(len(self.features))
        # Which samples (0 is none, but what was measured) are made of which measurements.
        self._sets = [_Sums(slice(0, 1), list(every))]
        if samples and len(every) < _THIRDS:
            self._sets.append(_Sums(slice(1, None), list(every)))
        elif samples:
            self._sets += [
                _Sums(slice(1 + k, None, _THIRDS), [m for m in every if m % _THIRDS != k])
                for k in range(_THIRDS)
            ]
        self.begin()

    def begin(self) -> None:
        """Set to nothing seen."""
        self._sets = [one.anew() for one in self._sets]
        self._low: Any = np.inf
        self._high: Any = -np.inf

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        """Add what another has seen, or take it for all that was seen."""
        if first:
            self.begin()
        for one, other in zip(self._sets, found["_sets"], strict=True):
            one.absorb(other)
        self._low = np.minimum(self._low, found["_low"])
        self._high = np.maximum(self._high, found["_high"])

    def update(self, rows: slice, arrays: Arrays) -> None:
        maps = [arrays[name] for name in self.features]
        for start in range(0, len(maps[0]), _ROWS):
            self._take(rows.start + start, [values[start : start + _ROWS] for values in maps])

    def _take(self, first: int, maps: Sequence[NDArray[Any]]) -> None:
        n_images, n_modes = len(maps[0]), maps[0].shape[-1]
        with ThreadPoolExecutor(cores(8)) as pool:
            scaled = [of.reshape(n_images, -1, n_modes) for of in pool.map(self._scale, maps)]
        for values in scaled:
            # Images first: along the last axes, which are short, it takes ten times as long.
            self._low = np.minimum(self._low, values.min(axis=0).min(axis=0))
            self._high = np.maximum(self._high, values.max(axis=0).max(axis=0))
        weight = np.ones((self._samples + 1, n_images))
        # Image by image, or group by group: who else is there does not change what is drawn.
        drawn = range(first, first + n_images)
        for k, unit in enumerate(drawn if self._of is None else self._of[first:][:n_images]):
            weight[1:, k] = poisson(self._seed, int(unit), self._samples)

        def add(one: _Sums) -> None:
            one.add(weight[one.samples], [scaled[m] for m in one.members])

        with ThreadPoolExecutor(cores(8)) as pool:
            list(pool.map(add, self._sets))

    def end_pass(self) -> bool:
        self.constant: NDArray[np.bool_] = np.asarray(self._low == self._high)
        found = np.empty((self._samples + 1, len(self.constant)))
        for one in self._sets:
            found[one.samples] = one.reliability()
        found[:, self.constant] = np.nan
        self.reliability: Floats = found[0]
        self.low = self.high = np.full(found.shape[1], np.nan)
        known = ~np.isnan(found[0])
        if self._samples and known.any():
            self.low, self.high = self.low.copy(), self.low.copy()
            ends = np.nanquantile(found[1:, known], [0.025, 0.975], axis=0)
            self.low[known], self.high[known] = ends
        return False

    @property
    def found(self) -> Agreement:
        """Itself, as `RankAgreement` names what it found."""
        return self

    @property
    def least(self) -> float:
        """The smallest reliability of the modes that vary; NaN if none does."""
        return float(np.fmin.reduce(self.reliability, initial=np.nan))


class RankAgreement:
    """`Agreement` on the scale of ranks within a mode, over all images, patches and measurements.

    Ranks need all values, which are held. Of a store whose values do not fit in `memory` bytes
    every k-th image is held, a rank is a place among those, and a second pass ranks.
    """

    def __init__(
        self,
        names: Sequence[str],
        bytes_per_image: int,
        n_images: int,
        *,
        samples: int = 0,
        seed: int = 0,
        groups: NDArray[np.int64] | None = None,
        memory: int = 64 << 20,
    ) -> None:
        self.features = tuple(names)
        self.stride = max(1, -(-bytes_per_image * len(names) * n_images // memory))
        self._held: list[tuple[int, Arrays]] | None = []
        self._sorted: list[NDArray[Any]] = []
        self.found = Agreement(names, scale=self._ranks, samples=samples, seed=seed, groups=groups)

    @property
    def state(self) -> tuple[str, ...]:
        """Values in the first pass, what is made of them in the second."""
        return ("found",) if self._held is None else ("_held",)

    def part(self) -> RankAgreement:
        """A copy that has seen nothing."""
        made = copy(self)
        made._held = self._held if self._held is None else []
        made.found = copy(self.found)
        made.found._scale = made._ranks
        made.found.begin()
        return made

    def seen(self) -> dict[str, Any]:
        """What it has seen in this pass."""
        if self._held is not None:
            return {"_held": self._held}
        return {name: getattr(self.found, name) for name in self.found.state}

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        """Add what another has seen, or take it for all that was seen."""
        if self._held is None:
            self.found.merge(found, first=first)
        else:
            self._held = found["_held"] if first else self._held + found["_held"]

    def begin(self) -> None:
        """Set to nothing seen."""
        self.found.begin()

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._held is None:
            self.found.update(rows, arrays)
            return
        kept = slice(-rows.start % self.stride, None, self.stride)
        held = {name: arrays[name][kept] for name in self.features}
        if self.stride > 1:  # a view would hold all of the chunk
            held = {name: values.copy() for name, values in held.items()}
        self._held.append((rows.start, held))

    def _ranks(self, values: NDArray[Any]) -> Floats:
        ranks = np.empty(values.shape)
        for mode, known in enumerate(self._sorted):
            # In order, neighbours search the same part of memory.
            of_mode = values[..., mode].reshape(-1)
            order = np.argsort(of_mode)
            ordered = of_mode[order]
            left = np.searchsorted(known, ordered, "left")
            right = np.searchsorted(known, ordered, "right")
            placed = np.empty(len(order))
            placed[order] = 0.5 * (left + right + 1)
            ranks[..., mode] = placed.reshape(values.shape[:-1])
        return ranks

    def end_pass(self) -> bool:
        if self._held is None:
            return self.found.end_pass()
        held, self._held = self._held, None
        n_modes = held[0][1][self.features[0]].shape[-1]
        for mode in range(n_modes):
            values = [part[..., mode].reshape(-1) for _, chunk in held for part in chunk.values()]
            self._sorted.append(np.sort(np.concatenate(values)))
        if self.stride > 1:
            return True
        for start, chunk in held:
            self.found.update(slice(start, 0), chunk)
        return self.found.end_pass()


def on_scale(
    scale: str,
    names: Sequence[str],
    bytes_per_image: int,
    n_images: int,
    *,
    samples: int,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> Agreement | RankAgreement:
    """Return the collector of a map's reliability on one of `SCALES`."""
    if scale == "rank":
        return RankAgreement(
            names, bytes_per_image, n_images, samples=samples, seed=seed, groups=groups
        )
    function = logarithm if scale == "logarithm" else raw
    return Agreement(names, scale=function, samples=samples, seed=seed, groups=groups)
