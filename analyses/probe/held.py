"""The ridge probe on rows held in memory: few images, or more columns than images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import THREADS, Arrays
from frictionstore.analyses.probe.notebook import fit_notebook
from frictionstore.analyses.probe.ridge import (
    Dual,
    Primal,
    Scratch,
    Solved,
    one_hot,
)
from frictionstore.analyses.probe.split import Floats, Probe, SetFit, Split
from frictionstore.analyses.stats.arrangements import Arrangements
from frictionstore.analyses.stats.permutation import group_sums


class HeldProbe(Probe):
    """The probe after one pass over the store, and the notebook's on the same rows.

    Parameters as `Probe`'s, and `notebook`, the notebook's split; None for no such probe.
    """

    def __init__(
        self,
        maps: dict[str, int],
        sets: Sequence[SetFit],
        split: Split,
        *,
        notebook: Split | None = None,
        **options: Any,
    ) -> None:
        super().__init__(maps, sets, split, **options)
        self._notebook = notebook
        self._scratch = Scratch()

    def update(self, rows: slice, arrays: Arrays) -> None:
        self._rows.add(rows, arrays)

    def end_pass(self) -> bool:
        index, values = self._rows.take()
        arranged = self._split.arrangements(self._seed)
        drawn = arranged.take(index, slice(0, self._permutations))
        others = shuffled_within(self._split.folds[index], self._seed)

        def fit(one: SetFit, fold: int | None) -> None:
            columns = one.select(values)
            if one.keeps:
                own = one.columns[one.keeps]
                columns = columns[others]
                columns[:, one.place(one.keeps)] = values[:, own]
            if fold is None:
                assert self._notebook is not None
                fit_notebook(one, self._notebook, index, columns)
            else:
                self._fit(one, fold, index, columns, drawn, arranged)

        # The largest first: no thread is left alone with them at the end.
        by_size = sorted(self._sets, key=lambda one: -one.n_columns)
        folds = range(self._split.n_folds)
        tasks: list[tuple[SetFit, int | None]] = [(one, fold) for one in by_size for fold in folds]
        if self._notebook is not None:
            tasks += [(one, None) for one in by_size if not one.keeps]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda task: fit(*task), tasks))
        return False

    def _fit(
        self,
        one: SetFit,
        fold: int,
        index: NDArray[np.int64],
        columns: Floats,
        drawn: NDArray[np.int64],
        arranged: Arrangements,
    ) -> None:
        split, scratch = self._split, self._scratch
        tested = split.folds[index] == fold
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        by_class, n = split.training(fold)
        frequency = by_class / n
        z = np.take(
            columns, train, axis=0, out=scratch.array("z", n, columns.shape[1]), mode="clip"
        )
        mean = z.mean(axis=0)
        constant = z.min(axis=0) == z.max(axis=0)
        z -= mean
        scaling = one.scaling(fold, mean, np.einsum("ij,ij->j", z, z) / n, constant)
        used = scaling.used
        target = one_hot(split.labels[index[train]], split.n_classes) - frequency
        if not used.all():
            z = np.take(
                z,
                np.flatnonzero(used),
                axis=1,
                out=scratch.array("used", n, int(used.sum())),
                mode="clip",
            )
        scale = scaling.scale[used]
        z /= scale
        some = self._sampled[index[train]]
        weights = one.balanced(fold, z[some], split.labels[index[train[some]]], used)
        z *= weights
        z_test = (columns[test] - mean)[:, used]
        z_test /= scale
        z_test *= weights
        fitted = _Fitted(z, target, scratch)
        found = one.solved(fold, fitted.problem)
        scores = fitted.scores(found, z_test) + frequency
        one.prediction[index[test]] = scores.argmax(axis=1)
        if one.null_correct.shape[1]:
            hat = fitted.hat(found, z_test)
            sums = group_sums(hat, drawn[:, train], split.n_classes)
            # Centred targets: what the frequencies predict is taken off and put back.
            expected = split.null_training(arranged, self._permutations, fold) / n
            sums += expected[..., None] * (1.0 - hat.sum(axis=0))
            right = sums.argmax(axis=1) == drawn[:, test]
            one.null_correct[fold] = right.sum(axis=1)


class FloorProbe(HeldProbe):
    """The probe of floors, which a probe that does not hold its rows has beside it."""


def shuffled_within(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return for each image another one, drawn from its group, each once; alone, itself."""
    rng = np.random.default_rng([seed, 0xF1008])
    other = np.arange(len(groups))
    for group in np.unique(groups):
        # A cycle through all members: no image keeps its own.
        member = rng.permutation(np.flatnonzero(groups == group))
        other[member] = np.roll(member, 1)
    return other


class _Fitted:
    """Ridge on standardised rows, (n, d), in whichever form is smaller."""

    def __init__(self, z: Floats, target: Floats, scratch: Scratch) -> None:
        self._z = z
        self._primal = z.shape[1] <= len(z)
        gram = scratch.array("gram", min(z.shape), min(z.shape))
        self.problem: Primal | Dual
        if self._primal:
            np.matmul(z.T, z, out=gram)
            square = float(np.einsum("nc,nc->", target, target))
            self.problem = Primal(gram, z.T @ target, square, len(z))
        else:
            np.matmul(z, z.T, out=gram)
            self.problem = Dual(gram, target)

    def scores(self, found: Solved, rows: Floats) -> Floats:
        """Return predicted targets of standardised rows, (m, C)."""
        if self._primal:
            return rows @ found.coefficients
        return rows @ (self._z.T @ found.coefficients)

    def hat(self, found: Solved, rows: Floats) -> Floats:
        """Return what predictions weigh each training image with, (n, m)."""
        if self._primal:
            return self._z @ found.solve(rows.T)
        return found.solve(self._z @ rows.T)
