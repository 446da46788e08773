"""image-summary: one row per image, from its mean to its hot spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.passes import Arrays, Passes, run
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    class_labels,
    mode_name,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, interval_text, number
from frictionstore.analyses.stats.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure
NAME = "image-summary"
QUESTION = "What does the map of each single image look like?"
HOT = 2.0
"""A hot spot is a patch whose total over modes is more than this times the mean total."""

FIGURES = ("mean", "std", "min", "max", "entropy", "hot_spots")
PER_CLASS = 2
"""Images of each class that are printed, as the notebook did."""


def image_figures(maps: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return one number per image for each of `FIGURES`.

    With x the values of one image, patches p and modes m, t_p = sum_m x_pm and s_p = t_p / sum t:
    mean is the mean of x; std the mean over modes of the standard deviation over patches
    (ddof 1); entropy is `-sum_p s_p log s_p / log(P)`; hot_spots counts `t_p > 2 mean(t)`.

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
    return {
        "mean": x.mean(axis=(1, 2)),
        "std": x.std(axis=1, ddof=1).mean(axis=1),
        "min": x.min(axis=(1, 2)),
        "max": x.max(axis=(1, 2)),
        "entropy": entropy,
        "hot_spots": (total > HOT * total.mean(axis=1, keepdims=True)).sum(axis=1),
    }


class ImageRows:
    """Collects `image_figures` of every image, and which modes are constant."""

    def __init__(self, feature: str, n_images: int, n_modes: int) -> None:
        self.features = (feature,)
        self._feature = feature
        self.figures: dict[str, NDArray[Any]] = {
            name: np.empty(n_images, np.int64 if name == "hot_spots" else np.float64)
            for name in FIGURES
        }
        self._low = np.full(n_modes, np.inf)
        self._high = np.full(n_modes, -np.inf)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        for name, numbers in image_figures(values).items():
            self.figures[name][rows] = numbers
        self._low = np.minimum(self._low, values.min(axis=(0, 1, 2)))
        self._high = np.maximum(self._high, values.max(axis=(0, 1, 2)))

    def end_pass(self) -> bool:
        self.constant = self._low == self._high
        return False


def notebook_caveat(n_images: int) -> list[str]:
    """Return the sentence that says which images the notebook's figures are of, if not all."""
    if n_images <= NOTEBOOK_IMAGES:
        return []
    return [
        f"the notebook kept the maps of its first {NOTEBOOK_IMAGES} images only: figures that are "
        f"called the notebook's are of these, all others of the {n_images} images"
    ]


class ImageSummary:
    """The analysis, asked for: see `image_summary` for the parameters."""

    def __init__(self, *, feature: str = "friction") -> None:
        self.feature = feature

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        require_grid(store, NAME)
        self.n_modes = require_feature(store, self.feature)
        self.names = class_labels(store)
        self.rows = passes.share(
            ("image rows", self.feature),
            lambda: ImageRows(self.feature, store.n_images, self.n_modes),
        )

    def result(self) -> Result:
        store, figures = self.store, self.rows.figures
        labels = np.asarray(store.labels)
        of_class = [self.names[c] if c >= 0 else "" for c in labels]
        columns: Columns = {
            "image": np.arange(store.n_images),
            "image_id": [str(name) for name in store.image_ids],
            "class": of_class,
            **{name: figures[name] for name in FIGURES},
        }
        sample = _first_of_each(labels, len(self.names))
        shown = {name: [column[i] for i in sample] for name, column in columns.items()}
        tables: dict[str, Columns] = {"images": columns, "sample": shown}
        if self.names:
            tables["classes"] = self._class_table(labels)
        entropy = figures["entropy"]
        undefined = int(np.isnan(entropy).sum())
        hot = figures["hot_spots"]
        mean, low, high = mean_interval(figures["mean"])
        e_mean, e_low, e_high = mean_interval(entropy[np.isfinite(entropy)])
        values = {
            "n_images": int(store.n_images),
            "mean": mean,
            "mean_low": low,
            "mean_high": high,
            "entropy": e_mean,
            "entropy_low": e_low,
            "entropy_high": e_high,
            "images_with_hot_spots": int((hot > 0).sum()),
            "hot_spots": int(hot.sum()),
        }
        spread = (
            f"its entropy over patches is {number(e_mean)} of the largest possible (95% interval "
            f"{interval_text(e_low, e_high)})"
            if undefined < store.n_images
            else "its shares over patches are not defined"
        )
        sentence = (
            f"{self.feature} of {store.n_images} images has mean {number(mean)} (95% interval "
            f"{interval_text(low, high)}); {spread}, and {values['images_with_hot_spots']} "
            f"images have hot spots."
        )
        constant = [mode_name(int(m), self.n_modes) for m in np.flatnonzero(self.rows.constant)]
        caveats = [
            f"{name} is constant over all images: it adds the same to every mean and total"
            for name in constant
        ]
        if undefined:
            caveats.append(
                f"entropy is not defined for {undefined} images: a total is negative or all are 0"
            )
        caveats += notebook_caveat(store.n_images)
        caveats += options.feature_caveats(self.feature, ratios=True)

        def figure() -> Figure:
            from frictionstore.analyses.core import figures as draw

            return draw.histograms(
                {"images": entropy}, f"{self.feature}: entropy over patches",
                "entropy / largest possible entropy", "images",
            )  # fmt: skip

        notebook = {
            "samples": [
                {
                    "class": of_class[i],
                    "index": int(i),
                    "mean": float(figures["mean"][i]),
                    "std": float(figures["std"][i]),
                    "max": float(figures["max"][i]),
                    "entropy": float(figures["entropy"][i]),
                    "hot_spots": int(hot[i]),
                }
                for i in _first_of_each(labels[:NOTEBOOK_IMAGES], len(self.names))
            ]
        }
        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns=tables,
            arrays={},
            values=values,
            notebook=notebook,
            parameters={"hot": HOT},
            seed=None,
            sentences=[sentence],
            caveats=caveats,
            provenance=provenance(store),
            figures={"entropy": figure},
            shown=("sample", "classes") if self.names else ("sample",),
        )

    def _class_table(self, labels: NDArray[Any]) -> Columns:
        rows: dict[str, list[Any]] = {}
        for c, name in enumerate(self.names):
            member = labels == c
            row: dict[str, Any] = {"class": name, "images": int(member.sum())}
            for figure in FIGURES:
                values = self.rows.figures[figure][member].astype(np.float64)
                mean, low, high = mean_interval(values[np.isfinite(values)])
                row |= {figure: mean, f"{figure}_low": low, f"{figure}_high": high}
            for key, value in row.items():
                rows.setdefault(key, []).append(value)
        return dict(rows)


def _first_of_each(labels: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """Return the rows of the first images of each class, by class; of all where there is none."""
    if not n_classes:
        return np.arange(min(20, len(labels)))
    return np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(n_classes)])


def image_summary(
    store: MapStore, *, feature: str = "friction", show_progress: bool = False
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
    return run(store, [ImageSummary(feature=feature)], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
def command(target: options.Target, features: tuple[str, ...]) -> None:
    """Summarise the map of every image in one row."""
    target.run(ImageSummary(feature=f) for f in features)


make_callable(__name__)
