"""What a store's results found, in words: a clause each, which claims no more than its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from frictionstore.analyses.class_distance import in_spread_only
from frictionstore.analyses.closing_table import (
    Facts,
    Line,
    claim_of,
    finite,
    lift_of,
    most_joined,
)
from frictionstore.analyses.core.claims import NOT_REPRODUCIBLE
from frictionstore.analyses.core.terminal import (
    POINTS,
    excluded,
    interval_text,
    number,
    p_text,
)
from frictionstore.analyses.stats.crossnobis import ruled_out

LEVEL = 0.05
"""Level of the summary's claims, after Holm's procedure over all its p-values."""

PHolm = Callable[[str], float]


def findings(by_name: Mapping[str, Facts], lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return the main answers, each with the analysis that it is from.

    Parameters
    ----------
    by_name
        Results about one map by the name of their analysis.
    lines
        The closing table of these: what is claimed is claimed by its p holm.
    """

    def p_holm(measure: str) -> float:
        found = next(one.p_holm for one in lines if one.measure.startswith(measure))
        return math.nan if found is None else float(found)

    makers = {"spatial-cv": _spatial, "class-distance": _distance, "ridge-probe": _lift}
    said = [(name, make(by_name[name], p_holm)) for name, make in makers.items() if name in by_name]
    if not any(text for _, text in said) and "mode-variance" in by_name:
        said = [("mode-variance", _variance(by_name["mode-variance"]))]
    return [(name, text) for name, text in said if text]


def further_finding(fact: Facts) -> str:
    """Return the first claim of a result as a clause; empty if it has none."""
    claim = next(iter(fact.get("claims") or ()), None)
    if claim is None:
        return ""
    if "text" in claim:
        return str(claim["text"])
    p, low, high = (finite(claim[name]) for name in ("p", "low", "high"))
    figure = number(claim["value"]) if p is None else p_text(p)
    if p is None and low is not None and high is not None:
        figure += f", 95% interval {interval_text(low, high)}"
    return f"{'no evidence of ' if claim['holds'] is False else ''}{claim['says']} ({figure})"


def _shaky(fact: Facts, figure: str) -> str:
    """Return what is said of a claim that is not reproducible: that it is not, and no more."""
    claim = claim_of(fact, figure)
    return str(claim["text"]) if claim.get("word") == NOT_REPRODUCIBLE else ""


def _spatial(fact: Facts, p_holm: PHolm) -> str:
    v = fact["values"]
    shaky = _shaky(fact, "mean_moran_queen")
    if shaky or finite(v.get("p_mean_moran_queen")) is None:
        return shaky
    p = p_holm("mean Moran's I")
    return (
        f"{'' if p <= LEVEL else 'no evidence of '}spatial structure within images (mean "
        f"Moran's I {number(v['mean_moran_queen'])}, Holm {p_text(p)}; one by one, "
        f"{v['share_significant_queen']:.1%} of maps at q <= 0.05)"
    )


def _distance(fact: Facts, p_holm: PHolm) -> str:
    v = fact["values"]
    shaky = _shaky(fact, "mean_distance")
    if shaky or "p_mean_distance" not in v:
        return shaky
    p = p_holm("mean distance")
    there = "a difference" if p <= LEVEL else "no evidence of a difference"
    bound = "" if p <= LEVEL else ruled_out(v.get("mean_crossnobis_high"))
    if p <= LEVEL and in_spread_only(v, LEVEL):
        there = "a difference in spread, perhaps not in mean,"
    return (
        f"{there} between class mean maps{bound} (mean distance {number(v['mean_distance'])}, "
        f"Holm {p_text(p)})"
    )


def _lift(fact: Facts, p_holm: PHolm) -> str:
    v = fact["values"]
    lift = lift_of(v)
    if lift is None:
        return ""
    shaky = _shaky(fact, f"difference {most_joined(v)} - S")
    if shaky:
        return shaky
    p = p_holm("paired difference")
    low, high = lift["difference_low"] * 100, lift["difference_high"] * 100
    there = "a difference" if p <= LEVEL else "no evidence of a difference"
    bound = "" if p <= LEVEL else excluded(low, high, POINTS)
    return (
        f"{there} in accuracy between {most_joined(v)} and S{bound} "
        f"({lift['difference'] * 100:+.1f} percentage points, 95% interval {low:+.1f} to "
        f"{high:+.1f}, Holm {p_text(p)})"
    )


def _variance(fact: Facts) -> str:
    v = fact["values"]
    shaky = _shaky(fact, "largest_cv") if v else ""
    if shaky or not v:
        return shaky
    interval = interval_text(v["largest_cv_low"], v["largest_cv_high"])
    return f"the mean map varies with CV {number(v['largest_cv'])} (95% interval {interval})"
