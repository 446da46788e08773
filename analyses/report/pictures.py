"""Pictures the report draws itself: maps as small PNG images that the page scales up.

They follow the page's colours and width, which figures drawn for paper do not.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.report.html import text

SEQUENTIAL = "viridis"
DIVERGING = "PuOr_r"
CLASSES_SHOWN = 24
INSIDE = 0.99  # share of the values inside a colour range: friction has a long tail


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB image of shape (row, col, 3) as a PNG file."""
    rows, cols, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    # Each row begins with its filter; 0 is none.
    raw = np.concatenate(
        [np.zeros((rows, 1), np.uint8), np.ascontiguousarray(pixels).reshape(rows, cols * 3)],
        axis=1,
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", cols, rows, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


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


def img(pixels: NDArray[np.uint8], alt: str, kind: str = "map") -> str:
    return f'<img class="{kind}" src="{data_uri(pixels)}" alt="{text(alt)}">'


def bar(low: float, high: float, name: str, note: str) -> str:
    """A colour bar with its ends."""
    from frictionstore.analyses.core.terminal import number

    strip = img(colours(name)[None, ::4], "", "strip")
    return (
        f'<p class="bar"><span>{text(number(low))}</span>{strip}<span>{text(number(high))}</span> '
        f"<small>{text(note)}</small></p>"
    )


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


def _strip(maps: NDArray[np.float64], names: Sequence[str], what: str, difference: bool) -> str:
    low, high = spans(maps, INSIDE)
    colour = SEQUENTIAL
    note = "one range for all classes, 99% of the values"
    if difference:
        _, high = spans(np.abs(maps), INSIDE)
        low, colour, note = -high, DIVERGING, "symmetric about 0, 99% of the values"
    cells = "".join(
        f"<figure>{img(paint(values, low, high, colour), f'{what}, class {name}')}"
        f"<figcaption>{text(name, 24)}</figcaption></figure>"
        for values, name in zip(maps, names, strict=True)
    )
    return f'<div class="maps">{cells}</div>{bar(low, high, colour, note)}'


def class_mean_maps(
    class_means: NDArray[np.float64], names: Sequence[str], feature: str, first: int | None
) -> str:
    """Every class's mean map and its difference from the mean of the classes, mode by mode.

    Parameters
    ----------
    class_means : array of shape (class, row, col, mode)
    names : sequence of str
    feature : str
    first : int, optional
        The mode shown first; the others can be unfolded.
    """
    modes = varying_modes(class_means)
    if not modes:
        return "<p>Every mode of every class mean is constant: there is nothing to see.</p>"
    if first in modes:
        modes = [first, *(mode for mode in modes if mode != first)]
    shown = class_means[:CLASSES_SHOWN]
    parts = []
    for mode in modes:
        maps = shown[..., mode]
        centre = class_means[..., mode].mean(axis=0)
        names_shown = names[: len(shown)]
        parts.append(
            f"<h3>{text(feature)}, mode {mode}: mean of each class</h3>"
            + _strip(maps, names_shown, f"mean {feature} of mode {mode}", False)
            + "<h3>the same, minus the mean of the classes</h3>"
            + _strip(maps - centre, names_shown, f"difference of {feature}, mode {mode}", True)
        )
    left = len(class_means) - len(shown)
    more = (
        f"<p>The first {len(shown)} classes; {left} more are in the explorer.</p>" if left else ""
    )
    rest = "".join(parts[1:])
    folded = f"<details><summary>The other {len(modes) - 1} modes</summary>{rest}</details>"
    return parts[0] + more + (folded if rest else "")


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


def f_maps(f: NDArray[np.float64], family_wise: NDArray[np.float64] | None, alpha: float) -> str:
    """F at every position, one map per mode on one scale, what is significant outlined.

    Parameters
    ----------
    f : array of shape (row, col, mode), NaN where it is not defined
    family_wise : array of the same shape, optional
        p over permutations of the largest F of all positions and modes.
    alpha : float
        Level of the outline.
    """
    from frictionstore.analyses.core.source import mode_name
    from frictionstore.analyses.core.terminal import number

    rows, cols, n_modes = f.shape
    modes = [mode for mode in range(n_modes) if np.isfinite(f[..., mode]).any()]
    low, high = 0.0, spans(f)[1]
    cells = []
    for mode in modes:
        pixels = data_uri(paint(f[..., mode], low, high, SEQUENTIAL))
        alt = f"F of mode {mode}, largest {number(float(np.nanmax(f[..., mode])))}"
        path = ""
        if family_wise is not None:
            inside = np.nan_to_num(family_wise[..., mode], nan=1.0) <= alpha
            alt += f", {int(inside.sum())} of {inside.size} positions significant"
            # Twice, light over dark, so that it is seen on every colour.
            d = _outline(inside)
            path = f'<path d="{d}" class="under"/><path d="{d}" class="over"/>'
        cells.append(
            f'<figure><svg viewBox="-0.15 -0.15 {cols + 0.3} {rows + 0.3}" role="img" '
            f'aria-label="{text(alt)}"><image href="{pixels}" width="{cols}" height="{rows}" '
            f'preserveAspectRatio="none"/>{path}</svg>'
            f"<figcaption>{mode_name(mode, n_modes)}</figcaption></figure>"
        )
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
    return f'<div class="maps large">{"".join(cells)}</div>{bar(low, high, SEQUENTIAL, note)}'


def image_cards(cards: Sequence[tuple[str, str, NDArray[np.uint8] | None, NDArray[np.float64]]],
                low: float, high: float, what: str) -> str:  # fmt: skip
    """Images beside their maps: id, a line below it, thumbnail or None, map."""
    parts = []
    for name, note, thumbnail, values in cards:
        pictures = "" if thumbnail is None else img(thumbnail, f"image {name}", "thumb")
        pictures += img(paint(values, low, high, SEQUENTIAL), f"{what} of {name}")
        parts.append(
            f'<figure class="card"><div>{pictures}</div><figcaption><b>{text(name, 60)}</b>'
            f"<br>{text(note)}</figcaption></figure>"
        )
    return f'<div class="cards">{"".join(parts)}</div>'
