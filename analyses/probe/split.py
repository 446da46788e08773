"""What every form of the ridge probe shares: the split, its outcome, the rows it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import arrangements
from frictionstore.analyses.core.passes import Arrays
from frictionstore.analyses.probe import banded
from frictionstore.analyses.probe.ridge import (
    Choice,
    Dual,
    Primal,
    Scaling,
    Solved,
    choose_penalty,
    one_hot,
)
from frictionstore.analyses.stats.arrangements import Arrangements
from frictionstore.text import printable

Floats = NDArray[np.float64]

WITHIN_FOLDS = 3
"""The use of a seed: no other arrangement is the same."""


@dataclass(frozen=True)
class Split:
    """Which images are tested when.

    Attributes
    ----------
    labels
        int64 of shape (n,), -1 for none.
    folds
        int64 of shape (n,): the fold that tests an image; `n_folds` for images that are only
        ever trained on, -1 for images that take no part.
    n_folds, n_classes
        Numbers of test folds and classes.
    belonging
        int64 of shape (n,): the group of images that each belongs to, whole groups in one fold;
        None where images are independent.
    """

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    n_folds: int
    n_classes: int
    belonging: NDArray[np.int64] | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it: splits that differ in anything have different ones."""
        found = sha256(repr((self.n_folds, self.n_classes, self.belonging is None)).encode())
        for part in (self.labels, self.folds, self.belonging):
            found.update(b"" if part is None else part.astype("<i8").tobytes())
        return found.hexdigest()

    @property
    def n_groups(self) -> int:
        """Test folds, and one more if there are images that are only trained on."""
        return max(self.n_folds, int(self.folds.max()) + 1)

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Which images are tested, shape (n,)."""
        return (self.folds >= 0) & (self.folds < self.n_folds)

    @property
    def sharing(self) -> int:
        """Folds whose models share training images, for intervals; 0 where there is one model."""
        return self.n_folds if self.n_folds > 1 else 0

    def of_tested(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return labels and groups of the tested images."""
        groups = None if self.belonging is None else self.belonging[self.tested]
        return self.labels[self.tested], groups

    def counts(self) -> NDArray[np.int64]:
        """Return images by group and class, shape (n_groups, n_classes)."""
        part = self.folds >= 0
        counts = np.zeros((self.n_groups, self.n_classes), np.int64)
        np.add.at(counts, (self.folds[part], self.labels[part]), 1)
        return counts

    @property
    def smallest_training(self) -> int:
        """Images in the smallest training set."""
        sizes = self.counts().sum(axis=1)
        return int(sizes.sum() - sizes[: self.n_folds].max())

    def training(self, fold: int) -> tuple[NDArray[np.int64], int]:
        """Return the training images of a fold by class, and their number."""
        counts = self.counts()
        by_class = counts.sum(axis=0) - counts[fold]
        return by_class, int(by_class.sum())

    def arrangements(self, seed: int) -> Arrangements:
        """Return random arrangements of the labels within each group.

        Shuffling within folds keeps every fold as balanced as it is. Of images that belong together
        labels change places as wholes.
        """
        part = np.where(self.folds >= 0, self.labels, -1)
        strata = np.maximum(self.folds, 0)
        return Arrangements(
            part, self.n_classes, seed, use=WITHIN_FOLDS, strata=strata, groups=self.belonging
        )

    def null_training(
        self, arranged: Arrangements, permutations: int, fold: int
    ) -> NDArray[np.int64]:
        """Return the training images of a fold by class under permuted labels.

        Shape (n_classes,), or (permutations, n_classes) where whole groups change places: classes
        do not keep their sizes then.
        """
        counts = arranged.counts(slice(0, permutations))
        return np.asarray(counts.sum(axis=-2) - counts[..., fold, :])

    def least_arrangements(self) -> float:
        """Return the logarithm of how many arrangements of the labels there are within folds."""
        assert self.belonging is not None
        folds = [self.folds == fold for fold in range(self.n_groups)]
        return sum(arrangements(self.labels[one], self.belonging[one]) for one in folds)


