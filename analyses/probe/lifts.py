"""What joined maps classify beyond one of them, beside the same with maps of other images.

A set of more columns may do better or worse than its first map whatever is in them. The floor of a
lift is the same set, on the same folds, whose other maps are those of shuffled images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frictionstore.analyses.core.terminal import POINTS, excluded
from frictionstore.analyses.probe.ridge import compare_paired
from frictionstore.analyses.probe.split import SetFit, Split
from frictionstore.analyses.stats.corrected import corrected_interval


@dataclass(frozen=True)
class Lift:
    """A joined set, the map that it is held against, and the floor, on the images of `split`.

    `base` is what the floor is held against: the map itself, fitted to the images of the floor.
    """

    joined: SetFit
    alone: SetFit
    base: SetFit
    floor: SetFit


def lifts_of(sets: Sequence[SetFit], *, again: bool) -> list[Lift]:
    """Return a lift for each joined set of which a map is there alone, as yet unfitted.

    Parameters
    ----------
    sets
        The feature sets.
    again
        The map alone is fitted anew for the floor, which is of fewer images.
    """
    alone = {next(iter(one.columns)): one for one in sets if len(one.columns) == 1}
    fresh = {name: _unfitted(one) for name, one in alone.items()} if again else alone
    found = []
    for one in sets:
        name = next((part for part in one.columns if part in alone), None)
        if len(one.columns) > 1 and name is not None:
            floor = replace(_unfitted(one), name=f"{one.name} of shuffled images", keeps=name)
            found.append(Lift(one, alone[name], fresh[name], floor))
    return found


def to_fit(lifts: Sequence[Lift]) -> list[SetFit]:
    """Return the floors, and what they are held against where that is fitted anew."""
    fresh = {id(one.base): one.base for one in lifts if one.base is not one.alone}
    return [*fresh.values(), *(one.floor for one in lifts)]


def _unfitted(one: SetFit) -> SetFit:
    folds = len(one.penalties)
    return replace(
        one,
        prediction=np.full_like(one.prediction, -1),
        null_correct=np.zeros((folds, 0), np.int64),
        penalties=np.full(folds, np.nan),
        ends=[""] * folds,
        used=np.zeros(folds, np.int64),
        balance={},
        joint={},
    )


def rows(lifts: Sequence[Lift], split: Split, floor_split: Split) -> list[dict[str, Any]]:
    """Return the table: lifts and their floors, paired differences with their intervals."""

    def paired(name: str, first: SetFit, second: SetFit, of: Split) -> dict[str, float]:
        labels, groups = of.of_tested()
        right = [one.prediction[of.tested] == labels for one in (first, second)]
        if of.sharing:
            away = right[0].astype(float) - right[1]
            mean, low, high = corrected_interval(
                away, of.folds[of.tested], groups=groups, least=-1.0
            )
        else:
            once = compare_paired(*right, groups=groups)
            mean, low, high = once.difference, once.low, once.high
        return {name: mean, f"{name}_low": low, f"{name}_high": high}

    return [
        {
            "set": one.joined.name,
            "beyond": one.alone.name,
            **paired("lift", one.joined, one.alone, split),
            **paired("floor", one.floor, one.base, floor_split),
            "floor_images": int(floor_split.tested.sum()),
        }
        for one in lifts
    ]


def sentences(table: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a lift comes to beside its floor."""
    said = []
    for row in table:
        lift, floor = (
            [row[f"{k}{end}"] for end in ("", "_low", "_high")] for k in ("lift", "floor")
        )
        of = f"{row['set']}, each map with a penalty of its own,"
        said.append(sentence(of, row["beyond"], lift, floor))
    return said


def sentence(of: str, beyond: str, lift: Sequence[float], floor: Sequence[float]) -> str:
    """Return what a lift and its floor come to, each with its interval, in shares."""

    def words(value: float, low: float, high: float) -> str:
        return f"{value * 100:+.1f}{POINTS} ({low * 100:+.1f} to {high * 100:+.1f})"

    _, low, high = lift
    none = low <= 0 <= high
    judged = excluded(low * 100, high * 100, POINTS) if none else ""
    return (
        f"{of} minus {beyond}: {words(*lift)}{', no evidence of a difference' if none else ''}"
        f"{judged}; with the maps besides {beyond} of shuffled images: {words(*floor)}."
    )
