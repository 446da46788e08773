"""The lines of the notebook's closing table, each from the result of one analysis."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frictionstore.analyses.core.results import by_column
from frictionstore.analyses.core.source import measured_map
from frictionstore.analyses.core.terminal import Columns, number
from frictionstore.analyses.f_statistic import family_wise
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import wilson_interval

ACCURACY = "cross-validated accuracy"
"""Measure of the probes' lines."""

Facts = Mapping[str, Any]


@dataclass
class Line:
    """One line of the closing table; None where it has no such number.

    Attributes
    ----------
    line, notebook
        The notebook's words and the figure that it printed.
    measure, value, value_low, value_high
        The sounder figure beside it, and its 95% interval.
    p, p_holm
        Its p, and p adjusted over all lines.
    of
        The analysis, and the name of the notebook's verdict, that belong to the line; no column.
    lowest, highest, under_rounding
        Its range over the measurement and its repeats, and whether its claim is reproducible.
    raw, raw_under_rounding
        The same figure of the map as it was measured, where the table is about another form of it,
        and whether its claim is reproducible.
    figure
        The figure's name in the values of the result that the line is from.
    """

    line: str
    notebook: float | None
    measure: str
    value: float | None
    value_low: float | None = None
    value_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    lowest: float | None = None
    highest: float | None = None
    under_rounding: str | None = None
    raw: float | None = None
    raw_under_rounding: str | None = None
    figure: str = ""
    of: tuple[str, str] = ("", "")

    def columns(self) -> dict[str, Any]:
        """Return the line as a row of the table.

        Raises
        ------
        TypeError
            If one of its numbers, which may be of a changed file, is none.
        """
        row = {name: value for name, value in vars(self).items() if name not in ("figure", "of")}
        words = {"line", "measure", "under_rounding", "raw_under_rounding"}
        for name, value in row.items():
            if not isinstance(value, str | None if name in words else int | float | None):
                raise TypeError(f"{self.measure} is no number")
        return row


def _spatial_lines(v: Facts, old: Facts) -> Iterator[Line]:
    yield Line(
        "spatial structure within images", old["mean_cv"], "mean CV over images and modes",
        v["mean_cv"], v["mean_cv_low"], v["mean_cv_high"], figure="mean_cv",
        of=("spatial-cv", "verdict"),
    )  # fmt: skip
    if finite(v.get("p_mean_moran_queen")) is not None:
        expected = f"mean Moran's I (by chance {number(v['moran_expectation'])})"
        yield Line(
            "", None, expected, v["mean_moran_queen"], p=v["p_mean_moran_queen"],
            figure="mean_moran_queen",
        )  # fmt: skip
        interval = wilson_interval(v["n_significant_queen"], v["n_tested_queen"])
        if "share_queen_low" in v:  # images belong together in groups
            interval = (v["share_queen_low"], v["share_queen_high"])
        share = v["share_significant_queen"]
        yield Line("", None, "share of maps with Moran's I, q <= 0.05", share, *interval)


def _distance_lines(v: Facts, old: Facts) -> Iterator[Line]:
    yield Line(
        "inter-class pattern distance", old["min_cosine"], "smallest cosine",
        v["min_cosine"], p=v.get("p_min_cosine"), figure="min_cosine",
        of=("class-distance", "verdict"),
    )  # fmt: skip
    yield Line(
        "", None, "mean distance", v["mean_distance"], p=v.get("p_mean_distance"),
        figure="mean_distance",
    )  # fmt: skip


def _edge_lines(v: Facts, old: Facts) -> Iterator[Line]:
    # The notebook printed it by class only.
    yield Line(
        "center vs edge asymmetry", None, "edge / centre, all images", v["ratio"],
        v["ratio_low"], v["ratio_high"], v["p"], figure="ratio", of=("center-edge", ""),
    )  # fmt: skip
    # Of one mode it would be the same test again.
    if v.get("modes_tested", 0) > 1 and finite(v.get("p_modes")) is not None:
        text = f"number of modes, of {v['modes_tested']}, whose edge and centre differ"
        yield Line("", None, text, v["modes_different"], p=v["p_modes"])


