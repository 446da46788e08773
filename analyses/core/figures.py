"""Figures: maps, matrices, intervals and histograms, drawn without a display.

Colour maps are perceptually uniform; every axis has a label; modes say which is the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.source import mode_name
from frictionstore.text import printable

SEQUENTIAL = "viridis"

On = Figure | Sequence[Axes] | None
"""Where to draw: an empty figure, axes of somebody's own, or a new figure without a display."""

# Text stays text in SVG, and the same figure gives the same file.
rcParams["svg.fonttype"] = "none"
rcParams["svg.hashsalt"] = "frictionstore"


def plain(text: object, limit: int = 40) -> str:
    """Return text that a figure shows as it is: printable, dollar signs not read as formulas."""
    return printable(text, limit).replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and SVG; `path` has no suffix."""
    FigureCanvasAgg(figure).print_png(
        str(path.with_name(path.name + ".png")), metadata={"Software": None}
    )
    FigureCanvasSVG(figure).print_svg(
        str(path.with_name(path.name + ".svg")), metadata={"Date": None, "Creator": None}
    )


def panels(
    on: On, size: tuple[float, float], down: int = 1, across: int = 1, count: int = 1
) -> tuple[Figure, list[Axes], bool]:
    """The figure, `count` axes of it, and whether it is made for them alone.

    Raises
    ------
    AnalysisError
        Axes were given, and they are not as many.
    """
    if on is None or isinstance(on, Figure):
        figure = Figure(layout="constrained") if on is None else on
        figure.set_size_inches(*size)
        return figure, [figure.add_subplot(down, across, k + 1) for k in range(count)], True
    if len(on) != count:
        raise AnalysisError(
            f"this figure has {count} panels, and {len(on)} axes were given: give it "
            f"{count}, or none for a figure of its own"
        )
    root: Any = on[0].figure
    while root.figure is not root:  # through subfigures; older matplotlib has no name for it
        root = root.figure
    return root, list(on), False


def draw_into(draw: Callable[..., Figure], ax: Any) -> Any:
    """Draw one of a result's figures into axes, or into a new pyplot figure; the axes."""
    if ax is not None:
        axes: list[Axes] = list(np.ravel(ax))
        draw(on=axes)
        return ax
    from matplotlib import pyplot

    figure = draw(on=pyplot.figure(layout="constrained"))
    made = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    return made[0] if len(made) == 1 else np.array(made, dtype=object)


def _colour_bar(figure: Figure, image: Any, axes: Axes, label: str) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label(plain(label))


def mode_maps(
    values: NDArray[Any],
    title: str,
    label: str,
    *,
    skip: NDArray[np.bool_] | None = None,
    on: On = None,
) -> Figure:
    """Draw one map per mode, each with its own colour scale.

    Parameters
    ----------
    values
        Array of shape (row, col, mode).
    title, label
        Title of the figure; what the colours are.
    skip
        Array of the shape of `values`; a mode where all of it is True is not drawn.
    """
    n_modes = values.shape[2]
    modes = [
        mode
        for mode in range(n_modes)
        if np.isfinite(values[..., mode]).any() and (skip is None or not skip[..., mode].all())
    ]
    across = min(len(modes), 4)
    down = -(-len(modes) // max(across, 1))
    size = (3.4 * max(across, 1), 3.1 * max(down, 1))
    figure, places, alone = panels(on, size, down, across, len(modes))
    if alone:
        figure.suptitle(plain(title, 80))
    for axes, mode in zip(places, modes, strict=True):
        image = axes.imshow(values[..., mode], cmap=SEQUENTIAL)
        axes.set_title(mode_name(mode, n_modes))
        axes.set_xlabel("patch column")
        axes.set_ylabel("patch row")
        _colour_bar(figure, image, axes, label)
    return figure


def matrix(
    values: NDArray[Any],
    names: Sequence[str],
    title: str,
    label: str,
    axis: str = "class",
    *,
    on: On = None,
) -> Figure:
    """Draw a square matrix; the names are those of its rows and columns, up to 40 of them."""
    figure, (axes,), _ = panels(on, (6.0, 5.0))
    image = axes.imshow(values, cmap=SEQUENTIAL)
    axes.set_title(fill(plain(title, 80), 44))
    axes.set_xlabel(axis if axis != "true" else "predicted class")
    axes.set_ylabel(axis if axis != "true" else "true class")
    if len(names) <= 40:
        ticks = range(len(names))
        shown = [plain(name, 12) for name in names]
        axes.set_xticks(ticks, shown, rotation=90)
        axes.set_yticks(ticks, shown)
    _colour_bar(figure, image, axes, label)
    return figure


def intervals(
    names: Sequence[str],
    centre: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    title: str,
    label: str,
    *,
    reference: dict[str, float] | None = None,
    on: On = None,
) -> Figure:
    """Draw a point and an interval per name, and named vertical reference lines."""
    centre, low, high = (np.asarray(a, np.float64) for a in (centre, low, high))
    shown = min(len(names), 60)
    figure, (axes,), _ = panels(on, (6.5, 1.4 + 0.28 * shown))
    place = np.arange(shown)[::-1]
    spread = np.abs(np.stack([centre - low, high - centre]))[:, :shown]
    axes.errorbar(centre[:shown], place, xerr=spread, fmt="o", capsize=3, color="tab:blue")
    for index, (name, value) in enumerate((reference or {}).items()):
        axes.axvline(value, color="0.4", linestyle=("--", ":")[index % 2], label=plain(name))
    if reference:
        axes.legend(loc="best", fontsize="small")
    axes.set_yticks(place, [plain(name, 32) for name in names[:shown]])
    axes.set_xlabel(plain(label, 80))
    axes.set_title(fill(plain(title, 80), 44))
    axes.grid(axis="x", alpha=0.3)
    return figure


def histograms(
    series: dict[str, NDArray[Any]], title: str, label: str, count: str, *, on: On = None
) -> Figure:
    """Draw a histogram per series on common bins."""
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    figure, (axes,), _ = panels(on, (6.0, 4.0))
    if finite:
        low = min(float(v.min()) for v in finite.values())
        high = max(float(v.max()) for v in finite.values())
        bins = np.linspace(low, high if high > low else low + 1.0, 41)
        for name, values in finite.items():
            axes.hist(values, bins=list(bins), histtype="step", label=plain(name), linewidth=1.5)
        axes.legend(loc="best", fontsize="small")
    axes.set_title(fill(plain(title, 80), 44))
    axes.set_xlabel(plain(label, 80))
    axes.set_ylabel(count)
    return figure


def stacked_shares(
    names: Sequence[str], shares: dict[str, ArrayLike], title: str, *, on: On = None
) -> Figure:
    """Draw a horizontal bar per name, split into shares of 1."""
    figure, (axes,), alone = panels(on, (6.5, 1.6 + 0.4 * len(names)))
    place = np.arange(len(names))[::-1]
    left = np.zeros(len(names))
    colours = ("#440154", "#21918c", "#fde725")
    for (name, values), colour in zip(shares.items(), colours, strict=False):
        width = np.asarray(values, np.float64)
        axes.barh(place, width, left=left, label=name, color=colour, edgecolor="0.3")
        left = left + width
    axes.set_yticks(place, [plain(name, 32) for name in names])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the total variance")
    axes.set_title(fill(plain(title, 80), 44))
    if alone:
        figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    else:
        axes.legend(fontsize="small")
    return figure
