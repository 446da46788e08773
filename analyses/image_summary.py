"""image-summary: one row per image, from its mean to its hot spots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.moments import Extremes
from frictionstore.analyses.core.passes import Arrays, Passes, class_moments, run
from frictionstore.analyses.core.results import Result, by_row, drawn, provenance
from frictionstore.analyses.core.rows import Column, ImageRows, ids_of, rows_of_classes
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    class_labels,
    mode_name,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, interval_text, number
from frictionstore.analyses.stats.class_means import class_means

Figures = dict[str, NDArray[Any]]
NAME = "image-summary"
QUESTION = "What does the map of each single image look like?"
HOT = 2.0
"""A hot spot is a patch whose total over modes is more than this times the mean total."""

FIGURES = ("mean", "std", "min", "max", "entropy", "hot_spots", "log_mean")
PRINTED = ("class", "index", "mean", "std", "max", "entropy", "hot_spots")
"""What the notebook printed of an image."""

_MEAN = ("mean", "mean_low", "mean_high")

PER_CLASS = 2
"""Images of each class that are printed, as the notebook did."""


def image_figures(maps: NDArray[Any]) -> Figures:
    """Return one number per image for each of `FIGURES`.

    With x the values of one image, patches p and modes m, t_p = sum_m x_pm and s_p = t_p / sum t:
    mean is the mean of x; std the mean over modes of the standard deviation over patches
    (ddof 1); entropy is `-sum_p s_p log s_p / log(P)`; hot_spots counts `t_p > 2 mean(t)`;
    log_mean is the mean of the decimal logarithms of x, NaN where not all are positive.

    Parameters
    ----------
    maps
        Finite array of shape (n_images, row, col, mode), more than one patch.

    Returns
    -------
    dict of arrays of shape (n_images,): float64, hot_spots int64. Entropy is in [0, 1], 1 for
    equal totals; NaN where a total is negative or all are 0, since there are no shares then.
    """
    x = maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)
    total = x.sum(axis=2)
    overall = total.sum(axis=1, keepdims=True)
    defined = (total.min(axis=1) >= 0) & (overall[:, 0] > 0)
    share = np.divide(total, overall, out=np.ones_like(total), where=defined[:, None])
    plogp = share * np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy = np.where(defined, -plogp.sum(axis=1) / np.log(x.shape[1]), np.nan)
    positive = x.min(axis=(1, 2)) > 0
    logarithm = np.full(len(x), np.nan)
    logarithm[positive] = np.log10(x[positive]).mean(axis=(1, 2))
    return {
        "log_mean": logarithm,
        "mean": x.mean(axis=(1, 2)),
        "std": x.std(axis=1, ddof=1).mean(axis=1),
        "min": x.min(axis=(1, 2)),
        "max": x.max(axis=(1, 2)),
        "entropy": entropy,
        "hot_spots": (total > HOT * total.mean(axis=1, keepdims=True)).sum(axis=1),
    }


class ImageFigures:
    """Collects `image_figures` of every image (`rows`), and which modes are constant."""

    state = ("rows", "_extremes")

    def __init__(self, feature: str, n_modes: int, n_images: int) -> None:
        self.features = (feature,)
        self._feature = feature
        self._n_modes = n_modes
        self._n_images = n_images
        self.begin()

    def begin(self) -> None:
        self.rows = ImageRows(self._n_images)
        self._extremes = Extremes(self._n_modes)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        self.rows.add(image_figures(values))
        self._extremes.update(values)

    def end_pass(self) -> bool:
        self.rows.whole()
        self.constant = self._extremes.constant()
        return False


@dataclass(frozen=True, kw_only=True)
class ImageSummaryParameters(parameters.Parameters):
    """What is asked for: see `image_summary`."""

    feature: str = parameters.feature()


class ImageSummary:
    """The plan: one row per image in one pass."""

    def __init__(self, asked: ImageSummaryParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        feature, store = self._asked.feature, passes.store
        self._store: MapStore = store
        require_grid(store, NAME)
        n_modes = require_feature(store, feature)
        self._moments = class_moments(passes, feature, n_modes)
        self._rows = passes.share(
            ("image rows", feature), lambda: ImageFigures(feature, n_modes, store.n_images)
        )

    def result(self) -> Result:
        feature, rows = self._asked.feature, self._rows
        tails = caveats.heavy_tail(feature, self._moments.everything)
        return _result(feature, rows.rows, rows.constant, tails, self._store)


def _means(rows: ImageRows, labels: NDArray[Any], n: int, groups: NDArray[Any] | None) -> Figures:
    """Return means of all figures over the images of each class, with the ends of intervals.

    Shape (n classes,) each. The interval of an entropy ends at the limits that entropies have.
    """

    def blocks() -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for where, figures in rows.blocks(*FIGURES):
            yield where, np.column_stack(figures).astype(np.float64, copy=False)

    found = class_means(blocks, labels.astype(np.int64), n, groups=groups)
    means: Figures = {"images": found.n[:, FIGURES.index("mean")]}
    for name, mean, low, high in zip(
        FIGURES, found.mean.T, *(ends.T for ends in found.intervals()), strict=True
    ):
        ends = np.clip([low, high], 0.0, 1.0) if name == "entropy" else (low, high)  # NaN stays
        means |= {name: mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return means


def _class_table(means: Figures, names: Sequence[str]) -> Columns:
    return {"class": list(names), **{name: values.tolist() for name, values in means.items()}}


def _first_of_each(labels: NDArray[Any], n_classes: int) -> list[int]:
    """Return the rows of the first images of each class, by class; of all where there is none."""
    if not n_classes:
        return list(range(min(20, len(labels))))
    return [int(row) for of in rows_of_classes(labels, n_classes) for row in of[:PER_CLASS]]


def _values(rows: ImageRows, groups: NDArray[np.int64] | None) -> dict[str, Any]:
    means = _means(rows, np.zeros(rows.n_images, np.int64), 1, groups)
    told = {
        key: float(means[key][0])
        for name in ("mean", "entropy", "log_mean")
        for key in (name, f"{name}_low", f"{name}_high")
    }
    geometric = {key: float(np.power(10.0, told.pop(f"log_{key}"))) for key in _MEAN}
    hot = [(int((one > 0).sum()), int(one.sum())) for _, (one,) in rows.blocks("hot_spots")]
    return {
        "n_images": rows.n_images,
        **{key: told[key] for key in _MEAN},
        **{f"geometric_{key}": value for key, value in geometric.items()},
        **{key: told[key] for key in ("entropy", "entropy_low", "entropy_high")},
        "images_with_hot_spots": sum(images for images, _ in hot),
        "hot_spots": sum(spots for _, spots in hot),
    }


def _claims(feature: str, values: dict[str, Any]) -> list[Claim]:
    return [
        Claim(
            figure, f"{what} of {feature}", values[figure], values[f"{figure}_low"],
            values[f"{figure}_high"],
        )
        for figure, what in (
            _sound_mean(values), ("entropy", "entropy over patches")
        )
    ]  # fmt: skip


def _sound_mean(values: dict[str, Any]) -> tuple[str, str]:
    """Return which mean leads: the geometric one where few images decide the other."""
    if np.isnan(values["mean_low"]) and np.isfinite(values["geometric_mean_low"]):
        return "geometric_mean", "geometric mean"
    return "mean", "mean"


def _answer(feature: str, values: dict[str, Any], undefined: int) -> str:
    n = values["n_images"]
    interval = interval_text(values["entropy_low"], values["entropy_high"])
    spread = (
        f"its entropy over patches is {number(values['entropy'])} of the largest possible (95% "
        f"interval {interval})"
        if undefined < n
        else "its shares over patches are not defined"
    )
    figure, what = _sound_mean(values)
    ends = interval_text(values[f"{figure}_low"], values[f"{figure}_high"])
    mean = f"{what} {number(values[figure])} (95% interval {ends})"
    if n > 1 and np.isnan(values["mean_low"]):
        few = "few images decide the mean, which has no interval that covers"
        mean += f"; {few}" if figure == "mean" else f"; {few}: {number(values['mean'])}"
    return (
        f"{feature} of {n} images has {mean}; {spread}, and "
        f"{values['images_with_hot_spots']} images have hot spots."
    )


def _result(
    feature: str, rows: ImageRows, constant: NDArray[np.bool_], tails: list[str], store: MapStore
) -> Result:
    labels, names, groups = np.asarray(store.labels), class_labels(store), groups_of(store)
    n = store.n_images

    def named(where: slice) -> list[str]:
        return [names[c] if c >= 0 else "" for c in labels[where]]

    figures = {name: rows[name] for name in FIGURES}
    columns: dict[str, Any] = {
        "image": range(n),
        "image_id": Column(n, partial(ids_of, store)),
        "class": Column(n, named),
        **figures,
    }

    def sample(labels: NDArray[Any]) -> dict[str, list[Any]]:
        first = _first_of_each(labels, len(names))
        return {
            name: column.take(first) if isinstance(column, Column) else [column[i] for i in first]
            for name, column in columns.items()
        }

    tables: dict[str, Columns] = {"images": columns, "sample": sample(labels)}
    if names:
        tables["classes"] = _class_table(_means(rows, labels, len(names), groups), names)
    printed = sample(labels[:NOTEBOOK_IMAGES])
    printed["index"] = printed["image"]
    values = _values(rows, groups)
    undefined = sum(int(np.isnan(one).sum()) for _, (one,) in rows.blocks("entropy"))
    said = [
        f"{mode_name(int(m), len(constant))} is constant over all images: it adds the same to "
        "every mean and total"
        for m in np.flatnonzero(constant)
    ]
    if undefined:
        said.append(
            f"entropy is not defined for {undefined} images: a total is negative or all are 0"
        )
    said += tails + caveats.notebook(store.n_images) + caveats.features(feature, ratios=True)

    title, axis = f"{feature}: entropy over patches", "entropy / largest possible entropy"
    figure = drawn("histograms", {"images": figures["entropy"]}, title, axis, "images")
    return Result(
        analysis=NAME,
        feature=feature,
        question=QUESTION,
        columns=tables,
        arrays={},
        values=values,
        notebook={"samples": by_row({key: printed[key] for key in PRINTED})},
        parameters={"hot": HOT},
        seed=None,
        sentences=[_answer(feature, values, undefined)],
        caveats=said,
        provenance=provenance(store),
        figures={"entropy": figure},
        shown=("sample", "classes") if names else ("sample",),
        claims=_claims(feature, values),
    )


def image_summary(
    store: MapStore, *, feature: str = ImageSummaryParameters.feature, show_progress: bool = False
) -> Result:
    """Summarise the map of every image in one row.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `images` with one row per image (see `image_figures`), `sample` with two images of
        each class, and, with labels, `classes` with means and 95% t intervals over images.

    Raises
    ------
    AnalysisError
        If values are not finite or the grid is one patch.
    """
    asked = ImageSummaryParameters(feature=feature)
    return run(store, [ImageSummary(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, image_summary, ImageSummaryParameters, ImageSummary)

make_callable(__name__)
