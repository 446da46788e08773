"""ridge-probe: how well does a linear classifier read the class off the maps?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import ArrayLike, NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import require_several
from frictionstore.analyses.core.passes import THREADS, Passes, class_moments, run
from frictionstore.analyses.core.results import Result
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.probe.held import FloorProbe, HeldProbe
from frictionstore.analyses.probe.lifts import lifts_of, to_fit
from frictionstore.analyses.probe.notebook import NotebookProbe
from frictionstore.analyses.probe.notebook_results import NAME, notebook_result
from frictionstore.analyses.probe.protocol import TESTED, TRAINED, SplitParameters, train_test
from frictionstore.analyses.probe.results import default_result
from frictionstore.analyses.probe.split import FittedOnce, SetFit, Split
from frictionstore.analyses.probe.streamed import StreamedProbe
from frictionstore.analyses.stats.folds import folds_of
from frictionstore.text import printable

Floats = NDArray[np.float64]
ProbeProtocol = Literal["default", "notebook"]
DEFAULT_FEATURES = ("S", "friction", "settle", "S+friction+settle")
NOTEBOOK_TRAIN = 0.8
HELD = 64 << 20
"""Bytes of rows up to which they are held in memory and read once."""

MEMORY = 1 << 30
"""Bytes that permutations may take."""
FLOOR_IMAGES = 1000
"""Images that floors are measured on where rows are not held in memory."""


def feature_sets(features: str | Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the maps of each feature set by its name, from names joined with "+" and ",".

    Parameters
    ----------
    features
        Feature sets separated by commas, or a sequence of such; spaces do not count.

    Raises
    ------
    AnalysisError
        If there is none, one joins nothing, or one names a map twice.
    """
    listed = features if isinstance(features, str) else ",".join(features)
    sets: dict[str, tuple[str, ...]] = {}
    for name in options.split_names(listed):
        parts = tuple(part.strip() for part in name.split("+"))
        if not all(parts):
            raise AnalysisError(
                f"feature set {printable(name)!r} has nothing on one side of a +: join maps as in "
                "S+friction"
            )
        if len(set(parts)) != len(parts):
            raise AnalysisError(f"feature set {printable(name)!r} names a map twice")
        sets["+".join(parts)] = parts
    if not sets:
        raise AnalysisError("no features were named: name a map or several joined with +")
    return sets


@dataclass(frozen=True, kw_only=True)
class RidgeProbeParameters(SplitParameters):
    """What is asked for: see `ridge_probe`."""

    features: str | Sequence[str] = parameters.parameter(
        DEFAULT_FEATURES,
        "Feature sets to compare, separated by commas; + joins maps, log_NAME is a logarithm.",
        flags=("--features", "--feature"),
        several=True,
    )
    folds: int = parameters.folds("Number of folds.")
    permutations: int = parameters.permutations(100, "of the labels, refitted each time")
    seed: int = parameters.seed()
    protocol: ProbeProtocol = parameters.parameter(  # noqa: RUF009 - a field, as the others
        "default",
        "The notebook's is one 80/20 split of the first 2,000 images with lambda 1.",
        choices=("default", "notebook"),
    )
    order: ArrayLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order is not None and self.protocol != "notebook":
            raise AnalysisError("an order of the images belongs to protocol 'notebook' only")
        if self.train is not None and self.protocol == "notebook":
            raise AnalysisError(
                "the notebook's protocol makes a split of its own: leave it out, or leave out the "
                "splits to train and test on"
            )


