"""How the values of one map differ between two stores, counted a block of images at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.check.between import Block
from frictionstore.check.rounding import (
    FAR_BEYOND,
    FAR_SHARE,
    IMAGE_PATCHES,
    IMAGE_SHARE,
    RULES,
    Floats,
)
from frictionstore.format import schema
from frictionstore.text import printable

LISTED_IDS = 10

# Relative differences are counted in bins of a twentieth of a decade for their median.
_LOWEST_DECADE, _DECADES, _BINS = -12, 13, 20


@dataclass
class Largest:
    """The largest difference of one kind and where it is."""

    difference: float = 0.0
    a: float | None = None
    b: float | None = None
    image: str | None = None
    place: dict[str, int] = field(default_factory=dict)

    def offer(
        self, size: Floats, a: NDArray[Any], b: NDArray[Any], ids: list[str], dims: tuple[str, ...]
    ) -> None:
        """Take the largest of `size` where it is larger than what is known."""
        flat = int(np.argmax(size))
        found = float(size.reshape(-1)[flat])
        if found > self.difference:
            at = np.unravel_index(flat, size.shape)
            self.difference = found
            self.a, self.b = float(a[at]), float(b[at])
            self.image = ids[int(at[0])]
            self.place = {dim: int(k) for dim, k in zip(dims[1:], at[1:], strict=True)}

    def as_json(self) -> dict[str, Any] | None:
        if self.image is None:
            return None
        return {
            "difference": self.difference if np.isfinite(self.difference) else "infinite",
            "a": self.a if self.a is not None and np.isfinite(self.a) else str(self.a),
            "b": self.b if self.b is not None and np.isfinite(self.b) else str(self.b),
            "image": self.image,
            **self.place,
        }


@dataclass
class MapDifference:
    """How one map differs over the images that both stores have.

    Attributes
    ----------
    values, differing, within, far : int
        All values, those that are not equal, those within the bound for rounding, and those
        beyond 100 times it.
    wrong_images : int
        Images that are beyond 100 times the bound all over; `wrong_ids` are the first ten.
    absolute, relative : Largest
        Relative to the larger of the two magnitudes.
    per_mode, beyond_per_mode : list of int
        Values of each mode that differ and that are beyond the bound, for maps with a mode axis.
    noisy, far_noisy : int
        Values that repeats move by more than the bound, and by more than 100 times it; by mode in
        `noisy_per_mode`. They may be beyond it by chance (`check.between`).
    """

    name: str
    apart_by_chance: float = 0.0
    values: int = 0
    differing: int = 0
    within: int = 0
    far: int = 0
    absolute: Largest = field(default_factory=Largest)
    relative: Largest = field(default_factory=Largest)
    per_mode: list[int] = field(default_factory=list)
    beyond_per_mode: list[int] = field(default_factory=list)
    noisy: int = 0
    far_noisy: int = 0
    noisy_per_mode: list[int] = field(default_factory=list)
    wrong_images: int = 0
    wrong_ids: list[str] = field(default_factory=list)
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(_DECADES * _BINS, dtype=np.int64)
    )

    def add(
        self, a: NDArray[Any], b: NDArray[Any], ids: list[str], repeats: Block | None = None
    ) -> None:
        """Count one block of images, arrays of one shape with `ids` along the first axis.

        With `repeats` a value is beyond rounding where it is beyond the bound and the stores'
        measurements of it are apart.
        """
        spec, rule = schema.MAPS[self.name], RULES[self.name]
        dims = spec.dims
        if spec.modes:  # repeats, where there are any, before the modes
            a, b = (np.moveaxis(values, spec.mode_axis, -1) for values in (a, b))
            dims = (*(dim for dim in dims if dim != "mode"), "mode")
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(x) & np.isnan(y))
        self.values += a.size
        if not self.per_mode and spec.modes:
            self.per_mode = [0] * a.shape[-1]
            self.beyond_per_mode = [0] * a.shape[-1]
            self.noisy_per_mode = [0] * a.shape[-1]
        if same.all():
            self.within += a.size
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.where(same, 0.0, np.abs(x - y))
            scale = np.maximum(np.abs(x), np.abs(y))
            relative = np.where(same, 0.0, size / scale)
        size[np.isnan(size)] = np.inf  # NaN against a number
        relative[np.isnan(relative)] = np.inf
        bound = np.zeros(a.shape) if rule.bound is None else rule.bound(x, y)
        beyond = ~same & ~(size <= bound)  # a bound that is NaN is none
        far = beyond & ~(size <= FAR_BEYOND * bound)
        far_noisy = np.zeros(a.shape, dtype=bool)
        if repeats is not None:
            apart, spread = repeats.like(a)
            noisy, far_noisy = spread > bound, spread > FAR_BEYOND * bound
            beyond, far = beyond & apart, far & apart
            self.noisy += int(noisy.sum())
            self.noisy_per_mode = _added(self.noisy_per_mode, noisy)
        self.differing += int((~same).sum())
        self.within += a.size - int(beyond.sum())
        if spec.modes:
            self.per_mode = _added(self.per_mode, ~same)
            self.beyond_per_mode = _added(self.beyond_per_mode, beyond)
        if rule.far:
            self._add_far(far, far_noisy, ids)
        self.absolute.offer(size, a, b, ids, dims)
        self.relative.offer(relative, a, b, ids, dims)
        decades = np.log10(np.clip(relative[~same], 10.0**_LOWEST_DECADE, 9.0))
        bins = ((decades - _LOWEST_DECADE) * _BINS).astype(int)
        self.histogram += np.bincount(bins, minlength=self.histogram.size)

    def _add_far(self, far: NDArray[np.bool_], noisy: NDArray[np.bool_], ids: list[str]) -> None:
        self.far += int(far.sum())
        self.far_noisy += int(noisy.sum())
        modes = far.shape[-1] if schema.MAPS[self.name].modes else 1
        hit = far.reshape(len(far), -1, modes).any(axis=-1)
        many = hit.sum(axis=1) >= max(IMAGE_PATCHES, IMAGE_SHARE * hit.shape[1])
        # Half way between what chance sets apart and all.
        expected = 0.5 * (1.0 + self.apart_by_chance) * noisy.reshape(len(far), -1).sum(axis=1)
        wrong = np.flatnonzero(many & (far.reshape(len(far), -1).sum(axis=1) > expected))
        self.wrong_images += wrong.size
        self.wrong_ids += [ids[k] for k in wrong[: LISTED_IDS - len(self.wrong_ids)]]

    @property
    def median_relative(self) -> float | None:
        """Median relative difference of the values that differ, to a twentieth of a decade."""
        if not self.differing:
            return None
        middle = int(np.searchsorted(np.cumsum(self.histogram), (self.differing + 1) // 2))
        return float(10.0 ** (_LOWEST_DECADE + (middle + 0.5) / _BINS))

    @property
    def mode_shares(self) -> list[float]:
        """Share of each mode's values that differ, in [0, 1]."""
        return self._shares(self.per_mode)

    def _shares(self, counts: list[int]) -> list[float]:
        return [count / (self.values // len(counts)) for count in counts] if self.values else []

    @property
    def verdict(self) -> str:
        """``equal``, ``rounding`` or ``different``."""
        if not self.differing:
            return "equal"
        return "different" if self.reasons else "rounding"

    @property
    def reasons(self) -> list[str]:
        """What rounding does not explain, a phrase each."""
        rule = RULES[self.name]
        what = "differ" if rule.bound is None else "are beyond the bound for rounding"
        if self.apart_by_chance:
            what += " and apart from what the repeats give"
        beyond = self.values - self.within
        found = []
        # Twice what chance sets apart, and never all.
        chance = min(2.0 * self.apart_by_chance, 0.5 * (1.0 + self.apart_by_chance))
        if beyond > rule.share * self.values + chance * self.noisy:
            found.append(f"{beyond / self.values:.2%} of its values {what}")
        noisy = self._shares(self.noisy_per_mode)
        for mode, share in enumerate(self._shares(self.beyond_per_mode)):
            if share > rule.mode_share + chance * noisy[mode]:
                found.append(f"{share:.2%} of mode {mode} {what}")
        if self.far > FAR_SHARE * self.values + chance * self.far_noisy:
            found.append(f"{self.far:,} values are beyond {FAR_BEYOND:g} times it")
        if self.wrong_images:
            images = "image is" if self.wrong_images == 1 else "images are"
            first = printable(self.wrong_ids[0], 60)
            found.append(f"{self.wrong_images:,} {images} beyond that all over, first {first}")
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "values": self.values,
            "differing": self.differing,
            "within_rounding": self.within if RULES[self.name].bound else None,
            "far_beyond_rounding": self.far if RULES[self.name].far else None,
            "wrong_images": self.wrong_images if RULES[self.name].far else None,
            "beyond_rounding_because": self.reasons,
            "median_relative": self.median_relative,
            "largest_absolute": self.absolute.as_json(),
            "largest_relative": self.relative.as_json(),
            "moved_by_repeats": self.noisy if self.apart_by_chance else None,
            "differing_share_per_mode": self.mode_shares if self.per_mode else None,
        }


def _added(counts: list[int], hits: NDArray[np.bool_]) -> list[int]:
    """Counts by mode with those of another block."""
    new = hits.reshape(-1, hits.shape[-1]).sum(axis=0)
    return [old + int(more) for old, more in zip(counts, new, strict=True)]
