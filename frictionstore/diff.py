"""What differs between two stores: the request, the images, and the values of every map.

Differences of values are held against rounding. The rules below are the conformance rules of the
measurement's definition (docs/conduit.md) where those do not need what a store does not have:

- ``S``, ``S_orig``: eigenvalues, the squares, agree within ``1e-5 * ||A||_F`` of their patch.
- ``friction``: a sum of ``1/|p'|`` amplifies a rounding error of ``p'`` with its square, so the
  bound is ``1e-5 * f + 200 * eps * f**2``, eps that of float32. The factor is the 99th percentile
  of ``noise / (eps * f**2)`` for encoder Gram matrices with four modes under changes of one unit
  in the last place of the input.
- ``settle``: a threshold on a number near rounding; up to a tenth of a mode's values may differ.
- ``recon_error``: within ``1e-4`` of the value; ``refinement_residual``: within ``1e-5``.
- ``slot``, ``image``: no value may differ.

A map with a bound agrees where 99 % of its values are within it, and the rest within 100 times it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore import schema
from frictionstore.fingerprint import leaves
from frictionstore.progress import progress_bar
from frictionstore.store import Store, open_store
from frictionstore.text import listed, printable

Floats = NDArray[np.float64]

EPS = 2.0**-23
FRICTION_RELATIVE = 1e-5
FRICTION_FACTOR = 200.0
EIGENVALUE_RELATIVE = 1e-5
RECON_RELATIVE = 1e-4
RESIDUAL_ABSOLUTE = 1e-5
WITHIN_SHARE = 0.99
FAR_BEYOND = 100.0
SETTLE_SHARE = 0.10
LISTED_IDS = 10

# Relative differences are counted in bins of a twentieth of a decade for their median.
_LOWEST_DECADE, _DECADES, _BINS = -12, 13, 20


def friction_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of friction values `a` and `b`, any shape."""
    value = np.maximum(np.abs(a), np.abs(b))
    return FRICTION_RELATIVE * value + FRICTION_FACTOR * EPS * value**2


def singular_value_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of singular values, shape (..., modes): a bound on ``|a**2 - b**2|``, here
    divided by ``a + b`` so that it bounds ``|a - b|``."""
    norm = np.sqrt(np.maximum((a**4).sum(axis=-1), (b**4).sum(axis=-1)))[..., None]
    total = np.abs(a) + np.abs(b)
    with np.errstate(divide="ignore"):
        bound = np.where(total > 0, EIGENVALUE_RELATIVE * norm / total, np.inf)
    return np.asarray(bound, dtype=np.float64)


def _relative_bound(a: Floats, b: Floats) -> Floats:
    return RECON_RELATIVE * np.maximum(np.abs(a), np.abs(b))


def _absolute_bound(a: Floats, b: Floats) -> Floats:
    return np.full(a.shape, RESIDUAL_ABSOLUTE)


BOUNDS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "S": singular_value_bound,
    "S_orig": singular_value_bound,
    "friction": friction_bound,
    "recon_error": _relative_bound,
    "refinement_residual": _absolute_bound,
}


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
    absolute, relative : Largest
        Relative to the larger of the two magnitudes.
    per_mode : list of int
        Differing values of each mode, for maps with a mode axis.
    """

    name: str
    values: int = 0
    differing: int = 0
    within: int = 0
    far: int = 0
    absolute: Largest = field(default_factory=Largest)
    relative: Largest = field(default_factory=Largest)
    per_mode: list[int] = field(default_factory=list)
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(_DECADES * _BINS, dtype=np.int64)
    )

    def add(self, a: NDArray[Any], b: NDArray[Any], ids: list[str]) -> None:
        """Count one block of images, arrays of one shape with `ids` along the first axis."""
        spec = schema.MAPS[self.name]
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(x) & np.isnan(y))
        self.values += a.size
        if not self.per_mode and spec.modes:
            self.per_mode = [0] * a.shape[-1]
        if same.all():
            self.within += a.size
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.where(same, 0.0, np.abs(x - y))
            scale = np.maximum(np.abs(x), np.abs(y))
            relative = np.where(same, 0.0, size / scale)
        size[np.isnan(size)] = np.inf  # NaN against a number
        relative[np.isnan(relative)] = np.inf
        self.differing += int((~same).sum())
        if spec.modes:
            counts = (~same).reshape(-1, a.shape[-1]).sum(axis=0)
            self.per_mode = [old + int(new) for old, new in zip(self.per_mode, counts, strict=True)]
        self.absolute.offer(size, a, b, ids, spec.dims)
        self.relative.offer(relative, a, b, ids, spec.dims)
        if self.name in BOUNDS:
            bound = BOUNDS[self.name](x, y)
            self.within += int((same | (size <= bound)).sum())
            self.far += int((~same & ~(size <= FAR_BEYOND * bound)).sum())
        else:
            self.within += int(same.sum())
        decades = np.log10(np.clip(relative[~same], 10.0**_LOWEST_DECADE, 9.0))
        bins = ((decades - _LOWEST_DECADE) * _BINS).astype(int)
        self.histogram += np.bincount(bins, minlength=self.histogram.size)

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
        per_mode = self.values // max(len(self.per_mode), 1)
        return [count / per_mode for count in self.per_mode] if per_mode else []

    @property
    def verdict(self) -> str:
        """``equal``, ``rounding`` or ``different``."""
        if not self.differing:
            return "equal"
        if self.name == "settle":
            return "rounding" if max(self.mode_shares) <= SETTLE_SHARE else "different"
        if self.name not in BOUNDS:
            return "different"
        agrees = self.within >= WITHIN_SHARE * self.values and not self.far
        return "rounding" if agrees else "different"

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "values": self.values,
            "differing": self.differing,
            "within_rounding": self.within if self.name in BOUNDS else None,
            "far_beyond_rounding": self.far if self.name in BOUNDS else None,
            "median_relative": self.median_relative,
            "largest_absolute": self.absolute.as_json(),
            "largest_relative": self.relative.as_json(),
            "differing_share_per_mode": self.mode_shares if self.per_mode else None,
        }


