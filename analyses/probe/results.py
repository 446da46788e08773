"""What the ridge probe says: accuracies, paired comparisons and the notebook's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import few_arrangements
from frictionstore.analyses.core.results import Result, by_column, by_row, drawn, provenance
from frictionstore.analyses.core.rows import rows_of_classes
from frictionstore.analyses.core.terminal import POINTS, excluded, p_text
from frictionstore.analyses.probe import banded, lifts
from frictionstore.analyses.probe.notebook_results import (
    NAME,
    QUESTION,
    Asked,
    baselines,
    best_set,
    column_caveats,
    confusion,
    feature_label,
    notebook_accuracy,
    notebook_caveats,
    notebook_figures,
    notebook_words,
)
from frictionstore.analyses.probe.protocol import TRAINED
from frictionstore.analyses.probe.ridge import Paired, compare_paired
from frictionstore.analyses.probe.split import SetFit, Split
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import share_interval

LEVEL = 0.05
"""Level at which an accuracy is called better than chance, and two of them different."""


@dataclass(frozen=True)
class Accuracies:
    """How each feature set did on `n` images, and each two of them on the same ones.

    `right` has shape (set, tested image), `confusion` (set, true, predicted); `null` counts
    correct predictions under permuted labels, (set, permutations); `compared` is by the names of
    two sets, the larger first.
    """

    n: int
    right: NDArray[np.bool_]
    confusion: NDArray[np.int64]
    null: NDArray[np.int64]
    compared: dict[tuple[str, str], Paired]


def accuracies_of(sets: Sequence[SetFit], split: Split, n_classes: int) -> Accuracies:
    """Return accuracies and paired comparisons of the predictions of all sets."""
    labels, groups = split.of_tested()
    right = {one.name: one.prediction[split.tested] == labels for one in sets}
    by_size = sorted(sets, key=lambda one: len(one.columns))
    return Accuracies(
        n=len(labels),
        right=np.stack(list(right.values())),
        confusion=np.stack([confusion(split.labels, one.prediction, n_classes) for one in sets]),
        null=np.stack([one.null_correct.sum(axis=0) for one in sets]),
        compared={
            (first, second): compare_paired(
                right[first], right[second], split.sharing, groups=groups
            )
            for second, first in combinations([one.name for one in by_size], 2)
        },
    )


def _set_row(plan: Asked, found: Accuracies, which: int) -> dict[str, Any]:
    one, table, null = plan.sets[which], found.confusion[which], found.null[which]
    correct, n = int(table.trace()), found.n
    _, groups = plan.split.of_tested()
    low, high = share_interval(found.right[which], groups, folds=plan.split.sharing)
    of_class = table.sum(axis=1)
    there = of_class > 0  # a class may have no image in the test split
    row: dict[str, Any] = {
        "features": one.name,
        "columns": one.n_columns,
        "varying": int(one.used.min()),
        "lambda": float(np.median(one.penalties)),
        "accuracy": correct / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float((table.diagonal()[there] / of_class[there]).mean()),
    }
    if plan.permutations:
        row["permuted_mean"] = float(null.mean() / n)
        row["permuted_q95"] = float(np.quantile(null, 0.95) / n)
        row["p"] = float(permutation.p_value(correct, null))
        # Labels are shuffled alike for all sets, so the best of them is known each time.
        family = permutation.family_wise_p(correct, found.null.max(axis=0))
        row["p_family_wise"] = float(family)
    return row | ({"notebook_accuracy": notebook_accuracy(plan, one)} if plan.parts is None else {})


def _class_rows(plan: Asked, name: str, of: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    labels, groups = plan.split.of_tested()
    for of_class, member in zip(
        plan.classes.names, rows_of_classes(labels, plan.classes.n), strict=True
    ):
        right, images = int(of[member].sum()), len(member)
        if not images:  # in the test split
            continue
        own = None if groups is None else groups[member]
        low, high = share_interval(of[member], own, folds=plan.split.sharing)
        yield {
            "features": name, "class": of_class, "images": images,
            "accuracy": right / images, "accuracy_low": low, "accuracy_high": high,
        }  # fmt: skip


def _tables(plan: Asked, found: Accuracies) -> dict[str, dict[str, list[Any]]]:
    tables = {
        "sets": [_set_row(plan, found, which) for which in range(len(plan.sets))],
        "comparisons": [
            {"first": first, "second": second, "difference": one.difference,
             "difference_low": one.low, "difference_high": one.high,
             "only_first": one.only_first, "only_second": one.only_second, "p": one.p,
             "mcnemar_p": one.mcnemar_p}
            for (first, second), one in found.compared.items()
        ],
        "classes": [
            row
            for one, right in zip(plan.sets, found.right, strict=True)
            for row in _class_rows(plan, one.name, right)
        ],
        "penalties": [
            {"features": one.name, "fold": fold, "map": of_map, "lambda": float(penalty),
             "end_of_path": end}
            for one in plan.sets
            for fold, end in enumerate(one.ends)
            for of_map, penalty in zip(one.columns, one.penalties_by_map(fold), strict=True)
        ],
        "lifts": lifts.rows(plan.lifts, plan.split, plan.floor_split) if plan.lifts else [],
    }  # fmt: skip
    return {name: by_column(rows) for name, rows in tables.items() if rows}


def _values(plan: Asked, tables: dict[str, dict[str, list[Any]]], n: int) -> dict[str, Any]:
    values: dict[str, Any] = {**baselines(plan, plan.split), "n_images": n}
    if plan.parts is None:
        values["folds"] = plan.folds
    else:
        values["n_train"] = int(plan.split.counts()[TRAINED].sum())
    told: tuple[str, ...] = ("accuracy", "accuracy_low", "accuracy_high", "p", "p_family_wise")
    for one, row in zip(plan.sets, by_row(tables["sets"]), strict=True):
        values[f"accuracy {one.name}"] = {key: row[key] for key in told if key in row}
        values[f"penalties {one.name}"] = one.penalties.tolist()
    told = ("difference", "difference_low", "difference_high", "p", "mcnemar_p")
    for row in by_row(tables.get("comparisons", {})):
        values[f"difference {row['first']} - {row['second']}"] = {key: row[key] for key in told}
    told = ("lift", "lift_low", "lift_high", "floor", "floor_low", "floor_high")
    for row in by_row(tables.get("lifts", {})):
        values[f"lift {row['set']} - {row['beyond']}"] = {key: row[key] for key in told}
    return values


def _caveats(plan: Asked) -> list[str]:
    """Return what has to be known of the default protocol."""
    said = plan.classes.caveats()
    if plan.parts is not None:
        said += plan.parts.caveats()
    else:
        said.append(
            f"one {plan.folds}-fold split for all feature sets (seed {plan.seed}); intervals and p "
            "of differences are as wide as models that share training images ask for (Nadeau and "
            "Bengio): they are for the accuracy of a model trained on all images"
        )
    said += _penalty_caveats(plan)
    if any(len(one.columns) > 1 for one in plan.sets):
        said.append(
            "joined maps have a lambda each: their ratios are those with the least squared error "
            f"of images left out, one by one, among {banded.AT_MOST} training images at most of a "
            "fold, in powers of ten; the lambda given is that of the map with the least, the table "
            "penalties has all. The notebook's one lambda for joined maps may suit none of them"
        )
    if plan.parts is None:
        said.append(
            f"the notebook's accuracy is from one {notebook_words(plan)}, with lambda 1 and no "
            "choice of lambda"
        )
        said += notebook_caveats(plan)
    if plan.permutations:
        within = "folds" if plan.parts is None else "each split"
        said.append(
            f"permuted: labels shuffled within {within} {plan.permutations} times with the lambda "
            f"chosen on the real labels; no p-value is below "
            f"{permutation.smallest_p(plan.permutations):.2g}; p family wise is against the best "
            f"of the {len(plan.sets)} feature sets in each"
        )
        if plan.split.belonging is not None:
            said += few_arrangements(plan.split.least_arrangements())
    if plan.split.belonging is not None:
        said.append(
            "intervals, and p of differences, are over groups of images; McNemar's p takes images "
            "as independent and is left out"
        )
    said += column_caveats(plan)
    small = int((plan.classes.counts < plan.folds).sum())  # never with two splits
    return said + ([f"{small} classes have fewer images than there are folds"] if small else [])


def default_result(plan: Asked) -> Result:
    """Return the result of the default protocol: cross-validation, lambda chosen inside."""
    classes = plan.classes
    found = accuracies_of(plan.sets, plan.split, classes.n)
    tables = _tables(plan, found)
    rows, values = tables["sets"], _values(plan, tables, found.n)
    arrays: dict[str, NDArray[Any]] = {
        "prediction": np.stack([one.prediction for one in plan.sets]),
        "fold": plan.split.folds,
        "confusion": found.confusion,
        "penalty": np.stack([one.penalties for one in plan.sets]),
    }
    if plan.permutations:
        arrays["permuted_accuracy"] = found.null / found.n

    accuracy = drawn(
        "intervals",
        rows["features"], rows["accuracy"], rows["accuracy_low"], rows["accuracy_high"],
        "ridge probe: accuracy, 95% interval over images", "accuracy",
        reference={"chance": values["chance_level"], "majority": values["majority_level"]},
    )  # fmt: skip
    best = int(np.argmax(rows["accuracy"]))
    share = found.confusion[best] / np.maximum(found.confusion[best].sum(axis=1)[:, None], 1)
    title = f"ridge probe on {plan.sets[best].name}"
    matrix = drawn("matrix", share, classes.names, title, "share of the true class", "true")
    accuracies = dict(zip(plan.features, rows.get("notebook_accuracy", ()), strict=False))
    return Result(
        analysis=NAME,
        feature=feature_label(plan),
        question=QUESTION,
        columns=dict(tables),
        arrays=arrays,
        values=values,
        notebook=notebook_figures(accuracies),
        parameters={
            "features": list(plan.features), "permutations": plan.permutations,
            **({"folds": plan.folds, "protocol": plan.protocol}
               if plan.parts is None else plan.parts.recorded),
        },
        seed=plan.seed,
        sentences=_answers(plan, rows, found.compared, values)
        + lifts.sentences(by_row(tables.get("lifts", {}))),
        caveats=_caveats(plan),
        provenance=provenance(plan.store),
        figures={"accuracy": accuracy, "confusion": matrix},
        shown=tuple(name for name in ("sets", "comparisons", "lifts") if name in tables),
        claims=_claims(plan, found.compared, values),
    )  # fmt: skip


def _penalty_caveats(plan: Asked) -> list[str]:
    """Return what was chosen, and where the path ended at the choice."""
    chosen = []
    for one in plan.sets:
        different, folds = np.unique(one.penalties, return_counts=True)
        parts = [
            f"{value:g}" + (f" ({count} folds)" if len(different) > 1 else "")
            for value, count in zip(different, folds, strict=True)
        ]
        chosen.append(f"{one.name} {', '.join(parts)}")
    where = "training folds" if plan.parts is None else "training split"
    caveats = [f"lambda chosen in the {where}: {'; '.join(chosen)}"]
    meaning = {
        "upper": "the less the maps count the better they predict",
        "lower": "no shrinkage is needed",
    }
    for one in plan.sets:
        for end, means in meaning.items():
            count = one.ends.count(end)
            if count:
                caveats.append(
                    f"lambda of {one.name} is at the {end} end of its path in {count} of "
                    f"{plan.folds} folds: by the criterion {means}"
                )
    return caveats


def _answers(
    plan: Asked, rows: dict[str, list[Any]], compared: dict[tuple[str, str], Paired],
    values: dict[str, Any],
) -> list[str]:  # fmt: skip
    best, name = best_set(rows["features"], rows["accuracy"])
    test = ""
    if "p" in rows:
        against = f"the best of {len(rows['p'])} " if len(rows["p"]) > 1 else ""
        test = f", {p_text(rows['p_family_wise'][best])} against {against}under permuted labels"
    whose = "" if plan.parts is None else f" {plan.parts.words()},"
    sentences = [
        f"{name} classifies {rows['accuracy'][best]:.1%} of images{whose} correctly "
        f"(95% interval {rows['accuracy_low'][best]:.1%} to {rows['accuracy_high'][best]:.1%}; "
        f"chance {values['chance_level']:.1%}, largest class {values['majority_level']:.1%}"
        f"{test})."
    ]
    if compared:
        pair = _told(compared)
        sentences.append(_difference(*pair, compared[pair]))
    return sentences


def _told(compared: dict[tuple[str, str], Paired]) -> tuple[str, str]:
    """Return which pair is told, whatever came out: joined maps against one of them, S if there."""
    singles = [pair for pair in compared if "+" in pair[0] and "+" not in pair[1]]
    chosen = next((pair for pair in singles if pair[1] == "S"), None)
    return chosen or (singles or list(compared))[0]


def _claims(
    plan: Asked, compared: dict[tuple[str, str], Paired], values: dict[str, Any]
) -> list[Claim]:
    """Return each set's accuracy and the difference that is told.

    Ridge regression is made of means, variances and products of the maps in the set.
    """
    claims = []
    for one in plan.sets:
        figure = f"accuracy {one.name}"
        found = values[figure]
        claims.append(
            Claim(
                figure, f"classification by {one.name} better than by chance", found["accuracy"],
                found["accuracy_low"], found["accuracy_high"], p=found.get("p_family_wise"),
                level=LEVEL, maps=tuple(one.columns),
            )
        )  # fmt: skip
    if compared:
        pair = _told(compared)
        of_pair = compared[pair]
        better = "" if of_pair.p > LEVEL else f" ({'more' if of_pair.difference > 0 else 'less'})"
        maps = {part for one in plan.sets if one.name in pair for part in one.columns}
        claims.append(
            Claim(
                f"difference {pair[0]} - {pair[1]}",
                f"a difference in accuracy between {pair[0]} and {pair[1]}{better}",
                of_pair.difference, of_pair.low, of_pair.high, p=of_pair.p, level=LEVEL,
                maps=tuple(sorted(maps)),
            )
        )  # fmt: skip
    return claims


def _difference(first: str, second: str, found: Paired) -> str:
    """Return what is known about the difference of two sets on the same images."""
    figures = (
        f"{found.difference * 100:+.1f} percentage points (95% interval {found.low * 100:+.1f} to "
        f"{found.high * 100:+.1f}, {p_text(found.p)})"
    )
    if found.low <= 0.0 <= found.high:
        return (
            f"There is no evidence of a difference between {first} and {second} on the same "
            f"images{excluded(found.low * 100, found.high * 100, POINTS)}: the first minus the "
            f"second is {figures}."
        )
    better = f"{first} classifies {'more' if found.difference > 0 else 'fewer'} images correctly"
    return f"{better} than {second}: the first minus the second is {figures} on the same images."
