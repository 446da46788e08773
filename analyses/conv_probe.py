"""conv-probe: how well do maps classify images where the readout keeps their space?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

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
from frictionstore.analyses.probe import cnn, patches, readout
from frictionstore.analyses.probe.chosen import (
    ChosenImages,
    caveats,
    choose_images,
    how_tested,
    most_images,
)
from frictionstore.analyses.probe.held import shuffled_within
from frictionstore.analyses.probe.lifts import sentence
from frictionstore.analyses.probe.protocol import SplitParameters, train_test
from frictionstore.analyses.ridge_probe import feature_sets
from frictionstore.progress import progress_bar

NAME = "conv-probe"
QUESTION = "How well do local patterns of the maps classify images, and is one set better?"
Readout = Literal["ridge", "cnn"]
TYPES_A_CLASS = 4
"""Types of images a class that the control task gives labels to."""


@dataclass(frozen=True, kw_only=True)
class ConvProbeParameters(SplitParameters):
    """What is asked for: see `conv_probe`."""

    features: str | Sequence[str] | None = parameters.parameter(
        None,
        "Feature sets to compare, separated by commas; + joins maps, log_NAME is a logarithm.  "
        "[default: S, the logarithm of friction, settle and all of them; exact maps where they are "
        "any]",
        flags=("--features", "--feature"),
        several=True,
    )
    readout: Readout = parameters.parameter(  # noqa: RUF009 - a field, as the others
        "ridge",
        "Ridge on pooled 3 x 3 patterns, or a small convolutional network (torch: extra extract).",
        choices=("ridge", "cnn"),
    )
    seeds: int = parameters.parameter(
        3, "With --readout cnn: networks whose mean probability counts.", least=1, most=100
    )
    folds: int = parameters.folds("Number of folds.")
    images: int = most_images()
    seed: int = parameters.seed()


class ConvProbe:
    """The plan: some images in memory, words learnt and all sets read in every fold."""

    on_repeats = False

    def __init__(self, asked: ConvProbeParameters, *, show_progress: bool = False) -> None:
        self.asked = asked
        self._show = show_progress

    def prepare(self, passes: Passes) -> None:
        self.store = passes.store
        if self.asked.readout == "cnn":
            cnn.require_torch(NAME)
        require_grid(self.store, NAME)
        self.classes = require_classes(self.store, NAME)
        self.sets = feature_sets(self.asked.features or self._default())
        maps = tuple(dict.fromkeys(part for parts in self.sets.values() for part in parts))
        for name in maps:
            require_feature(self.store, name)
        self.parts = train_test(self.store, NAME, self.classes, self.asked)
        choose_images(
            NAME, passes, self.classes, maps, self.asked.images, self.asked.folds, self.asked.seed,
            self._take, self.parts,
        )  # fmt: skip

    def _default(self) -> list[str]:
        maps = [name for name in available(self.store, NAME) if "settle" in name or "exact" in name
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

    def _take(self, chosen: ChosenImages) -> None:
        self.problem = problem = chosen.problem
        self.floors = {
            name: tuple(p if p == alone else f"{p} {SHUFFLED}" for p in self.sets[name])
            for name, alone in self.lifts
        }
        self.control_problem = self._control(chosen.maps, problem)
        self._maps = chosen.maps
        if self.asked.readout == "ridge":  # here, where BLAS is held to one thread
            kernel = self._kernels(problem)
            self._read(lambda parts, of: readout.read(parts, kernel, of))

    def _read(self, read: Callable[..., list[readout.Reading]]) -> None:
        sets = [*self.sets.values(), *self.floors.values()]
        self.readings = dict(zip(sets, read(sets, self.problem), strict=True))
        self.control = read(list(self.sets.values()), self.control_problem)

    def _train(self) -> None:
        """Read all sets by networks."""
        other = shuffled_within(self.problem.folds, self.asked.seed)

        def values(name: str) -> NDArray[np.float32]:
            of, _, shuffled = name.partition(" ")
            return self._maps[of][other] if shuffled else self._maps[of]

        asked, sets = self.asked, 2 * len(self.sets) + len(self.floors)
        total = sets * self.problem.n_folds * asked.seeds
        with progress_bar(total, "training", unit="networks", show=self._show) as advance:
            self._read(
                lambda parts, of: cnn.read(
                    parts, values, of, seed=asked.seed, seeds=asked.seeds, advance=advance
                )
            )

    def _kernels(self, problem: readout.Problem) -> readout.Kernels:
        other = shuffled_within(problem.folds, self.asked.seed)
        pooled: dict[tuple[str, int], readout.Floats] = {}

        def kernel(name: str, fold: int) -> readout.Floats:
            of, _, shuffled = name.partition(" ")
            if (of, fold) not in pooled:
                # The same words whichever maps are asked for beside this one.
                rng = np.random.default_rng([self.asked.seed, fold])
                values = self._maps[of]
                words = patches.Dictionary(values[problem.folds != fold], rng)
                pooled[of, fold] = words.pooled(values)
            found = pooled[of, fold]
            return readout.products(found[other] if shuffled else found, problem.fitted)

        return kernel

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
        if self.asked.readout == "cnn":
            self._train()
        rows = [self._set_row(k, name) for k, name in enumerate(self.sets)]
        pairs = [self._pair(a, b) for b, a in combinations(self._by_size(), 2)]
        lifts = [row for name, alone in self.lifts for row in self._lift(name, alone)]
        tables = {"sets": by_column(rows)}
        tables |= {"comparisons": by_column(pairs)} if pairs else {}
        tables |= {"lifts": by_column(lifts)} if lifts else {}
        accuracies = [
            [row[k] for row in rows] for k in ("accuracy", "accuracy_low", "accuracy_high")
        ]
        title = "conv-probe: accuracy, 95% interval"
        chance = 1.0 / self.problem.n_classes
        figure = drawn(
            "intervals", list(self.sets), *accuracies, title, "accuracy",
            reference={"chance": chance},
        )  # fmt: skip
        values: dict[str, Any] = {
            "n_images": int(self.problem.tested.sum()), "chance_level": chance,
            "majority_level": self._majority, "entropy_bits": readout.entropy(self.problem),
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
                "features": list(self.sets), "images": self.asked.images, **self._protocol(),
            },
            seed=self.asked.seed,
            sentences=self._sentences(rows, lifts),
            caveats=self._caveats(),
            provenance=provenance(self.store),
            figures={"accuracy": figure},
            shown=tuple(tables),
        )  # fmt: skip

    def _protocol(self) -> dict[str, Any]:
        """Return what else tells the result from others: how it was read and tested."""
        asked, parts = self.asked, self.parts
        found = {"folds": asked.folds} if parts is None else parts.recorded
        if asked.readout == "cnn":
            whole = "cnn" if parts is None else f"cnn {parts.protocol}"
            found |= {"protocol": whole, "readout": "cnn", "seeds": asked.seeds}
        return found

    @property
    def _majority(self) -> float:
        labels = self.problem.labels[self.problem.tested]
        return float(np.bincount(labels).max() / len(labels))

    def _by_size(self) -> list[str]:
        return sorted(self.sets, key=lambda name: len(self.sets[name]))

    def _set_row(self, which: int, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"features": name}
        row |= readout.measured(self.readings[self.sets[name]], self.problem)
        right = self.control[which].right(self.control_problem)
        row["control_accuracy"] = float(right[self.problem.tested].mean())
        row["selectivity"] = row["accuracy"] - row["control_accuracy"]
        return row

    def _pair(self, first: str, second: str) -> dict[str, Any]:
        one, other = (self.readings[self.sets[name]] for name in (first, second))
        right = [of.right(self.problem) for of in (one, other)]
        row: dict[str, Any] = {"first": first, "second": second}
        row |= readout.compared(one, other, self.problem)
        return row | {"mcnemar_p": self.problem.paired(*right).mcnemar_p}

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
        what = "pooled 3 x 3 patterns of" if self.asked.readout == "ridge" else "networks that read"
        whose = "" if self.parts is None else f" {self.parts.words(self.problem.folds)},"
        said = [
            f"By {what} {best['features']}"
            f"{f', the best of {len(rows)} feature sets here,' if len(rows) > 1 else ''} "
            f"{best['accuracy']:.1%} of images{whose} are classified correctly (95% interval "
            f"{best['accuracy_low']:.1%} to {best['accuracy_high']:.1%}; chance "
            f"{1 / self.problem.n_classes:.1%}, the largest class {self._majority:.1%}; "
            f"selectivity {best['selectivity'] * 100:+.1f} points)."
        ]
        for row, other in zip(lifts[::2], lifts[1::2], strict=True):
            lift, floor = (
                [one[f"accuracy{end}"] for end in ("", "_low", "_high")] for one in (row, other)
            )
            said.append(sentence(row["set"], row["beyond"], lift, floor))
        return said

    def _caveats(self) -> list[str]:
        said = self.classes.caveats() + how_tested(self.parts, self.problem, self.classes)
        if self.asked.readout == "cnn":
            many = f"the mean probability of {self.asked.seeds} networks with other seeds"
            said.append(f"readout: {many if self.asked.seeds > 1 else 'one network'}; {cnn.WORDS}")
        else:
            said += caveats(self.classes)
            said.append(f"words are {patches.WORDS} a map, learnt in training images")
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
    readout: Readout = ConvProbeParameters.readout,
    seeds: int = ConvProbeParameters.seeds,
    train: str | None = ConvProbeParameters.train,
    test: str | None = ConvProbeParameters.test,
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
        Seed of images, folds, words, networks, shuffling and the control task.
    readout
        "ridge" on pooled patterns, or "cnn", a small convolutional network (needs torch).
    seeds
        Networks for each set and fold, whose mean probability counts.
    train, test
        Splits of a merged store to train on and to test on, instead of folds; None for folds.
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
        If labels or maps are missing, there are too few images, the splits are not there or share
        groups of images, or torch is not installed.

    References
    ----------
    Hewitt and Liang (2019), Designing and interpreting probes with control tasks, EMNLP.
    """
    asked = ConvProbeParameters(
        features=features, folds=folds, images=images, seed=seed, readout=readout, seeds=seeds,
        train=train, test=test,
    )  # fmt: skip
    plan = ConvProbe(asked, show_progress=show_progress)
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@parameters.asks(ConvProbeParameters)
def command(target: options.Target, **asked: Any) -> None:
    """Classify images by local patterns of their maps and compare feature sets."""
    asked["features"] = asked["features"] or None
    if asked["readout"] != "cnn":
        options.refuse_given("with the ridge readout", "seeds")
    if asked["train"] is not None:
        options.refuse_given("with --train and --test", "folds")
    plan = ConvProbe(ConvProbeParameters(**asked), show_progress=not target.as_json)
    target.run([plan])


make_callable(__name__)
