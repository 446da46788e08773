"""What an analysis reads: anything with a store's interface, and a store held in memory.

The checks that every analysis makes on its input live here: labels, classes, grid, features.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import (
    View,
    arrangements,
    few_arrangements,
    groups_of,
    require_several,
)
from frictionstore.text import did_you_mean, listed, printable

MAP_DIMS = {"image", "row", "col", "mode"}
LOG = "log_"
"""What stands before a feature's name to mean its decimal logarithm."""
RANK = "rank_"
"""What stands before a feature's name to mean its rank among the store's values of the mode."""
REPEATS = "_repeats"
"""What stands after a map's name to mean its repeats, one more axis at the end."""
EXACT = "_exact"
"""What stands after a map's name to mean it without rounding."""
ROUNDING_ERROR, ERANK, RATIO, DELTA = "rounding_error", "erank", "ratio", "delta"
MADE_OF = {
    ROUNDING_ERROR: ("friction", "friction_exact"), ERANK: ("S",), RATIO: ("S",),
    DELTA: ("S", "S_orig"),
}  # fmt: skip
"""Features that are no map of a store, and what they are made of: see `derived`."""

NOTEBOOK_IMAGES = 2000
"""The notebook kept the maps of that many images, the first (its `max_collect`): its sections on
single images and its probes (1, 6, 7, 8 and 9) saw no others."""


class MapStore(Protocol):
    """The part of `frictionstore.Store` that analyses use."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def labels(self) -> NDArray[np.int32]: ...
    @property
    def image_ids(self) -> NDArray[Any]: ...
    @property
    def n_images(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def n_modes(self) -> int: ...
    @property
    def maps(self) -> tuple[str, ...]: ...

    def iter_chunks(
        self, names: Sequence[str], batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]: ...  # fmt: skip


def logarithm_of(feature: str) -> str | None:
    """Return the name of the map of which a feature is the logarithm, None for a plain name."""
    return feature.removeprefix(LOG) if feature.startswith(LOG) else None


def measured_map(feature: str) -> str:
    """Return the map that a feature is one form of: friction of log_friction and friction_exact."""
    return plain_feature((), feature).removesuffix(EXACT)


def plain_feature(maps: Collection[str], feature: str) -> str:
    """Return what is left of a feature's name before which no logarithm and no rank stands."""
    while feature not in maps and feature.startswith((LOG, RANK)):
        feature = feature.removeprefix(LOG if feature.startswith(LOG) else RANK)
    return feature


def stored_maps(store: MapStore, feature: str) -> tuple[str, ...]:
    """Return the names of the maps of a store that a feature is made of."""
    plain = plain_feature(store.maps, feature)
    return (plain,) if plain in store.maps else MADE_OF.get(plain, (plain,))


def is_repeated(store: MapStore, feature: str) -> bool:
    """Return whether a store holds repeats of the measurement of a feature."""
    return any(f"{name}{REPEATS}" in store.maps for name in stored_maps(store, feature))


def chunks(
    store: MapStore, names: Sequence[str], batch: int | None = None, threads: int | None = None,
    part: slice | None = None,
) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
    """Return the chunks of a store's part; one that is all of it need not know of parts."""
    if part is None or (
        part.start == 0 and part.stop >= getattr(store, "n_stored", store.n_images)
    ):
        return store.iter_chunks(names, batch=batch, threads=threads)
    return store.iter_chunks(names, batch=batch, threads=threads, part=part)


