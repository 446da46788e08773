"""Pictures the report draws itself: maps as small PNG images that the page scales up.

They follow the page's colours and width, which figures drawn for paper do not.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from frictionstore.analyses.core.source import mode_name
from frictionstore.analyses.core.terminal import number
from frictionstore.analyses.report.html import piece

SEQUENTIAL = "viridis"
DIVERGING = "PuOr_r"
CLASSES_SHOWN = 24
INSIDE = 0.99  # share of the values inside a colour range: friction has a long tail


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB image of shape (row, col, 3) as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(pixels: NDArray[np.uint8]) -> Markup:
    return Markup("data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii"))


@cache
def colours(name: str) -> NDArray[np.uint8]:
    """256 colours of a matplotlib colour map, uint8 of shape (256, 3)."""
    from matplotlib import colormaps

    return np.round(255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def paint(values: NDArray[np.float64], low: float, high: float, name: str) -> NDArray[np.uint8]:
    """Colours of a map of shape (row, col); what is not finite is grey."""
    span = high - low if high > low else 1.0
    place = np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    pixels = colours(name)[np.round(255 * np.clip(place, 0, 1)).astype(int)]
    pixels[~np.isfinite(values)] = 128
    return pixels


def bar(low: float, high: float, name: str, note: str) -> tuple[float, float, Markup, str]:
    """A colour bar: its ends, its colours, and what is to be said of it."""
    return low, high, data_uri(colours(name)[None, ::4]), note


def spans(values: NDArray[np.float64], inside: float = 1.0) -> tuple[float, float]:
    """Ends of a range that holds the middle share `inside` of the finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, [(1 - inside) / 2, (1 + inside) / 2])
    # Where nearly all values are one number, the rest decides.
    return (float(low), float(high)) if low < high else (float(finite.min()), float(finite.max()))


def varying_modes(values: NDArray[np.float64]) -> list[int]:
    """Modes of an array (..., mode) that are not one number everywhere."""
    flat = values.reshape(-1, values.shape[-1])
    return [m for m in range(flat.shape[1]) if flat[:, m].max() > flat[:, m].min()]


def _strip(
    maps: NDArray[np.float64], names: Sequence[str], what: str, heading: str, difference: bool
) -> dict[str, object]:
    low, high = spans(maps, INSIDE)
    colour = SEQUENTIAL
    note = "one range for all classes, 99% of the values"
    if difference:
        _, high = spans(np.abs(maps), INSIDE)
        low, colour, note = -high, DIVERGING, "symmetric about 0, 99% of the values"
    painted = [
        {"uri": data_uri(paint(values, low, high, colour)), "alt": f"{what}, class {name}",
         "caption": name}
        for values, name in zip(maps, names, strict=True)
    ]  # fmt: skip
    return {"heading": heading, "maps": painted, "bar": bar(low, high, colour, note)}


@dataclass(frozen=True)
class ClassMeans:
    """Mean maps of classes, array of shape (class, row, col, mode), and what they are of.

    `logs` are means of natural logarithms, where there are: what is shown then.
    """

    plain: NDArray[np.float64]
    names: Sequence[str]
    feature: str
    logs: NDArray[np.float64] | None = None

    def strips(self, mode: int, *, plain: bool = False) -> tuple[dict[str, object], ...]:
        """Every class's mean map of a mode, and how it differs from the mean of the classes."""
        logs = None if plain else self.logs
        means = (self.plain if logs is None else logs)[..., mode]
        maps, centre = means[:CLASSES_SHOWN], means.mean(axis=0)
        of = self.names[: len(maps)]
        name = f"{self.feature}, mode {mode}"
        kind, both = "mean", f"{name}: each class minus the mean of the classes"
        apart = maps - centre
        if logs is not None:
            kind, both = "geometric mean", f"{name}: each class over the mean of the classes, log2"
            maps, apart = np.exp(maps), apart / np.log(2)
        return (
            _strip(maps, of, f"{kind} {name}", f"{name}: {kind} of each class", False),
            _strip(apart, of, f"difference of {name}", both, True),
        )


def class_mean_maps(means: ClassMeans, first: int | None) -> Markup:
    """Every class's mean map and its difference from the mean of the classes, mode by mode.

    Parameters
    ----------
    means : ClassMeans
    first : int, optional
        The mode shown first; the others can be unfolded, and so can plain means.
    """
    modes = varying_modes(means.plain)
    if first in modes:
        modes = [first, *(mode for mode in modes if mode != first)]
    strips = [means.strips(mode) for mode in modes]
    plain = [] if means.logs is None else [means.strips(mode, plain=True) for mode in modes]
    left = len(means.plain) - CLASSES_SHOWN
    return piece("class_means", strips, max(left, 0), CLASSES_SHOWN, plain)


def _outline(inside: NDArray[np.bool_]) -> str:
    """Path around the True cells of a grid, one unit a cell."""
    rows, cols = inside.shape
    padded = np.pad(inside, 1)
    steps = []
    for r in range(rows + 1):
        for c in range(cols + 1):
            here = padded[r + 1, c + 1]
            if c < cols and here != padded[r, c + 1]:
                steps.append(f"M{c} {r}h1")
            if r < rows and here != padded[r + 1, c]:
                steps.append(f"M{c} {r}v1")
    return "".join(steps)


def f_maps(f: NDArray[np.float64], family_wise: NDArray[np.float64] | None, alpha: float) -> Markup:
    """F at every position, one map per mode on one scale, what is significant outlined.

    Parameters
    ----------
    f : array of shape (row, col, mode), NaN where it is not defined
    family_wise : array of the same shape, optional
        p over permutations of the largest F of all positions and modes.
    alpha : float
        Level of the outline.
    """
    rows, cols, n_modes = f.shape
    modes = [mode for mode in range(n_modes) if np.isfinite(f[..., mode]).any()]
    low, high = 0.0, spans(f)[1]
    maps = []
    for mode in modes:
        alt = f"F of mode {mode}, largest {number(float(np.nanmax(f[..., mode])))}"
        outline = ""
        if family_wise is not None:
            inside = np.nan_to_num(family_wise[..., mode], nan=1.0) <= alpha
            alt += f", {int(inside.sum())} of {inside.size} positions significant"
            outline = _outline(inside)
        maps.append(
            {"uri": data_uri(paint(f[..., mode], low, high, SEQUENTIAL)), "alt": alt,
             "outline": outline, "caption": mode_name(mode, n_modes)}
        )  # fmt: skip
    if family_wise is None:
        note = "no permutations were done, so there is no family-wise threshold"
    else:
        significant = f[np.nan_to_num(family_wise, nan=1.0) <= alpha]
        note = (
            f"outlined: family-wise p of {alpha:g} or less, here F of "
            f"{number(float(significant.min()))} or more"
            if significant.size
            else f"no position has a family-wise p of {alpha:g} or less"
        )
    return piece("f_maps", maps, rows, cols, bar(low, high, SEQUENTIAL, note))


def image_card(
    name: str,
    note: str,
    thumbnail: NDArray[np.uint8] | None,
    values: NDArray[np.float64],
    ends: tuple[float, float],
    what: str,
) -> dict[str, object]:
    """An image beside its map: id, a line below it, thumbnail or None, map and its range."""
    return {
        "name": name,
        "note": note,
        "thumbnail": None if thumbnail is None else data_uri(thumbnail),
        "uri": data_uri(paint(values, *ends, SEQUENTIAL)),
        "alt": f"{what} of {name}",
    }
