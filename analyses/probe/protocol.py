"""Training on one split of a store and testing on another: whose images, and what is refused.

Everything that is fitted (scaling, words, penalties, calibration) is fitted to the training split;
the test split is measured once. Intervals are over its images, for the models that were fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import parameters
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import Classes, MapStore
from frictionstore.text import did_you_mean, listed, printable

TESTED, TRAINED = 0, 1
"""Numbers of the parts: the one fold that is tested, and what is only ever trained on."""


@dataclass(frozen=True, kw_only=True)
class SplitParameters(parameters.Parameters):
    """Which splits of a merged store are trained on and tested; None cross-validates.

    Raises
    ------
    AnalysisError
        If one of them is missing, or both are the same.
    """

    train: str | None = parameters.parameter(
        None, "Split of a merged store to train on; with --test, instead of folds."
    )
    test: str | None = parameters.parameter(None, "Split to test on, once.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.train is None) != (self.test is None):
            given, missing = ("train", "test") if self.test is None else ("test", "train")
            raise AnalysisError(
                f"--{given} names a split and --{missing} does not: name both, or neither to "
                "cross-validate"
            )
        if self.train is not None and self.train == self.test:
            raise AnalysisError(
                f"--train and --test both name the split {printable(self.train)!r}: what is "
                "trained on cannot be tested; name two splits, or neither to cross-validate"
            )


@dataclass(frozen=True)
class TrainTest:
    """Two splits of a store.

    Attributes
    ----------
    train, test
        Their names.
    part
        int64 of shape (n_images,): `TRAINED`, `TESTED`, or -1 for images without a label or of
        neither split.
    """

    train: str
    test: str
    part: NDArray[np.int64]

    @property
    def protocol(self) -> str:
        """What tells results of this protocol from others."""
        return f"train {self.train}, test {self.test}"

    @property
    def recorded(self) -> dict[str, Any]:
        """What a result records among its parameters, instead of folds."""
        return {"protocol": self.protocol, "train": self.train, "test": self.test}

    def words(self, part: NDArray[np.int64] | None = None) -> str:
        """Return whose images, with `part` of those used; to be put after "images"."""
        part = self.part if part is None else part
        tested, trained = int((part == TESTED).sum()), int((part == TRAINED).sum())
        return (
            f"of split {printable(self.test)} ({tested:,}), trained on split "
            f"{printable(self.train)} ({trained:,})"
        )

    def caveats(self, part: NDArray[np.int64] | None = None) -> list[str]:
        """Return what to know of the protocol, and how many images are left out."""
        said = [
            f"measured once on images {self.words(part)}: all that is fitted or chosen (scales, "
            "penalties, calibration) is of the training split alone; intervals and p are over test "
            "images, for the models that were fitted, and differences are paired over the same ones"
        ]
        if part is not None and len(part) < (self.part >= 0).sum():
            total = int((self.part >= 0).sum())
            said.append(
                f"{len(part):,} of {total:,} labelled images of both splits, drawn at random "
                "(--images)"
            )
        return said


def train_test(
    store: MapStore, analysis: str, classes: Classes, asked: SplitParameters
) -> TrainTest | None:
    """Return whose images are trained on and tested; None where no split was asked for.

    Raises
    ------
    AnalysisError
        If the store has no splits or not these, one of them has no labelled image, there is one
        class to train on, a tested class has no image to train on, tested images are of one group,
        or images of one group lie in both.
    """
    if asked.train is None or asked.test is None:
        return None
    where, splits = printable(store.name), getattr(store, "splits", {})
    if not splits:
        raise AnalysisError(
            f"{where} has no splits to train and test on: join two stores with 'frictionstore "
            "merge A B --names train,test --out FILE', or leave --train and --test out"
        )
    names = (asked.train, asked.test)
    unknown = next((name for name in names if name not in splits), None)
    if unknown is not None:
        raise AnalysisError(
            f"{where} has no split {printable(unknown, 60)!r}: it has {listed(list(splits), 8)}"
            + did_you_mean(unknown, splits)
        )
    part = np.full(len(classes.labels), -1, np.int64)
    for name, number in zip(names, (TRAINED, TESTED), strict=True):
        part[splits[name]] = number
        part[classes.labels < 0] = -1
        if not (part == number).any():
            raise AnalysisError(
                f"no image of split {printable(name, 60)!r} of {where} has a label: name a split "
                "with labels"
            )
    found = TrainTest(*names, part)
    _check_classes(found, where, analysis, classes)
    if classes.groups is not None:
        _check_groups(found, where, store, classes.groups)
    return found


def _check_classes(found: TrainTest, where: str, analysis: str, classes: Classes) -> None:
    trained, tested = (
        np.bincount(classes.labels[found.part == number], minlength=classes.n)
        for number in (TRAINED, TESTED)
    )
    split = printable(found.train, 60)
    if (trained > 0).sum() < 2:
        only = printable(classes.names[int(trained.argmax())])
        raise AnalysisError(
            f"{analysis} tells classes apart and all labelled images of split {split!r} of {where} "
            f"are of one class, {only!r}: train on a split with two or more"
        )
    missing = [classes.names[c] for c in np.flatnonzero((trained == 0) & (tested > 0))]
    if missing:
        raise AnalysisError(
            f"split {split!r} of {where} has no image of {listed(missing, 8)}, which split "
            f"{printable(found.test, 60)!r} has: train on a split with all tested classes, or name "
            "those that both have with --classes"
        )


def _check_groups(found: TrainTest, where: str, store: MapStore, groups: NDArray[np.int64]) -> None:
    if len(np.unique(groups[found.part == TESTED])) < 2:
        raise AnalysisError(
            f"all images of split {printable(found.test, 60)!r} of {where} belong to one group: "
            "how another group would differ cannot be told; test on a split of two groups or more"
        )
    both = np.intersect1d(groups[found.part == TRAINED], groups[found.part == TESTED])
    if not both.size:
        return
    known = getattr(store, "group_names", ())
    names = [str(known[g]) if len(known) else str(g) for g in both]
    raise AnalysisError(
        f"images of {len(both)} group{'' if len(both) == 1 else 's'} ({listed(names, 4)}) lie in "
        f"both split {printable(found.train, 60)!r} and split {printable(found.test, 60)!r} of "
        f"{where}: what they share would be trained on and tested; give splits of whole groups, or "
        "leave --train and --test out for folds of whole groups"
    )
