"""Images that belong together (crops of a photograph, several of one subject) and what follows.

Images of one group are not independent of each other, so that the number of groups, not of images,
says how much is known. Where a store has no groups each image counts as one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lgamma
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.format.groups import GroupFile

Ints = NDArray[np.int64]

MANY = 1e6
"""Arrangements of the labels beyond which nobody asks how many there are."""


class View:
    """A store with something of its own, and for the rest the store `_store` that it shows."""

    _store: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """As a worker of a cluster reads it: the same maps; labels and groups collectors have."""
        return as_it_is, (self._store,)


class WithGroups(View):
    """A store with the groups of a CSV file, instead of its own if it has any."""

    def __init__(self, store: Any, file: GroupFile) -> None:
        from frictionstore.format.groups import numbered

        self._store = store
        self.groups, self.group_names = numbered(file.of(map(str, store.image_ids), store.name))
        self.groups_sha256 = file.sha256


def as_it_is(store: Any) -> Any:
    """Return a store: what a view of it comes to that has the same maps."""
    return store


def groups_of(store: Any) -> Ints | None:
    """Return the group of every image of a store, int64 of shape (n_images,), None without."""
    groups = getattr(store, "groups", None)
    return None if groups is None else np.asarray(groups).astype(np.int64)


def described(store: Any) -> dict[str, Any] | None:
    """Return what a result records of its store's groups; None where it has none."""
    groups = groups_of(store)
    if groups is None:
        return None
    from_file = getattr(store, "groups_sha256", None)
    origin = {"from": "store"} if from_file is None else {"from": "file", "sha256": from_file}
    return {"count": len(np.unique(groups)), **origin}


def require_same(store: Any, found: Iterable[Any], where: str) -> None:
    """Refuse results that were made with other groups than those that a store is read with.

    Raises
    ------
    AnalysisError
        What one of them records (`described`) is not so of the store.
    """
    wanted = described(store)

    def words(of: Any) -> str:
        known = isinstance(of, dict) and of.get("count")
        return f"{printable(known)} groups of images" if known else "no groups of images"

    for one in found:
        if one != wanted:
            raise AnalysisError(
                f"{where} were made with {words(one)} and {printable(store.name)} is read with "
                f"{words(wanted)}, not the same: analyse it again with the same --groups"
            )


def count_by_class(labels: Ints, groups: Ints, n_classes: int) -> Ints:
    """Return in how many groups each class has images, shape (n_classes,); label -1 is none."""
    labelled = labels >= 0
    pairs = np.unique(np.stack([labels[labelled], groups[labelled]]), axis=1)
    return np.bincount(pairs[0], minlength=n_classes).astype(np.int64)


def require_several(
    store: Any, analysis: str, names: Sequence[str], labels: Ints, groups: Ints, at_least: int = 2
) -> None:
    """Refuse classes with fewer than `at_least` groups.

    Raises
    ------
    AnalysisError
        Naming the first: what sets it apart is not told from what sets its groups apart.
    """
    counts = count_by_class(labels, groups, len(names))
    few = np.flatnonzero(counts < at_least)
    if not few.size:
        return
    c = int(few[0])
    known = getattr(store, "group_names", ())
    group = int(groups[labels == c][0])
    shown = f", {printable(str(known[group]), 60)!r}" if counts[c] == 1 and len(known) else ""
    others = f"{few.size - 1} more class{'es' if few.size > 2 else ''}"
    more = f" (and so it is with {others})" if few.size > 1 else ""
    if at_least > 2:
        raise AnalysisError(
            f"{analysis} puts whole groups of images into {at_least} folds, and class "
            f"{printable(names[c])!r} of {printable(store.name)} has images of {counts[c]} "
            f"groups{more}: use --folds {max(2, int(counts.min()))}, or give images of more groups"
        )
    remedy = (
        ", or name the classes that have them with --classes" if len(names) - few.size >= 2 else ""
    )
    raise AnalysisError(
        f"{analysis} compares classes, and all images of class {printable(names[c])!r} of "
        f"{printable(store.name)} belong to one group{shown}{more}: what sets the class apart "
        "cannot be told from what sets that group apart; give images of two groups or more in "
        f"every class{remedy}"
    )


def require_permutations(analysis: str, groups: Ints | None, permutations: int) -> None:
    """Refuse to test groups of images without permutations.

    Raises
    ------
    AnalysisError
        There are groups, and 0 permutations were asked for.
    """
    if groups is not None and not permutations:
        raise AnalysisError(
            f"{analysis} tests images that belong together by permutations, and 0 were asked for: "
            "ask for 1000, as --permutations 1000"
        )


def arrangements(labels: Ints, groups: Ints) -> float:
    """Return in how many ways labels can be arranged over groups, as the permutations do it.

    The logarithm of it: labels of groups of one class change places as wholes, those within other
    groups within their group.
    """
    labelled = labels >= 0
    labels = labels[labelled]
    number, of = np.unique(groups[labelled], return_inverse=True)
    counts = np.zeros((len(number), int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (of, labels), 1)
    whole = (counts > 0).sum(axis=1) == 1
    rows = [(counts[whole] > 0).sum(axis=0), *counts[~whole]]
    return sum(lgamma(row.sum() + 1) - sum(lgamma(k + 1) for k in row) for row in rows)


def few_arrangements(logarithm: float) -> list[str]:
    """Return the sentence that says how small a p-value can be, where there are few of them."""
    if logarithm > np.log(MANY):
        return []
    count = round(float(np.exp(logarithm)))
    return [
        f"whole groups allow {count} arrangements of the labels: no permutation p-value says more "
        f"than {1 / count:.2g}"
    ]


def parts_of_groups(
    groups: Ints, parts: int, rng: np.random.Generator, of: str
) -> tuple[Ints, int]:
    """Return a part for every image, whole groups in one, and how many parts there are.

    Raises
    ------
    AnalysisError
        If all images are of one group: there is nothing to leave out.
    """
    number, place = np.unique(groups, return_inverse=True)
    parts = min(parts, len(number))
    if parts < 2:
        raise AnalysisError(
            f"{of} compares groups of images and all images belong to one: give images of two "
            "groups or more"
        )
    order = rng.permutation(len(number))
    part = np.empty(len(number), np.int64)
    part[order] = np.arange(len(number)) % parts
    return part[place], parts
