"""ridge-probe: how well does a linear classifier read the class off the maps?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyses import options, permutation
from analyses.callable_module import make_callable
from analyses.errors import AnalysisError
from analyses.passes import THREADS, Passes, run
from analyses.probe_held import HeldProbe
from analyses.probe_split import SetFit, Split
from analyses.probe_streamed import StreamedProbe
from analyses.results import Columns, Result, provenance
from analyses.ridge import Paired, compare_paired, stratified_folds, wilson_interval
from analyses.source import MapStore, require_classes, require_feature, require_grid
from analyses.terminal import p_text
from frictionstore.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
ProbeProtocol = Literal["default", "notebook"]
NAME = "ridge-probe"
QUESTION = "How well do flattened maps classify images, and does one map add to another?"
DEFAULT_FEATURES = ("S", "friction", "settle", "S+friction+settle")
NOTEBOOK_THRESHOLD = 0.15
NOTEBOOK_TRAIN = 0.8
PERMUTATIONS = 100
HELD = 64 << 20
"""Bytes of rows up to which they are held in memory and read once."""

MEMORY = 1 << 30
"""Bytes that permutations may take."""


class RidgeProbe:
    """The analysis, asked for: see `ridge_probe` for the parameters."""

    def __init__(
        self,
        *,
        features: Sequence[str] = DEFAULT_FEATURES,
        folds: int = 5,
        permutations: int = PERMUTATIONS,
        seed: int = 0,
        protocol: ProbeProtocol = "default",
        order: ArrayLike | None = None,
    ) -> None:
        options.check(permutations=permutations, seed=seed)
        if protocol not in ("default", "notebook"):
            raise AnalysisError(f"protocol is {protocol!r}: it must be 'default' or 'notebook'")
        if folds < 2:
            raise AnalysisError(f"folds is {folds}: it must be 2 or more")
        if isinstance(features, str):
            raise AnalysisError(
                f"features is the text {features!r}: give a list of feature sets, such as "
                f"[{features!r}]"
            )
        if not features:
            raise AnalysisError("no features were named: name a map or several joined with +")
        if order is not None and protocol != "notebook":
            raise AnalysisError("an order of the images belongs to protocol 'notebook' only")
        self.features = tuple(dict.fromkeys(features))
        self.folds = folds
        self.permutations = 0 if protocol == "notebook" else permutations
        self.seed = seed
        self.protocol: ProbeProtocol = protocol
        self.order = None if order is None else np.asarray(order, np.int64)

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        rows, cols = require_grid(store, NAME)
        self.classes = require_classes(store, NAME)
        sets = [(name, [part.strip() for part in name.split("+")]) for name in self.features]
        maps: dict[str, int] = {}
        for name, parts in sets:
            if len(set(parts)) != len(parts):
                raise AnalysisError(f"feature set {printable(name)!r} names a map twice")
            for part in parts:
                maps.setdefault(part, rows * cols * require_feature(store, part))
        ends = np.cumsum(list(maps.values()))
        place = {
            part: slice(int(end) - width, int(end))
            for (part, width), end in zip(maps.items(), ends, strict=True)
        }
        n = store.n_images
        self.split = self._split()
        n_folds = self.split.n_folds
        columns = {name: sum(maps[part] for part in parts) for name, parts in sets}
        probe = self._choose_form(sum(maps.values()), list(columns.values()))
        self.sets = [
            SetFit(
                name=name,
                columns={part: place[part] for part in parts},
                prediction=np.full(n, -1, np.int64),
                notebook_prediction=np.full(n, -1, np.int64),
                null_correct=np.zeros((n_folds, self.permutations), np.int64),
                penalties=np.full(n_folds, np.nan),
                used=np.zeros(n_folds, np.int64),
            )
            for name, parts in sets
        ]
        passes.share(
            ("probe", id(self)),
            lambda: probe(
                maps, self.sets, self.split, permutations=self.permutations, seed=self.seed,
                notebook_only=self.protocol == "notebook",
            ),
        )  # fmt: skip

    def _choose_form(self, width: int, columns: Sequence[int]) -> type[HeldProbe | StreamedProbe]:
        """Return how to go about it: rows in memory if they are few, Gram matrices otherwise.

        `width` is the columns of all maps together, `columns` those of each set.
        """
        split, n_classes = self.split, self.classes.n
        n_rows = int((split.folds >= 0).sum())
        if n_rows * width * 8 <= HELD or max(columns) > split.smallest_training:
            n_test = n_rows - split.smallest_training
            # Labels under permutation, and sums of what predicts the test images, per thread.
            self._check_memory(16 * n_rows + 16 * (n_classes + 1) * n_test * THREADS)
            return HeldProbe
        # Class sums by fold, and weights of every set on every fold.
        sums = split.n_groups * width
        self._check_memory(8 * n_classes * (sums + split.n_folds * sum(columns)))
        return StreamedProbe

    def _check_memory(self, per_permutation: int) -> None:
        needed = self.permutations * per_permutation
        if needed > MEMORY:
            raise AnalysisError(
                f"{self.permutations} permutations would take {needed / 1e9:.1f} GB here: use "
                f"--permutations {MEMORY // per_permutation} or fewer"
            )

    def _split(self) -> Split:
        labels, n_classes = self.classes.labels, self.classes.n
        labelled = np.flatnonzero(labels >= 0)
        if self.protocol == "notebook":
            if self.order is None:
                order = np.random.default_rng(self.seed).permutation(labelled)
            else:
                order = self.order
                if not np.array_equal(np.sort(order), labelled):
                    raise AnalysisError(
                        f"the order of the images must name each of the {len(labelled)} labelled "
                        f"rows once: it has {len(order)} entries"
                    )
            n_train = int(NOTEBOOK_TRAIN * len(order))
            folds = np.full(len(labels), -1, np.int64)
            folds[order[:n_train]] = 1
            folds[order[n_train:]] = 0
            return Split(labels, folds, 1, n_classes)
        if len(labelled) < self.folds:
            raise AnalysisError(
                f"{self.folds} folds need at least as many labelled images and "
                f"{printable(self.store.name)} has {len(labelled)}: use fewer folds"
            )
        rng = np.random.default_rng(self.seed)
        return Split(labels, stratified_folds(labels, self.folds, rng), self.folds, n_classes)

    def result(self) -> Result:
        return _notebook_result(self) if self.protocol == "notebook" else _result(self)


def confusion(
    labels: NDArray[np.int64], prediction: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Return how many images of each true class (row) got each prediction (column).

    Images with a label or prediction of -1 do not count.
    """
    tested = (labels >= 0) & (prediction >= 0)
    table = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(table, (labels[tested], prediction[tested]), 1)
    return table