@dataclass
class SetFit:
    """What one feature set has come to.

    Attributes
    ----------
    columns
        Slices of the base maps' columns, by map.
    prediction
        int64 of shape (n,): predicted class, -1 where an image was not tested.
    notebook_prediction
        int64 of shape (n,): class predicted by the notebook's protocol, of test and training
        images; -1 where an image took no part.
    null_correct
        int64 of shape (n_folds, permutations): images classified correctly under permuted labels.
    penalties
        float64 of shape (n_folds,): the chosen lambda, NaN where none was chosen.
    ends
        By fold: "lower" or "upper" where lambda is an end of the path, else "".
    used
        int64 of shape (n_folds,): columns that vary in the training images.
    notebook_used
        The same for the notebook's split; with 0 it predicts nothing.
    balance
        By fold: what each map's standardised columns are multiplied by, so that one lambda suits
        all of them; nothing for a single map.
    joint
        By fold: lambda of balanced maps, chosen with the balance.
    keeps
        The map that stays with its images where the others are of shuffled images, "" for none.
    """

    name: str
    columns: dict[str, slice]
    prediction: NDArray[np.int64]
    notebook_prediction: NDArray[np.int64]
    null_correct: NDArray[np.int64]
    penalties: Floats
    ends: list[str]
    used: NDArray[np.int64]
    notebook_used: int = 0
    balance: dict[int, Floats] = field(default_factory=dict)
    keeps: str = ""
    joint: dict[int, float] = field(default_factory=dict)

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return sum(part.stop - part.start for part in self.columns.values())

    def select(self, values: Floats) -> Floats:
        """Return this set's columns, from the last axis of all maps side by side."""
        return select(self.columns, values)

    def place(self, name: str) -> slice:
        """Return where a map's columns are among those of the set."""
        before = 0
        for part, columns in self.columns.items():
            width = columns.stop - columns.start
            if part == name:
                return slice(before, before + width)
            before += width
        raise KeyError(name)

    def balanced(
        self, fold: int, rows: Floats, labels: NDArray[np.int64], used: NDArray[np.bool_]
    ) -> Floats:
        """Choose and note the balance of the maps; return it for each column used.

        Parameters
        ----------
        fold
            The fold left out.
        rows, labels
            Standardised columns in use, (m, used), and classes of some training images.
        used
            Which of all columns these are.
        """
        ends = np.cumsum([part.stop - part.start for part in self.columns.values()])
        widths = np.array([int(part.sum()) for part in np.split(used, ends[:-1])])
        weights = np.ones(len(widths))
        self.joint.pop(fold, None)
        there = np.flatnonzero(widths)
        if len(there) > 1:
            stops = np.cumsum(widths)
            spans = [slice(int(stops[k] - widths[k]), int(stops[k])) for k in there]
            target = one_hot(labels, int(labels.max()) + 1)
            chosen = banded.choose_columns(rows, spans, target)
            weights[there] = chosen.balance
            self.joint[fold] = float(chosen.penalties.min())
        if len(widths) > 1:
            self.balance[fold] = weights
        return np.repeat(weights, widths)

    def penalties_by_map(self, fold: int) -> Floats:
        """Return lambda of each map for its standardised columns."""
        weights = self.balance.get(fold, np.ones(len(self.columns)))
        return np.asarray(self.penalties[fold] / np.square(weights))

    def solved(self, fold: int, problem: Primal | Dual) -> Solved:
        """Return the solution for a fold, and note its penalty.

        Of joined maps it is the one that came with the balance; else it is chosen now.
        """
        if fold in self.joint:
            choice = Choice(problem.only_at(self.joint[fold]), "")
        else:
            choice = choose_penalty(problem)
        self.note(fold, choice)
        return choice.solved

    def take(self, fitted: SetFit) -> None:
        """Take over what the same maps have come to on the same split."""
        for found in (
            "prediction", "notebook_prediction", "null_correct", "penalties", "ends", "used",
            "notebook_used", "balance", "joint",
        ):  # fmt: skip
            setattr(self, found, getattr(fitted, found))

    def note(self, fold: int, choice: Choice) -> None:
        """Note the penalty chosen for a fold."""
        self.penalties[fold] = choice.solved.penalty
        self.ends[fold] = choice.end

    def scaling(
        self, fold: int, mean: Floats, variance: Floats, constant: NDArray[np.bool_]
    ) -> Scaling:
        """Return the scaling of a training set and note how many columns vary in it.

        Parameters
        ----------
        fold
            The fold left out.
        mean, variance, constant
            Of each column over the training images; variance with ddof 0.

        Raises
        ------
        AnalysisError
            If no column varies.
        """
        # Rounding may leave a variance of 0 where values differ in their last place.
        used = ~constant & (variance > 0)
        if not used.any():
            raise AnalysisError(
                f"no column of {printable(self.name)} varies in the training images of fold "
                f"{fold}, so there is nothing to classify by: use other features or more images"
            )
        self.used[fold] = used.sum()
        return Scaling(mean, np.sqrt(np.where(used, variance, 1.0)), used)