@dataclass
class Difference:
    """What `diff` found.

    Attributes
    ----------
    a, b : str
        The two locations.
    same_bytes : bool
        The digests are equal: every file of the content is the same.
    request : list of str
        One phrase for every part of the requests that differs.
    images_a, images_b, common : int
    only_a, only_b : list of str
        Ids that only one store has, the first ten.
    labels : int
        Common images whose class differs by name.
    classes_differ : bool
    maps_a, maps_b : list of str
        Maps that only one store has, or has in another shape.
    maps : dict of str to MapDifference
    """

    a: str
    b: str
    same_bytes: bool
    request: list[str]
    images_a: int
    images_b: int
    common: int
    only_a: list[str]
    only_b: list[str]
    labels: int
    classes_differ: bool
    maps_a: list[str]
    maps_b: list[str]
    maps: dict[str, MapDifference]

    @property
    def verdict(self) -> str:
        """``same bytes``, ``same values``, ``rounding`` or ``different``."""
        if self.same_bytes:
            return "same bytes"
        verdicts = {found.verdict for found in self.maps.values()}
        alike = (
            self.common == self.images_a == self.images_b
            and not self.labels
            and not self.classes_differ
            and not self.maps_a
            and not self.maps_b
        )
        if not alike or "different" in verdicts:
            return "different"
        return "rounding" if "rounding" in verdicts else "same values"

    def as_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "same_bytes": self.same_bytes,
            "same_request": not self.request,
            "request": self.request,
            "images": {"a": self.images_a, "b": self.images_b, "common": self.common},
            "only_a": self.only_a,
            "only_b": self.only_b,
            "labels_differing": self.labels,
            "classes_differ": self.classes_differ,
            "maps_only_a": self.maps_a,
            "maps_only_b": self.maps_b,
            "maps": {name: found.as_json() for name, found in self.maps.items()},
        }


def diff(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, show_progress: bool = False
) -> Difference:
    """Compare two stores: what was asked for, which images, and every value.

    Images are matched by id. Memory is that of a few chunks.

    Parameters
    ----------
    a, b : str or path
    show_progress : bool

    Returns
    -------
    Difference

    Raises
    ------
    StoreError
        One of them cannot be read.
    """
    first, second = open_store(a), open_store(b)
    same_bytes = first.digest == second.digest
    ids_a, ids_b = first.image_ids.tolist(), second.image_ids.tolist()
    position = {text: row for row, text in enumerate(ids_b)}
    matched = np.array([position.get(text, -1) for text in ids_a], dtype=np.int64)
    known = set(ids_a)
    result = Difference(
        first.header.location.text, second.header.location.text, same_bytes,
        _request_differences(first, second), first.n_images, second.n_images,
        int((matched >= 0).sum()),
        [text for text, row in zip(ids_a, matched, strict=True) if row < 0][:LISTED_IDS],
        [text for text in ids_b if text not in known][:LISTED_IDS],
        _labels_differing(first, second, matched),
        first.class_names != second.class_names,
        _maps_without_match(first, second), _maps_without_match(second, first), {},
    )  # fmt: skip
    names = [name for name in first.maps if name not in result.maps_a]
    result.maps = {name: MapDifference(name) for name in names}
    total = result.common * len(names)
    with progress_bar(total, "comparing", show=show_progress) as advance:
        for name in names:
            for rows, left, right in _pairs(first, second, name, matched):
                result.maps[name].add(left, right, [ids_a[row] for row in rows])
                advance(len(rows))
    return result


