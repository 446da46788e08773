"""content: do maps follow what the image shows, patch by patch?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.collecting import joined
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.passes import Arrays, Passes, run
from frictionstore.analyses.core.results import Result, drawn, provenance
from frictionstore.analyses.core.source import MapStore, mode_name, require_feature, require_grid
from frictionstore.analyses.core.terminal import excluded, interval_text, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.image_content import CONTENTS, contents
from frictionstore.analyses.stats.intervals import mean_covariance, mean_interval
from frictionstore.analyses.stats.torus import naive_p, standard_ranks, torus_correlations
from frictionstore.text import printable

Floats = NDArray[np.float64]
NAME = "content"
QUESTION = "Do maps follow the content of the image?"
IMAGE = "image"
TOLD = 2
"""Modes whose figures the answer gives for the first content; the table has all."""


@dataclass(frozen=True, kw_only=True)
class ContentParameters(parameters.Parameters):
    """What is asked for: see `content`."""

    feature: str = parameters.feature()
    donors: int = parameters.parameter(
        199, "Other images whose content each image's map is held against.", least=1, most=10_000
    )
    alpha: float = parameters.alpha()
    seed: int = parameters.seed()


class Collected:
    """Correlations of every image with its own content, shifted, and with that of others.

    The first pass sums standard ranks of maps and contents, and keeps the content of the donors;
    the second has what is needed of the other images.

    Attributes
    ----------
    rho, p_torus, p_naive, p_donors, others, of_others
        float64 arrays of shape (n_images, modes, contents): Spearman's correlation, its p under all
        torus shifts, by t, and among donors; mean of the correlations of the image's map with the
        others' contents, and of its content with the others' maps. NaN where the map or the
        content is constant.
    shifted
        Mean over images of the correlation under each shift, (row * col, modes, contents).
    """

    rho: Floats
    p_torus: Floats
    p_naive: Floats
    p_donors: Floats
    others: Floats
    of_others: Floats

    def __init__(
        self, feature: str, n_images: int, grid: tuple[int, int], n_modes: int, donors: int,
        seed: int,
    ) -> None:  # fmt: skip
        self.features = (feature, IMAGE)
        self._grid = grid
        self.patches = grid[0] * grid[1]
        rng = np.random.default_rng(seed)
        self._donors = np.sort(rng.permutation(n_images)[:donors])
        # The least p among donors; an image is not held against itself.
        self.least_of_donors = 1.0 / (len(self._donors) + (len(self._donors) < n_images))
        self._widths = (n_modes, len(CONTENTS))
        self._second = False
        self.begin()

    @property
    def state(self) -> tuple[str, ...]:
        """Of the images together in the first pass, of each in the second."""
        return ("_rows", "shifted") if self._second else ("_donated", "_sums", "_counts")

    def begin(self) -> None:
        if self._second:
            self._rows: dict[str, list[Floats]] = {}
            self.shifted: Floats = np.zeros((self.patches, *self._widths))
            return
        self._donated: list[Floats] = []
        self._sums = {k: np.zeros((self.patches, n)) for k, n in enumerate(self._widths)}
        self._counts = {k: np.zeros(n) for k, n in enumerate(self._widths)}

    def update(self, rows: slice, arrays: Arrays) -> None:
        ranks = [
            standard_ranks(values)
            for values in (arrays[self.features[0]], contents(arrays[IMAGE], self._grid))
        ]
        flat = [one.reshape(len(one), self.patches, -1) for one in ranks]
        if self._second:
            self._correlate(rows, ranks, flat)
            return
        for k, one in enumerate(flat):
            self._sums[k] += one.sum(axis=0)
            self._counts[k] += one.any(axis=1).sum(axis=0)
        chosen = self._donors[(self._donors >= rows.start) & (self._donors < rows.stop)]
        self._donated.append(flat[1][chosen - rows.start])

    def _correlate(self, rows: slice, ranks: list[Floats], flat: list[Floats]) -> None:
        maps, content = flat
        varies = [np.asarray(one.any(axis=1)) for one in flat]
        known = varies[0][:, :, None] & varies[1][:, None, :]
        shifted = torus_correlations(*ranks).reshape(len(maps), self.patches, *known.shape[1:])
        rho = shifted[:, 0]
        self.shifted += shifted.sum(axis=0)
        bound = permutation.distance_bound(rho, 0.0)
        found = {
            "rho": rho,
            "p_torus": (np.abs(shifted) >= bound[:, None]).mean(axis=1),
            "p_naive": naive_p(rho, self.patches),
            "p_donors": self._among_donors(rows, maps, bound),
        }
        # An image is none of the others.
        by_map = np.einsum("ipm,pc->imc", maps, self._sums[1]) - rho
        by_content = np.einsum("ipc,pm->imc", content, self._sums[0]) - rho
        with np.errstate(divide="ignore", invalid="ignore"):
            found["others"] = by_map / (self._counts[1] - varies[1])[:, None, :]
            found["of_others"] = by_content / (self._counts[0] - varies[0])[:, :, None]
        for name, values in found.items():
            self._rows.setdefault(name, []).append(np.where(known, values, np.nan))

    def _among_donors(self, rows: slice, maps: Floats, bound: Floats) -> Floats:
        """Return the share of donors, and the image itself, with as large a correlation."""
        donated = np.concatenate(self._donated)
        varies = np.asarray(donated.any(axis=1))
        own = np.arange(rows.start, rows.stop)[:, None] == self._donors
        p = np.empty(bound.shape)
        for c in range(len(CONTENTS)):
            rho = np.einsum("ipm,dp->idm", maps, donated[..., c], optimize=True)
            counted = (varies[:, c] & ~own)[..., None]
            extreme = (counted & (np.abs(rho) >= bound[:, None, :, c])).sum(axis=1)
            p[..., c] = (1.0 + extreme) / (1.0 + counted.sum(axis=1))
        return p

    def end_pass(self) -> bool:
        if self._second:
            vars(self).update(joined(self._rows))
        again, self._second = not self._second, True
        return again


class Content:
    """The plan."""

    def __init__(self, asked: ContentParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        self._store: MapStore = store
        grid = require_grid(store, NAME)
        self._modes = require_feature(store, asked.feature)
        name = printable(store.name)
        if IMAGE not in store.maps:
            raise AnalysisError(
                f"{NAME} compares maps with the images and {name} holds none: extract with "
                "--maps ...,image"
            )
        if store.n_images < 2:
            raise AnalysisError(
                f"{NAME} compares images with others and {name} holds one: extract at least 2"
            )
        _, first = next(iter(store.iter_chunks((IMAGE,), batch=1)))
        size = first[IMAGE].shape[1:3]
        if size[0] % grid[0] or size[1] % grid[1]:
            raise AnalysisError(
                f"{NAME} needs whole pixels in every patch: the images of {name} have {size[0]} x "
                f"{size[1]} pixels and its grid is {grid[0]} x {grid[1]}"
            )
        self._patches = grid[0] * grid[1]
        self._collected = passes.share(
            (NAME, asked.feature, asked.donors, asked.seed),
            lambda: Collected(
                asked.feature, store.n_images, grid, self._modes, asked.donors, asked.seed
            ),
        )

    def result(self) -> Result:
        asked, found, n_modes = self._asked, self._collected, self._modes
        names = [mode_name(mode, n_modes) for mode in range(n_modes)]
        table = _table(found, names, asked.alpha, groups_of(self._store))
        if not any(table["images"]):
            raise AnalysisError(
                f"{NAME} needs maps and images that vary and in no image of "
                f"{printable(self._store.name)} both {printable(asked.feature)} and the content do"
            )
        constant = [
            f"{mode} and {content}: constant over the patches of every image, left out"
            for mode, content, n in zip(
                *(table[k] for k in ("mode", "content", "images")), strict=True
            )
            if not n
        ]
        donors = len(found._donors)
        title = f"{asked.feature}: correlation with the image's own content"
        kept = [k for k, n in enumerate(table["images"]) if n]
        rows = [f"{table['mode'][k]}, {table['content'][k]}" for k in kept]
        ends = [np.asarray(table[key])[kept] for key in ("rho", "rho_low", "rho_high")]
        return Result(
            analysis=NAME,
            feature=asked.feature,
            question=QUESTION,
            columns={"modes": table},
            arrays={
                "rho": found.rho,
                "others": found.others,
                "p_torus": found.p_torus,
                "p_donors": found.p_donors,
                "p_naive": found.p_naive,
                "mean_under_shift": found.shifted.reshape(*self._store.grid, n_modes, -1)
                / self._store.n_images,
            },
            values=_values(table) | {"n_images": int(self._store.n_images), "donors": donors},
            notebook={},
            parameters={"donors": asked.donors, "alpha": asked.alpha},
            seed=asked.seed,
            sentences=[
                _answer(asked, table, content) for content in CONTENTS if content in told(table)
            ],
            caveats=[
                *constant,
                f"a torus shift has one of {self._patches} values: no p by it is below "
                f"{1 / self._patches:.2g}; shifts join opposite edges of the image",
                f"other images are all others for the mean, and {donors} of them (seed "
                f"{asked.seed}) for p",
                "what position alone explains is in the correlation with other images too",
                *caveats.features(asked.feature),
            ],
            provenance=provenance(self._store),
            figures={
                "rho": drawn("intervals", rows, *ends, title, "Spearman's rho, mean over images")
            },
            shown=("modes",),
            claims=_claims(asked, table),
        )


def told(table: dict[str, list[Any]]) -> set[str]:
    """Return the contents that vary with some mode."""
    return {content for content, n in zip(table["content"], table["images"], strict=True) if n}


def _table(
    found: Collected, names: list[str], alpha: float, groups: NDArray[np.int64] | None
) -> dict[str, list[Any]]:
    """Return a row per mode and content: means over images with t intervals, shares, p."""
    columns: dict[str, list[Any]] = {
        key: []
        for key in (
            "mode", "content", "rho", "rho_low", "rho_high", "rho_others", "share_torus",
            "share_donors", "share_naive", "excess", "excess_low", "excess_high", "excess_p",
            "shift_p", "images",
        )
    }  # fmt: skip
    for c, content in enumerate(CONTENTS):
        for m, mode in enumerate(names):
            known = np.isfinite(found.others[:, m, c]) & np.isfinite(found.of_others[:, m, c])
            of = None if groups is None else groups[known]
            rho = found.rho[known, m, c]
            # The mean over all pairs of different images; each image is in it twice.
            others = found.others[known, m, c]
            twice = others + found.of_others[known, m, c]
            excess = float((rho - others).mean()) if len(rho) else np.nan
            _, low, high = mean_interval(rho - twice, groups=of)
            off = float((rho - twice).mean()) - excess if len(rho) else np.nan
            null = np.abs(found.shifted[:, m, c])
            # A share of p that cannot be so small is no share: 16 shifts have no p <= 0.05.
            tests = ((found.p_torus, 1.0 / found.patches), (found.p_donors, found.least_of_donors),
                     (found.p_naive, 0.0))  # fmt: skip
            row = [
                mode, content, *mean_interval(rho, groups=of),
                float(others.mean()) if len(rho) else np.nan,
                *(
                    float((one[known, m, c] <= alpha).mean())
                    if len(rho) and least <= alpha and np.isfinite(one[known, m, c]).any()
                    else np.nan
                    for one, least in tests
                ),
                excess, low - off, high - off, _t_p(rho - twice - off, of),
                float((null >= permutation.distance_bound(null[0], 0.0)).mean())
                if len(rho) else np.nan,
                len(rho),
            ]  # fmt: skip
            for key, value in zip(columns, row, strict=True):
                columns[key].append(value)
    columns["excess_p_holm"] = list(permutation.holm(np.array(columns["excess_p"])))
    return columns


def _t_p(values: Floats, groups: NDArray[np.int64] | None = None) -> float:
    """Return the two-sided p of Student's t for a mean of 0, over images or groups of them."""
    from scipy.special import stdtr

    n = len(values)
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if not spread > 0:
        return np.nan
    mean = float(values.mean())
    error, count = spread / np.sqrt(n), n
    if groups is not None:
        variance, count = mean_covariance(values - mean, values - mean, groups)
        error = float(np.sqrt(variance))
        if count < 2 or not error > 0:
            return np.nan
    return float(2.0 * stdtr(count - 1, -abs(mean) / error))


