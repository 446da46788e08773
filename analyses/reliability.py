"""reliability: how much of a map would be the same if the same images were measured again?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import RELIABLE
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.passes import Passes, measured, noise_caveat, run
from frictionstore.analyses.core.results import Result, drawn, provenance
from frictionstore.analyses.core.saved import RELIABILITY
from frictionstore.analyses.core.source import (
    EXACT,
    MapStore,
    class_labels,
    is_repeated,
    mode_name,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, interval_text, number
from frictionstore.analyses.stats.log_correlation import LogCorrelation
from frictionstore.check.agreement import CHANGED, SCALES, Agreement, RankAgreement, on_scale
from frictionstore.check.changes import Differences
from frictionstore.text import printable

NAME = RELIABILITY
QUESTION = "How much of a map would be the same if the same images were measured again?"
WITHIN = 0.01
"""A relative rounding error that is small."""
NOISE = 0.05
"""Share of changed values from which on a map is what rounding makes of it."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityParameters(parameters.Parameters):
    """What is asked for: see `reliability`."""

    feature: str = parameters.parameter(
        "friction", "Map to measure; may be given several times.", several=True
    )
    samples: int = parameters.parameter(
        1000, "Samples of the bootstrap over images.", least=2, most=100_000
    )
    seed: int = parameters.seed()