class SelectedClasses:
    """The images of some classes of a store, as a store: analyses see no others.

    Every analysis reads through it, so that a restriction means the same in all of them. The
    digest stays the store's; `selected_classes` says what was left of it.

    Raises
    ------
    AnalysisError
        If no class or one that is not the store's is named, or none of its images is in them.
    """

    def __init__(self, store: MapStore, classes: Sequence[str]) -> None:
        names = class_labels(store)
        where = printable(store.name)
        if not classes:
            raise AnalysisError("no class was named: name one or several, separated by commas")
        if not names:
            raise AnalysisError(
                f"no image of {where} has a label, so that there is no class "
                f"{printable(classes[0])!r} to choose: leave the restriction out"
            )
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise AnalysisError(
                f"there is no class {printable(unknown[0])!r} in {where}: "
                f"its classes are {listed(names, 8)}{did_you_mean(unknown[0], names)}"
            )
        self.selected_classes = list(dict.fromkeys(classes))
        lookup = np.full(len(names) + 1, -1, np.int32)
        for new, name in enumerate(self.selected_classes):
            lookup[names.index(name)] = new
        labels = lookup[np.asarray(store.labels)]
        self._store = store
        self._chosen = labels >= 0
        self.class_names = self.selected_classes
        self.labels = labels[self._chosen]
        self.n_images = len(self.labels)
        if not self.n_images:
            raise AnalysisError(
                f"{where} has no image of {listed(self.selected_classes)}: name another class"
            )
        groups = groups_of(store)
        self.groups = None if groups is None else groups[self._chosen]
        self.group_names = getattr(store, "group_names", [])
        self.groups_sha256 = getattr(store, "groups_sha256", None)
        before = np.concatenate([[0], np.cumsum(self._chosen)])
        self.splits = {
            name: slice(int(before[rows.start]), int(before[rows.stop]))
            for name, rows in getattr(store, "splits", {}).items()
        }
        self.name, self.digest, self.fingerprint = store.name, store.digest, store.fingerprint
        self.grid, self.n_modes, self.maps = store.grid, store.n_modes, store.maps

    def caveats(self) -> list[str]:
        """Return the sentence that says what is left out."""
        return [
            f"only images of {listed(self.selected_classes, 8)} are used: {self.n_images} of "
            f"{self._store.n_images}"
        ]

    @property
    def n_stored(self) -> int:
        """Images that these were chosen from."""
        return len(self._chosen)

    def images_of(self, part: slice) -> int:
        """Return how many images of a part, counted among all, are chosen."""
        return int(self._chosen[part].sum())

    @cached_property
    def image_ids(self) -> NDArray[Any]:
        """Of the images chosen."""
        return np.asarray(self._store.image_ids)[self._chosen]

    def __reduce__(self) -> tuple[Any, ...]:
        """As a worker of a cluster reads it: of the labels, the collectors have what they need."""
        return SelectedClasses, (self._store, self.selected_classes)

    def iter_chunks(
        self, names: Sequence[str], batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
        """As the store's, of the images chosen; rows are counted among these, parts among all."""
        start = 0 if part is None else self.images_of(slice(part.start))
        for rows, arrays in chunks(self._store, names, batch, threads, part):
            chosen = self._chosen[rows]
            count = int(chosen.sum())
            if count:
                yield (
                    slice(start, start + count),
                    {name: values[chosen] for name, values in arrays.items()},
                )
            start += count


class WithoutSmallClasses(View):
    """A store in which the images of classes with fewer than 2 images count as unlabelled.

    For several analyses at once: one image of a rare class must not stop those that compare
    classes, and those that do not compare still see it.
    """

    def __init__(self, store: MapStore) -> None:
        names = class_labels(store)
        labels = np.asarray(store.labels)
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        kept = np.flatnonzero(counts >= 2)
        lookup = np.full(len(names) + 1, -1, np.int32)
        lookup[kept] = np.arange(len(kept))
        self._store = store
        self.small = {names[c]: int(counts[c]) for c in np.flatnonzero(counts < 2)}
        self.class_names = [names[c] for c in kept]
        self.labels = lookup[labels]

    def caveats(self) -> list[str]:
        """Return the sentence that names the classes, after those of the store."""
        some = listed([f"{name} ({count})" for name, count in self.small.items()], 8)
        return [
            *getattr(self._store, "caveats", list)(),
            f"classes with fewer than 2 images are left out, their images unlabelled: {some}",
        ]


def class_labels(store: MapStore) -> list[str]:
    """Return the class names, or "class 0" and so on where the store has none.

    Raises
    ------
    AnalysisError
        If a label is beyond the class names.
    """
    labels = np.asarray(store.labels)
    top = int(labels.max(initial=-1))
    if not store.class_names:
        return [f"class {c}" for c in range(top + 1)]
    if top >= len(store.class_names):
        raise AnalysisError(
            f"label {top} of image row {int(labels.argmax())} has no name in "
            f"{printable(store.name)}: it names {len(store.class_names)} classes"
        )
    return list(store.class_names)


@dataclass(frozen=True)
class Classes:
    """The labelled images of a store.

    Attributes
    ----------
    names
        One per class.
    labels
        int64 array of shape (n_images,), -1 for images without a label.
    counts
        int64 array of shape (n_classes,): images of each class.
    groups
        int64 array of shape (n_images,), None where every image is taken as independent.
    """

    names: list[str]
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def n_labelled(self) -> int:
        """Number of images with a label."""
        return int(self.counts.sum())

    def of_group(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64] | None:
        """Return the groups of some images; None where images are independent."""
        return None if self.groups is None else self.groups[chosen]

    def labelled(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return labels and groups of the images that have a label."""
        there = self.labels >= 0
        return self.labels[there], self.of_group(there)

    def caveats(self, *, permuted: bool = False) -> list[str]:
        """Return what to know about images left out and, of permuted labels, about groups."""
        said = []
        missing = len(self.labels) - self.n_labelled
        if missing:
            verb = "has no label and is" if missing == 1 else "have no label and are"
            said.append(f"{missing} of {len(self.labels)} images {verb} left out")
        if permuted and self.groups is not None:
            said += few_arrangements(arrangements(self.labels, self.groups))
        return said


def require_classes(store: MapStore, analysis: str, *, differences: bool = True) -> Classes:
    """Return the classes of a store that can be compared.

    Raises
    ------
    AnalysisError
        If no image has a label, there are fewer than 2 classes, or a class has fewer
        than 2 images; where the question is of `differences` between classes, also if all
        images of a class are of one group.
    """
    labels = np.asarray(store.labels).astype(np.int64)
    name = printable(store.name)
    if not (labels >= 0).any():
        raise AnalysisError(
            f"{analysis} compares classes and none of the {store.n_images} images of {name} has "
            "a label: extract from a data set with labels, or use spatial-cv, mode-variance or "
            "image-summary, which need none"
        )
    names = class_labels(store)
    counts = np.bincount(labels[labels >= 0], minlength=len(names)).astype(np.int64)
    if len(names) < 2:
        raise AnalysisError(
            f"{analysis} compares classes and all {int(counts.sum())} labelled images of {name} "
            f"are of one class, {printable(names[0])!r}: it needs at least 2 classes"
        )
    small = np.flatnonzero(counts < 2)
    if small.size:
        which = ", ".join(f"{printable(names[c])!r} ({counts[c]})" for c in small[:8]) + (
            f" and {small.size - 8} more" if small.size > 8 else ""
        )
        plural = "classes have" if small.size > 1 else "class has"
        remedy = (
            "extract more images, or name the classes to use with --classes"
            if len(names) - small.size >= 2
            else "extract more images"
        )
        raise AnalysisError(
            f"{analysis} needs at least 2 images in every class and {small.size} {plural} fewer "
            f"in {name}: {which}; {remedy}"
        )
    groups = groups_of(store)
    if groups is not None and differences:
        require_several(store, analysis, names, labels, groups)
    return Classes(names, labels, counts, groups)


def require_grid(store: MapStore, analysis: str) -> tuple[int, int]:
    """Return the grid of a store, which must have more than one patch.

    Raises
    ------
    AnalysisError
        If the grid is a single patch, or the store has no images.
    """
    rows, cols = store.grid
    name = printable(store.name)
    if rows * cols < 2:
        raise AnalysisError(
            f"{analysis} looks at patterns over patches and {name} has one patch per image (a "
            f"{rows} x {cols} grid): extract with larger images or a smaller patch size"
        )
    if store.n_images < 1:
        raise AnalysisError(f"{name} holds no images: extract at least one")
    return int(rows), int(cols)


def maps_over_patches(store: MapStore) -> list[str]:
    """Return the names of a store's maps that have values for every patch."""
    from frictionstore.format.schema import MAPS

    return [
        m
        for m in store.maps
        if not m.endswith(REPEATS) and (m not in MAPS or set(MAPS[m].dims) <= MAP_DIMS)
    ]


def require_feature(store: MapStore, feature: str) -> int:
    """Return the number of modes of a map, or of what is made of maps.

    Raises
    ------
    AnalysisError
        If the store has no such map, or it is not a map over patches.
    """
    usable = maps_over_patches(store)
    names = stored_maps(store, feature)
    if not set(names) <= set(usable):
        made = (
            f" (made of {listed(names)})" if plain_feature(store.maps, feature) in MADE_OF else ""
        )
        raise AnalysisError(
            f"there is no map {printable(feature)!r}{made} over patches in "
            f"{printable(store.name)}: its maps are {listed(usable, 8)}, and {LOG}NAME is the "
            f"logarithm of one, {RANK}NAME its rank"
            + did_you_mean(feature, [*usable, *(f"{LOG}{known}" for known in usable)])
        )
    plain = plain_feature(store.maps, feature)
    one = not _has_modes(store, plain) if plain in store.maps else plain in (ERANK, RATIO)
    return 1 if one else int(store.n_modes)


def _has_modes(store: MapStore, name: str) -> bool:
    """Return whether a map has a mode axis: as the table says, or one of somebody's own has."""
    from frictionstore.format.schema import MAPS

    if name in MAPS:
        return MAPS[name].modes
    return next(iter(store.iter_chunks([name], 1, 1)))[1][name].ndim > 3


def mode_name(mode: int, n_modes: int) -> str:
    """Return "mode 0 (largest)", "mode 1" and so on to "mode 3 (smallest)"."""
    if n_modes == 1:
        return "all"
    if mode == 0:
        return "mode 0 (largest)"
    return f"mode {mode} (smallest)" if mode == n_modes - 1 else f"mode {mode}"