def _rows(table: dict[str, list[Any]], content: str) -> list[dict[str, Any]]:
    """Return the rows of one content that have a figure, the largest excess first."""
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    kept = [row for row in rows if row["content"] == content and row["images"]]
    return sorted(kept, key=lambda row: -abs(row["excess"]))


def _values(table: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the figures of the mode with the largest excess, by content."""
    return {
        f"{content}_{key}": _rows(table, content)[0][key]
        for content in sorted(told(table))
        for key in ("mode", "rho", "rho_others", "excess", "excess_low", "excess_high")
    }


def _answer(asked: ContentParameters, table: dict[str, list[Any]], content: str) -> str:
    rows = _rows(table, content)[:TOLD]
    what = "gradient magnitude" if content == "gradient" else "variance"
    parts = []
    for row in rows:
        follows = row["excess_p_holm"] <= asked.alpha
        share = (
            f"too few torus shifts for p <= {asked.alpha:g}"
            if np.isnan(row["share_torus"])
            else f"p <= {asked.alpha:g} under torus shifts in {row['share_torus']:.0%} of images"
        )
        bound = (
            "" if follows else excluded(row["excess_low"], row["excess_high"], of="a difference")
        )
        parts.append(
            f"{'' if follows else 'no evidence in '}{row['mode']}{bound}: mean rho "
            f"{number(row['rho'])}, with other images {number(row['rho_others'])}, difference "
            f"{number(row['excess'])} (95% interval "
            f"{interval_text(row['excess_low'], row['excess_high'])}; Holm's "
            f"{p_text(row['excess_p_holm'])}), {share}"
        )
    return (
        f"{asked.feature} and the {what} of its patch, the image's own: " + "; ".join(parts) + "."
    )


def _claims(asked: ContentParameters, table: dict[str, list[Any]]) -> list[Claim]:
    claims = []
    for content in sorted(told(table)):
        row = _rows(table, content)[0]
        says = f"{asked.feature} following the {content} of its own image beyond other images'"
        claims.append(
            Claim(
                f"{content}_excess", f"{says}, most in {row['mode']}", row["excess"],
                row["excess_low"], row["excess_high"], p=row["excess_p_holm"], level=asked.alpha,
            )
        )  # fmt: skip
    return claims


def content(
    store: MapStore,
    *,
    feature: str = ContentParameters.feature,
    donors: int = ContentParameters.donors,
    alpha: float = ContentParameters.alpha,
    seed: int = ContentParameters.seed,
    show_progress: bool = False,
) -> Result:
    """Correlate maps with the gradient and the variance of their patches.

    Spearman's correlation over the patches of each image, against all torus shifts of the content
    and against the content of other images at the same place.

    Parameters
    ----------
    store
        An open store with the map `image`, or anything with its interface.
    feature
        A map over patches.
    donors
        Other images whose content each map is held against, drawn from all.
    alpha
        Level at which images are counted.
    seed
        Seed of the draw of donors.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `modes`, a row per mode and content. Arrays `rho`, `others` (mean correlation with
        other images), `p_torus`, `p_donors` and `p_naive` of shape (image, mode, content), and
        `mean_under_shift` of shape (row, col, mode, content).

    Raises
    ------
    AnalysisError
        If there is no map `image` or its pixels do not divide by the grid, there is one image or
        one patch, nothing varies, or values are not finite.
    """
    asked = ContentParameters(feature=feature, donors=donors, alpha=alpha, seed=seed)
    return run(store, [Content(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, content, ContentParameters, Content)

make_callable(__name__)
