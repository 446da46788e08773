"""compare: do two stores of the same images, or two maps of one, say the same about them?"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import count_by_class, parts_of_groups
from frictionstore.analyses.core.pairing import Common, Pair, chosen_pairs, common_images
from frictionstore.analyses.core.passes import Passes, noise_caveat, recorded
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.source import (
    MapStore,
    is_repeated,
    mode_name,
    require_feature,
)
from frictionstore.analyses.core.terminal import POINTS, excluded, interval_text, number, p_text
from frictionstore.analyses.probe.predict import predict_common
from frictionstore.analyses.probe.ridge import compare_paired
from frictionstore.analyses.stats import similarity
from frictionstore.analyses.stats.crossnobis import Crossnobis, class_folds
from frictionstore.analyses.stats.folds import folds_of
from frictionstore.analyses.stats.paired_maps import GROUPS, Gather, Gathered, mode_rows
from frictionstore.text import listed, printable

Floats = NDArray[np.float64]
NAME = "compare"
QUESTION = "Do two stores, or two maps, say the same about the same images?"
HELD_IMAGES = 2000
"""Images whose maps are held for CKA and for correlations over patches."""
MEMORY = 128 << 20
"""Bytes that they may take, of one store; fewer images are held where maps are large."""
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class CompareParameters(parameters.Parameters):
    """What is asked for: see `compare`."""

    feature: tuple[str, ...] = parameters.parameter(
        (),
        "Map to compare, log_NAME or rank_NAME of one; may be given several times.  [default: "
        "those of S, friction and settle that are there]",
        several=True,
    )
    images: int = parameters.parameter(
        300,
        "Images whose distances to each other are compared.",
        least=similarity.FEWEST,
        most=5000,
    )
    permutations: int = parameters.permutations(1000, "of images and of classes")
    resamples: int = parameters.parameter(
        500, "Bootstrap samples of images and of classes; 0 for no interval.", least=0, most=100_000
    )
    folds: int = parameters.folds("Folds of the probe.")
    seed: int = parameters.seed()


@dataclass
class Comparison:
    """All that is compared: stores, their common images, and what was gathered of them."""

    asked: CompareParameters
    stores: list[MapStore]
    common: Common
    pairs: list[Pair]
    held: NDArray[np.int64]
    gathered: dict[tuple[int, str], Gathered] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @functools.cached_property
    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What a jackknife leaves out together, of the images held and of all: whole groups."""
        if self.common.groups is None:
            order = self.rng(3).permutation(self.common.n)
            return np.arange(len(self.held)) % GROUPS, order % GROUPS
        of_all, _ = parts_of_groups(self.common.groups, GROUPS, self.rng(3), NAME)
        return of_all[self.held], of_all

    def rng(self, what: int) -> np.random.Generator:
        """Return the random numbers of one use: no figure depends on which others are asked for."""
        return np.random.default_rng([self.asked.seed, what])


def _gather(this: Comparison, *, show_progress: bool) -> None:
    """Read every store once: held images, means, distances of classes."""
    labels, n_classes = this.common.labels, len(this.common.classes)
    enough = n_classes >= similarity.FEWEST
    folds, n_folds = class_folds(labels, this.rng(0), this.common.groups) if enough else (labels, 0)
    for number_of, store in enumerate(this.stores):
        place = this.common.places[number_of]
        of_rows, folds_of_rows = (this.common.of_rows(number_of, one) for one in (labels, folds))
        passes = Passes(store)
        collected: dict[tuple[int, str], tuple[Gather, Crossnobis | None]] = {}
        for key in dict.fromkeys(key for pair in this.pairs for key in pair.sides):
            if key[0] != number_of:
                continue
            shape = (*store.grid, require_feature(store, key[1]))
            make = partial(Gather, key[1], place, this.held, shape)
            one = passes.share(("gather", key), make)
            of_classes = None
            if enough:
                of_classes = passes.share(
                    ("crossnobis", key),
                    partial(Crossnobis, key[1], of_rows, folds_of_rows, n_classes, n_folds, shape),
                )
            collected[key] = one, of_classes
        passes.run(show_progress=show_progress)
        for key, (one, of_classes) in collected.items():
            this.gathered[key] = one.found
            if of_classes is not None:
                one.found.distances = of_classes.distances
        this.said += passes.store.caveats_of(key[1] for key in collected)