class RidgeProbe:
    """The plan: rows held in memory, or Gram matrices added up, and the notebook's own split."""

    def __init__(self, asked: RidgeProbeParameters) -> None:
        self._sets = feature_sets(asked.features)
        self.features = tuple(self._sets)
        self._asked = asked
        self.folds = asked.folds if asked.train is None else 1
        self.permutations = 0 if asked.protocol == "notebook" else asked.permutations
        self.seed = asked.seed
        self.protocol = asked.protocol
        self.order = None if asked.order is None else np.asarray(asked.order, np.int64)

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        rows, cols = require_grid(store, NAME)
        self.classes = require_classes(store, NAME)
        self.parts = train_test(store, NAME, self.classes, self._asked)
        maps: dict[str, int] = {}
        for parts in self._sets.values():
            for part in parts:
                maps.setdefault(part, rows * cols * require_feature(store, part))
        self._moments = {
            part: class_moments(passes, part, width // (rows * cols))
            for part, width in maps.items()
        }
        ends = np.cumsum(list(maps.values()))
        place = {
            part: slice(int(end) - width, int(end))
            for (part, width), end in zip(maps.items(), ends, strict=True)
        }
        n = store.n_images
        self.notebook_split = self._draw_notebook()
        if self.protocol == "default":
            self.split = self._draw_folds()
        self.sets = [
            SetFit(
                name=name,
                columns={part: place[part] for part in parts},
                prediction=np.full(n, -1, np.int64),
                notebook_prediction=np.full(n, -1, np.int64),
                null_correct=np.zeros((self.folds, self.permutations), np.int64),
                penalties=np.full(self.folds, np.nan),
                ends=[""] * self.folds,
                used=np.zeros(self.folds, np.int64),
            )
            for name, parts in self._sets.items()
        ]
        self._elsewhere: list[tuple[SetFit, SetFit]] = []
        drawn = {"permutations": self.permutations, "seed": self.seed}
        default = self.protocol == "default"
        held = default and self._choose_form(sum(maps.values())) == "held"
        # Of a repeat only claims are used, and no claim rests on floors.
        compared = default and not passes.claims_only
        self.lifts = lifts_of(self.sets, again=not held) if compared else []
        wanted = [*self.sets, *(to_fit(self.lifts) if held else ())]
        if default:
            wanted = self._not_yet_fitted(passes, wanted, self.split, held=held)
        # Nor does any rest on the notebook's figures; a split that was given has none.
        without = default and (passes.claims_only or self.parts is not None)
        notebook = None if without else self.notebook_split
        if held:
            self.floor_split = self.split
            if wanted:
                passes.share(
                    ("probe", id(self)),
                    lambda: HeldProbe(maps, wanted, self.split, notebook=notebook, **drawn),
                )
            return
        if default and wanted:
            passes.share(
                ("probe", id(self)), lambda: StreamedProbe(maps, wanted, self.split, **drawn)
            )
        if self.lifts:
            self.floor_split = self._some_images()
            floors = self._not_yet_fitted(passes, to_fit(self.lifts), self.floor_split, held=True)
            if floors:
                passes.share(
                    ("probe floors", id(self)),
                    lambda: FloorProbe(
                        maps, floors, self.floor_split, notebook=None, seed=self.seed
                    ),
                )
        if notebook is not None and wanted:
            passes.share(
                ("notebook probe", id(self)), lambda: NotebookProbe(maps, wanted, notebook)
            )

    def _not_yet_fitted(
        self, passes: Passes, sets: Sequence[SetFit], split: Split, *, held: bool
    ) -> list[SetFit]:
        """Return the sets that are not fitted already for another plan, or for the measurement.

        A set of maps that have no repeats is the same in every repeat of the measurement.
        """
        left = []
        for one in sets:
            decided_by = (held, split.digest, self.seed, one.null_correct.shape[1], one.keeps)
            key = ("probe set", *decided_by, *one.columns)
            fitted = passes.share(key, partial(FittedOnce, one)).fit
            if fitted is one:
                left.append(one)
            else:
                self._elsewhere.append((one, fitted))
        return left

    def _choose_form(self, width: int) -> Literal["held", "streamed"]:
        """Return how to go about it: rows in memory if they are few, Gram matrices otherwise.

        `width` is the columns of all maps together.
        """
        split, n_classes = self.split, self.classes.n
        columns = [one.n_columns for one in self.sets]
        n_rows = int((split.folds >= 0).sum())
        if n_rows * width * 8 <= HELD or max(columns) > split.smallest_training:
            n_test = n_rows - split.smallest_training
            # Labels under permutation, and sums of what predicts the test images, per thread.
            self._check_memory(16 * n_rows + 16 * (n_classes + 1) * n_test * THREADS)
            return "held"
        # Class sums by fold, and weights of every set on every fold.
        sums = split.n_groups * width
        self._check_memory(8 * n_classes * (sums + split.n_folds * sum(columns)))
        return "streamed"

    def _check_memory(self, per_permutation: int) -> None:
        needed = self.permutations * per_permutation
        if needed > MEMORY:
            raise AnalysisError(
                f"{self.permutations} permutations would take {needed / 1e9:.1f} GB here: use "
                f"--permutations {MEMORY // per_permutation} or fewer"
            )

    def _draw_folds(self) -> Split:
        labels = self.classes.labels
        if self.parts is not None:
            return Split(labels, self.parts.part, 1, self.classes.n, self.classes.groups)
        n_labelled = self.classes.n_labelled
        if n_labelled < self.folds:
            raise AnalysisError(
                f"{self.folds} folds need at least as many labelled images and "
                f"{printable(self.store.name)} has {n_labelled}: use fewer folds"
            )
        rng = np.random.default_rng(self.seed)
        groups = self.classes.groups
        if groups is not None:
            require_several(
                self.store, NAME, self.classes.names, labels, groups, at_least=self.folds
            )
        folds = folds_of(labels, groups, self.folds, rng)
        return Split(labels, folds, self.folds, self.classes.n, groups)

    def _some_images(self) -> Split:
        """Return the split of as many images as floors are measured on."""
        every = self.split.folds
        rng = np.random.default_rng([self.seed, FLOOR_IMAGES])
        folds = np.full(len(every), -1, np.int64)
        for part in (every >= 0,) if self.parts is None else (every == TRAINED, every == TESTED):
            chosen = rng.permutation(np.flatnonzero(part))[:FLOOR_IMAGES]
            folds[chosen] = every[chosen]
        return Split(self.split.labels, folds, self.folds, self.classes.n, self.classes.groups)

    def _draw_notebook(self) -> Split:
        """Return the notebook's split: 0 for what it tests, 1 for what it trains on."""
        labels = self.classes.labels
        first = np.flatnonzero(labels >= 0)[:NOTEBOOK_IMAGES]
        if self.order is None:
            order = np.random.default_rng(self.seed).permutation(first)
        else:
            order = self.order
            if not np.array_equal(np.sort(order), first):
                which = "first " if len(first) < self.classes.n_labelled else ""
                raise AnalysisError(
                    f"the order of the images must name each of the {which}{len(first)} labelled "
                    f"rows once: it has {len(order)} entries"
                )
        n_train = int(NOTEBOOK_TRAIN * len(order))
        folds = np.full(len(labels), -1, np.int64)
        folds[order[:n_train]] = 1
        folds[order[n_train:]] = 0
        return Split(labels, folds, 1, self.classes.n)

    def result(self) -> Result:
        for one, fitted in self._elsewhere:
            one.take(fitted)
        result = notebook_result(self) if self.protocol == "notebook" else default_result(self)
        for name, moments in self._moments.items():
            result.caveats += caveats.heavy_tail(name, moments.everything)
        return result


def ridge_probe(
    store: MapStore,
    *,
    features: str | Sequence[str] = RidgeProbeParameters.features,
    folds: int = RidgeProbeParameters.folds,
    permutations: int = RidgeProbeParameters.permutations,
    seed: int = RidgeProbeParameters.seed,
    protocol: ProbeProtocol = RidgeProbeParameters.protocol,
    order: ArrayLike | None = RidgeProbeParameters.order,
    train: str | None = RidgeProbeParameters.train,
    test: str | None = RidgeProbeParameters.test,
    show_progress: bool = False,
) -> Result:
    """Classify images by ridge regression on flattened maps and compare feature sets.

    Features are standardised by the training images of each fold and regressed on one-hot
    classes; the penalty is chosen inside each training fold by generalised cross-validation.
    All feature sets are tested on the same folds.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    features
        Feature sets: maps, or maps joined with "+", as a list or separated by commas.
    folds
        Number of stratified folds, at least 2; of whole groups where images belong together.
    permutations
        Shufflings of the labels within folds, refitted each time, for the baseline; 0 for none.
    seed
        Seed of folds, permutations and the notebook's split.
    protocol
        "default", or "notebook" for one 80/20 split of the first 2,000 labelled images with
        lambda 1.
    order
        For the notebook's protocol: the rows of these images in the order of the split, the first
        80% for training; None draws one.
    train, test
        Splits of a merged store to train on and to test on, instead of folds; None for folds.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `sets` (accuracy with Wilson's 95% interval, p, and p by the best set under each
        permutation), `comparisons` (paired differences with Tango's 95% interval and McNemar's
        exact p), `classes` and `penalties` (the chosen one by set and fold). Arrays
        `prediction` (set, image), `fold` (image,; of splits 0 is tested, 1 trained on),
        `confusion` (set, true, predicted) and `penalty` (set, fold).

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, the grid
        is one patch, no column varies, or the splits are not there or share groups of images.
    """
    asked = RidgeProbeParameters(
        features=features, folds=folds, permutations=permutations, seed=seed, protocol=protocol,
        order=order, train=train, test=test,
    )  # fmt: skip
    return run(store, [RidgeProbe(asked)], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@parameters.asks(RidgeProbeParameters)
def command(target: options.Target, **asked: Any) -> None:
    """Classify images by ridge regression on flattened maps and compare feature sets."""
    if asked["protocol"] == "notebook":
        options.refuse_given("with the notebook's protocol", "folds", "permutations")
    if asked["train"] is not None:
        options.refuse_given("with --train and --test", "folds")
    target.run([RidgeProbe(RidgeProbeParameters(**asked))])


make_callable(__name__)
