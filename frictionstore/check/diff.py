"""What differs between two stores: the request, the images, and the values of every map.

Differences of values are held against rounding. Every map has a `Rule`: a bound for one value, and
the share of values that may be beyond it. Rounding has outliers (a root finder that takes another
path, eigenvalues that all but meet), so no rule says "none":

- at least 99 % of a map's values are within the bound, and nine tenths of every mode's;
- at most one in ten thousand is beyond 100 times the bound;
- no image is beyond 100 times the bound in a tenth of its patches (three at least): outliers are
  scattered, a wrong image is wrong all over, however many sound ones stand around it.

The bounds are those of the measurement's definition (docs/measurement.md) where they do not need
what a store does not have:

- ``S``, ``S_orig``: `singular_value_bound`, on the squares, so that it holds for values near 0.
- ``friction``, ``friction_exact`` and repeats of either: `friction_bound`.
- ``recon_error``: `recon_error_bound`, derived there.
- ``refinement_residual``: `residual_bound`. What is far beyond it comes from eigenvalues that meet,
  where the residual is noise up to 1 and clusters in images; the 99 % alone decide.
- ``settle``, ``settle_exact`` and repeats: a threshold on a number near rounding; a tenth of a
  mode's values may differ.
- ``slot``: eigenvalues that all but meet change places; a hundredth of a mode's values may differ.
- ``image``: computed without the encoder; no value may differ.

Measured (speckle on digits, photos and noise images; the native engine, plain float32 torch and
a float64 encoder against each other): ``S`` differs by 0.04 of its bound at most, ``recon_error``
by 0.53 of it, friction is beyond its bound in 0.13 % of a mode's values and beyond 100 times it in
0.0012 % of all, in 2 of an image's 256 patches at most; ``settle`` differs in 2.9 % of a mode,
``slot`` in 0.04 %, ``refinement_residual`` by more than 1e-5 in 0.03 %.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.format import schema
from frictionstore.format.fingerprint import differing
from frictionstore.progress import progress_bar
from frictionstore.store.gather import gather
from frictionstore.store.reader import Store, open_store
from frictionstore.text import listed, printable

Floats = NDArray[np.float64]

EPS = 2.0**-23
FRICTION_RELATIVE = 1e-5
FRICTION_FACTOR = 200.0
EIGENVALUE_RELATIVE = 1e-5
RECON_ROUNDINGS = 16
RESIDUAL_ABSOLUTE = 1e-5
FAR_BEYOND = 100.0
FAR_SHARE = 1e-4
IMAGE_SHARE = 0.1
IMAGE_PATCHES = 3
LISTED_IDS = 10

# Relative differences are counted in bins of a twentieth of a decade for their median.
_LOWEST_DECADE, _DECADES, _BINS = -12, 13, 20


def friction_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of friction values `a` and `b`, any shape: ``1e-5 f + 200 eps f**2``.

    A sum of ``1/|p'|`` amplifies a rounding error of ``p'`` with its square. The factor is the 99th
    percentile of ``noise / (eps f**2)`` for encoder Gram matrices with four modes under changes of
    one unit in the last place of the input.
    """
    value = np.maximum(np.abs(a), np.abs(b))
    return FRICTION_RELATIVE * value + FRICTION_FACTOR * EPS * value**2


def singular_value_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of singular values, shape (..., modes).

    Eigenvalues, the squares, agree within ``1e-5 * ||A||_F`` of their patch. That bounds
    ``|a**2 - b**2|``, and divided by ``a + b`` it bounds ``|a - b|``: where both are near 0 the
    square root has no derivative, and a bound on the values themselves would be wrong.
    """
    norm = np.sqrt(np.maximum((a**4).sum(axis=-1), (b**4).sum(axis=-1)))[..., None]
    total = np.abs(a) + np.abs(b)
    with np.errstate(divide="ignore"):
        bound = np.where(total > 0, EIGENVALUE_RELATIVE * norm / total, np.inf)
    return np.asarray(bound, dtype=np.float64)


def recon_error_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of mean squared errors `a` and `b`, any shape.

    With ``m = mean(e**2)`` over the values of a patch, and a reconstruction that moves by ``d`` of
    root mean square ``delta``, m changes by ``2 mean(e d) + mean(d**2)``: by Cauchy and Schwarz at
    most ``2 sqrt(m) delta + delta**2``. An absolute rounding error of the reconstruction does not
    shrink with the error that is left, so relative to m it is of the order ``delta / sqrt(m)``.
    Reconstruction and layers are of the order of 1 and round in units of eps; ``delta`` is 16 eps
    (1.9e-6), twice the largest that was measured (1.0e-6). Squares and their mean round by at most
    as many units of m.
    """
    m = np.maximum(np.abs(a), np.abs(b))
    delta = RECON_ROUNDINGS * EPS
    return delta * (2.0 * np.sqrt(m) + m) + delta**2


