"""One map of one image, drawn into a matplotlib axes. matplotlib is imported when it draws."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from frictionstore.errors import RequestError
from frictionstore.text import did_you_mean, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Store = Any  # an open store, which makes these itself: to import its type would be a circle


def row_of(store: Store, image: int | str) -> int:
    """The row of an image given by row (negative ones from the end) or by id.

    Raises
    ------
    RequestError
        The store has no such image.
    """
    if isinstance(image, str):
        found = np.flatnonzero(store.image_ids == image)
        if found.size:
            return int(found[0])
        some = [str(name) for name in store.image_ids[:1000]]
        raise RequestError(
            f"{printable(store.location)} has no image {printable(image, 60)!r}: its first is "
            f"{printable(some[0], 60)!r}{did_you_mean(image, some)}"
        )
    row = index(image)
    if not -store.n_images <= row < store.n_images:
        raise RequestError(
            f"{printable(store.location)} has no image {row}: it has {store.n_images:,}, "
            f"0 to {store.n_images - 1:,}"
        )
    return row % store.n_images


def draw(store: Store, image: int | str, name: str, mode: int | None, axes: Axes | None) -> Axes:
    """See `Store.plot`."""
    row = row_of(store, image)
    values = store.read(name, slice(row, row + 1))[0]
    spec = store.header.arrays[name].spec
    if spec.dims[1:] == ():
        raise RequestError(f"{name} has one value an image: there is nothing to draw")
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(layout="constrained")[1]
    title = f"{store.image_ids[row]}{_class(store, row)}"
    if "channel" in spec.dims:
        axes.imshow(values)
        axes.set(title=_plain(title), xlabel="pixel column", ylabel="pixel row")
        return axes
    what = name
    if spec.modes:
        mode = min(1, values.shape[2] - 1) if mode is None else index(mode)
        if not 0 <= mode < values.shape[2]:
            raise RequestError(f"{name} has no mode {mode}: its modes are 0 to {store.n_modes - 1}")
        values = values[:, :, mode]
        largest = ", the largest" if mode == 0 and store.header.mode_order == "descending" else ""
        what += f", mode {mode} of 0 to {store.n_modes - 1}{largest}"
    if "repeat" in spec.dims:
        what += f", mean of {values.shape[-1]} repeats"
        values = values.mean(axis=-1, dtype=np.float64)
    _coloured(axes, name, spec.unit, values)
    axes.set(title=_plain(f"{title}\n{what}"), xlabel="patch column", ylabel="patch row")
    return axes


def _coloured(axes: Axes, name: str, unit: str, values: np.ndarray) -> None:
    """The map and its colour bar; friction spans decades, so its colours are logarithmic."""
    from matplotlib.colors import LogNorm

    norm = None
    if name.startswith("friction") and (values > 0).any():
        values = np.ma.masked_less_equal(values, 0)
        norm = LogNorm(float(values.min()), float(values.max()))
    shown = axes.imshow(values, cmap="viridis", norm=norm)
    bar = axes.figure.colorbar(shown, ax=axes)
    bar.set_label(_plain(name if unit == "1" else f"{name} ({unit})"))


def _class(store: Store, row: int) -> str:
    label = int(store.labels[row])
    if label < 0:
        return ""
    return f" ({store.class_names[label] if store.class_names else label})"


def _plain(text: object) -> str:
    """Text as a figure shows it: lines kept, dollar signs not read as formulas."""
    lines = str(text).split("\n")
    return "\n".join(printable(line, 80).replace("$", r"\$") for line in lines)
