"""The ridge probe on any number of images, from Gram matrices gathered in one pass.

The first pass gathers what every fold's training set needs; the second predicts. Memory does not
grow with the number of images, except for one predicted class each.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import THREADS, Arrays
from frictionstore.analyses.probe.ridge import Primal, Scaling, one_hot
from frictionstore.analyses.probe.split import Floats, Probe, SetFit, Split, select
from frictionstore.analyses.stats.permutation import group_sums

_Block = tuple[int, int, int, int]
"""Columns of one map and of another: start, stop, start, stop."""

_FIT_MEMORY = 450 << 20
"""Bytes that training sets solved at once may take."""

_EIGENVECTORS, _FACTOR = 5, 3
"""Square matrices held where lambda is to be chosen, and where it is known, of joined maps."""

_ROWS = 2048
"""Images gathered before Gram matrices are formed, so that products are large."""


@dataclass(frozen=True)
class _Linear:
    """Weights on shifted columns, (d, k), and an intercept, (k,)."""

    weights: Floats
    intercept: Floats

    def scores(self, rows: Floats) -> Floats:
        return rows @ self.weights + self.intercept


def _linear(weights: Floats, scaling: Scaling, intercept: Floats, balance: Floats) -> _Linear:
    """Return weights for standardised and balanced columns as weights for shifted ones."""
    full = np.zeros((len(scaling.used), weights.shape[1]))
    full[scaling.used] = weights * (balance / scaling.scale[scaling.used])[:, None]
    return _Linear(full, intercept - scaling.mean @ full)


_Model = tuple[int, int, str, _Linear]
"""A feature set's number, the fold it is tested on, the kind of prediction, and the weights."""


@dataclass
class _Group:
    """What one fold's images add to a training set, about the mean of each batch of them.

    Attributes
    ----------
    gram
        Sum over batches of centred X'X, by pair of maps.
    class_sums
        Sum over batches of centred class sums, (C, d).
    batch_means, batch_counts
        Mean of every batch, (d,), and its images by class, (C,).
    low, high
        Extremes of every column, (d,).
    null_sums
        Class sums under permuted labels, (permutations, C, d), not centred.
    """

    gram: dict[_Block, Floats]
    class_sums: Floats
    batch_means: list[Floats]
    batch_counts: list[Floats]
    low: Floats
    high: Floats
    null_sums: Floats

    def absorb(self, other: _Group) -> None:
        """Take in what other batches of the fold add."""
        for key, gram in other.gram.items():
            self.gram[key] += gram
        self.class_sums += other.class_sums
        self.batch_means += other.batch_means
        self.batch_counts += other.batch_counts
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.null_sums += other.null_sums


def _pairs(sets: Sequence[SetFit]) -> set[_Block]:
    """Return the pairs of maps whose products some set needs, each in one order."""
    return {
        (a.start, a.stop, b.start, b.stop)
        for one in sets
        for a in one.columns.values()
        for b in one.columns.values()
        if a.start <= b.start
    }


