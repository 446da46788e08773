"""The ridge probe on rows held in memory: few images, or more columns than images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analyses.passes import Arrays
from analyses.permutation import group_sums
from analyses.probe_split import Floats, Rows, SetFit, Split, notebook_scaling
from analyses.ridge import LAMBDAS, Dual, Primal, Solved, choose_penalty, one_hot


class HeldProbe:
    """Fits and tests every feature set on every fold after one pass over the store.

    Parameters
    ----------
    maps
        Base map name to its number of columns.
    sets
        The feature sets, their columns as slices of the maps side by side.
    split
        Which images are tested when.
    penalties
        The lambda path.
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
        self._sets = list(sets)
        self._split = split
        self._penalties = penalties
        self._permutations = permutations
        self._seed = seed
        self._notebook_only = notebook_only
        self._rows = Rows(maps, split.folds)

    def update(self, rows: slice, arrays: Arrays) -> None:
        self._rows.add(rows, arrays)

    def end_pass(self) -> bool:
        index, values = self._rows.take()
        drawn = self._draw(index)
        for one in self._sets:
            columns = one.select(values)
            for fold in range(self._split.n_folds):
                self._fit(one, fold, index, columns, drawn)
        return False

    def _draw(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of the rows in every permutation, (permutations, n)."""
        drawn = np.empty((self._permutations, len(index)), np.int64)
        if not self._permutations:
            return drawn
        groups = self._split.folds[index]
        shuffles = self._split.label_shuffles(self._permutations, self._seed)
        for group, shuffle in enumerate(shuffles):
            member = np.flatnonzero(groups == group)
            drawn[:, member] = shuffle.take(len(member))
        return drawn

    def _fit(
        self,
        one: SetFit,
        fold: int,
        index: NDArray[np.int64],
        columns: Floats,
        drawn: NDArray[np.int64],
    ) -> None:
        split = self._split
        tested = split.folds[index] == fold
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        by_class, n = split.training(fold)
        frequency = by_class / n
        training = columns[train]
        mean = training.mean(axis=0)
        constant = training.min(axis=0) == training.max(axis=0)
        training -= mean
        variance = np.einsum("ij,ij->j", training, training) / n
        scaling = one.scaling(fold, mean, variance, constant)
        used = scaling.used
        target = one_hot(split.labels[index[train]], split.n_classes) - frequency

        z = training if used.all() else training[:, used]
        z /= scaling.scale[used]
        z_test = (columns[test] - mean)[:, used]
        z_test /= scaling.scale[used]
        fitted = _Fitted(z, target)
        if not self._notebook_only:
            found = choose_penalty(fitted.at, self._penalties)
            one.penalties.append(found.penalty)
            scores = fitted.scores(found, z_test) + frequency
            one.prediction[index[test]] = scores.argmax(axis=1)
            if self._permutations:
                hat = fitted.hat(found, z_test)
                sums = group_sums(hat, drawn[:, train], split.n_classes)
                # Centred targets: what the frequencies predict is taken off and put back.
                sums += frequency[:, None] * (1.0 - hat.sum(axis=0))
                one.null_correct += (sums.argmax(axis=1) == drawn[:, test]).sum(axis=1)
        if fold == 0:
            old, penalty = notebook_scaling(scaling, n)
            if old is not scaling:
                change = scaling.scale[used] / old.scale[used]
                z, z_test = z * change, z_test * change
                fitted = _Fitted(z, target)
            then = fitted.at(penalty, criterion=False)
            one.keep_notebook(split, index[test], fitted.scores(then, z_test))
            if self._notebook_only:
                one.keep_notebook(split, index[train], fitted.scores(then, z))


class _Fitted:
    """Ridge on standardised rows, (n, d), in whichever form is smaller."""

    def __init__(self, z: Floats, target: Floats) -> None:
        self._z = z
        self._primal = z.shape[1] <= len(z)
        square = float(np.einsum("nc,nc->", target, target))
        self._problem: Primal | Dual = (
            Primal(z.T @ z, z.T @ target, square, len(z)) if self._primal else Dual(z @ z.T, target)
        )

    def at(self, penalty: float, *, criterion: bool = True) -> Solved:
        return self._problem.at(penalty, criterion=criterion)

    def scores(self, found: Solved, rows: Floats) -> Floats:
        """Return predicted targets of standardised rows, (m, C)."""
        if self._primal:
            return rows @ found.coefficients
        return rows @ (self._z.T @ found.coefficients)

    def hat(self, found: Solved, rows: Floats) -> Floats:
        """Return what predictions weigh each training image with, (n, m)."""
        if self._primal:
            return self._z @ found.factor.solve(rows.T)
        return np.ascontiguousarray(found.factor.solve(self._z @ rows.T))
