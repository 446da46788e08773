"""Which features are analysed where none is named, and which of them leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from frictionstore.analyses.core.claims import RELIABLE
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import Passes
from frictionstore.analyses.core.saved import RELIABILITY
from frictionstore.analyses.core.source import (
    EXACT,
    LOG,
    MapStore,
    is_repeated,
    logarithm_of,
    maps_over_patches,
)

FRICTION = "friction"


def default_features(store: MapStore) -> list[str]:
    """Return the maps that are analysed if none is named, the one to lead with first.

    That is friction without its rounding where the store has it, else friction as it was measured;
    or its logarithm, where repeats say that the raw values are not reliable. A matrix whose
    eigenvalues nearly repeat has values that no arithmetic makes stable. The other is friction as
    it was measured.
    """
    maps = maps_over_patches(store)
    if FRICTION not in maps:
        return maps[:1]
    form = f"{FRICTION}{EXACT}" if f"{FRICTION}{EXACT}" in maps else FRICTION
    # Where only friction itself was repeated, that says which values nearly repeat.
    known = next((name for name in (form, FRICTION) if is_repeated(store, name)), None)
    if known is not None and _least_reliability(store, known) < RELIABLE:
        form = f"{LOG}{form}"
    return list(dict.fromkeys([form, FRICTION]))


def _least_reliability(store: MapStore, name: str) -> float:
    """Return the reliability of raw values, the smallest of the modes; NaN if there is none."""
    passes = Passes(store)
    agreement = passes.agreement(name)
    try:
        passes.run()
    except AnalysisError:
        return math.nan  # each analysis meets it again, and says so
    return agreement.least


def leading(facts: Sequence[Mapping[str, Any]]) -> str:
    """Return the default feature to lead with among those that there are results about."""
    there = {fact["feature"] for fact in facts}
    exact = f"{FRICTION}{EXACT}"
    form = exact if {exact, f"{LOG}{exact}"} & there else FRICTION
    measured: Mapping[str, Any] = next(
        (
            fact["values"]
            for fact in facts
            if fact["analysis"] == RELIABILITY and fact["feature"] == FRICTION
        ),
        {},
    )
    raw = "least_reliability_raw"
    least = measured.get(f"{raw} {form}", measured.get(raw))
    if least is not None and least < RELIABLE and f"{LOG}{form}" in there:
        return f"{LOG}{form}"
    return form if form in there else FRICTION


def probe_sets(store: MapStore, feature: str) -> tuple[str, ...]:
    """Return the feature sets that the probe compares in a summary of a feature.

    S, friction and settle as far as the store has them, the feature if it is none of these, and
    all joined. Where the feature is the logarithm of one of them it takes that one's place, and
    where it is one without rounding the others are taken without it too.
    """
    base = feature if feature in store.maps else logarithm_of(feature) or feature
    exact = EXACT if base.endswith(EXACT) else ""
    forms = [
        f"{name}{exact}" if f"{name}{exact}" in store.maps else name
        for name in ("S", "friction", "settle")
        if name in store.maps
    ]
    names = [feature if name == base else name for name in forms]
    if feature not in names:
        names.append(feature)
    return (*names, "+".join(names)) if len(names) > 1 else tuple(names)
