"""center-edge: do the patches at the border of an image differ from those in its centre?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import count_by_class
from frictionstore.analyses.core.passes import Passes, class_moments, run
from frictionstore.analyses.core.results import Result, drawn, provenance
from frictionstore.analyses.core.source import (
    Classes,
    MapStore,
    logarithm_of,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, excluded, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.edge_and_centre import Comparison, compare_classes, higher
from frictionstore.analyses.stats.regions import MEANS, RegionMeans, central_block
from frictionstore.text import listed

Floats = NDArray[np.float64]
NAME = "center-edge"
QUESTION = "Do edge patches differ from central ones?"
ALL_MODES = "all modes"
TOLD = 4
"""Modes whose figures the answer gives; the table has all."""


_FIGURES = [f.name for f in fields(Comparison) if f.name not in ("n", "of_logarithms")]


def _ratio_of(rows: Sequence[Comparison], modes: Sequence[int]) -> dict[str, list[str]]:
    """Return a column that says what each ratio is of, if any is not of means."""
    of = [
        ["geometric means" if one.of_logarithms[mode] else "means" for one in rows]
        for mode in modes
    ]
    found = [word for row in of for word in row]
    return {"ratio_of": found} if "geometric means" in found else {}


@dataclass(frozen=True, kw_only=True)
class CenterEdgeParameters(parameters.Parameters):
    """What is asked for: see `center_edge`."""

    feature: str = parameters.feature()
    border: int | None = parameters.parameter(
        None, "Width of the edge in patches.  [default: a quarter of each side]", least=1
    )
    alpha: float = parameters.alpha()


@dataclass(frozen=True)
class Found:
    """What is found, of the mean over all modes first and then of each mode that varies (`names`).

    `p_modes` is Holm's over the modes of all images (`pooled`), without the mean; `q` is over
    classes and modes, (n_classes, 1 + varying modes). With `geometric` values are logarithms.
    `groups` says of how many groups the images of each class are, then all of them; [] without.
    """

    names: list[str]
    constant: list[str]
    classes: Sequence[str]
    by_class: list[Comparison]
    pooled: Comparison
    p_modes: Floats
    q: Floats
    geometric: bool
    central: NDArray[np.bool_]
    groups: list[int]


class CenterEdge:
    """The plan: means of both regions in one pass."""

    def __init__(self, asked: CenterEdgeParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        feature, store = self._asked.feature, passes.store
        self._store: MapStore = store
        rows, cols = require_grid(store, NAME)
        self._n_modes = require_feature(store, feature)
        self._classes: Classes = require_classes(store, NAME, differences=False)
        self._central = central_block(rows, cols, self._asked.border)
        self._moments = class_moments(passes, feature, self._n_modes)
        self._regions = passes.share(
            ("region means", feature, self._central.tobytes()),
            lambda: RegionMeans(feature, self._central, self._n_modes, store.n_images),
        )

    def result(self) -> Result:
        regions, classes, feature = self._regions, self._classes, self._asked.feature
        varying, constant = np.flatnonzero(~regions.constant), np.flatnonzero(regions.constant)
        geometric = logarithm_of(feature) is not None and feature not in self._store.maps

        def blocks() -> Iterator[tuple[slice, tuple[Floats, ...]]]:
            # The first column is the mean over all modes, constant ones included: the notebook's.
            for rows, of_images in regions.rows.blocks(*MEANS):
                yield (
                    rows,
                    tuple(
                        np.column_stack([means.mean(axis=1), means[:, varying]])
                        for means in of_images
                    ),
                )

        def compared(labels: NDArray[np.int64], n_classes: int) -> list[Comparison]:
            return compare_classes(
                blocks, labels, n_classes, geometric=geometric, groups=classes.groups
            )

        by_class = compared(classes.labels, classes.n)
        (pooled,) = compared(np.minimum(classes.labels, 0), 1)
        found = Found(
            names=[ALL_MODES, *(mode_name(int(m), self._n_modes) for m in varying)],
            constant=[mode_name(int(m), self._n_modes) for m in constant],
            classes=classes.names,
            by_class=by_class,
            pooled=pooled,
            p_modes=permutation.holm(pooled.p[1:]),
            q=permutation.benjamini_hochberg(np.stack([one.p for one in by_class])),
            geometric=geometric,
            central=self._central,
            groups=_groups(classes),
        )
        said = classes.caveats() + _caveats(found)
        said += caveats.heavy_tail(feature, self._moments.everything) + caveats.features(feature)
        return _result(self._asked, found, said, self._store)


def _groups(classes: Classes) -> list[int]:
    """Return of how many groups the images of each class are, and all of them together."""
    labels, groups = classes.labelled()
    if groups is None:
        return []
    return [*count_by_class(labels, groups, classes.n).tolist(), len(np.unique(groups))]


def _table(found: Found, which: int) -> dict[str, Any]:
    """Return a table with one row per class, of its number `which`."""
    rows = found.by_class
    columns: dict[str, Any] = {"class": list(found.classes), "images": [one.n for one in rows]}
    columns |= {key: [float(getattr(one, key)[which]) for one in rows] for key in _FIGURES}
    columns |= _ratio_of(rows, [which])
    return columns | {"q": [float(p) for p in found.q[:, which]]}


def _tables(found: Found) -> dict[str, Columns]:
    names, pooled = found.names, found.pooled
    by_mode = [_table(found, which) for which in range(len(names))]
    together = {
        key: [value for table in by_mode for value in table[key]]
        for key in by_mode[0]
        if key != "ratio_of"
    } | _ratio_of(found.by_class, range(len(names)))
    return {
        "classes": by_mode[0],
        "modes": {"mode": names, "images": [pooled.n] * len(names)}
        | {key: getattr(pooled, key) for key in _FIGURES}
        | {"p_modes": [np.nan, *found.p_modes]}
        | _ratio_of([pooled], range(len(names))),
        "classes_by_mode": {
            "class": together.pop("class"),
            "mode": [name for name in names for _ in found.classes],
            **together,
        },
    }


def _values(found: Found, alpha: float) -> dict[str, Any]:
    figures = ("centre", "edge", "ratio", "ratio_low", "ratio_high", "difference", "t", "p")
    return {key: float(getattr(found.pooled, key)[0]) for key in figures} | {
        "p_modes": float(np.fmin.reduce(found.p_modes, initial=np.nan)),
        "modes_different": int((found.p_modes <= alpha).sum()),
        "modes_tested": int(np.isfinite(found.p_modes).sum()),
        "classes_different": int((found.q[:, 0] <= alpha).sum()),
        "central_patches": int(found.central.sum()),
        "edge_patches": int((~found.central).sum()),
    }


def _caveats(found: Found) -> list[str]:
    """Return what holds for these comparisons, beside what holds for every analysis."""
    said = caveats.constant(found.constant)
    one_group = [
        name for name, count in zip(found.classes, found.groups, strict=False) if count == 1
    ]
    if one_group:
        said.append(
            f"all images of {listed(one_group)} belong to one group: there is no interval and no "
            "test, which take images of two groups or more"
        )
    if found.constant:
        said.append(f"'{ALL_MODES}' averages the constant mode in, as the notebook did")
    of_class = [
        (name, one)
        for name, one in zip(found.classes, found.by_class, strict=True)
        if name not in one_group
    ]
    few = [(name, one) for name, one in of_class if np.isnan(one.difference_low[0])]
    of_logarithms = [name for name, one in few if one.of_logarithms[0]]
    for names, so in (
        (of_logarithms, "ratio and its test are of geometric means there"),
        (
            [name for name, _ in few if name not in of_logarithms],
            "there is no interval and no test",
        ),
    ):
        if names:
            said.append(
                f"few images decide the means of {listed(names)}: the difference has no interval "
                f"that covers, and {so}"
            )
    of_class = [one for one in of_class if one[0] not in dict(few)]
    unbounded = [n for n, c in of_class if np.isnan(c.ratio_low[0]) and np.isfinite(c.ratio[0])]
    if unbounded:
        said.append(
            f"the ratio has no bounded interval for {listed(unbounded)}: the centre varies "
            "between images by as much as its mean"
        )
    same = [name for name, one in of_class if np.isnan(one.t[0])]
    if same:
        said.append(
            f"edge minus centre is the same in every image of {listed(same)}: there is no test"
        )
    if found.geometric:
        said.append(
            "values are decimal logarithms: difference is of these, ratio is ten to its power, "
            "the ratio of the geometric means"
        )
    return said


def _notebook_figures(found: Found) -> dict[str, Any]:
    """Return what the notebook printed; of logarithms it would have divided by what may be 0."""
    rows = []
    for name, one in zip(found.classes, found.by_class, strict=True):
        row = {"class": name, "center": float(one.centre[0]), "edge": float(one.edge[0])}
        if not found.geometric:
            row["ratio"] = one.edge[0] / (one.centre[0] + 1e-8)
        rows.append(row)
    return {"center_edge": rows}


def _result(asked: CenterEdgeParameters, found: Found, said: list[str], store: MapStore) -> Result:
    values = _values(found, asked.alpha)

    means = " of geometric means" if found.geometric else ""
    rows = [*found.by_class, found.pooled]
    figure = drawn(
        "intervals",
        [*found.classes, "all images"],
        *([getattr(one, key)[0] for one in rows] for key in ("ratio", "ratio_low", "ratio_high")),
        f"{asked.feature}: edge / centre{means}, 95% interval over images",
        f"edge / centre{means}",
        reference={"no difference": 1.0},
    )
    arrays: dict[str, NDArray[Any]] = {
        key: np.stack([getattr(one, key) for one in found.by_class])
        for key in ("centre", "edge", "ratio", "p")
    }
    return Result(
        analysis=NAME,
        feature=asked.feature,
        question=QUESTION,
        columns=_tables(found),
        arrays={**arrays, "q": found.q, "central": found.central},
        values=values,
        notebook=_notebook_figures(found),
        parameters={"border": asked.border, "alpha": asked.alpha},
        seed=None,
        sentences=[
            _answer(asked, found),
            *([f"Constant: {', '.join(found.constant)}."] if found.constant else []),
            _all_modes(values, found, asked.alpha),
        ],
        caveats=said,
        provenance=provenance(store),
        figures={"edge_centre": figure},
        shown=("classes", "modes"),
        claims=_claims(asked, found, values),
    )


def _claims(asked: CenterEdgeParameters, found: Found, values: dict[str, Any]) -> list[Claim]:
    alpha, pooled = asked.alpha, found.pooled

    def side(which: int, p: float) -> str:
        if not p <= alpha:
            return ""
        return f"{'higher' if higher(pooled, which) else 'lower'} at the edge"

    sides = {name: side(1 + k, found.p_modes[k]) for k, name in enumerate(found.names[1:])}
    modes = "; ".join(f"{name} {said}" for name, said in sides.items() if said)
    said = side(0, values["p"])
    says = f"a difference between edge and centre of {asked.feature}"
    return [
        Claim(
            "modes_different", f"{says} in single modes{f' ({modes})' if modes else ''}",
            values["modes_different"], p=values["p_modes"], level=alpha,
        ),
        Claim(
            "ratio", f"{says}, all modes averaged{f' ({said})' if said else ''}", values["ratio"],
            values["ratio_low"], values["ratio_high"], p=values["p"], level=alpha,
        ),
    ]  # fmt: skip


def _answer(asked: CenterEdgeParameters, found: Found) -> str:
    """Return which modes differ, by the tests of all modes together."""
    feature, names, p_modes, pooled = asked.feature, found.names[1:], found.p_modes, found.pooled
    tested = int(np.isfinite(p_modes).sum())
    if not tested:
        why = "edge minus centre is the same in every image"
        if found.groups[-1:] == [1]:
            why = "all images belong to one group"
        elif np.isnan(pooled.difference_low[1:]).any():
            why = "few images decide its means"
        return f"{feature} cannot be tested: {why}."
    family = f"Holm over {tested} mode{'s' if tested > 1 else ''}, {pooled.n} images"
    different = np.flatnonzero(p_modes <= asked.alpha)
    if not different.size:
        least = int(np.nanargmin(p_modes))
        return (
            f"{feature}: no evidence of a difference between edge and centre in any mode"
            f"{_excluded(pooled, np.isfinite(p_modes))} (smallest "
            f"{p_text(float(p_modes[least]))}, {names[least]}; {family})."
        )
    told = []
    for k in different[np.argsort(p_modes[different], kind="stable")][:TOLD]:
        side = "higher" if higher(pooled, 1 + int(k)) else "lower"
        mode = "" if names == ["all"] else f"in {names[k]} "
        told.append(
            f"{mode}({side} at the edge, {_ratio(pooled, 1 + int(k), found.geometric)}, "
            f"{p_text(float(p_modes[k]))})"
        )
    more = f" and in {different.size - TOLD} more modes" if different.size > TOLD else ""
    return f"{feature} differs between edge and centre {', '.join(told)}{more}; {family}."


def _excluded(pooled: Comparison, tested: NDArray[np.bool_]) -> str:
    """Return how large a difference is ruled out in every mode tested, by the ratios' intervals.

    The largest of their ends holds for all of them without correction: it is wrong only if the
    interval of the mode with the largest difference is.
    """
    low, high = pooled.ratio_low[1:][tested], pooled.ratio_high[1:][tested]
    if not (low > 0).all():  # unbounded, or of means of both signs
        return ""
    most = (max(float(high.max()), 1.0 / float(low.min())) - 1.0) * 100
    return excluded(0.0, most, "% of the smaller of both")


def _ratio(one: Comparison, which: int, geometric: bool) -> str:
    """Return the ratio, and of logarithms the difference, each with its interval, in words."""
    ratio = _interval(one.ratio_low[which], one.ratio_high[which])
    if not geometric:
        of = " of geometric means" if one.of_logarithms[which] else ""
        return f"edge / centre{of} = {number(one.ratio[which])}, 95% interval {ratio}"
    ends = _interval(one.difference_low[which], one.difference_high[which])
    return (
        f"edge - centre = {number(one.difference[which])} in log10, 95% interval {ends}: "
        f"{number(one.ratio[which])} times, {ratio}"
    )


def _interval(low: float, high: float) -> str:
    """Return an interval in words."""
    if np.isnan(low) or np.isnan(high):
        return "unbounded"
    return f"{number(low)} to {number(high)}"


def _all_modes(values: dict[str, Any], found: Found, alpha: float) -> str:
    """Return what the notebook looked at: the mean over all modes, and by class."""
    interval = _interval(values["ratio_low"], values["ratio_high"])
    what = "edge / centre of geometric means" if found.geometric else "edge / centre"
    if found.pooled.of_logarithms[0]:
        what += " of geometric means"
    return (
        f"With all modes averaged, as in the notebook, {what} = {number(values['ratio'])} (95% "
        f"interval {interval} over images, paired t test {p_text(values['p'])}), and there is "
        f"evidence of a difference in {values['classes_different']} of {len(found.classes)} "
        f"classes at q <= {alpha:g}."
    )


def center_edge(
    store: MapStore,
    *,
    feature: str = CenterEdgeParameters.feature,
    border: int | None = CenterEdgeParameters.border,
    alpha: float = CenterEdgeParameters.alpha,
    show_progress: bool = False,
) -> Result:
    """Compare the patches at the edge of images with those in the centre, by class and mode.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    border
        Width of the edge in patches; None takes a quarter of each side, as the notebook did.
    alpha
        Level at which classes are counted, in (0, 1).
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `classes` (mean over all modes, one row per class), `modes` (all images, one row
        per mode) and `classes_by_mode`, each with the ratio's 95% interval and a paired t test;
        q is Benjamini-Hochberg over classes and modes, `p_modes` is Holm's over the modes of all
        images. Of a map of logarithms the ratio is ten to the power of the difference. Arrays of
        shape (class, 1 + varying modes), the mean over all modes first.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        border leaves no centre or no edge.
    """
    asked = CenterEdgeParameters(feature=feature, border=border, alpha=alpha)
    return run(store, [CenterEdge(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, center_edge, CenterEdgeParameters, CenterEdge)

make_callable(__name__)
