"""reliability: how much of a map would be the same if the same images were measured again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.agreement import Agreement, RankAgreement, logarithm, raw
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import RELIABLE
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.passes import Arrays, Passes, measured, noise_caveat, run
from frictionstore.analyses.core.results import Result, provenance
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
from frictionstore.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = RELIABILITY
QUESTION = "How much of a map would be the same if the same images were measured again?"
SCALES = ("raw", "logarithm", "rank")
CHANGED = 0.1
"""A relative change that counts as one."""
WITHIN = 0.01
"""A relative rounding error that is small."""

_DROPPED = 14
"""Bits of a float32 that its place in a histogram does without: places are 0.2% wide."""


def relative_difference(values: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float32]:
    """Return |values - reference| / |reference| in float32; infinity where only that is 0."""
    reference = reference.astype(np.float64)
    apart = np.abs(values - reference)
    out = np.where(apart == 0, 0.0, np.inf)
    np.divide(apart, np.abs(reference), out=out, where=reference != 0)
    # What float32 cannot hold is infinite there.
    with np.errstate(over="ignore"):
        return out.astype(np.float32)


class Differences:
    """Relative differences of maps from a reference, over images, patches and these maps.

    Parameters
    ----------
    reference, others
        Names of maps.
    labels, n_classes
        Of the images, -1 for none.
    threshold
        Differences above it are counted.

    Attributes
    ----------
    share
        Share above the threshold, float64 of shape (row, col, mode).
    share_by_class
        The same, shape (class, mode); NaN for a class without images.
    """

    def __init__(
        self,
        reference: str,
        others: Sequence[str],
        labels: NDArray[np.integer[Any]],
        n_classes: int,
        threshold: float,
    ) -> None:
        self.features = (reference, *others)
        self._labels = labels
        self._threshold = threshold
        self._n = 0
        self._by_class = np.zeros(n_classes, np.int64)
        self._above: Any = 0
        self._above_by_class: Any = 0
        self._counts: list[NDArray[np.int64]] = []

    def update(self, rows: slice, arrays: Arrays) -> None:
        reference = arrays[self.features[0]]
        labels = self._labels[rows]
        labelled = labels >= 0
        member = np.eye(len(self._by_class), dtype=np.int64)[labels[labelled]]
        for name in self.features[1:]:
            difference = relative_difference(arrays[name], reference)
            above = difference > self._threshold
            self._above = self._above + above.sum(axis=0)
            of_image = above.sum(axis=(1, 2))[labelled]
            self._above_by_class = self._above_by_class + member.T @ of_image
            self._n += len(difference)
            self._by_class += member.sum(axis=0)
            place = difference.view(np.int32) >> _DROPPED
            for mode in range(place.shape[-1]):
                counts = np.bincount(place[..., mode].reshape(-1))
                if mode == len(self._counts):
                    self._counts.append(np.zeros(0, np.int64))
                held = self._counts[mode]
                longer = np.zeros(max(len(held), len(counts)), np.int64)
                longer[: len(held)] += held
                longer[: len(counts)] += counts
                self._counts[mode] = longer

    def end_pass(self) -> bool:
        self.share: Floats = self._above / self._n
        patches = self.share.shape[0] * self.share.shape[1]
        of_class = np.maximum(self._by_class, 1)[:, None] * patches
        self.share_by_class: Floats = np.where(
            self._by_class[:, None] > 0, self._above_by_class / of_class, np.nan
        )
        return False

    def quantile(self, q: float) -> Floats:
        """Return a quantile by mode, of shape (n_modes,), to 0.2%."""
        found = []
        for counts in self._counts:
            reached = np.cumsum(counts)
            place = int(np.searchsorted(reached, q * reached[-1]))
            middle = np.int32((place << _DROPPED) + (1 << (_DROPPED - 1)))
            value = float(middle.view(np.float32))
            # The first place holds 0, the one of infinity has no middle.
            found.append(0.0 if place == 0 else np.inf if np.isnan(value) else value)
        return np.array(found)


class LogCorrelation:
    """Correlation of the logarithms of two maps over images and patches, by mode.

    Attributes
    ----------
    correlation
        float64 of shape (n_modes,); NaN where one of them is constant or has a value of 0 or less.
    """

    def __init__(self, first: str, second: str) -> None:
        self.features = (first, second)
        self._n = 0
        self._mean: Any = 0.0
        self._products: Any = 0.0

    def update(self, rows: slice, arrays: Arrays) -> None:
        pair = np.stack([logarithm(arrays[name]) for name in self.features])
        pair = pair.reshape(2, -1, pair.shape[-1])
        n = pair.shape[1]
        mean = pair.mean(axis=1)
        pair -= mean[:, None]
        apart = mean - self._mean
        weight = self._n * n / (self._n + n)
        self._products = (
            self._products
            + np.einsum("apm,bpm->abm", pair, pair)
            + np.einsum("am,bm->abm", apart, apart) * weight
        )
        self._mean = self._mean + apart * (n / (self._n + n))
        self._n += n

    def end_pass(self) -> bool:
        xx, yy, xy = self._products[0, 0], self._products[1, 1], self._products[0, 1]
        size = np.sqrt(xx * yy)
        self.correlation: Floats = np.divide(
            xy, size, out=np.full(size.shape, np.nan), where=size > 0
        )
        return False


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
                    partial(self._agreement, scale, maps, rows * cols * self.n_modes * 4),
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

    def _agreement(
        self, scale: str, maps: Sequence[str], bytes_per_image: int
    ) -> Agreement | RankAgreement:
        drawn: Any = {"samples": self.samples, "seed": self.seed, "groups": groups_of(self.store)}
        if scale == "rank":
            return RankAgreement(maps, bytes_per_image, self.store.n_images, **drawn)
        return Agreement(maps, scale=logarithm if scale == "logarithm" else raw, **drawn)

    def result(self) -> Result:
        modes = [mode_name(mode, self.n_modes) for mode in range(self.n_modes)]
        found = {
            name: {
                scale: one.found if isinstance(one, RankAgreement) else one
                for scale, one in scales.items()
            }
            for name, scales in self.agreement.items()
        }
        columns: dict[str, Columns] = {}
        arrays: dict[str, NDArray[Any]] = {}
        values: dict[str, Any] = {"n_repeats": self.repeats}
        sentences: list[str] = []
        caveats: list[str] = []
        by_class: dict[str, Any] = {
            "class": self.names,
            "images": np.bincount(
                np.asarray(self.store.labels)[np.asarray(self.store.labels) >= 0],
                minlength=len(self.names),
            ),
        }
        if found:
            columns["reliability"] = _agreement_table(found, modes)
            columns["change"] = _change_table(self.changes, modes)
            for name, scales in found.items():
                said, of_map = _agreement_answer(name, scales, modes)
                change = self.changes[name]
                of_map |= {
                    "share_changed": float(change.share.mean()),
                    "largest_median_change": float(change.quantile(0.5).max()),
                    "largest_change_99": float(change.quantile(0.99).max()),
                }
                share = 100 * of_map["share_changed"]
                sentences.append(
                    f"{said}; {share:.2g}% of the values change by more than {CHANGED:.0%} when a "
                    "matrix changes by one unit in the last place."
                )
                mark = "" if name == self.feature else f" {name}"
                values |= {f"{key}{mark}": value for key, value in of_map.items()}
                by_class[f"share_changed{mark.replace(' ', '_')}"] = change.share_by_class.mean(
                    axis=1
                )
                arrays[f"share_changed{mark.replace(' ', '_')}"] = change.share
                for scale, one in scales.items():
                    arrays[f"reliability_{scale}{mark.replace(' ', '_')}"] = one.reliability
                caveats += _agreement_caveats(name, scales, modes)
            caveats.append(
                f"the measurement and its {self.repeats} repeats count alike; a repeat changes the "
                "matrix by at most one unit in the last place: what the encoder rounds before it "
                "is not in it"
            )
            ranks = self.agreement[next(iter(found))]["rank"]
            if isinstance(ranks, RankAgreement) and ranks.stride > 1:
                caveats.append(f"ranks are places among the values of every {ranks.stride}. image")
        else:
            sentences.append(
                f"measurement noise of {self.feature} is not known: this store has no repeats."
            )
        if self.exact is not None:
            rounding = self.rounding
            columns["rounding"] = {
                "mode": modes,
                "median_error": rounding.quantile(0.5),
                "error_99": rounding.quantile(0.99),
                "share_within": 1.0 - rounding.share.mean(axis=(0, 1)),
                "log_correlation": self.correlation.correlation,
            }
            arrays["share_within"] = 1.0 - rounding.share
            by_class["share_within"] = 1.0 - rounding.share_by_class.mean(axis=1)
            worst = int(rounding.share.mean(axis=(0, 1)).argmax())
            values |= {
                "rounding_share_within": float(1.0 - rounding.share.mean()),
                "rounding_largest_median": float(rounding.quantile(0.5).max()),
                "rounding_least_log_correlation": float(
                    np.fmin.reduce(self.correlation.correlation, initial=np.nan)
                ),
            }
            table = columns["rounding"]
            sentences.append(
                f"rounding error of {self.feature} against {self.exact}: "
                f"{values['rounding_share_within']:.1%} of the values are within {WITHIN:.0%}; "
                f"least in {modes[worst]}, {table['share_within'][worst]:.1%} with a median error "
                f"of {number(table['median_error'][worst])} and a correlation of logarithms of "
                f"{number(table['log_correlation'][worst])}."
            )
        if self.names:
            columns["classes"] = by_class

        def share_map(what: str, title: str) -> Any:
            def draw() -> Figure:
                from frictionstore.analyses.core import figures

                return figures.mode_maps(arrays[what], title, "share of the values")

            return draw

        drawn = {
            "share_changed": share_map(
                "share_changed",
                f"{self.feature}: share of values that a repeat changes by more than {CHANGED:.0%}",
            ),
            "share_within": share_map(
                "share_within", f"{self.feature}: share of values within {WITHIN:.0%} of exact"
            ),
        }
        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns=columns,
            arrays=arrays,
            values=values,
            notebook={},
            parameters={"samples": self.samples, "changed": CHANGED, "within": WITHIN},
            seed=self.seed,
            sentences=sentences,
            caveats=caveats,
            provenance=provenance(self.store),
            figures={name: draw for name, draw in drawn.items() if name in arrays},
            shown=tuple(name for name in ("reliability", "change", "rounding") if name in columns),
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