class FittedOnce:
    """Stands for a set in the passes, so that one probe fits it for all that ask for the same."""

    state = ()
    stays = ("fit",)

    def __init__(self, fit: SetFit) -> None:
        self.features = tuple(fit.columns)
        self.fit = fit

    def begin(self) -> None:
        """Nothing is seen."""

    def update(self, rows: slice, arrays: Arrays) -> None:
        """Take in nothing: the probe that fits the set does."""

    def end_pass(self) -> bool:
        return False


def select(columns: dict[str, slice], values: Floats) -> Floats:
    """Return the columns of some maps, from the last axis of all maps side by side."""
    parts = list(columns.values())
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return values[..., parts[0].start : parts[-1].stop]  # side by side: no copy
    return np.concatenate([values[..., part] for part in parts], axis=-1)


class Rows:
    """Rows of some maps, shifted, gathered from chunks."""

    def __init__(self, maps: dict[str, int], folds: NDArray[np.int64]) -> None:
        self._maps = maps
        self._folds = folds
        self._held: list[tuple[NDArray[np.int64], Floats]] = []
        self.shift: Floats | None = None

    def anew(self) -> Rows:
        """Return one that holds nothing."""
        made = Rows(self._maps, self._folds)
        made.shift = self.shift
        return made

    def absorb(self, other: Rows) -> None:
        """Take in what another holds, of the same shift."""
        self._held += other._held

    def _values(self, arrays: Arrays, member: NDArray[np.int64] | slice) -> Floats:
        parts = [arrays[name].reshape(len(arrays[name]), -1)[member] for name in self._maps]
        return np.concatenate(parts, axis=1, dtype=np.float64)

    def look(self, arrays: Arrays) -> None:
        """Take the shift from a chunk."""
        # The median: one outlier must not shift everything away from zero.
        self.shift = np.median(self._values(arrays, slice(None)), axis=0)

    def add(self, rows: slice, arrays: Arrays) -> int:
        """Take in a chunk, after a first `look`, and return how many images are held."""
        index = rows.start + np.flatnonzero(self._folds[rows] >= 0)
        if len(index):
            values = self._values(arrays, index - rows.start)
            assert self.shift is not None, "look first"
            values -= self.shift
            self._held.append((index, values))
        return sum(len(part) for part, _ in self._held)

    def take(self) -> tuple[NDArray[np.int64], Floats]:
        """Return image numbers and rows held, and hold nothing."""
        if not self._held:
            return np.empty(0, np.int64), np.empty((0, sum(self._maps.values())))
        index = np.concatenate([part for part, _ in self._held])
        values = np.concatenate([part for _, part in self._held])
        self._held = []
        return index, values


class Probe:
    """A collector that fits every feature set on every fold and tests it.

    Parameters
    ----------
    maps
        Base map name to its number of columns.
    sets
        The feature sets, their columns as slices of the maps side by side.
    split
        Which images are tested when.
    permutations, seed
        Shufflings of the labels within folds, each refitted with the penalties chosen on the real
        labels.

    Of the images that are trained on, penalties of joined maps are weighed on a sample.
    """

    stays = ("_sets", "_scratch", "_notebook")

    @property
    def state(self) -> tuple[str, ...]:
        """What is gathered in this pass."""
        return ("_rows",)

    def __init__(
        self,
        maps: dict[str, int],
        sets: Sequence[SetFit],
        split: Split,
        *,
        permutations: int = 0,
        seed: int = 0,
    ) -> None:
        self.features = tuple(maps)
        self._sets = list(sets)
        self._split = split
        self._permutations = permutations
        self._seed = seed
        self._rows = Rows(maps, split.folds)
        self._sampled = np.zeros(len(split.folds), np.bool_)
        self._sampled[banded.sample(split.folds, split.n_folds, seed)] = True

    def look(self, arrays: Arrays) -> None:
        self._rows.look(arrays)

    def begin(self) -> None:
        self._rows = self._rows.anew()