class Reliability:
    """The plan: agreement on each scale, changes and rounding error in the same passes."""

    on_repeats = False

    def __init__(self, asked: ReliabilityParameters) -> None:
        self.feature = asked.feature
        self.samples = asked.samples
        self.seed = asked.seed

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        rows, cols = require_grid(store, NAME)
        self.n_modes = require_feature(store, self.feature)
        if self.feature not in store.maps:
            raise AnalysisError(
                f"{printable(self.feature)} is made of maps and {NAME} looks at maps, on all "
                f"scales: name one of the store's, such as friction"
            )
        exact = f"{self.feature}{EXACT}"
        self.exact = exact if exact in store.maps else None
        repeated = [
            name
            for name in (self.feature, exact)
            if name in store.maps and is_repeated(store, name)
        ]
        if not repeated and self.exact is None:
            unknown = noise_caveat(store, [self.feature]) or [
                f"measurement noise of {printable(self.feature)} is not known: this store has no "
                "repeats of it"
            ]
            raise AnalysisError(f"{unknown[0]}; extract again with --repeats 2 to know it")
        labels = np.asarray(store.labels)
        self.names = class_labels(store)
        n_classes = len(self.names)
        self.agreement: dict[str, dict[str, Agreement | RankAgreement]] = {}
        self.changes: dict[str, Differences] = {}
        for name in repeated:
            maps = measured(passes, name)
            self.agreement[name] = {
                scale: passes.share(
                    (NAME, name, scale, self.samples, self.seed),
                    partial(
                        on_scale,
                        scale,
                        maps,
                        rows * cols * self.n_modes * 4,
                        store.n_images,
                        samples=self.samples,
                        seed=self.seed,
                        groups=groups_of(store),
                    ),
                )
                for scale in SCALES
            }
            self.changes[name] = passes.share(
                (NAME, name, "changes"),
                partial(Differences, name, maps[1:], labels, n_classes, CHANGED),
            )
        if self.exact is not None:
            pair = (self.feature, self.exact)
            self.rounding = passes.share(
                (NAME, *pair, "rounding"),
                lambda: Differences(pair[1], pair[:1], labels, n_classes, WITHIN),
            )
            self.correlation = passes.share((NAME, *pair), lambda: LogCorrelation(*pair))
        self.repeats = len(passes.repeats) if repeated else 0

    def result(self) -> Result:
        self.modes = [mode_name(mode, self.n_modes) for mode in range(self.n_modes)]
        labels = np.asarray(self.store.labels)
        self.columns: dict[str, Columns] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.values: dict[str, Any] = {"n_repeats": self.repeats}
        self.sentences: list[str] = []
        self.caveats: list[str] = []
        self.by_class: dict[str, Any] = {
            "class": self.names,
            "images": np.bincount(labels[labels >= 0], minlength=len(self.names)),
        }
        if self.agreement:
            self._say_repeats()
        else:
            self.sentences.append(
                f"measurement noise of {self.feature} is not known: this store has no repeats."
            )
        if self.exact is not None:
            self._say_rounding(self.exact)
        if self.names:
            self.columns["classes"] = self.by_class
        titles = {
            "share_changed": f"{self.feature}: share of values that a repeat changes by more than "
            f"{CHANGED:.0%}",
            "share_within": f"{self.feature}: share of values within {WITHIN:.0%} of exact",
        }
        shown = ("reliability", "change", "rounding")
        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns=self.columns,
            arrays=self.arrays,
            values=self.values,
            notebook={},
            parameters={"samples": self.samples, "changed": CHANGED, "within": WITHIN},
            seed=self.seed,
            sentences=self.sentences,
            caveats=self.caveats,
            provenance=provenance(self.store),
            figures={
                name: drawn("mode_maps", self.arrays[name], title, "share of the values")
                for name, title in titles.items()
                if name in self.arrays
            },
            shown=tuple(name for name in shown if name in self.columns),
        )

    def _say_repeats(self) -> None:
        """What the repeats say of the map, and of its exact counterpart where that has some."""
        found = {
            name: {scale: one.found for scale, one in scales.items()}
            for name, scales in self.agreement.items()
        }
        self.columns["reliability"] = _agreement_table(found, self.modes)
        self.columns["change"] = _change_table(self.changes, self.modes)
        for name, scales in found.items():
            said, of_map = _agreement_answer(name, scales, self.modes)
            change = self.changes[name]
            of_map |= {
                "share_changed": float(change.share.mean()),
                "largest_median_change": float(change.quantile(0.5).max()),
                "largest_change_99": float(change.quantile(0.99).max()),
            }
            share = 100 * of_map["share_changed"]
            # Where values span decades, many may change and none change its place among them.
            robust = of_map["least_reliability_logarithm"] >= RELIABLE
            lead = f"rounding decides {name}: " if share > 100 * NOISE and not robust else ""
            self.sentences.append(
                f"{lead}{said}; {share:.2g}% of the values change by more than {CHANGED:.0%} when "
                "a matrix changes by one unit in the last place."
            )
            mark = "" if name == self.feature else f" {name}"
            self.values |= {f"{key}{mark}": value for key, value in of_map.items()}
            mark = mark.replace(" ", "_")
            self.by_class[f"share_changed{mark}"] = change.share_by_class.mean(axis=1)
            self.arrays[f"share_changed{mark}"] = change.share
            for scale, one in scales.items():
                self.arrays[f"reliability_{scale}{mark}"] = one.reliability
            self.caveats += _agreement_caveats(name, scales, self.modes)
        self.caveats.append(
            f"the measurement and its {self.repeats} repeats count alike; a repeat changes the "
            "matrix by at most one unit in the last place: what the encoder rounds before it "
            "is not in it"
        )
        ranks = self.agreement[next(iter(found))]["rank"]
        if isinstance(ranks, RankAgreement) and ranks.stride > 1:
            self.caveats.append(f"ranks are places among the values of every {ranks.stride}. image")

    def _say_rounding(self, exact: str) -> None:
        """How far the map is from what it is without rounding."""
        rounding = self.rounding
        table: dict[str, Any] = {
            "mode": self.modes,
            "median_error": rounding.quantile(0.5),
            "error_99": rounding.quantile(0.99),
            "share_within": 1.0 - rounding.share.mean(axis=(0, 1)),
            "log_correlation": self.correlation.correlation,
        }
        self.columns["rounding"] = table
        self.arrays["share_within"] = 1.0 - rounding.share
        self.by_class["share_within"] = 1.0 - rounding.share_by_class.mean(axis=1)
        worst = int(rounding.share.mean(axis=(0, 1)).argmax())
        self.values |= {
            "rounding_share_within": float(1.0 - rounding.share.mean()),
            "rounding_largest_median": float(rounding.quantile(0.5).max()),
            "rounding_least_log_correlation": float(
                np.fmin.reduce(self.correlation.correlation, initial=np.nan)
            ),
        }
        self.sentences.append(
            f"rounding error of {self.feature} against {exact}: "
            f"{self.values['rounding_share_within']:.1%} of the values are within {WITHIN:.0%}; "
            f"least in {self.modes[worst]}, {table['share_within'][worst]:.1%} with a median error "
            f"of {number(table['median_error'][worst])} and a correlation of logarithms of "
            f"{number(table['log_correlation'][worst])}."
        )