class StreamedProbe(Probe):
    """The probe in two passes over the store; parameters as `Probe`'s.

    Every set must have fewer columns than there are training images. Batches are centred on their
    own means and joined as Chan's update joins moments, so that an outlier in one fold costs the
    training sets without it no digits.
    """

    def __init__(
        self, maps: dict[str, int], sets: Sequence[SetFit], split: Split, **options: Any
    ) -> None:
        super().__init__(maps, sets, split, **options)
        self._arranged = split.arrangements(self._seed) if self._permutations else None
        self._width, self._pairs = sum(maps.values()), _pairs(sets)
        self._columns = [one.columns for one in self._sets]
        self._predicting = False
        self._models: list[_Model] = []
        self.begin()

    @property
    def state(self) -> tuple[str, ...]:
        """Sums for the training sets, then predictions."""
        return ("_predicted", "_right") if self._predicting else ("_groups", "_sample")

    def begin(self) -> None:
        super().begin()
        if self._arranged is not None:
            self._arranged.prepare(slice(0, self._permutations))
        if self._predicting:
            self._predicted: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
            self._right = {
                (one, fold): np.zeros(self._permutations, np.int64)
                for one, fold, kind, _ in self._models
                if kind == "null"
            }
            return
        permutations, classes, width = self._permutations, self._split.n_classes, self._width
        self._groups = {
            number: _Group(
                gram={k: np.zeros((k[1] - k[0], k[3] - k[2])) for k in self._pairs},
                class_sums=np.zeros((classes, width)),
                batch_means=[],
                batch_counts=[],
                low=np.full(width, np.inf),
                high=np.full(width, -np.inf),
                null_sums=np.zeros((permutations, classes, width)),
            )
            for number in range(self._split.n_groups)
        }
        self._sample: list[tuple[NDArray[np.int64], Floats]] = []

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._rows.add(rows, arrays) >= _ROWS:
            self.close()

    def end_pass(self) -> bool:
        if self._predicting:
            for number, index, classes in self._predicted:
                self._sets[number].prediction[index] = classes
            for (number, fold), right in self._right.items():
                self._sets[number].null_correct[fold] += right
            self._models = []
            return False

        def fit(task: tuple[SetFit, int]) -> list[_Model]:
            one, fold = task
            others = [group for g, group in self._groups.items() if g != fold]
            return self._fit(one, fold, others)

        # The widest first: what only it needs is given back before its weights pile up.
        left = sorted(self._sets, key=lambda one: -one.n_columns)
        while left:
            one = left.pop(0)
            matrices = _EIGENVECTORS if len(one.columns) == 1 else _FACTOR
            at_once = _FIT_MEMORY // (matrices * one.n_columns**2 * 8)
            with ThreadPoolExecutor(max(1, min(THREADS, at_once))) as pool:
                for models in pool.map(fit, product([one], range(self._split.n_folds))):
                    self._models += models
            needed = _pairs(left)
            for group in self._groups.values():
                group.gram = {key: group.gram[key] for key in group.gram if key in needed}
        self._groups, self._sample = {}, []
        self._predicting = True
        return True

    def close(self) -> None:
        """Take in the rows that are held."""
        index, values = self._rows.take()
        if not len(index):
            return
        if self._predicting:
            self._predict(index, values)
        else:
            self._gather(index, values)

    def _gather(self, index: NDArray[np.int64], values: Floats) -> None:
        groups = self._split.folds[index]
        some = self._sampled[index]
        self._sample.append((index[some], values[some]))

        def add(number: int) -> None:
            member = groups == number
            group = self._groups[number]
            x = values[member]
            group.low = np.minimum(group.low, x.min(axis=0))
            group.high = np.maximum(group.high, x.max(axis=0))
            if self._arranged is not None:
                drawn = self._arranged.take(index[member], slice(0, self._permutations))
                group.null_sums += group_sums(x, drawn, self._split.n_classes)
            targets = one_hot(self._split.labels[index[member]], self._split.n_classes)
            mean = x.mean(axis=0)
            x -= mean
            group.batch_means.append(mean)
            group.batch_counts.append(targets.sum(axis=0))
            group.class_sums += targets.T @ x
            for (a, b, c, d), gram in group.gram.items():
                gram += x[:, a:b].T @ x[:, c:d]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(add, map(int, np.unique(groups))))

    def _fit(self, one: SetFit, fold: int, others: Sequence[_Group]) -> list[_Model]:
        by_class, n = self._split.training(fold)
        frequency = by_class / n
        counts = np.stack([count for group in others for count in group.batch_counts])
        means = one.select(np.stack([m for group in others for m in group.batch_means]))
        sizes = counts.sum(axis=1)
        mean = sizes @ means / n
        means -= mean
        gram = self._gram(one, others)
        gram += (means * sizes[:, None]).T @ means
        low = one.select(np.min([group.low for group in others], axis=0))
        high = one.select(np.max([group.high for group in others], axis=0))
        scaling = one.scaling(fold, mean, np.einsum("ii->i", gram) / n, low == high)
        used = np.flatnonzero(scaling.used)
        class_sums = counts.T @ means
        for group in others:
            class_sums += one.select(group.class_sums)
        square = float(n - (by_class * by_class / n).sum())

        scaled = gram if len(used) == len(gram) else gram[np.ix_(used, used)]
        del gram
        cross = np.ascontiguousarray(class_sums[:, used].T)

        scale = scaling.scale[used]
        np.divide(scaled, scale[:, None], out=scaled)
        np.divide(scaled, scale, out=scaled)
        np.divide(cross, scale[:, None], out=cross)
        weights = self._balanced(one, fold, scaling)
        np.multiply(scaled, weights[:, None], out=scaled)
        np.multiply(scaled, weights, out=scaled)
        np.multiply(cross, weights[:, None], out=cross)
        found = one.solved(fold, Primal(scaled, cross, square, n))
        del scaled
        models: list[_Model] = [
            (
                self._number(one),
                fold,
                "default",
                _linear(found.coefficients, scaling, frequency, weights),
            )
        ]
        if self._permutations:
            null = one.select(others[0].null_sums)[..., used]
            for group in others[1:]:
                null += one.select(group.null_sums)[..., used]
            assert self._arranged is not None
            expected = self._split.null_training(self._arranged, self._permutations, fold)
            null -= expected[..., None] * mean[used]
            null *= weights / scale
            solved = found.solve(null.reshape(-1, len(used)).T)
            shape = (self._permutations, len(frequency))
            intercept = np.broadcast_to(expected / n, shape).reshape(-1)
            linear = _linear(solved, scaling, intercept, weights)
            models.append((self._number(one), fold, "null", linear))
        return models

    def _number(self, one: SetFit) -> int:
        return next(number for number, other in enumerate(self._sets) if other is one)

    def _balanced(self, one: SetFit, fold: int, scaling: Scaling) -> Floats:
        index = np.concatenate([part for part, _ in self._sample])
        train = self._split.folds[index] != fold
        rows = one.select(np.concatenate([part for _, part in self._sample])[train])
        used = scaling.used
        z = (rows - scaling.mean)[:, used] / scaling.scale[used]
        return one.balanced(fold, z, self._split.labels[index[train]], used)

    def _gram(self, one: SetFit, groups: Sequence[_Group]) -> Floats:
        """Return the sum over groups of the Gram matrix of a set, about batch means."""
        gram = np.empty((one.n_columns, one.n_columns))
        row = 0
        for a in one.columns.values():
            col = 0
            for b in one.columns.values():
                down, across = (
                    slice(row, row + a.stop - a.start),
                    slice(col, col + b.stop - b.start),
                )
                if a.start <= b.start:
                    block = gram[down, across]
                    block[...] = 0.0
                    for group in groups:
                        block += group.gram[a.start, a.stop, b.start, b.stop]
                    gram[across, down] = block.T
                col = across.stop
            row = down.stop
        return gram

    def _predict(self, index: NDArray[np.int64], values: Floats) -> None:
        groups = self._split.folds[index]
        drawn: dict[int, NDArray[Any]] = {}
        if self._arranged is not None:
            which = slice(0, self._permutations)
            drawn = {
                int(group): self._arranged.take(index[groups == group], which)
                for group in np.unique(groups)
            }

        def predict(made: _Model) -> None:
            number, fold, kind, model = made
            member = np.flatnonzero(groups == fold)
            if not len(member):
                return
            scores = model.scores(select(self._columns[number], values[member]))
            if kind == "default":
                self._predicted.append((number, index[member], scores.argmax(axis=1)))
            else:
                shape = (len(member), self._permutations, self._split.n_classes)
                predicted = scores.reshape(shape).argmax(axis=2)
                self._right[number, fold] += (predicted == drawn[fold].T).sum(axis=0)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(predict, self._models))
