"""conv-probe: how well do maps classify images where the readout keeps their space?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats as known
from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.passes import Passes, noise_caveat, run
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.source import (
    MapStore,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.information import SHUFFLED, available
from frictionstore.analyses.probe import patches, readout
from frictionstore.analyses.probe.chosen import ChosenImages, caveats, choose_images, most_images
from frictionstore.analyses.probe.held import shuffled_within
from frictionstore.analyses.probe.ridge import compare_paired
from frictionstore.analyses.ridge_probe import feature_sets

NAME = "conv-probe"
QUESTION = "How well do local patterns of the maps classify images, and is one set better?"
TYPES_A_CLASS = 4
"""Types of images a class that the control task gives labels to."""


@dataclass(frozen=True, kw_only=True)
class ConvProbeParameters(parameters.Parameters):
    """What is asked for: see `conv_probe`."""

    features: str | Sequence[str] | None = parameters.parameter(
        None,
        "Feature sets to compare, separated by commas; + joins maps, log_NAME is a logarithm.  "
        "[default: S, the logarithm of friction, settle and all of them; exact maps where they are "
        "any]",
        flags=("--features", "--feature"),
        several=True,
    )
    folds: int = parameters.folds("Number of folds.")
    images: int = most_images()
    seed: int = parameters.seed()


class ConvProbe:
    """The plan: some images in memory, words learnt and all sets read in every fold."""

    on_repeats = False

    def __init__(self, asked: ConvProbeParameters) -> None:
        self.asked = asked

    def prepare(self, passes: Passes) -> None:
        self.store = passes.store
        require_grid(self.store, NAME)
        self.classes = require_classes(self.store, NAME)
        self.sets = feature_sets(self.asked.features or self._default())
        maps = tuple(dict.fromkeys(part for parts in self.sets.values() for part in parts))
        for name in maps:
            require_feature(self.store, name)
        choose_images(
            NAME, passes, self.classes, maps, self.asked.images, self.asked.folds, self.asked.seed,
            self._read,
        )  # fmt: skip

    def _default(self) -> list[str]:
        maps = [name for name in available(self.store) if "settle" in name or "exact" in name
                or name in ("S", "log_friction")]  # fmt: skip
        return [*maps, "+".join(maps)]

    @property
    def lifts(self) -> list[tuple[str, str]]:
        """Joined sets and the first of their maps that is there alone."""
        found = []
        for name, parts in self.sets.items():
            alone = next((part for part in parts if part in self.sets), None)
            if len(parts) > 1 and alone is not None:
                found.append((name, alone))
        return found

    def _read(self, chosen: ChosenImages) -> None:
        self.problem = problem = chosen.problem
        other = shuffled_within(problem.folds, self.asked.seed)
        pooled: dict[tuple[str, int], readout.Floats] = {}

        def kernel(name: str, fold: int) -> readout.Floats:
            of, _, shuffled = name.partition(" ")
            if (of, fold) not in pooled:
                # The same words whichever maps are asked for beside this one.
                rng = np.random.default_rng([self.asked.seed, fold])
                values = chosen.maps[of]
                words = patches.Dictionary(values[problem.folds != fold], rng)
                pooled[of, fold] = words.pooled(values)
            found = pooled[of, fold]
            return readout.products(found[other] if shuffled else found)

        self.floors = {
            name: tuple(p if p == alone else f"{p} {SHUFFLED}" for p in self.sets[name])
            for name, alone in self.lifts
        }
        sets = [*self.sets.values(), *self.floors.values()]
        self.readings = dict(zip(sets, readout.read(sets, kernel, problem), strict=True))
        control = self._control(chosen.maps, problem)
        alone = list(self.sets.values())
        self.control = readout.read(alone, kernel, control)
        self.control_problem = control

    def _control(
        self, maps: Mapping[str, NDArray[np.float32]], problem: readout.Problem
    ) -> readout.Problem:
        """Return the task whose labels were drawn for types of images, whatever their class."""
        rng = np.random.default_rng([self.asked.seed, 0xC0])
        columns = np.concatenate([x.reshape(len(x), -1) for x in maps.values()], axis=1)
        z = columns - columns.mean(axis=0, dtype=np.float64)
        scale = z.std(axis=0)
        z = z[:, scale > 0] / scale[scale > 0]
        centres = patches.k_means(z, TYPES_A_CLASS * problem.n_classes, rng)
        types = (0.5 * np.square(centres).sum(axis=1) - z @ centres.T).argmin(axis=1)
        labels = rng.permutation(np.arange(len(centres)) % problem.n_classes)[types]
        return readout.Problem(
            labels, problem.folds, problem.n_classes, problem.n_folds, problem.sampled,
            problem.groups,
        )  # fmt: skip

    def result(self) -> Result:
        rows = [self._set_row(k, name) for k, name in enumerate(self.sets)]
        pairs = [self._pair(a, b) for b, a in combinations(self._by_size(), 2)]
        lifts = [row for name, alone in self.lifts for row in self._lift(name, alone)]
        tables = {"sets": by_column(rows)}
        tables |= {"comparisons": by_column(pairs)} if pairs else {}
        tables |= {"lifts": by_column(lifts)} if lifts else {}
        accuracies = [
            [row[k] for row in rows] for k in ("accuracy", "accuracy_low", "accuracy_high")
        ]
        title = "conv-probe: accuracy, corrected 95% interval"
        chance = 1.0 / self.problem.n_classes
        figure = drawn(
            "intervals", list(self.sets), *accuracies, title, "accuracy",
            reference={"chance": chance},
        )  # fmt: skip
        values: dict[str, Any] = {
            "n_images": len(self.problem.labels), "chance_level": chance,
            "entropy_bits": readout.entropy(self.problem),
        }  # fmt: skip
        values |= {f"accuracy {row['features']}": row for row in rows}
        values |= {f"difference {row['first']} - {row['second']}": row for row in pairs}
        return Result(
            analysis=NAME,
            feature="",
            question=QUESTION,
            columns=dict(tables),
            arrays={
                "fold": self.problem.folds,
                "prediction": np.stack([self.readings[p].prediction for p in self.sets.values()]),
            },
            values=values,
            notebook={},
            parameters={
                "features": list(self.sets), "folds": self.asked.folds,
                "images": self.asked.images,
            },
            seed=self.asked.seed,
            sentences=self._sentences(rows, lifts),
            caveats=self._caveats(),
            provenance=provenance(self.store),
            figures={"accuracy": figure},
            shown=tuple(tables),
        )  # fmt: skip

    def _by_size(self) -> list[str]:
        return sorted(self.sets, key=lambda name: len(self.sets[name]))

    def _set_row(self, which: int, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"features": name}
        row |= readout.measured(self.readings[self.sets[name]], self.problem)
        control = self.control[which].prediction == self.control_problem.labels
        row["control_accuracy"] = float(control.mean())
        row["selectivity"] = row["accuracy"] - row["control_accuracy"]
        return row

    def _pair(self, first: str, second: str) -> dict[str, Any]:
        one, other = (self.readings[self.sets[name]] for name in (first, second))
        right = [of.prediction == self.problem.labels for of in (one, other)]
        row: dict[str, Any] = {"first": first, "second": second}
        row |= readout.compared(one, other, self.problem)
        return row | {"mcnemar_p": compare_paired(*right, groups=self.problem.groups).mcnemar_p}

    def _lift(self, name: str, alone: str) -> list[dict[str, Any]]:
        base = self.readings[self.sets[alone]]
        return [
            {
                "set": name,
                "beyond": alone,
                "maps_of": of,
                **readout.compared(self.readings[parts], base, self.problem),
            }
            for of, parts in (("same images", self.sets[name]), ("shuffled", self.floors[name]))
        ]

    def _sentences(
        self, rows: Sequence[Mapping[str, Any]], lifts: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        best = max(rows, key=lambda row: row["accuracy"])
        said = [
            f"By pooled 3 x 3 patterns of {best['features']}"
            f"{f', the best of {len(rows)} feature sets here,' if len(rows) > 1 else ''} "
            f"{best['accuracy']:.1%} of images are classified correctly (95% interval "
            f"{best['accuracy_low']:.1%} to {best['accuracy_high']:.1%}; chance "
            f"{1 / self.problem.n_classes:.1%}; selectivity {best['selectivity'] * 100:+.1f} "
            "points)."
        ]
        for row, other in zip(lifts[::2], lifts[1::2], strict=True):
            lift, floor = (
                f"{one['accuracy'] * 100:+.1f} percentage points "
                f"({one['accuracy_low'] * 100:+.1f} to {one['accuracy_high'] * 100:+.1f})"
                for one in (row, other)
            )
            said.append(
                f"{row['set']} minus {row['beyond']}: {lift}; with the maps besides "
                f"{row['beyond']} of shuffled images: {floor}."
            )
        return said

    def _caveats(self) -> list[str]:
        said = self.classes.caveats() + caveats(self.classes)
        n, all_of_them = len(self.problem.labels), self.classes.n_labelled
        if n < all_of_them:
            said.append(f"{n:,} of {all_of_them:,} labelled images, drawn at random (--images)")
        said.append(
            f"one {self.asked.folds}-fold split for all sets; intervals are Nadeau and Bengio's, "
            f"from images within folds; words are {patches.WORDS} a map, learnt in the training "
            "images of each fold"
        )
        said.append(
            f"control: labels drawn at random for {TYPES_A_CLASS} types of images a class (k-means "
            "of the maps); selectivity is the accuracy less the control's"
        )
        maps = {part for parts in self.sets.values() for part in parts}
        return said + known.features(*maps) + noise_caveat(self.store, maps)


def conv_probe(
    store: MapStore,
    *,
    features: str | Sequence[str] | None = ConvProbeParameters.features,
    folds: int = ConvProbeParameters.folds,
    images: int = ConvProbeParameters.images,
    seed: int = ConvProbeParameters.seed,
    show_progress: bool = False,
) -> Result:
    """Classify images by local patterns of their maps and compare feature sets.

    A dictionary of whitened 3 x 3 patches is learnt for each map in the training images of each
    fold; images are described by the mean activation of its words in each quadrant and read by a
    calibrated linear readout with a penalty for each map.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    features
        Feature sets: maps, or maps joined with "+", as a list or separated by commas.
    folds
        Number of stratified folds, at least 2.
    images
        Most images used, drawn at random.
    seed
        Seed of images, folds, words, shuffling and the control task.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `sets` (accuracy and log loss in bits with corrected intervals, the control task's
        accuracy, selectivity), `comparisons` (paired differences) and `lifts` (joined sets minus
        one of their maps, and the floor with the others of shuffled images).

    Raises
    ------
    AnalysisError
        If labels or maps are missing, or there are too few images.

    References
    ----------
    Hewitt and Liang (2019), Designing and interpreting probes with control tasks, EMNLP.
    """
    asked = ConvProbeParameters(features=features, folds=folds, images=images, seed=seed)
    return run(store, [ConvProbe(asked)], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@parameters.asks(ConvProbeParameters)
def command(target: options.Target, **asked: Any) -> None:
    """Classify images by local patterns of their maps and compare feature sets."""
    asked["features"] = asked["features"] or None
    target.run([ConvProbe(ConvProbeParameters(**asked))])


make_callable(__name__)