def _baselines(plan: RidgeProbe) -> dict[str, float]:
    counts = plan.classes.counts
    return {
        "chance_level": 1.0 / plan.classes.n,
        "majority_level": float(counts.max() / counts.sum()),
    }


def _result(plan: RidgeProbe) -> Result:
    labels, classes, split = plan.classes.labels, plan.classes, plan.split
    tested = split.folds >= 0
    n = int(tested.sum())
    tables = [confusion(labels, one.prediction, classes.n) for one in plan.sets]
    rows: dict[str, list[Any]] = {}
    by_class: dict[str, list[Any]] = {}
    values: dict[str, Any] = {**_baselines(plan), "n_images": n, "folds": plan.folds}
    for one, table in zip(plan.sets, tables, strict=True):
        correct = int(table.trace())
        low, high = wilson_interval(correct, n)
        recall = table.diagonal() / classes.counts
        row: dict[str, Any] = {
            "features": one.name,
            "columns": one.n_columns,
            "varying": int(one.used.min()),
            "lambda": float(np.median(one.penalties)),
            "accuracy": correct / n,
            "accuracy_low": low,
            "accuracy_high": high,
            "balanced_accuracy": float(recall.mean()),
        }
        if plan.permutations:
            null = one.null_correct.sum(axis=0)
            row["permuted_mean"] = float(null.mean() / n)
            row["permuted_q95"] = float(np.quantile(null, 0.95) / n)
            row["p"] = float(permutation.p_value(correct, null))
        row["notebook_accuracy"] = _notebook_accuracy(one, labels)
        _append(rows, row)
        values[f"accuracy {one.name}"] = {
            key: row[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "p")
            if key in row
        }  # fmt: skip
        for c, name in enumerate(classes.names):
            right, of_class = int(table[c, c]), int(classes.counts[c])
            low, high = wilson_interval(right, of_class)
            _append(
                by_class,
                {"features": one.name, "class": name, "images": of_class,
                 "accuracy": right / of_class, "accuracy_low": low, "accuracy_high": high},
            )  # fmt: skip
    right_by_set = {one.name: (one.prediction == labels)[tested] for one in plan.sets}
    pairs: dict[str, list[Any]] = {}
    compared: dict[tuple[str, str], Paired] = {}
    # The larger set first: a difference above 0 is what the further maps add.
    by_size = sorted(plan.sets, key=lambda one: len(one.columns))
    for second, first in combinations([one.name for one in by_size], 2):
        found = compare_paired(right_by_set[first], right_by_set[second])
        compared[first, second] = found
        _append(
            pairs,
            {"first": first, "second": second, "difference": found.difference,
             "difference_low": found.low, "difference_high": found.high,
             "only_first": found.only_first, "only_second": found.only_second,
             "mcnemar_p": found.p},
        )  # fmt: skip
        values[f"difference {first} - {second}"] = {
            "difference": found.difference,
            "difference_low": found.low,
            "difference_high": found.high,
            "mcnemar_p": found.p,
        }
    columns: dict[str, Columns] = {"sets": dict(rows)}
    if pairs:
        columns["comparisons"] = dict(pairs)
    columns["classes"] = dict(by_class)
    accuracies = {one.name: _notebook_accuracy(one, labels) for one in plan.sets}
    caveats = classes.caveats()
    caveats.append(
        f"one {plan.folds}-fold split for all feature sets (seed {plan.seed}); intervals are over "
        "images and do not hold the variation from drawing other training images"
    )
    caveats.append(
        "the notebook's accuracy is from one split, fold 0 held out, with lambda 1 and no choice "
        "of lambda; --protocol notebook draws its 80/20 split instead"
    )
    if plan.permutations:
        caveats.append(
            f"permuted: labels shuffled within folds {plan.permutations} times with the lambda "
            f"chosen on the real labels; no p-value is below "
            f"{permutation.smallest_p(plan.permutations):.2g}"
        )
    caveats += _column_caveats(plan)
    small = int((classes.counts < plan.folds).sum())
    if small:
        caveats.append(f"{small} classes have fewer images than there are folds")
    arrays: dict[str, NDArray[Any]] = {
        "prediction": np.stack([one.prediction for one in plan.sets]),
        "fold": split.folds,
        "confusion": np.stack(tables),
        "penalty": np.stack([one.penalties for one in plan.sets]),
    }
    if plan.permutations:
        arrays["permuted_accuracy"] = (
            np.stack([one.null_correct.sum(axis=0) for one in plan.sets]) / n
        )

    def accuracy_figure() -> Figure:
        from analyses import figures

        return figures.intervals(
            rows["features"], rows["accuracy"], rows["accuracy_low"], rows["accuracy_high"],
            "ridge probe: accuracy, 95% interval over images", "accuracy",
            reference={"chance": values["chance_level"], "majority": values["majority_level"]},
        )  # fmt: skip

    def confusion_figure() -> Figure:
        from analyses import figures

        best = int(np.argmax(rows["accuracy"]))
        share = tables[best] / np.maximum(classes.counts[:, None], 1)
        title = f"ridge probe on {plan.sets[best].name}"
        return figures.matrix(share, classes.names, title, "share of the true class", "true")

    return Result(
        analysis=NAME,
        feature=_feature_label(plan),
        question=QUESTION,
        columns=columns,
        arrays=arrays,
        values=values,
        notebook=_notebook_figures(accuracies),
        parameters={
            "features": list(plan.features), "folds": plan.folds, "protocol": plan.protocol,
            "permutations": plan.permutations,
        },
        seed=plan.seed,
        sentences=_answers(rows, compared, values),
        caveats=caveats,
        provenance=provenance(plan.store),
        figures={"accuracy": accuracy_figure, "confusion": confusion_figure},
        shown=("sets", "comparisons") if pairs else ("sets",),
    )  # fmt: skip


