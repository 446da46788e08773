"""A bounded number of labelled images of a store, with what is read of them held in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import parameters
from frictionstore.analyses.core.collecting import joined
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import require_several
from frictionstore.analyses.core.passes import Arrays, Passes
from frictionstore.analyses.core.source import Classes
from frictionstore.analyses.probe import banded
from frictionstore.analyses.probe.protocol import TESTED, TRAINED, TrainTest
from frictionstore.analyses.probe.readout import Problem
from frictionstore.analyses.stats.folds import folds_of
from frictionstore.text import printable


def most_images() -> int:
    """Return the parameter."""
    words = "Most images used, drawn at random: time grows with their cube."
    return parameters.parameter(2000, words, least=20, most=20_000)


class ChosenImages:
    """A collector that keeps some maps of images drawn at random, and calls `then` with them.

    Attributes
    ----------
    problem
        Their classes and folds.
    maps
        By name float32 of shape (n, row, col, mode), after the pass.
    """

    state = ("_held",)
    stays = ("_then", "problem", "maps")

    def __init__(
        self,
        features: tuple[str, ...],
        classes: Classes,
        most: int,
        folds: int,
        seed: int,
        then: Callable[[ChosenImages], None],
        parts: TrainTest | None = None,
    ) -> None:
        self.features = features
        self._then = then
        rng = np.random.default_rng([seed, 0x1F0])
        if parts is None:
            labelled = np.flatnonzero(classes.labels >= 0)
            self._index = np.sort(rng.permutation(labelled)[:most])
        else:
            self._index = _of_both(parts, classes.labels, most, rng)
        labels = classes.labels[self._index]
        names, labels = np.unique(labels, return_inverse=True)
        labels = labels.astype(np.int64)
        groups = None if classes.groups is None else classes.groups[self._index]
        if parts is None:
            assigned = folds_of(labels, groups, folds, rng)
        else:
            folds, assigned = 1, parts.part[self._index]
        sampled = np.zeros(len(labels), np.bool_)
        sampled[banded.sample(assigned, folds, seed)] = True
        self.problem = Problem(labels, assigned, len(names), folds, sampled, groups)
        self.maps: dict[str, NDArray[np.float32]] = {}
        self.begin()

    def begin(self) -> None:
        self._held: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.features}

    def update(self, rows: slice, arrays: Arrays) -> None:
        first, last = np.searchsorted(self._index, (rows.start, rows.stop))
        member = self._index[first:last] - rows.start
        for name in self.features:
            self._held[name].append(arrays[name][member].astype(np.float32))

    def end_pass(self) -> bool:
        self.maps = joined(self._held)
        self._then(self)
        return False


def _of_both(
    parts: TrainTest, labels: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return at most so many images, in order, half of each split as far as both have them.

    Of every class one is trained on at least.
    """
    trained, tested = (
        rng.permutation(np.flatnonzero(parts.part == number)) for number in (TRAINED, TESTED)
    )
    first = np.unique(labels[trained], return_index=True)[1]
    trained = np.concatenate([trained[first], np.delete(trained, first)])
    n_tested = min(len(tested), max(most // 2, most - len(trained)))
    return np.sort(np.concatenate([trained[: most - n_tested], tested[:n_tested]]))


def caveats(classes: Classes) -> list[str]:
    """Return what to know of groups of images."""
    if classes.groups is None:
        return []
    return [
        "penalties and the calibration are chosen by leaving out single training images, "
        "not whole groups: probabilities may be too sure, and bits too few"
    ]


def how_tested(parts: TrainTest | None, problem: Problem, classes: Classes) -> list[str]:
    """Return which images were tested, how, and what intervals are."""
    if parts is not None:
        return parts.caveats(problem.folds)
    said = []
    n, every = len(problem.labels), classes.n_labelled
    if n < every:
        said.append(f"{n:,} of {every:,} labelled images, drawn at random (--images)")
    return [
        *said,
        f"one {problem.n_folds}-fold split for all sets; intervals are Nadeau and Bengio's, from "
        "images within folds",
    ]


def choose_images(
    analysis: str,
    passes: Passes,
    classes: Classes,
    features: tuple[str, ...],
    most: int,
    folds: int,
    seed: int,
    then: Callable[[ChosenImages], None],
    parts: TrainTest | None = None,
) -> ChosenImages:
    """Register a collector of at most so many images, in folds or of two splits (`parts`).

    Raises
    ------
    AnalysisError
        If there are too few for the folds, or a class has images of fewer groups than folds.
    """
    if classes.groups is not None and parts is None:
        require_several(
            passes.store, analysis, classes.names, classes.labels, classes.groups, at_least=folds
        )
    if parts is None and min(most, classes.n_labelled) < 2 * folds:
        raise AnalysisError(
            f"{folds} folds need {2 * folds} labelled images or more and "
            f"{printable(passes.store.name)} has {classes.n_labelled}: use fewer folds"
        )
    made = ChosenImages(features, classes, most, folds, seed, then, parts)
    return passes.share(("chosen images", id(made)), lambda: made)
