"""information: what do friction and settle tell of the class that S does not?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from frictionstore.analyses.core import caveats as known
from frictionstore.analyses.core import options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError, UndefinedError
from frictionstore.analyses.core.passes import Passes, noise_caveat, run
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.source import (
    MapStore,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.probe import readout
from frictionstore.analyses.probe.chosen import (
    ChosenImages,
    caveats,
    choose_images,
    how_tested,
    most_images,
)
from frictionstore.analyses.probe.held import shuffled_within
from frictionstore.analyses.probe.protocol import SplitParameters, train_test
from frictionstore.text import listed, printable

NAME = "information"
QUESTION = "What do friction and settle tell of the class that the singular values do not?"
SHUFFLED = "shuffled"
"""What a map of other images, shuffled within folds, is called after its name."""
S, DIAGONAL, DONOR = "S", "gram_diag", "log_friction_donor"


@dataclass(frozen=True, kw_only=True)
class InformationParameters(SplitParameters):
    """What is asked for: see `information`."""

    folds: int = parameters.folds("Number of folds.")
    margin: float = parameters.parameter(
        1.0, "Percentage points of accuracy, less than which counts as nothing.", least=0, most=100
    )
    images: int = most_images()
    seed: int = parameters.seed()


@dataclass(frozen=True)
class Question:
    """Whether a map tells more than others, and what it is held against."""

    told: str
    given: tuple[str, ...]

    @property
    def sets(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The maps with it and without."""
        return (*self.given, self.told), self.given

    def floors(self, maps: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The same with a map that cannot tell more, by the floor's name."""
        found = {"shuffled images": (*self.given, f"{self.told} {SHUFFLED}")}
        if "friction" in self.told and DONOR in maps:
            found["donors"] = (*self.given, DONOR)
        return found


def questions(maps: Sequence[str]) -> list[Question]:
    """Return what can be asked of these maps: S, then S and gram_diag, as far as they are there."""
    given = [(S,), (S, DIAGONAL)] if DIAGONAL in maps else [(S,)]
    told = [name for name in maps if name not in (S, DIAGONAL, DONOR)]
    found = [Question(name, of) for of in given for name in told]
    return found + ([Question(DIAGONAL, (S,))] if DIAGONAL in maps else [])


def available(store: MapStore, analysis: str = NAME) -> tuple[str, ...]:
    """Return the features that are compared: the exact maps where the store has them.

    Raises
    ------
    AnalysisError
        If S is not there, or neither friction nor settle.
    """
    stored = store.maps
    friction = next((m for m in ("friction_exact", "friction") if m in stored), None)
    settle = next((m for m in ("settle_exact", "settle") if m in stored), None)
    if S not in stored or (friction is None and settle is None):
        named = "" if analysis == NAME else ", or name maps with --features"
        raise AnalysisError(
            f"{analysis} asks what friction or settle tells beyond S and {printable(store.name)} "
            f"has the maps {listed(list(stored), 8)}: extract with --maps S,friction,settle{named}"
        )
    found = [S]
    found += [DIAGONAL] if DIAGONAL in stored else []
    found += [f"log_{friction}"] if friction else []
    found += [settle] if settle else []
    found += [DONOR] if friction and "friction_donor" in stored else []
    return tuple(found)


class Information:
    """The plan: some images in memory, every set read on the same folds."""

    on_repeats = False

    def __init__(self, asked: InformationParameters) -> None:
        self.asked = asked

    def prepare(self, passes: Passes) -> None:
        self.store = passes.store
        require_grid(self.store, NAME)
        self.classes = require_classes(self.store, NAME)
        self.maps = available(self.store)
        for name in self.maps:
            require_feature(self.store, name)
        self.parts = train_test(self.store, NAME, self.classes, self.asked)
        choose_images(
            NAME, passes, self.classes, self.maps, self.asked.images, self.asked.folds,
            self.asked.seed, self._read, self.parts,
        )  # fmt: skip

    def _read(self, chosen: ChosenImages) -> None:
        self.problem = chosen.problem
        kernels = {
            name: readout.products(
                values.reshape(len(values), -1).astype(np.float64), self.problem.fitted
            )
            for name, values in chosen.maps.items()
        }
        other = shuffled_within(self.problem.folds, self.asked.seed)

        def kernel(name: str, fold: int) -> readout.Floats:
            of, _, shuffled = name.partition(" ")
            return kernels[of][np.ix_(other, other)] if shuffled else kernels[of]

        self.questions = questions(self.maps)
        sets = [one for q in self.questions for one in (*q.sets, *q.floors(self.maps).values())]
        unique = list(dict.fromkeys(sets))
        found = readout.read(unique, kernel, self.problem)
        self.readings = dict(zip(unique, found, strict=True))
        self.constant = {name for name, k in kernels.items() if not k.any()}

    def result(self) -> Result:
        rows = [self._row(one) for one in self.questions]
        floors = [self._floors(one) for one in self.questions]
        tables = {
            "beyond": by_column(rows),
            "floors": by_column(row for of_one in floors for row in of_one),
            "sets": by_column(
                {"features": "+".join(names), **readout.measured(reading, self.problem)}
                for names, reading in self.readings.items()
            ),
            "penalties": by_column(
                {"features": "+".join(names), "fold": fold, "map": name, "penalty": float(value)}
                for names, reading in self.readings.items()
                for fold, penalties in enumerate(reading.penalties)
                for name, value in zip(names, penalties, strict=True)
            ),
        }
        labels = [f"{row['map']} given {row['given']}" for row in rows]
        bits = [[row[key] for row in rows] for key in ("bits", "bits_low", "bits_high")]
        title = "bits an image beyond what is given, 95% interval"
        figure = drawn("intervals", labels, *bits, title, "bits", reference={"nothing": 0.0})
        return Result(
            analysis=NAME,
            feature="",
            question=QUESTION,
            columns=dict(tables),
            arrays={
                "fold": self.problem.folds,
                "bits": np.stack([one.bits for one in self.readings.values()]),
                "prediction": np.stack([one.prediction for one in self.readings.values()]),
            },
            values=self._values(rows, floors),
            notebook={},
            parameters={
                "margin": self.asked.margin, "images": self.asked.images,
                **({"folds": self.asked.folds} if self.parts is None else self.parts.recorded),
            },
            seed=self.asked.seed,
            sentences=[self._sentence(*one) for one in zip(rows, floors, strict=True)],
            caveats=self._caveats(),
            provenance=provenance(self.store),
            figures={"bits": figure},
            shown=("beyond", "floors", "sets"),
        )  # fmt: skip

    def _row(self, asked: Question) -> dict[str, Any]:
        first, second = (self.readings[names] for names in asked.sets)
        margin = self.asked.margin / 100
        row: dict[str, Any] = {"map": asked.told, "given": "+".join(asked.given)}
        row |= readout.compared(first, second, self.problem)
        within = -margin < row["accuracy_low"] and row["accuracy_high"] < margin
        row["within_margin"] = bool(within)
        return row

    def _floors(self, asked: Question) -> list[dict[str, Any]]:
        base = self.readings[asked.given]
        return [
            {
                "map": asked.told,
                "given": "+".join(asked.given),
                "floor": name,
                **readout.compared(self.readings[names], base, self.problem),
            }
            for name, names in asked.floors(self.maps).items()
        ]

    def _values(
        self, rows: Sequence[Mapping[str, Any]], floors: Sequence[Sequence[Mapping[str, Any]]]
    ) -> dict[str, Any]:
        values: dict[str, Any] = {
            "n_images": int(self.problem.tested.sum()),
            "entropy_bits": readout.entropy(self.problem),
        }
        names = ("map", "given", "floor")
        for row, of_row in zip(rows, floors, strict=True):
            told: dict[str, Any] = {k: v for k, v in row.items() if k not in names}
            for floor in of_row:
                told[floor["floor"]] = {k: v for k, v in floor.items() if k not in names}
            values[f"{row['map']} given {row['given']}"] = told
        return values

    def _sentence(self, row: Mapping[str, Any], of_row: Sequence[Mapping[str, Any]]) -> str:
        """Return what one map tells, with the floors, and whether it is nothing at the margin."""
        floors = [
            f"{floor['floor']} {floor['bits']:+.3f} ({floor['bits_low']:+.3f} to "
            f"{floor['bits_high']:+.3f})"
            for floor in of_row
        ]
        accuracy = (
            f"{row['accuracy'] * 100:+.2f} percentage points ({row['accuracy_low'] * 100:+.2f} to "
            f"{row['accuracy_high'] * 100:+.2f})"
        )
        points = f"{self.asked.margin:g} point{'' if self.asked.margin == 1 else 's'}"
        equal = (
            f"in accuracy that is equivalent to nothing at {points}"
            if row["within_margin"]
            else f"a difference of {points} in accuracy is not excluded"
        )
        if row["accuracy_low"] >= self.asked.margin / 100:
            equal = f"that is {points} or more"
        if row["accuracy_high"] <= -self.asked.margin / 100:
            equal = f"that is {points} or more below"
        given = row["given"].replace("+", " and ")
        return (
            f"Given {given}, {row['map']} is worth {row['bits']:+.3f} bits an image (95% interval "
            f"{row['bits_low']:+.3f} to {row['bits_high']:+.3f}; floor of {'; of '.join(floors)}) "
            f"and {accuracy}: {equal}."
        )

    def _caveats(self) -> list[str]:
        said = self.classes.caveats() + caveats(self.classes)
        said += how_tested(self.parts, self.problem, self.classes)
        said.append("bits are what a linear readout can use, not all that is there")
        missing = [m for m in (DIAGONAL, "friction_donor") if m not in self.store.maps]
        if missing:
            said.append(
                f"this store has no {' and no '.join(missing)}: extract with --maps "
                f"{','.join(dict.fromkeys([*self.stored, *missing]))} for what they tell apart"
            )
        if self.constant:
            said.append(f"constant over all images: {', '.join(sorted(self.constant))}")
        return said + known.features(*self.maps) + noise_caveat(self.store, self.maps)

    @property
    def stored(self) -> list[str]:
        """The maps of the store that are used."""
        return [name.removeprefix("log_") for name in self.maps]


def information(
    store: MapStore,
    *,
    folds: int = InformationParameters.folds,
    margin: float = InformationParameters.margin,
    images: int = InformationParameters.images,
    seed: int = InformationParameters.seed,
    train: str | None = InformationParameters.train,
    test: str | None = InformationParameters.test,
    show_progress: bool = False,
) -> Result:
    """Say in bits and in accuracy what friction and settle tell of the class beyond S.

    Sets of maps are read by one calibrated linear readout with a penalty for each map, on the same
    folds. What a map tells given others is the held-out log loss of these minus that of all of them
    (conditional V-information of linear readouts). Floors are the same with the map of shuffled
    images and with `friction_donor`.

    Parameters
    ----------
    store
        An open store, or anything with its interface; with S and friction or settle.
    folds
        Number of stratified folds, at least 2.
    margin
        In percentage points: an accuracy whose interval lies within it is equivalent to nothing.
    images
        Most images used.
    seed
        Seed of images, folds and shuffling.
    train, test
        Splits of a merged store to train on and to test on, instead of folds; None for folds.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `beyond` (a row for each map and what is given: differences of accuracy and bits with
        intervals, floors), `sets` (accuracy and log loss of each set) and `penalties`.

    Raises
    ------
    AnalysisError
        If labels or maps are missing, there are too few images, or the splits are not there or
        share groups of images.

    References
    ----------
    Xu, Zhao, Song, Stewart and Ermon (2020), A theory of usable information under computational
    constraints, ICLR. Hewitt, Ethayarajh, Liang and Manning (2021), Conditional probing: measuring
    usable information beyond a baseline, EMNLP.
    """
    asked = InformationParameters(
        folds=folds, margin=margin, images=images, seed=seed, train=train, test=test
    )
    with _explained():
        return run(store, [Information(asked)], show_progress=show_progress)[0]


@contextmanager
def _explained() -> Iterator[None]:
    """Advise what helps where a map has no logarithm: here nobody chose it."""
    try:
        yield
    except UndefinedError as error:
        raise AnalysisError(
            f"{error.found}; {NAME} reads friction by its logarithm only: use ridge-probe "
            f"--features S,S+{error.instead}, which reads the map itself"
        ) from error


@click.command(NAME)
@options.on_store
@parameters.asks(InformationParameters)
def command(target: options.Target, **asked: Any) -> None:
    """Say in bits and in accuracy what friction and settle tell of the class beyond S."""
    if asked["train"] is not None:
        options.refuse_given("with --train and --test", "folds")
    with _explained():
        target.run([Information(InformationParameters(**asked))])


make_callable(__name__)