def _feature_label(plan: RidgeProbe) -> str:
    return ",".join(plan.features) if len(plan.features) == 1 else ""


def _append(columns: dict[str, list[Any]], row: dict[str, Any]) -> None:
    for key, value in row.items():
        columns.setdefault(key, []).append(value)


def _notebook_accuracy(one: SetFit, labels: NDArray[np.int64]) -> float:
    tested = one.notebook_prediction >= 0
    return float((one.notebook_prediction == labels)[tested].mean())


def _notebook_figures(accuracies: dict[str, float]) -> dict[str, Any]:
    """Return the notebook's figures: test accuracies, verdicts and the lift of all over S."""
    figures: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        figures[f"{name} test_accuracy"] = accuracy
        verdict = "DISCRIMINATIVE" if accuracy > NOTEBOOK_THRESHOLD else "NOT DISCRIMINATIVE"
        figures[f"{name} verdict"] = verdict
    combined = next((n for n in accuracies if set(n.split("+")) == {"S", "friction", "settle"}), "")
    if combined and "S" in accuracies:
        lift = (accuracies[combined] - accuracies["S"]) * 100
        figures["combined_lift_over_eigenvalues_pp"] = lift
    return figures


def _column_caveats(plan: RidgeProbe) -> list[str]:
    caveats = []
    for one in plan.sets:
        left = one.n_columns - int(one.used.min())
        if left and len(one.columns) == 1:
            caveats.append(
                f"{left} of {one.n_columns} columns of {one.name} are constant in the training "
                "images of a fold and left out there"
            )
    parts = {part for one in plan.sets for part in one.columns}
    return caveats + options.feature_caveats(*parts)