def _map_row(this: Comparison, pair: Pair) -> dict[str, Any]:
    """Return how alike distances of images, distances of classes, and kernels are."""
    sides = [this.gathered[key] for key in pair.sides]
    rows = [one.held.reshape(len(one.held), -1).astype(np.float64) for one in sides]
    asked, few = this.asked, min(this.asked.images, len(this.held))
    rsa = partial(similarity.rsa, permutations=asked.permutations, resamples=asked.resamples)
    # Images of one group change places with none of another, nor are they drawn alone.
    of_images = rsa if this.common.groups is None else partial(rsa, permutations=0, resamples=0)
    distances = [similarity.distances(one[:few]) for one in rows]
    found = {
        "rsa": of_images(distances[0], distances[1], rng=this.rng(1)),
        "cka": similarity.linear_cka(rows[0], rows[1], this.parts[0]),
        "class_rsa": similarity.Estimate(np.nan),
    }
    of_classes = [one.distances for one in sides]
    if of_classes[0] is not None and of_classes[1] is not None:
        found["class_rsa"] = rsa(of_classes[0], of_classes[1], rng=this.rng(2))
    row: dict[str, Any] = {"feature": pair.name}
    for name, one in found.items():
        row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        if name != "cka":
            row[f"{name}_p"] = one.p
    return row


def _probe_rows(this: Comparison, *, show_progress: bool) -> list[dict[str, Any]]:
    """Return accuracies on the same folds, or say why there are none."""
    labels, n_classes, folds = this.common.labels, len(this.common.classes), this.asked.folds
    n = int((labels >= 0).sum())
    if n_classes < 2 or n < folds:
        why = f"{n_classes} classes of 2 common images or more" if n_classes < 2 else f"{n} labels"
        this.said.append(f"no probe: there are {why}")
        return []
    groups = this.common.groups
    if groups is not None:
        fewest = int(count_by_class(labels, groups, n_classes).min())
        if fewest < folds:
            this.said.append(
                f"no probe: some class has {fewest} groups of images for {folds} folds"
            )
            return []
    fold = folds_of(labels, groups, folds, this.rng(4))
    predicted: dict[tuple[int, str], NDArray[np.int64]] = {}
    rows = []
    for pair in this.pairs:
        try:
            for key in pair.sides:
                if key not in predicted:
                    predicted[key] = predict_common(
                        this.stores[key[0]], key[1], this.common, key[0], fold,
                        show_progress=show_progress,
                    )  # fmt: skip
        except AnalysisError as error:
            this.said.append(f"no probe of {pair.name}: {error}")
            continue
        tested = labels >= 0
        right = [(predicted[key] == labels)[tested] for key in pair.sides]
        of_tested = None if groups is None else groups[tested]
        paired = compare_paired(right[0], right[1], folds, groups=of_tested)
        rows.append(
            {"feature": pair.name, "first_accuracy": float(right[0].mean()),
             "second_accuracy": float(right[1].mean()), "difference": paired.difference,
             "difference_low": paired.low, "difference_high": paired.high,
             "mcnemar_p": paired.mcnemar_p, "only_first": paired.only_first,
             "only_second": paired.only_second, "images": n}
            | ({} if groups is None else {"p": paired.p})
        )  # fmt: skip
    return rows