def _request_differences(a: Store, b: Store) -> list[str]:
    mine, theirs = dict(leaves(a.request)), dict(leaves(b.request))
    phrases = []
    for key in sorted(mine.keys() | theirs.keys()):
        left = printable(mine[key], 60) if key in mine else "absent"
        right = printable(theirs[key], 60) if key in theirs else "absent"
        if (key in mine) != (key in theirs) or mine[key] != theirs[key]:
            phrases.append(f"{printable(key, 60)}: {left} and {right}")
    return phrases


def _maps_without_match(a: Store, b: Store) -> list[str]:
    arrays, others = a.header.arrays, b.header.arrays
    return [
        name
        for name in a.maps
        if name not in others or arrays[name].shape[1:] != others[name].shape[1:]
    ]


def _labels_differing(a: Store, b: Store, matched: NDArray[np.int64]) -> int:
    """Common images whose class, by name where there are names, is not the same."""

    def names(store: Store) -> list[str]:
        known = store.class_names
        return [
            "" if k < 0 else f"{known[k]}" if k < len(known) else f"#{k}"
            for k in store.labels.tolist()
        ]

    left, right = names(a), names(b)
    return sum(
        left[row] != right[other] for row, other in enumerate(matched.tolist()) if other >= 0
    )


def _pairs(
    a: Store, b: Store, name: str, matched: NDArray[np.int64]
) -> Iterator[tuple[list[int], NDArray[Any], NDArray[Any]]]:
    """Rows of `a` that `b` has too, with both stores' values, a chunk at a time."""
    for rows, arrays in a.iter_chunks(name):
        other = matched[rows]
        keep = np.flatnonzero(other >= 0)
        if not keep.size:
            continue
        wanted = other[keep]
        order = np.argsort(wanted, kind="stable")
        parts = np.empty((keep.size, *arrays[name].shape[1:]), dtype=arrays[name].dtype)
        block = b.header.arrays[name].chunk_images
        ascending = wanted[order]
        ends = np.flatnonzero(np.diff(ascending // block)) + 1
        done = 0
        for some in np.split(ascending, ends):
            start = int(some[0])
            found = b.read(name, slice(start, int(some[-1]) + 1))[some - start]
            parts[order[done : done + some.size]] = found
            done += some.size
        yield (keep + rows.start).tolist(), arrays[name][keep], parts


def describe_difference(found: Difference) -> str:
    """The result as text."""
    lines = [f"a  {printable(found.a)}", f"b  {printable(found.b)}", ""]
    sentence = {
        "same bytes": "same bytes: every file of the content is the same",
        "same values": "same values, in other bytes",
        "rounding": "different bytes; all differences are within rounding noise",
        "different": "different",
    }[found.verdict]
    lines.append(sentence)
    if found.same_bytes:
        return "\n".join(lines)
    if found.request:
        lines.append(f"requests differ in {len(found.request)} places (a and b):")
        lines += [f"  {phrase}" for phrase in found.request]
    else:
        lines.append("the same was asked for")
    if not found.common == found.images_a == found.images_b:
        lines.append(
            f"images: {found.images_a:,} in a, {found.images_b:,} in b, {found.common:,} in both"
        )
        for which, ids in (("a", found.only_a), ("b", found.only_b)):
            if ids:
                lines.append(f"  only in {which}: {listed(ids)}")
    if found.classes_differ:
        lines.append("class names differ")
    if found.labels:
        lines.append(f"labels of {found.labels:,} images differ")
    for which, names in (("a", found.maps_a), ("b", found.maps_b)):
        if names:
            lines.append(f"maps only in {which}, or of another shape there: {', '.join(names)}")
    for name, entry in found.maps.items():
        lines += ["", *_describe_map(name, entry)]
    return "\n".join(lines)


def _describe_map(name: str, found: MapDifference) -> list[str]:
    if not found.differing:
        return [f"{name}: all {found.values:,} values are equal"]
    share = found.differing / found.values
    lines = [
        f"{name}: {found.differing:,} of {found.values:,} values differ ({share:.2%}), "
        + ("within rounding noise" if found.verdict == "rounding" else "beyond rounding noise")
    ]
    if name in BOUNDS:
        lines.append(
            f"  {found.within / found.values:.3%} within the bound for rounding "
            f"({WITHIN_SHARE:.0%} are expected), {found.far:,} beyond {FAR_BEYOND:g} times it "
            "(none is expected), median relative difference of those that differ "
            f"{found.median_relative:.1e}"
        )
    for label, largest in (("absolute", found.absolute), ("relative", found.relative)):
        place = ", ".join(f"{dim} {k}" for dim, k in largest.place.items())
        lines.append(
            f"  largest {label} difference {largest.difference:.3g}: {largest.a:.9g} and "
            f"{largest.b:.9g}, image {printable(largest.image, 60)}, {place}"
        )
    if found.per_mode:
        shares = ", ".join(f"{share:.2%}" for share in found.mode_shares)
        lines.append(f"  share that differs in each mode, largest first: {shares}")
    return lines
