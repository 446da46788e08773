"""A small convolutional network that reads maps: the upper reference of what keeps space.

Two 3 x 3 convolutions with a GELU after each, the largest value of 2 x 2 patches between them
where the grid has four or more, the mean of each quadrant, and a linear layer, trained by Adam on
the cross-entropy. A fifth of the training images, whole groups where there are any, is not trained
on: when its loss no longer falls, the weights with the least are taken. Nothing of a tested image
is seen.

torch is imported here alone of the analyses, and when a network is asked for. Everything drawn
(weights, order of images, the validation part) is numpy's, and every network is trained by one
thread, so that results depend on neither the threads nor what else torch was used for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import THREADS
from frictionstore.analyses.probe.readout import Problem, Reading
from frictionstore.analyses.stats.folds import folds_of

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Maps = Callable[[str], Singles]
"""Gives a map of all images, (n, row, col, mode), by its name."""

CHANNELS = (16, 32)
EPOCHS, PATIENCE = 60, 6
BATCH, RATE = 32, 3e-3
PARTS = 5
"""One of so many parts of the training images is for validation."""
WORDS = (
    f"a network of two 3 x 3 convolutions ({CHANNELS[0]} and {CHANNELS[1]} channels), means of "
    f"quadrants and a linear layer; at most {EPOCHS} epochs, ended by the loss on a fifth of the "
    "training images, which is not trained on"
)


def require_torch(analysis: str) -> None:
    """Import torch.

    Raises
    ------
    AnalysisError
        It is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise AnalysisError(
            f"{analysis} --readout cnn needs torch, which is not installed: install frictionstore "
            "with the extra extract, or leave --readout out"
        ) from error


def read(
    parts: Sequence[Sequence[str]],
    maps: Maps,
    problem: Problem,
    *,
    seed: int,
    seeds: int,
    advance: Callable[[int], None],
) -> list[Reading]:
    """Return a reading for each set of maps, by the mean probabilities of `seeds` networks.

    Parameters
    ----------
    parts
        Names of the maps of each set.
    maps
        Gives the values of a map.
    problem
        Images, classes and folds.
    seed
        Of what is drawn for each network, with its fold and number: alike for all sets.
    seeds
        Networks for each set and fold.
    advance
        Told of each network that is trained.
    """
    import torch

    n = len(problem.labels)
    shape = (len(parts), seeds, n, problem.n_classes)
    probability = np.zeros(shape)

    def fit(which: int, fold: int, number: int) -> None:
        torch.set_num_threads(1)  # of this thread
        x = np.concatenate([_channels(maps(name)) for name in parts[which]], axis=1)
        rng = np.random.default_rng([seed, 0xC44, fold, number])
        test = np.flatnonzero(problem.folds == fold)
        probability[which, number, test] = predict(x, problem, fold, rng)

    folds = range(problem.n_folds)
    tasks = [(w, f, s) for w in range(len(parts)) for f in folds for s in range(seeds)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda task: fit(*task), tasks):
                advance(1)
    finally:
        torch.set_num_threads(before)
    return [_reading(of_set, problem) for of_set in probability]


def _channels(values: Singles) -> Singles:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _reading(probability: Floats, problem: Problem) -> Reading:
    """Return what networks predict together, and each one's accuracy; (seeds, n, C)."""
    tested = problem.tested
    alone = (probability.argmax(axis=2) == problem.labels)[:, tested].mean(axis=1)
    together = probability.mean(axis=0)
    own = together[np.arange(len(together)), problem.labels]
    bits = np.where(tested, -np.log2(np.maximum(own, np.finfo(np.float32).tiny)), 0.0)
    prediction = np.where(tested, together.argmax(axis=1), -1)
    return Reading(prediction, bits, np.zeros((problem.n_folds, 0)), alone)


def validation(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which training images are for validation, shape (n,); no class loses all its own."""
    held = folds_of(labels, groups, PARTS, rng) == 0
    return held & np.isin(labels, labels[~held])


def predict(x: Singles, problem: Problem, fold: int, rng: np.random.Generator) -> Floats:
    """Return probabilities of classes, (n_test, C), by a network that is trained on other folds.

    Parameters
    ----------
    x
        Of all images, (n, channel, row, col).
    problem
        Images, classes and folds.
    fold
        The fold that is tested.
    rng
        Draws weights, order and validation part.
    """
    import torch

    tested = problem.folds == fold
    train = np.flatnonzero(~tested)
    labels = problem.labels[train]
    held = validation(labels, None if problem.groups is None else problem.groups[train], rng)
    known = x[train[~held]].astype(np.float64)
    mean, scale = (getattr(known, of)(axis=(0, 2, 3), keepdims=True) for of in ("mean", "std"))
    z = ((x - mean) / np.where(scale > 0, scale, 1.0)).astype(np.float32)
    fitted, checked, test = (
        torch.from_numpy(z[rows]) for rows in (train[~held], train[held], np.flatnonzero(tested))
    )
    weights = _train(
        fitted, torch.from_numpy(labels[~held]), checked, torch.from_numpy(labels[held]),
        problem.n_classes, rng,
    )  # fmt: skip
    with torch.no_grad():
        return torch.softmax(_scores(test, weights).double(), dim=1).numpy()


def _train(fitted: Any, target: Any, checked: Any, check: Any, classes: int, rng: Any) -> list[Any]:
    """Return the weights with the least loss on the validation images."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = _drawn(fitted.shape[1], classes, rng)
    adam = torch.optim.Adam(weights, lr=RATE)
    best, least, waited = weights, np.inf, 0
    for _ in range(EPOCHS):
        order = torch.from_numpy(rng.permutation(len(fitted)))
        for rows in order.split(BATCH):
            adam.zero_grad()
            cross_entropy(_scores(fitted[rows], weights), target[rows]).backward()
            adam.step()
        with torch.no_grad():
            loss = float(cross_entropy(_scores(checked, weights), check))
        waited += 1
        if loss < least:
            best, least, waited = [one.detach().clone() for one in weights], loss, 0
        if waited >= PATIENCE:
            break
    return best


def _drawn(channels: int, classes: int, rng: np.random.Generator) -> list[Any]:
    """Return weights and constants of the layers, of He's variance and 0."""
    import torch

    first, second = CHANNELS
    weights = []
    for shape in ((first, channels, 3, 3), (second, first, 3, 3), (classes, 4 * second)):
        drawn = rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        weights += [torch.tensor(drawn, dtype=torch.float32), torch.zeros(shape[0])]
    return [one.requires_grad_() for one in weights]


def _scores(x: Any, weights: Sequence[Any]) -> Any:
    """Return scores of classes, (n, C), of standardised maps, (n, channel, row, col)."""
    from torch.nn import functional as layers

    x = layers.gelu(layers.conv2d(x, weights[0], weights[1], padding=1))
    if min(x.shape[2:]) >= 4:
        x = layers.max_pool2d(x, 2)
    x = layers.gelu(layers.conv2d(x, weights[2], weights[3], padding=1))
    x = layers.adaptive_avg_pool2d(x, 2).flatten(1)
    return layers.linear(x, weights[4], weights[5])
