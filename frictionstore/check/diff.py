"""What differs between two stores: the request, the images, and the values of every map."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.check.between import Pair, Reliability, is_measured
from frictionstore.check.map_difference import LISTED_IDS, MapDifference
from frictionstore.check.rounding import FAR_BEYOND, FAR_SHARE, RULES
from frictionstore.format import schema
from frictionstore.format.fingerprint import differing
from frictionstore.progress import progress_bar
from frictionstore.store.gather import gather
from frictionstore.store.reader import Store, open_store
from frictionstore.text import listed, printable

NOT_IN_REPEATS = (
    "repeats change the matrix that friction is measured of by one unit in the last place: what an "
    "encoder rounds before it is not in them"
)


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
    groups : int
        Common images whose group differs by name, or that have one in one store only.
    classes_differ : bool
    maps_a, maps_b : list of str
        Maps that only one store has, or has in another shape.
    maps : dict of str to MapDifference
    reliability : dict of str to Reliability
        Of maps on the patch grid that differ.
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
    groups: int
    classes_differ: bool
    maps_a: list[str]
    maps_b: list[str]
    maps: dict[str, MapDifference]
    reliability: dict[str, Reliability] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``same bytes``, ``same values``, ``rounding`` or ``different``."""
        if self.same_bytes:
            return "same bytes"
        verdicts = {found.verdict for found in self.maps.values()}
        alike = (
            self.common == self.images_a == self.images_b
            and not self.labels
            and not self.groups
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
            **({"groups_differing": self.groups} if self.groups else {}),
            "classes_differ": self.classes_differ,
            "maps_only_a": self.maps_a,
            "maps_only_b": self.maps_b,
            "maps": {name: found.as_json() for name, found in self.maps.items()},
            "reliability": {name: found.as_json() for name, found in self.reliability.items()},
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
        _labels_differing(first, second, matched), _groups_differing(first, second, matched),
        first.class_names != second.class_names,
        _maps_without_match(first, second), _maps_without_match(second, first), {},
    )  # fmt: skip
    names = [name for name in first.maps if name not in result.maps_a]
    total = result.common * len(names)
    with progress_bar(total, "comparing", show=show_progress) as advance:
        for name in names:
            result.maps[name] = _map_difference(first, second, name, matched, advance)
    for name, entry in result.maps.items():
        if entry.differing and is_measured(name):
            result.reliability[name] = Reliability(Pair(first, second, name, matched))
    return result


def _map_difference(
    a: Store, b: Store, name: str, matched: NDArray[np.int64], advance: Callable[[int], None]
) -> MapDifference:
    """One map of both, judged by its bound and by repeats of the measurement where there are."""
    base = schema.REPEATS.get(name, name)
    pair = Pair(a, b, base, matched) if base in a.maps and base in b.maps else None
    ids = a.image_ids
    if pair is None or not any(pair.repeats.values()):
        found = MapDifference(name)
        for rows, left, right in _pairs(a, b, name, matched):
            found.add(left, right, [str(ids[row]) for row in rows])
            advance(len(rows))
        return found
    found = MapDifference(name, pair.apart_by_chance)
    for block in pair.blocks():
        left, right = (
            np.stack(each[1:], axis=-1) if name != base else each[0]
            for each in block.measured.values()
        )
        found.add(left, right, [str(ids[row]) for row in block.rows], block)
        advance(len(block.rows))
    return found


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


def _groups_differing(a: Store, b: Store, matched: NDArray[np.int64]) -> int:
    """Common images whose group, by name, is not the same; all of them where one store has none."""
    left, right = a.groups, b.groups
    common = matched >= 0
    if left is None or right is None:
        return 0 if left is None and right is None else int(common.sum())
    names = np.array([*a.group_names, *b.group_names], dtype=object)
    of_a, of_b = names[left[common]], names[right[matched[common]] + len(a.group_names)]
    return int((of_a != of_b).sum())


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
    if found.groups:
        lines.append(f"groups of {found.groups:,} images differ")
    for which, names in (("a", found.maps_a), ("b", found.maps_b)):
        if names:
            lines.append(f"maps only in {which}, or of another shape there: {', '.join(names)}")
    for name, entry in found.maps.items():
        lines += ["", *_describe_map(name, entry)]
        if name in found.reliability:
            lines += found.reliability[name].lines()
    if any(entry.apart_by_chance for entry in found.maps.values()):
        lines += ["", NOT_IN_REPEATS]
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
        by_repeats = " or the range of the repeats" if found.apart_by_chance else ""
        lines.append(
            f"  {found.within / found.values:.3%} within the bound for rounding{by_repeats} "
            f"({1 - rule.share:.0%} are expected){far}{expected}, median relative difference of "
            f"those that differ {found.median_relative:.1e}"
        )
    if found.apart_by_chance:
        lines.append(
            f"  measurements and repeats of {found.noisy / found.values:.2%} of the values spread "
            f"further than the bound; up to {found.apart_by_chance:.0%} of these may be beyond it"
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