def compare(
    first: MapStore,
    second: MapStore | None = None,
    *,
    feature: str | Sequence[str] = CompareParameters.feature,
    images: int = CompareParameters.images,
    permutations: int = CompareParameters.permutations,
    resamples: int = CompareParameters.resamples,
    folds: int = CompareParameters.folds,
    seed: int = CompareParameters.seed,
    show_progress: bool = False,
) -> Result:
    """Compare two stores of the same images, map by map, or the maps of one store.

    Images are paired by id. Grids and modes may differ. Whatever is compared, memory does not grow
    with the number of images, except for a few numbers each.

    Parameters
    ----------
    first, second
        Open stores, or anything with their interface; without a second one every two features of
        the first are compared.
    feature
        Maps over patches; none takes those of S, friction and settle that are there.
    images
        Images whose distances to each other are compared, drawn from the common ones.
    permutations, resamples
        Of the images, and of the classes, whose distances are compared; 0 for no p or interval.
    folds
        Folds of the probe.
    seed
        Seed of everything random.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `maps` (RSA over images and over classes, debiased linear CKA), `modes`
        (correlations of values) and, with labels, `probes` (accuracies on the same folds with
        McNemar's exact p), by feature; `unpaired` names images that one store has alone. Arrays
        `class_distances` (pair, side, class, class): crossnobis.

    Raises
    ------
    AnalysisError
        If fewer than 4 images are in both, an id is in a store twice, a map is missing, nothing
        varies, or values are not finite.
    """
    named = (feature,) if isinstance(feature, str) else tuple(feature)
    asked = CompareParameters(
        feature=named, images=images, permutations=permutations, resamples=resamples, folds=folds,
        seed=seed,
    )  # fmt: skip
    stores = [first] if second is None else [first, second]
    pairs = chosen_pairs(stores, asked.feature, NAME)
    common = common_images(stores, NAME, at_least=similarity.FEWEST)
    bytes_per_image = max(
        4 * store.grid[0] * store.grid[1] * store.n_modes * len({p.sides[k][1] for p in pairs})
        for k, store in enumerate(stores)
    )
    most = max(similarity.FEWEST, min(HELD_IMAGES, MEMORY // bytes_per_image))
    held = np.random.default_rng([seed, 5]).permutation(common.n)[:most]
    this = Comparison(asked, stores, common, pairs, held)
    return _result(this, _tables(this, show_progress=show_progress))


def _tables(this: Comparison, *, show_progress: bool) -> dict[str, Any]:
    """Read the stores and return all tables."""
    pairs, stores, common = this.pairs, this.stores, this.common
    _gather(this, show_progress=show_progress)
    tables: dict[str, Any] = {
        "maps": by_column([_map_row(this, pair) for pair in pairs]),
        "modes": by_column(
            [
                {"feature": pair.name, **row}
                for pair in pairs
                for row in mode_rows(
                    this.gathered[pair.first], this.gathered[pair.second], this.parts
                )
            ]
        ),
    }
    if np.isnan(tables["modes"]["correlation"]).all():
        names = " and ".join(printable(store.name) for store in stores)
        raise AnalysisError(
            f"{NAME} needs maps that vary and every mode of {listed([p.name for p in pairs])} is "
            f"constant in {names}: compare other maps"
        )
    probes = _probe_rows(this, show_progress=show_progress)
    if probes:
        tables["probes"] = by_column(probes)
    if any(common.only):
        tables["unpaired"] = {
            "store": [
                store.name for store, ids in zip(stores, common.only, strict=True) for _ in ids
            ],
            "image_id": [one for ids in common.only for one in ids],
        }
    return tables


def _result(this: Comparison, tables: dict[str, Any]) -> Result:
    asked, stores, common = this.asked, this.stores, this.common
    names = [store.name for store in stores]
    labels = [f"{pair.name}, {' and '.join(names)}" for pair in this.pairs]
    columns = tables["maps"]
    of_classes = [[this.gathered[key].distances for key in pair.sides] for pair in this.pairs]
    values: dict[str, Any] = {"images": common.n, "held": len(this.held)}
    for name, ids in zip(("first", "second"), common.only, strict=False):
        values[f"only_in_{name}"] = len(ids)
    for k, pair in enumerate(this.pairs):
        values |= {f"{key} {pair.name}": columns[key][k] for key in ("rsa", "cka", "class_rsa")}
    title = "the same images' distances"
    result = Result(
        analysis=NAME,
        feature="",
        question=QUESTION,
        columns=tables,
        arrays={} if of_classes[0][0] is None else {"class_distances": np.array(of_classes)},
        values=values,
        notebook={},
        parameters={
            "features": labels, "images": asked.images, "permutations": asked.permutations,
            "resamples": asked.resamples, "folds": asked.folds,
            "with": None if len(stores) < 2 else {"store": names[1], "digest": stores[1].digest},
        },
        seed=asked.seed,
        sentences=_sentences(this, tables),
        caveats=_caveats(this),
        provenance=provenance(stores[0]),
        figures={
            "rsa": drawn(
                "intervals", columns["feature"], columns["rsa"], columns["rsa_low"],
                columns["rsa_high"], f"{' and '.join(names)}: {title}", "Spearman's rho",
            )
        },
        shown=("maps", "modes", *(["probes"] if "probes" in tables else [])),
    )  # fmt: skip
    return recorded(result, stores[0], stores[common.grouped])


def _sentences(this: Comparison, tables: dict[str, Any]) -> list[str]:
    probes = {row: k for k, row in enumerate(tables.get("probes", {}).get("feature", []))}
    sentences = []
    for k, pair in enumerate(this.pairs):
        row = {key: values[k] for key, values in tables["maps"].items()}
        said = []
        if np.isnan(row["rsa"]):
            said.append("distances between images are not defined")
        else:
            p = "" if np.isnan(row["rsa_p"]) else f"; {p_text(row['rsa_p'])}"
            none = "no evidence that " if row["rsa_p"] > LEVEL else ""
            agree = "are not tested" if np.isnan(row["rsa_p"]) else "agree"
            low, high = row["rsa_low"], row["rsa_high"]
            ends = interval_text(low, high)
            bound = excluded(low, high, of="a rank correlation") if none else ""
            said.append(
                f"{none}distances between images {agree}{bound} (rank correlation "
                f"{number(row['rsa'])}, 95% interval {ends}{p})"
            )
        said.append(f"CKA {number(row['cka'])}")
        if not np.isnan(row["class_rsa"]):
            said.append(f"distances between classes correlate by {number(row['class_rsa'])}")
        if pair.name in probes:
            one = {key: values[probes[pair.name]] for key, values in tables["probes"].items()}
            test, p = ("McNemar's ", one["mcnemar_p"]) if "p" not in one else ("", one["p"])
            low, high = (one[f"difference_{end}"] * 100 for end in ("low", "high"))
            bound = excluded(low, high, POINTS)
            differ = "" if p <= LEVEL else f"no evidence of a difference{bound}, "
            said.append(
                f"probes classify {one['first_accuracy']:.1%} and {one['second_accuracy']:.1%} "
                f"({differ}{test}{p_text(p)})"
            )
        sentences.append(f"{pair.name}, {this.common.n} images: {'; '.join(said)}.")
    return sentences


def _caveats(this: Comparison) -> list[str]:
    common, asked = this.common, this.asked
    said = []
    for store, ids in zip(this.stores, common.only, strict=True):
        if ids:
            said.append(
                f"{len(ids)} of {store.n_images} images are only in {printable(store.name)} and "
                f"left out: {listed(ids, 8)}"
            )
    said += [*common.said, *this.said]
    if common.groups is not None:
        said.append(
            "distances between images have no interval and no p: images of one group are not "
            "independent"
        )
    few = min(asked.images, len(this.held))
    said.append(
        f"distances between images are of {few}, CKA and correlations over patches of "
        f"{len(this.held)} of {common.n} images (seed {asked.seed}); distances between classes and "
        "the probe are of all"
    )
    if len(common.classes) < similarity.FEWEST:
        said.append(
            f"distances between classes need {similarity.FEWEST} classes of 2 common images or "
            f"more and there are {len(common.classes)}"
        )
    for (side, feature), one in this.gathered.items():
        of = f"{feature} of {printable(this.stores[side].name)}"
        constant = np.flatnonzero(one.moments.constant()[0].all(axis=(0, 1)))
        said += [
            f"{mode_name(int(mode), one.moments.shape[-1])} of {of} is constant over all images"
            for mode in constant
        ]
        said += caveats.heavy_tail(feature, one.moments)
        if is_repeated(this.stores[side], feature):
            said.append(
                f"{of} is as it was measured: noise of rounding lowers what is compared, and "
                "reliability says how much there is"
            )
    for side, store in enumerate(this.stores):
        said += noise_caveat(store, [feature for k, feature in this.gathered if k == side])
    said += caveats.features(*{feature for _, feature in this.gathered})
    return list(dict.fromkeys(said))


@click.command(NAME)
@options.on_store
@click.argument("other", metavar="[OTHER]", required=False)
@parameters.asks(CompareParameters)
def command(target: options.Target, other: str | None, **asked: Any) -> None:
    """Compare two stores of the same images, map by map, or the maps of one store."""
    target.check_out()
    second = None if other is None else replace(target, store=other).open()
    target.emit([compare(target.open(), second, show_progress=not target.as_json, **asked)])


make_callable(__name__)