def residual_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of refinement residuals, which are near eps where refinement converged."""
    return np.full(a.shape, RESIDUAL_ABSOLUTE)


@dataclass(frozen=True)
class Rule:
    """What rounding may do to a map.

    Attributes
    ----------
    bound : callable or None
        Of two values; None where equal is the only agreement.
    share, mode_share : float in [0, 1]
        Of all values and of one mode's that may be beyond it.
    far : bool
        Whether values beyond 100 times the bound count, by their share and by image.
    """

    bound: Callable[[Floats, Floats], Floats] | None = None
    share: float = 0.01
    mode_share: float = 0.1
    far: bool = True


RULES: dict[str, Rule] = {
    "S": Rule(singular_value_bound),
    "S_orig": Rule(singular_value_bound),
    "friction": Rule(friction_bound),
    "recon_error": Rule(recon_error_bound),
    "refinement_residual": Rule(residual_bound, far=False),
    "settle": Rule(share=0.1, mode_share=0.1, far=False),
    "slot": Rule(share=0.01, mode_share=0.01, far=False),
    "image": Rule(share=0.0, far=False),
}
RULES |= {
    f"{name}{kind}": RULES[name]
    for name in ("friction", "settle")
    for kind in ("_exact", "_repeats", "_exact_repeats")
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
    wrong_images : int
        Images that are beyond 100 times the bound all over; `wrong_ids` are the first ten.
    absolute, relative : Largest
        Relative to the larger of the two magnitudes.
    per_mode, beyond_per_mode : list of int
        Values of each mode that differ and that are beyond the bound, for maps with a mode axis.
    """

    name: str
    values: int = 0
    differing: int = 0
    within: int = 0
    far: int = 0
    absolute: Largest = field(default_factory=Largest)
    relative: Largest = field(default_factory=Largest)
    per_mode: list[int] = field(default_factory=list)
    beyond_per_mode: list[int] = field(default_factory=list)
    wrong_images: int = 0
    wrong_ids: list[str] = field(default_factory=list)
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(_DECADES * _BINS, dtype=np.int64)
    )

    def add(self, a: NDArray[Any], b: NDArray[Any], ids: list[str]) -> None:
        """Count one block of images, arrays of one shape with `ids` along the first axis."""
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
        self.differing += int((~same).sum())
        self.within += a.size - int(beyond.sum())
        if spec.modes:
            self.per_mode = _added(self.per_mode, ~same)
            self.beyond_per_mode = _added(self.beyond_per_mode, beyond)
        if rule.far:
            self._add_far(beyond & ~(size <= FAR_BEYOND * bound), ids)
        self.absolute.offer(size, a, b, ids, dims)
        self.relative.offer(relative, a, b, ids, dims)
        decades = np.log10(np.clip(relative[~same], 10.0**_LOWEST_DECADE, 9.0))
        bins = ((decades - _LOWEST_DECADE) * _BINS).astype(int)
        self.histogram += np.bincount(bins, minlength=self.histogram.size)

    def _add_far(self, far: NDArray[np.bool_], ids: list[str]) -> None:
        self.far += int(far.sum())
        modes = far.shape[-1] if schema.MAPS[self.name].modes else 1
        hit = far.reshape(len(far), -1, modes).any(axis=-1)
        wrong = np.flatnonzero(hit.sum(axis=1) >= max(IMAGE_PATCHES, IMAGE_SHARE * hit.shape[1]))
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
        beyond = self.values - self.within
        found = []
        if beyond > rule.share * self.values:
            found.append(f"{beyond / self.values:.2%} of its values {what}")
        for mode, share in enumerate(self._shares(self.beyond_per_mode)):
            if share > rule.mode_share:
                found.append(f"{share:.2%} of mode {mode} {what}")
        if self.far > FAR_SHARE * self.values:
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
            "differing_share_per_mode": self.mode_shares if self.per_mode else None,
        }


def _added(counts: list[int], hits: NDArray[np.bool_]) -> list[int]:
    """Counts by mode with those of another block."""
    new = hits.reshape(-1, hits.shape[-1]).sum(axis=0)
    return [old + int(more) for old, more in zip(counts, new, strict=True)]


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
    found = differing(a.request, b.request)
    return [f"{key}: {left} and {right}" for key, left, right in found]


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
        yield (keep + rows.start).tolist(), arrays[name][keep], gather(b, name, other[keep])


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
    rule = RULES[name]
    if rule.bound is not None:
        far = f", {found.far:,} beyond {FAR_BEYOND:g} times it" if rule.far else ""
        expected = f" (at most {FAR_SHARE:.2%} are expected)" if rule.far else ""
        lines.append(
            f"  {found.within / found.values:.3%} within the bound for rounding "
            f"({1 - rule.share:.0%} are expected){far}{expected}, median relative difference of "
            f"those that differ {found.median_relative:.1e}"
        )
    lines += [f"  beyond rounding: {reason}" for reason in found.reasons]
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