def _f_lines(v: Facts, old: Facts) -> Iterator[Line]:
    # The notebook's ratio counts no degrees of freedom: it is no F.
    if "max_f" in v:
        yield Line(
            "per-position F-statistic", None, "largest F over positions and modes",
            v["max_f"], p=family_wise(v), figure="max_f", of=("f-statistic", "verdict"),
        )  # fmt: skip
        # Means whatever the spread, and spread: without either F may be of both.
        for name, text, p in (
            ("max_welch_f", "largest Welch's F over positions and modes", "welch_family_wise_p"),
            ("dispersion_f", "F of spread between classes (PERMDISP)", "dispersion_p"),
        ):
            if finite(v.get(name)) is not None:
                yield Line("", None, text, v[name], p=finite(v.get(p)), figure=name)


def _probe_lines(v: Facts, old: Facts) -> Iterator[Line]:
    for name in sets_of(v):
        found = v[f"accuracy {name}"]
        yield Line(
            _probe_line(name), finite(old.get(f"{name} test_accuracy")), ACCURACY,
            found["accuracy"], found["accuracy_low"], found["accuracy_high"], found.get("p"),
            figure=f"accuracy {name}", of=("ridge-probe", f"{name} verdict"),
        )  # fmt: skip
    lift = lift_of(v)
    if lift is not None:
        joined, alone = (finite(old.get(f"{name} test_accuracy")) for name in (most_joined(v), "S"))
        yield Line(
            "conduit lift over eigenvalues",
            None if joined is None or alone is None else joined - alone,
            "paired difference", lift["difference"],
            lift["difference_low"], lift["difference_high"], lift.get("p", lift["mcnemar_p"]),
            figure=f"difference {most_joined(v)} - S", of=("ridge-probe", ""),
        )  # fmt: skip


def _mode_lines(v: Facts, old: Facts) -> Iterator[Line]:
    if v:
        # The notebook's, with noise, may be of another mode: that is another quantity.
        same = v.get("largest_map_variance_mode") in (None, v["largest_variance_mode"])
        yield Line(
            "spatial variance of the mean map",
            v.get("largest_map_variance", v["largest_variance"]) if same else None,
            f"variance over patches without noise, mode {v['largest_variance_mode']}",
            v["largest_variance"], v["largest_variance_low"], v["largest_variance_high"],
            figure="largest_variance", of=("mode-variance", ""),
        )  # fmt: skip


def _image_lines(v: Facts, old: Facts) -> Iterator[Line]:
    yield Line(
        "single images", None, "mean entropy / largest possible", v["entropy"],
        v["entropy_low"], v["entropy_high"], figure="entropy", of=("image-summary", ""),
    )  # fmt: skip


def _reliability_lines(v: Facts, old: Facts) -> Iterator[Line]:
    words = "reliability of the measurement"
    for scale in ("raw", "logarithm"):
        if finite(v.get(f"least_reliability_{scale}")) is not None:
            ends = (v[f"reliability_{scale}_{end}"] for end in ("low", "high"))
            name = f"smallest of all modes, {scale}"
            yield Line(words, None, name, v[f"least_reliability_{scale}"], *ends)
            words = ""
    if "rounding_share_within" in v:
        share = v["rounding_share_within"]
        yield Line(words, None, "share of values within 1% of exact", share)


LINES = {
    "spatial-cv": _spatial_lines,
    "class-distance": _distance_lines,
    "center-edge": _edge_lines,
    "f-statistic": _f_lines,
    "ridge-probe": _probe_lines,
    "mode-variance": _mode_lines,
    "image-summary": _image_lines,
    "reliability": _reliability_lines,
}
"""Of each analysis, in the order of the table: its `values` and `notebook` to lines."""


