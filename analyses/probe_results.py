"""What the ridge probe says: accuracies, paired comparisons and the notebook's figures."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyses import options, permutation
from analyses.probe_split import SetFit
from analyses.results import Columns, Result, provenance
from analyses.ridge import Paired, compare_paired, wilson_interval
from analyses.terminal import p_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analyses.ridge_probe import RidgeProbe

NAME = "ridge-probe"
QUESTION = "How well do flattened maps classify images, and does one map add to another?"
NOTEBOOK_THRESHOLD = 0.15


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


def default_result(plan: RidgeProbe) -> Result:
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


def notebook_result(plan: RidgeProbe) -> Result:
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
