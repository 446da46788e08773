"""What the notebook's probe says, and what both protocols' words are made of."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats as known
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.results import Result, by_column, provenance
from frictionstore.analyses.core.source import Classes, MapStore
from frictionstore.analyses.probe import lifts
from frictionstore.analyses.probe.protocol import TrainTest
from frictionstore.analyses.probe.split import SetFit, Split
from frictionstore.analyses.stats.intervals import wilson_interval
from frictionstore.text import printable

NAME = "ridge-probe"
QUESTION = "How well do flattened maps classify images, and is one set of maps better?"
NOTEBOOK_THRESHOLD = 0.15


class Asked(Protocol):
    """What is said here rests on this much of `ridge_probe.RidgeProbe`."""

    features: tuple[str, ...]
    folds: int
    permutations: int
    seed: int
    order: NDArray[np.int64] | None
    store: MapStore
    classes: Classes
    split: Split
    notebook_split: Split
    sets: list[SetFit]
    lifts: list[lifts.Lift]
    floor_split: Split
    parts: TrainTest | None

    @property
    def protocol(self) -> str:
        """`default` or `notebook`."""


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


def baselines(plan: Asked, split: Split) -> dict[str, float]:
    counts = split.counts().sum(axis=0) if plan.parts is None else split.counts()[0]
    return {
        "chance_level": 1.0 / plan.classes.n,
        "majority_level": float(counts.max() / counts.sum()),
    }


def feature_label(plan: Asked) -> str:
    return ",".join(plan.features) if len(plan.features) == 1 else ""


def notebook_accuracy(plan: Asked, one: SetFit, *, group: int = 0) -> float:
    """Return the accuracy on the notebook's test (0) or training images (1); NaN if not fitted."""
    if not one.notebook_used:
        return float("nan")
    right = one.notebook_prediction == plan.classes.labels
    return float(right[plan.notebook_split.folds == group].mean())


def notebook_words(plan: Asked) -> str:
    """Return what the notebook's split is of."""
    n, total = int((plan.notebook_split.folds >= 0).sum()), plan.classes.n_labelled
    which = f"the first {n:,} of {total:,} images" if n < total else f"the {n:,} images"
    return f"80/20 split of {which}"


def notebook_caveats(plan: Asked) -> list[str]:
    caveats = []
    present = int((plan.notebook_split.counts().sum(axis=0) > 0).sum())
    if present < plan.classes.n:
        caveats.append(
            f"the images of the notebook's split are of {present} of the {plan.classes.n} classes"
        )
    empty = [one.name for one in plan.sets if not one.notebook_used]
    if empty:
        caveats.append(
            "the notebook's accuracy is not defined where no column varies in the images it "
            f"trains on: {', '.join(empty)}"
        )
    return caveats


def notebook_figures(accuracies: dict[str, float]) -> dict[str, Any]:
    """Return the notebook's figures: test accuracies, verdicts and the lift of all over S."""
    figures: dict[str, Any] = {}
    for name, accuracy in accuracies.items():
        figures[f"{name} test_accuracy"] = accuracy
        verdict = "DISCRIMINATIVE" if accuracy > NOTEBOOK_THRESHOLD else "NOT DISCRIMINATIVE"
        figures[f"{name} verdict"] = verdict if np.isfinite(accuracy) else "not defined"
    combined = next((n for n in accuracies if set(n.split("+")) == {"S", "friction", "settle"}), "")
    if combined and "S" in accuracies:
        lift = (accuracies[combined] - accuracies["S"]) * 100
        figures["combined_lift_over_eigenvalues_pp"] = lift
    return figures


def column_caveats(plan: Asked) -> list[str]:
    caveats = []
    for one in plan.sets:
        used = one.notebook_used if plan.protocol == "notebook" else int(one.used.min())
        left = one.n_columns - used
        if left and len(one.columns) == 1:
            caveats.append(
                f"{left} of {one.n_columns} columns of {one.name} are constant in the training "
                "images of a fold and left out there"
            )
    parts = {part for one in plan.sets for part in one.columns}
    return caveats + known.features(*parts)


def best_set(names: list[str], accuracies: list[float]) -> tuple[int, str]:
    """Return which set is the best and its name, said to be chosen if there are others."""
    best = int(np.argmax(accuracies))
    if len(names) == 1:
        return best, names[best]
    equal = [name for name, one in zip(names, accuracies, strict=True) if one == accuracies[best]]
    like = f" like {' and '.join(equal[1:])}" if len(equal) > 1 else ""
    return best, f"{names[best]},{like} the best of {len(names)} feature sets here,"


def _notebook_row(plan: Asked, one: SetFit, n_train: int, n_test: int) -> dict[str, Any]:
    if not one.notebook_used:
        raise AnalysisError(
            f"no column of {printable(one.name)} varies in the {n_train} images that the "
            "notebook's protocol trains on, so there is nothing to classify by: use other "
            "features or more images"
        )
    accuracy = notebook_accuracy(plan, one)
    low, high = wilson_interval(accuracy * n_test, n_test)
    return {
        "features": one.name, "columns": one.n_columns, "varying": one.notebook_used,
        "train_accuracy": notebook_accuracy(plan, one, group=1), "accuracy": accuracy,
        "accuracy_low": low, "accuracy_high": high,
    }  # fmt: skip


def notebook_result(plan: Asked) -> Result:
    """Return the result of the notebook's protocol: one 80/20 split, lambda 1."""
    labels, split = plan.classes.labels, plan.notebook_split
    test = split.folds == 0
    n_test, n_train = int(test.sum()), int((split.folds == 1).sum())
    rows = by_column(_notebook_row(plan, one, n_train, n_test) for one in plan.sets)
    accuracies = dict(zip(rows["features"], rows["accuracy"], strict=True))
    notebook = notebook_figures(accuracies)
    for name, accuracy in zip(rows["features"], rows["train_accuracy"], strict=True):
        notebook[f"{name} train_accuracy"] = accuracy
    best, name = best_set(rows["features"], rows["accuracy"])
    sentence = (
        f"With the notebook's protocol {name} classifies "
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
        feature=feature_label(plan),
        question=QUESTION,
        columns={"sets": dict(rows)},
        arrays={
            "prediction": np.where(test, [one.notebook_prediction for one in plan.sets], -1),
            "fold": split.folds,
            "confusion": np.stack(tables),
        },
        values={**baselines(plan, split), "n_train": n_train, "n_test": n_test},
        notebook=notebook,
        parameters={
            "features": list(plan.features), "protocol": plan.protocol, "lambda": 1.0,
            "order": "given" if plan.order is not None else "drawn",
        },
        seed=plan.seed,
        sentences=[sentence],
        caveats=[
            *plan.classes.caveats(),
            f"one {notebook_words(plan)} and a fixed lambda: the default protocol gives tighter "
            "and paired figures",
            *notebook_caveats(plan),
            *column_caveats(plan),
        ],
        provenance=provenance(plan.store),
        shown=("sets",),
    )  # fmt: skip