def _agreement_table(found: dict[str, dict[str, Agreement]], modes: list[str]) -> Columns:
    rows = [
        (name, scale, mode, one.reliability[m], one.low[m], one.high[m])
        for name, scales in found.items()
        for scale, one in scales.items()
        for m, mode in enumerate(modes)
    ]
    heads = ("map", "scale", "mode", "reliability", "reliability_low", "reliability_high")
    return {head: list(column) for head, column in zip(heads, zip(*rows, strict=True), strict=True)}


def _change_table(changes: dict[str, Differences], modes: list[str]) -> Columns:
    return {
        "map": [name for name in changes for _ in modes],
        "mode": [mode for _ in changes for mode in modes],
        "median_change": np.concatenate([one.quantile(0.5) for one in changes.values()]),
        "change_99": np.concatenate([one.quantile(0.99) for one in changes.values()]),
        "share_changed": np.concatenate([one.share.mean(axis=(0, 1)) for one in changes.values()]),
    }


def _agreement_answer(
    name: str, scales: dict[str, Agreement], modes: list[str]
) -> tuple[str, dict[str, Any]]:
    """Return what is said of the reliability of a map, and the figures that are named."""
    parts, values = [], {}
    for scale, one in scales.items():
        values[f"least_reliability_{scale}"] = one.least
        if np.isnan(one.least):
            continue
        worst = int(np.nanargmin(one.reliability))
        ends = float(one.low[worst]), float(one.high[worst])
        values |= {f"reliability_{scale}_low": ends[0], f"reliability_{scale}_high": ends[1]}
        interval = interval_text(*ends)
        below = int((one.reliability < RELIABLE).sum())
        judged = (
            f"below {RELIABLE:g} in {below} of {int((~one.constant).sum())} modes that vary"
            if below
            else f"at least {RELIABLE:g}"
        )
        parts.append(
            f"{scale} {judged} (least {number(one.least)}, 95% interval {interval}, in "
            f"{modes[worst]})"
        )
    if not parts:
        return f"{name} is constant: there is nothing to measure again", values
    return f"reliability of {name}: {', '.join(parts)}", values


def _agreement_caveats(name: str, scales: dict[str, Agreement], modes: list[str]) -> list[str]:
    constant = [mode for mode, same in zip(modes, scales["raw"].constant, strict=True) if same]
    caveats = [f"{', '.join(constant)} of {name} is constant and left out"] if constant else []
    none = np.isnan(scales["logarithm"].reliability) & ~scales["raw"].constant
    if none.any():
        which = ", ".join(mode for mode, lacks in zip(modes, none, strict=True) if lacks)
        caveats.append(f"{name} holds values of 0 or less in {which}: no logarithm is taken there")
    return caveats


def can_be_measured(store: MapStore, feature: str) -> bool:
    """Return whether a store has repeats of a map or what it is without rounding."""
    there = feature in store.maps
    return there and (is_repeated(store, feature) or f"{feature}{EXACT}" in store.maps)


def reliability(
    store: MapStore,
    *,
    feature: str = ReliabilityParameters.feature,
    samples: int = ReliabilityParameters.samples,
    seed: int = ReliabilityParameters.seed,
    show_progress: bool = False,
) -> Result:
    """Measure how much of a map repeats of the measurement leave as it is.

    Parameters
    ----------
    store
        An open store, or anything with its interface, with repeats of the map or its exact
        counterpart.
    feature
        A map of the store.
    samples
        Samples of the bootstrap over images, at least 2.
    seed
        Seed of the bootstrap.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `reliability` (by map, scale and mode, with a 95% interval), `change` (relative
        change between the measurement and a repeat: median, 99th percentile, share above 10%),
        `rounding` (relative error against the exact map: median, 99th percentile, share within
        1%, correlation of logarithms) and `classes`. Arrays of shape (row, col, mode):
        `share_changed`, `share_within`.

    Raises
    ------
    AnalysisError
        If the store has neither repeats of the map nor its exact counterpart, or values are not
        finite.
    """
    asked = ReliabilityParameters(feature=feature, samples=samples, seed=seed)
    return run(store, [Reliability(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, reliability, ReliabilityParameters, Reliability)

make_callable(__name__)