def _answers(
    rows: dict[str, list[Any]], compared: dict[tuple[str, str], Paired], values: dict[str, Any]
) -> list[str]:
    best = int(np.argmax(rows["accuracy"]))
    test = f", {p_text(rows['p'][best])} against permuted labels" if "p" in rows else ""
    sentences = [
        f"{rows['features'][best]} classifies {rows['accuracy'][best]:.1%} of images correctly "
        f"(95% interval {rows['accuracy_low'][best]:.1%} to {rows['accuracy_high'][best]:.1%}; "
        f"chance {values['chance_level']:.1%}, largest class {values['majority_level']:.1%}"
        f"{test})."
    ]
    if compared:
        # What most maps together add to one of them is the question; S alone if it is there.
        singles = [pair for pair in compared if "+" in pair[0] and "+" not in pair[1]]
        chosen = next((pair for pair in singles if pair[1] == "S"), None)
        first, second = chosen or (singles or list(compared))[0]
        found = compared[first, second]
        sentences.append(
            f"{first} minus {second} is {found.difference * 100:+.1f} percentage points (95% "
            f"interval {found.low * 100:+.1f} to {found.high * 100:+.1f}, McNemar "
            f"{p_text(found.p)}) on the same images."
        )
    return sentences


def _notebook_result(plan: RidgeProbe) -> Result:
    """Return the result of the notebook's protocol: one 80/20 split, lambda 1."""
    labels = plan.classes.labels
    test = plan.split.folds == 0
    n_test, n_train = int(test.sum()), int((plan.split.folds == 1).sum())
    rows: dict[str, list[Any]] = {}
    for one in plan.sets:
        correct = int((one.notebook_prediction == labels)[test].sum())
        low, high = wilson_interval(correct, n_test)
        _append(
            rows,
            {"features": one.name, "columns": one.n_columns, "varying": int(one.used[0]),
             "train_accuracy": one.training_correct / n_train, "accuracy": correct / n_test,
             "accuracy_low": low, "accuracy_high": high},
        )  # fmt: skip
    accuracies = dict(zip(rows["features"], rows["accuracy"], strict=True))
    notebook = _notebook_figures(accuracies)
    notebook |= {
        f"{name} train_accuracy": accuracy
        for name, accuracy in zip(rows["features"], rows["train_accuracy"], strict=True)
    }
    best = int(np.argmax(rows["accuracy"]))
    sentence = (
        f"with the notebook's protocol {rows['features'][best]} classifies "
        f"{rows['accuracy'][best]:.1%} of {n_test} test images correctly (95% interval "
        f"{rows['accuracy_low'][best]:.1%} to {rows['accuracy_high'][best]:.1%}; trained on "
        f"{n_train}; chance {1 / plan.classes.n:.1%})."
    )
    tables = [
        confusion(np.where(test, labels, -1), one.notebook_prediction, plan.classes.n)
        for one in plan.sets
    ]
    return Result(
        analysis=NAME,
        feature=_feature_label(plan),
        question=QUESTION,
        columns={"sets": dict(rows)},
        arrays={
            "prediction": np.stack([one.notebook_prediction for one in plan.sets]),
            "fold": plan.split.folds,
            "confusion": np.stack(tables),
        },
        values={**_baselines(plan), "n_train": n_train, "n_test": n_test},
        notebook=notebook,
        parameters={
            "features": list(plan.features), "protocol": plan.protocol, "lambda": 1.0,
            "order": "given" if plan.order is not None else "drawn",
        },
        seed=plan.seed,
        sentences=[sentence],
        caveats=[
            *plan.classes.caveats(),
            "one split and a fixed lambda: the default protocol gives tighter and paired figures",
            *_column_caveats(plan),
        ],
        provenance=provenance(plan.store),
        shown=("sets",),
    )  # fmt: skip


