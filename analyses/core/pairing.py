"""Images of several stores, paired by id, and the classes that they are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.source import (
    MapStore,
    class_labels,
    maps_over_patches,
    require_feature,
    require_grid,
)
from frictionstore.text import listed, printable

DEFAULT_FEATURES = ("S", "friction", "settle")


@dataclass
class Pair:
    """Two features to compare: each of a store, by its number."""

    name: str
    first: tuple[int, str]
    second: tuple[int, str]

    @property
    def sides(self) -> tuple[tuple[int, str], tuple[int, str]]:
        """Both."""
        return self.first, self.second


@dataclass(frozen=True)
class Common:
    """The images that both stores hold, in the order of their ids.

    Attributes
    ----------
    places
        For each store, the place of its images among the common ones, -1 for others.
    only
        For each store, the ids that the other does not have.
    ids
        The common ids, sorted, so that nothing depends on the order in a store.
    classes, labels
        Names of classes with 2 common images or more, and the class of every common image or -1.
    said
        What has to be known of labels.
    groups
        Group of every common image in the first store that has groups, None if none has.
    grouped
        The number of that store, 0 if none has groups.
    """

    places: list[NDArray[np.int64]]
    only: list[list[str]]
    ids: list[str]
    classes: list[str]
    labels: NDArray[np.int64]
    said: list[str]
    groups: NDArray[np.int64] | None
    grouped: int

    def of_rows(self, which: int, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what is known of common images for a store's rows, -1 for its other images."""
        return np.append(values, -1)[self.places[which]]

    @property
    def n(self) -> int:
        """Number of common images."""
        return len(self.ids)


def common_images(stores: Sequence[MapStore], analysis: str, *, at_least: int) -> Common:
    """Pair the images of stores by id.

    Raises
    ------
    AnalysisError
        If an id is twice in a store, or fewer than `at_least` images are in all of them.
    """
    rows: list[dict[str, int]] = []
    for store in stores:
        ids = [str(one) for one in store.image_ids]
        rows.append({one: row for row, one in enumerate(ids)})
        if len(rows[-1]) < len(ids):
            twice = next(one for row, one in enumerate(ids) if rows[-1][one] != row)
            raise AnalysisError(
                f"{analysis} pairs images by id and {printable(store.name)} has "
                f"{printable(twice)!r} more than once: give every image an id of its own"
            )
    shared = set(rows[0]).intersection(*rows[1:])
    if len(shared) < at_least:
        names = " and ".join(
            f"{printable(store.name)} ({listed(list(of), 2)})"
            for store, of in zip(stores, rows, strict=True)
        )
        remedy = "extract both from the same images" if len(stores) > 1 else "extract more images"
        raise AnalysisError(
            f"{analysis} needs {at_least} images or more with one id in all stores and there "
            f"{'is' if len(shared) == 1 else 'are'} {len(shared)} in {names}: {remedy}"
        )
    paired = sorted(shared)
    places = []
    for store, of in zip(stores, rows, strict=True):
        place = np.full(store.n_images, -1, np.int64)
        place[[of[one] for one in paired]] = np.arange(len(paired))
        places.append(place)
    only = [[one for one in of if one not in shared] for of in rows]
    classes, labels, said = _classes(stores, places)
    groups, grouped, said_of_groups = _groups(stores, places)
    said += said_of_groups
    return Common(places, only, paired, classes, labels, said, groups, grouped)


def _groups(
    stores: Sequence[MapStore], places: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64] | None, int, list[str]]:
    """Return the common images' groups, the number of the store they are of, and what to say."""
    found: list[tuple[int, NDArray[np.int64]]] = []
    for number, (store, place) in enumerate(zip(stores, places, strict=True)):
        groups = groups_of(store)
        if groups is not None:
            of_image = np.empty(int(place.max()) + 1, np.int64)
            of_image[place[place >= 0]] = groups[place >= 0]
            found.append((number, of_image))
    if not found:
        return None, 0, []
    number, used = found[0]
    both = {(int(a), int(b)) for a, b in zip(used, found[-1][1], strict=True)}
    alike = len(both) == len(np.unique(used)) == len(np.unique(found[-1][1]))
    said = "the second store puts other images together: groups are those of the first"
    return used, number, [] if alike else [said]


def _classes(
    stores: Sequence[MapStore], places: Sequence[NDArray[np.int64]]
) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """Return the classes of the first store with labels, the common images' labels, what to say."""
    named = []
    for store, place in zip(stores, places, strict=True):
        names = np.array([*class_labels(store), ""], dtype=object)
        of_image = np.full(int(place.max()) + 1, "", dtype=object)
        of_image[place[place >= 0]] = names[np.asarray(store.labels)[place >= 0]]
        named.append(of_image)
    which = next((number for number, of in enumerate(named) if (of != "").any()), 0)
    used, said = named[which], []
    words = [("another label", (named[-1] != used) & (named[-1] != "") & (used != "")),
             ("no label", (named[-1] == "") & (used != ""))]  # fmt: skip
    if which:
        words = [("no label", named[0] == "")]
    order = ("first", "second")
    for word, differ in words:
        if differ.any():
            said.append(
                f"{differ.sum()} of {len(used)} images have {word} in the {order[1 - which]} "
                f"store: classes are those of the {order[which]}"
            )
    known = class_labels(stores[which])
    counts = {name: int((used == name).sum()) for name in known}
    classes = [name for name in known if counts[name] >= 2]
    small = [name for name in known if counts[name] == 1]
    if small:
        said.append(f"classes with one common image count as unlabelled: {listed(small, 8)}")
    number_of = {name: c for c, name in enumerate(classes)}
    return classes, np.array([number_of.get(one, -1) for one in used], np.int64), said


def chosen_pairs(stores: Sequence[MapStore], features: Sequence[str], analysis: str) -> list[Pair]:
    """Return the pairs of features that are asked for, or those that there are."""
    features = tuple(dict.fromkeys(features))
    if not features:
        usable = [name for name in maps_over_patches(stores[0])
                  if all(name in maps_over_patches(store) for store in stores[1:])]  # fmt: skip
        features = [name for name in DEFAULT_FEATURES if name in usable] or usable[:1]
        if not features:
            names = [f"{printable(s.name)}: {listed(maps_over_patches(s), 8)}" for s in stores]
            raise AnalysisError(f"{analysis} needs a map that both stores hold; {'; '.join(names)}")
    for store in stores:
        require_grid(store, analysis)
        for feature in features:
            require_feature(store, feature)
    if len(stores) > 1:
        return [Pair(feature, (0, feature), (1, feature)) for feature in features]
    if len(features) < 2:
        raise AnalysisError(
            f"{analysis} needs something to compare {printable(features[0])} with: name another "
            "store, or another map with --feature"
        )
    return [Pair(f"{a} and {b}", (0, a), (0, b)) for a, b in combinations(features, 2)]
