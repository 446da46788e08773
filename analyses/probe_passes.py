"""What the ridge probe gathers from a store: Gram matrices by fold, then predictions.

Feature sets with fewer columns than training images are solved from Gram matrices, whatever the
number of images; the others keep their rows, which are few by definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyses.errors import AnalysisError
from analyses.passes import Arrays
from analyses.permutation import Shuffles, group_sums
from analyses.ridge import (
    LAMBDAS,
    Dual,
    Primal,
    Scaling,
    choose_penalty,
    one_hot,
)
from frictionstore.text import printable

Floats = NDArray[np.float64]

_ROWS = 2048
"""Images gathered before Gram matrices are formed, so that products are large."""

NOTEBOOK_LAMBDA = 1.0
NOTEBOOK_STD = 1e-6


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
    """

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    n_folds: int
    n_classes: int

    def counts(self) -> NDArray[np.int64]:
        """Return images by group and class, shape (n_folds + 1, n_classes)."""
        part = self.folds >= 0
        counts = np.zeros((self.n_folds + 1, self.n_classes), np.int64)
        np.add.at(counts, (self.folds[part], self.labels[part]), 1)
        return counts

    @property
    def smallest_training(self) -> int:
        """Images in the smallest training set."""
        sizes = self.counts().sum(axis=1)
        return int(sizes.sum() - sizes[: self.n_folds].max())

    def label_shuffles(self, permutations: int, seed: int) -> list[Shuffles]:
        """Return arrangements of the labels within each group, one `Shuffles` per group.

        Shuffling within folds keeps every fold as balanced as it is.
        """
        children = np.random.SeedSequence(seed).spawn(self.n_folds + 1)
        return [
            Shuffles(list(counts), permutations, np.random.default_rng(child))
            for counts, child in zip(self.counts(), children, strict=True)
        ]


@dataclass
class SetFit:
    """What one feature set has come to.

    Attributes
    ----------
    columns
        Slices of the base maps' columns, by map.
    prediction, notebook_prediction
        int64 of shape (n,): predicted class, -1 where an image was not tested.
    penalties
        The chosen lambda of each fold.
    used
        Columns that vary in each fold's training images.
    null_correct
        Images classified correctly in each permutation, shape (permutations,).
    """

    name: str
    columns: dict[str, slice]
    prediction: NDArray[np.int64]
    notebook_prediction: NDArray[np.int64]
    null_correct: NDArray[np.int64]
    penalties: list[float] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    training_correct: int = 0

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return sum(part.stop - part.start for part in self.columns.values())


@dataclass(frozen=True)
class _Linear:
    """Weights on shifted columns, (d, k), and an intercept, (k,)."""

    weights: Floats
    intercept: Floats

    def scores(self, rows: Floats) -> Floats:
        return rows @ self.weights + self.intercept


def _linear(weights: Floats, scaling: Scaling, intercept: Floats) -> _Linear:
    """Return weights for standardised columns as weights for shifted ones."""
    full = np.zeros((len(scaling.used), weights.shape[1]))
    full[scaling.used] = weights / scaling.scale[scaling.used, None]
    return _Linear(full, intercept - scaling.mean @ full)


class Rows:
    """Rows of some maps, shifted, in chunks of at least `_ROWS` images."""

    def __init__(self, maps: dict[str, int], folds: NDArray[np.int64]) -> None:
        self._maps = maps
        self._folds = folds
        self._held: list[tuple[NDArray[np.int64], Floats]] = []
        self.shift: Floats | None = None

    def add(self, rows: slice, arrays: Arrays) -> int:
        """Take in a chunk and return how many images are held."""
        index = rows.start + np.flatnonzero(self._folds[rows] >= 0)
        if len(index):
            parts = [
                arrays[name].reshape(len(arrays[name]), -1)[index - rows.start]
                for name in self._maps
            ]
            values = np.concatenate(parts, axis=1, dtype=np.float64)
            if self.shift is None:
                self.shift = values.mean(axis=0)
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