def closing_lines(facts: Sequence[Facts], raw: Sequence[Facts] = ()) -> list[Line]:
    """Return the closing table's lines, as far as the results are there.

    Parameters
    ----------
    facts
        `values` and `notebook` of results, as `Result.as_dict` gives them.
    raw
        The same of the map as it was measured, if they are about another form of it: what the
        notebook printed is of that.
    """
    lines = _lines(facts)
    if raw:
        measured = {(measured_names(one.figure), one.line): one for one in _lines(raw)}
        for line in lines:
            same = measured.get((measured_names(line.figure), measured_names(line.line)))
            line.notebook = None
            if same is not None and same.figure:
                line.notebook = same.notebook
                line.raw, line.raw_under_rounding = same.value, same.under_rounding
    adjusted = permutation.holm([math.nan if one.p is None else one.p for one in lines])
    for one, p in zip(lines, adjusted, strict=True):
        one.p_holm = finite(float(p))
    return lines


def measured_names(figure: str) -> str:
    """Return a figure's name with maps as they were measured instead of other forms of them."""
    return re.sub(r"[a-zA-Z]\w*", lambda name: measured_map(name[0]), figure)


def by_columns(lines: Sequence[Line]) -> Columns:
    """Return the table, without those columns of which nothing is known.

    The notebook's figure stands beside the sounder one of the same quantity: after the raw one's
    where the table is about another form of the map, else after the value's.
    """
    columns = by_column([one.columns() for one in lines])
    notebook = columns.pop("notebook")
    beside = "p_holm" if all(value is None for value in columns["raw"]) else "raw"
    columns = {
        name: values
        for key in columns
        for name, values in ((key, columns[key]), ("notebook", notebook))[: 1 + (key == beside)]
    }
    for name in ("lowest", "highest", "under_rounding", "raw", "raw_under_rounding"):
        if all(value is None for value in columns[name]):
            del columns[name]
    return columns


def _lines(facts: Sequence[Facts]) -> list[Line]:
    by_name = {fact["analysis"]: fact for fact in facts}
    lines = []
    for name, lines_of in LINES.items():
        if name in by_name:
            for one in lines_of(by_name[name]["values"], by_name[name]["notebook"]):
                claim = claim_of(by_name[name], one.figure)
                if "word" in claim:
                    one.lowest, one.highest = finite(claim["lowest"]), finite(claim["highest"])
                    one.under_rounding = claim["word"]
                lines.append(one)
    return lines


def claim_of(fact: Facts, figure: str) -> Facts:
    """Return the claim of a result that is about a figure; empty if there is none."""
    return next((one for one in fact.get("claims", ()) if one["figure"] == figure), {})


def finite(value: float | None) -> float | None:
    """Return a number, None for one that is not defined."""
    return value if value is not None and math.isfinite(value) else None


def sets_of(values: Facts) -> list[str]:
    """Return the probe's feature sets, joined ones last."""
    names = [key.removeprefix("accuracy ") for key in values if key.startswith("accuracy ")]
    order = {"friction": 0, "settle": 1, "S": 2}
    return sorted(names, key=lambda name: (name.count("+"), order.get(measured_map(name), 3)))


def _probe_line(name: str) -> str:
    """Return the notebook's name of a probe's line."""
    if "+" in name:
        return "combined conduit linear probe"
    return f"{'eigenvalue' if name == 'S' else name} map linear probe"


def most_joined(values: Facts) -> str:
    """Return the probe's feature set that joins most maps."""
    return max(sets_of(values), key=lambda name: name.count("+"))


def lift_of(values: Facts) -> Facts | None:
    """Return the paired difference between all maps joined and S, None if there is none."""
    lift: Facts | None = values.get(f"difference {most_joined(values)} - S")
    return lift if "+" in most_joined(values) else None