def ridge_probe(
    store: MapStore,
    *,
    features: Sequence[str] = DEFAULT_FEATURES,
    folds: int = 5,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    protocol: ProbeProtocol = "default",
    order: ArrayLike | None = None,
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
        Feature sets: maps, or maps joined with "+".
    folds
        Number of stratified folds, at least 2.
    permutations
        Shufflings of the labels within folds, refitted each time, for the baseline; 0 for none.
    seed
        Seed of folds, permutations and the notebook's split.
    protocol
        "default", or "notebook" for one 80/20 split with lambda 1.
    order
        For the notebook's protocol: the labelled images' rows in the order of the split, the
        first 80% for training; None draws one.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `sets` (accuracy with Wilson's 95% interval), `comparisons` (paired differences
        with Tango's 95% interval and McNemar's exact p) and `classes`. Arrays
        `prediction` (set, image), `fold` (image,), `confusion` (set, true, predicted) and
        `penalty` (set, fold).

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, the grid
        is one patch, or no column varies.
    """
    plan = RidgeProbe(
        features=features, folds=folds, permutations=permutations, seed=seed, protocol=protocol,
        order=order,
    )  # fmt: skip
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@click.option(
    "--features",
    callback=options.split_option,
    default=",".join(DEFAULT_FEATURES),
    show_default=True,
    help="Feature sets to compare, separated by commas; + joins maps.",
)
@click.option(
    "--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Number of folds."
)
@options.permutations_option(PERMUTATIONS, "of the labels, refitted each time")
@options.seed_option
@click.option(
    "--protocol",
    type=click.Choice(["default", "notebook"]),
    default="default",
    show_default=True,
    help="The notebook's is one 80/20 split with lambda 1.",
)
def command(
    target: options.Target,
    features: tuple[str, ...],
    folds: int,
    permutations: int,
    seed: int,
    protocol: ProbeProtocol,
) -> None:
    """Classify images by ridge regression on flattened maps and compare feature sets."""
    plan = RidgeProbe(
        features=features, folds=folds, permutations=permutations, seed=seed, protocol=protocol
    )
    target.run([plan])


make_callable(__name__)