class ProbePasses:
    """Fits every feature set on every fold, and tests it, in two passes over the store.

    Parameters
    ----------
    maps
        Base map name to its number of columns.
    sets
        The feature sets, their columns as slices of the maps side by side.
    split
        Which images are tested when.
    penalties
        The lambda path; one value is used as it is.
    permutations, seed
        Shufflings of the labels within folds, each refitted with the penalties chosen on the real
        labels.
    notebook_only
        Only the notebook's protocol: lambda 1 and no intercept, tested on fold 0. Otherwise it
        is done on fold 0 beside the rest.
    """

    def __init__(
        self,
        maps: dict[str, int],
        sets: Sequence[SetFit],
        split: Split,
        *,
        penalties: tuple[float, ...] = LAMBDAS,
        permutations: int = 0,
        seed: int = 0,
        notebook_only: bool = False,
    ) -> None:
        self.features = tuple(maps)
        self._split = split
        self._sets = list(sets)
        self._penalties = penalties
        self._permutations = permutations
        self._seed = seed
        self._notebook_only = notebook_only
        self._rows = Rows(maps, split.folds)
        n_train = split.smallest_training
        self._primal = [one for one in self._sets if one.n_columns <= n_train]
        self._dual = [one for one in self._sets if one.n_columns > n_train]
        width = sum(maps.values())
        groups = split.n_folds + 1
        self._counts = split.counts()
        self._sums = np.zeros((groups, split.n_classes, width))
        self._low = np.full((groups, width), np.inf)
        self._high = np.full((groups, width), -np.inf)
        needed = {
            (a.start, a.stop, b.start, b.stop)
            for one in self._primal
            for a in one.columns.values()
            for b in one.columns.values()
            if a.start <= b.start
        }
        self._blocks = {
            key: np.zeros((groups, key[1] - key[0], key[3] - key[2])) for key in sorted(needed)
        }
        self._shuffles = split.label_shuffles(permutations, seed) if permutations else []
        self._null_sums = np.zeros((groups, permutations, split.n_classes, width))
        if not self._primal:
            self._null_sums = self._null_sums[..., :0]
        self._kept: list[tuple[NDArray[np.int64], Floats]] = []
        self._second = False
        self._models: list[tuple[SetFit, int, str, _Linear]] = []

    # First pass -----------------------------------------------------------------------------

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._rows.add(rows, arrays) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        index, values = self._rows.take()
        if not len(index):
            return
        if self._second:
            self._predict(index, values)
        else:
            self._gather(index, values)

    def _gather(self, index: NDArray[np.int64], values: Floats) -> None:
        groups = self._split.folds[index]
        for group in np.unique(groups):
            member = groups == group
            x = values[member]
            targets = one_hot(self._split.labels[index[member]], self._split.n_classes)
            self._sums[group] += targets.T @ x
            self._low[group] = np.minimum(self._low[group], x.min(axis=0))
            self._high[group] = np.maximum(self._high[group], x.max(axis=0))
            for (a, b, c, d), block in self._blocks.items():
                block[group] += x[:, a:b].T @ x[:, c:d]
            if self._permutations and self._primal:
                drawn = self._shuffles[group].take(len(x))
                self._null_sums[group] += group_sums(x, drawn, self._split.n_classes)
        if self._dual:
            self._kept.append((index, values))

    def end_pass(self) -> bool:
        self._flush()
        if self._second:
            return False
        if self._dual:
            index = np.concatenate([part for part, _ in self._kept])
            values = np.concatenate([part for _, part in self._kept])
            self._kept = []
            for one in self._dual:
                columns = _concatenate(one, values)
                for fold in range(self._split.n_folds):
                    self._fit_dual(one, fold, index, columns)
        for one in self._primal:
            for fold in range(self._split.n_folds):
                self._fit_primal(one, fold)
        self._blocks.clear()
        del self._null_sums
        self._second = True
        if self._permutations:
            self._shuffles = self._split.label_shuffles(self._permutations, self._seed)
        return bool(self._primal)

    def _scaling(self, one: SetFit, fold: int, variance: Floats, mean: Floats) -> Scaling:
        """Return the scaling of a training set from its columns' mean and variance (ddof 0)."""
        others = [g for g in range(self._split.n_folds + 1) if g != fold]
        low = _concatenate(one, self._low[others].min(axis=0))
        high = _concatenate(one, self._high[others].max(axis=0))
        # Rounding may leave a variance of 0 where values differ in their last place.
        used = (low != high) & (variance > 0)
        if not used.any():
            raise AnalysisError(
                f"no column of {printable(one.name)} varies in the training images of fold "
                f"{fold}, so there is nothing to classify by: use other features or more images"
            )
        return Scaling(mean, np.sqrt(np.where(used, variance, 1.0)), used)

    def _notebook_scaling(self, scaling: Scaling, n: int) -> Scaling:
        scale = np.maximum(scaling.scale * np.sqrt(n / (n - 1)), NOTEBOOK_STD)
        return Scaling(scaling.mean, scale, scaling.used)

    def _training(self, fold: int) -> tuple[list[int], NDArray[np.int64], int]:
        """Return the groups trained on, their images by class, and their number."""
        others = [g for g in range(self._split.n_folds + 1) if g != fold]
        by_class = self._counts[others].sum(axis=0)
        return others, by_class, int(by_class.sum())

    def _fit_primal(self, one: SetFit, fold: int) -> None:
        others, by_class, n = self._training(fold)
        sums = _concatenate(one, self._sums[others].sum(axis=0))
        mean = sums.sum(axis=0) / n
        gram = self._gram(one, others)
        gram -= n * np.outer(mean, mean)
        variance = np.einsum("ii->i", gram) / n
        scaling = self._scaling(one, fold, variance, mean)
        frequency = by_class / n
        square = float(n - (by_class * by_class / n).sum())

        def problem(scaling: Scaling) -> Primal:
            used = np.flatnonzero(scaling.used)
            inverse = 1.0 / scaling.scale[used]
            scaled = gram[np.ix_(used, used)]
            scaled *= inverse[:, None]
            scaled *= inverse
            return Primal(scaled, cross(sums, scaling), square, n)

        def cross(class_sums: Floats, scaling: Scaling) -> Floats:
            """X'Y for centred targets: class sums of centred columns, (d used, C)."""
            used = scaling.used
            centred = class_sums[..., used] - by_class[:, None] * mean[used]
            return np.ascontiguousarray(np.swapaxes(centred / scaling.scale[used], -1, -2))

        one.used.append(int(scaling.used.sum()))
        if not self._notebook_only:
            path = problem(scaling)
            found = choose_penalty(path.at, self._penalties)
            one.penalties.append(found.penalty)
            model = _linear(found.coefficients, scaling, frequency)
            self._models.append((one, fold, "default", model))
            if self._permutations:
                null = cross(_concatenate(one, self._null_sums[others].sum(axis=0)), scaling)
                right = np.moveaxis(null, 1, 0).reshape(null.shape[1], -1)
                weights = found.factor.solve(np.asfortranarray(right))
                null_model = _linear(weights, scaling, np.tile(frequency, self._permutations))
                self._models.append((one, fold, "null", null_model))
        if fold == 0:
            old = self._notebook_scaling(scaling, n)
            weights = problem(old).at(NOTEBOOK_LAMBDA, criterion=False).coefficients
            model = _linear(weights, old, np.zeros(self._split.n_classes))
            self._models.append((one, fold, "notebook", model))

    def _gram(self, one: SetFit, groups: list[int]) -> Floats:
        """Return the Gram matrix of the shifted columns of a set over some groups."""
        parts = list(one.columns.values())
        rows = []
        for a in parts:
            row = []
            for b in parts:
                first, second = (a, b) if a.start <= b.start else (b, a)
                key = (first.start, first.stop, second.start, second.stop)
                block = self._blocks[key][groups].sum(axis=0)
                row.append(block if a.start <= b.start else block.T)
            rows.append(row)
        return np.block(rows)

    def _fit_dual(self, one: SetFit, fold: int, index: NDArray[np.int64], columns: Floats) -> None:
        groups = self._split.folds[index]
        train, test = groups != fold, groups == fold
        _, by_class, n = self._training(fold)
        frequency = by_class / n
        x, y = columns[train], self._split.labels[index[train]]
        mean = x.mean(axis=0)
        scaling = self._scaling(one, fold, x.var(axis=0), mean)
        one.used.append(int(scaling.used.sum()))
        target = one_hot(y, self._split.n_classes) - frequency

        def problem(scaling: Scaling) -> tuple[Dual, Floats]:
            used = scaling.used
            z = (x[:, used] - mean[used]) / scaling.scale[used]
            tested = columns if self._notebook_only else columns[test]
            tested = (tested[:, used] - mean[used]) / scaling.scale[used]
            return Dual(z @ z.T, target), tested @ z.T

        if not self._notebook_only:
            path, kernel = problem(scaling)
            found = choose_penalty(path.at, self._penalties)
            one.penalties.append(found.penalty)
            scores = kernel @ found.coefficients + frequency
            one.prediction[index[test]] = scores.argmax(axis=1)
            if self._permutations:
                hat = found.factor.solve(np.asfortranarray(kernel.T))
                self._null_dual(one, fold, index, np.ascontiguousarray(hat))
        if fold == 0:
            old = self._notebook_scaling(scaling, n)
            path, kernel = problem(old)
            scores = kernel @ path.at(NOTEBOOK_LAMBDA, criterion=False).coefficients
            tested = index if self._notebook_only else index[test]
            self._keep_notebook(one, tested, scores)

    def _null_dual(self, one: SetFit, fold: int, index: NDArray[np.int64], hat: Floats) -> None:
        """Count correct predictions under permuted labels; `hat` is (train, test)."""
        groups = self._split.folds[index]
        drawn = np.empty((self._permutations, len(index)), np.int64)
        for group, shuffle in enumerate(self._split.label_shuffles(self._permutations, self._seed)):
            member = np.flatnonzero(groups == group)
            drawn[:, member] = shuffle.take(len(member))
        train, test = groups != fold, groups == fold
        frequency = self._training(fold)[1] / int(train.sum())
        sums = group_sums(hat, drawn[:, train], self._split.n_classes)
        # Centred targets: what the frequencies alone predict is taken off and put back.
        rest = 1.0 - hat.sum(axis=0)
        predicted = (sums + frequency[:, None] * rest).argmax(axis=1)
        one.null_correct += (predicted == drawn[:, test]).sum(axis=1)

    # Second pass ----------------------------------------------------------------------------

    def _predict(self, index: NDArray[np.int64], values: Floats) -> None:
        groups = self._split.folds[index]
        drawn: dict[int, NDArray[Any]] = {}
        if self._permutations:
            drawn = {
                int(group): self._shuffles[group].take(int((groups == group).sum()))
                for group in np.unique(groups)
            }
        for one, fold, kind, model in self._models:
            member = np.flatnonzero(groups == fold)
            if kind == "notebook" and self._notebook_only:
                member = np.arange(len(index))
            if not len(member):
                continue
            scores = model.scores(_concatenate(one, values[member]))
            if kind == "default":
                one.prediction[index[member]] = scores.argmax(axis=1)
            elif kind == "notebook":
                self._keep_notebook(one, index[member], scores)
            else:
                shape = (len(member), self._permutations, self._split.n_classes)
                predicted = scores.reshape(shape).argmax(axis=2)
                one.null_correct += (predicted == drawn[fold].T).sum(axis=0)

    def _keep_notebook(self, one: SetFit, index: NDArray[np.int64], scores: Floats) -> None:
        predicted = scores.argmax(axis=1)
        tested = self._split.folds[index] == 0
        one.notebook_prediction[index[tested]] = predicted[tested]
        right = predicted == self._split.labels[index]
        one.training_correct += int(right[~tested].sum())


def _concatenate(one: SetFit, values: Floats) -> Floats:
    """Return the columns of a set, from the last axis of all maps side by side."""
    parts = [values[..., part] for part in one.columns.values()]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
