"""What joined maps classify beyond one of them, beside the same with maps of other images.

A set of more columns may do better or worse than its first map whatever is in them. The floor of a
lift is the same set, on the same folds, whose other maps are those of shuffled images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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
    """Return the table: lifts and their floors, paired differences with corrected intervals."""

    def paired(name: str, first: SetFit, second: SetFit, of: Split) -> dict[str, float]:
        tested = of.folds >= 0
        groups = None if of.belonging is None else of.belonging[tested]
        right = [(one.prediction == of.labels)[tested].astype(float) for one in (first, second)]
        mean, low, high = corrected_interval(right[0] - right[1], of.folds[tested], groups=groups)
        return {name: mean, f"{name}_low": low, f"{name}_high": high}

    return [
        {
            "set": one.joined.name,
            "beyond": one.alone.name,
            **paired("lift", one.joined, one.alone, split),
            **paired("floor", one.floor, one.base, floor_split),
            "floor_images": int((floor_split.folds >= 0).sum()),
        }
        for one in lifts
    ]


def sentences(table: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a lift comes to beside its floor."""
    said = []
    for row in table:
        lift, floor = (
            f"{row[k] * 100:+.1f} percentage points ({row[f'{k}_low'] * 100:+.1f} to "
            f"{row[f'{k}_high'] * 100:+.1f})"
            for k in ("lift", "floor")
        )
        said.append(
            f"{row['set']}, each map with a penalty of its own, minus {row['beyond']}: {lift}; "
            f"with the maps besides {row['beyond']} of shuffled images: {floor}."
        )
    return said
