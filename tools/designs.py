"""Made stores on which tests are hard to get right, and how often each says something on them.

Every design has nothing to find, or a true value to cover: see docs/calibration.md, which this
writes, and the counts of the notebook's verdicts that the analyses show beside these.

    python tools/calibrate.py --designs --stores 400 --write
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import false_discovery_control

from frictionstore import analyses
from frictionstore.analyses.core.null_verdicts import DESIGN, FILE
from frictionstore.analyses.probe.ridge import Dual, choose_penalty, one_hot
from frictionstore.progress import progress_bar

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "calibration.md"
PERMUTATIONS = 399
MARK = "<!-- counts -->"

Counts = dict[str, bool]
Floats = NDArray[np.float64]


def classes_store(
    seed: int, sizes: Sequence[int], tails: float = 0.0, spread: float = 1.0
) -> analyses.MemoryStore:
    """Return noise whose patches share half their variance; `tails` is the sd of its logarithm.

    The first class has `spread` times the standard deviation of the others, and the same mean.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(labels), 4, 4, 1)) + rng.normal(size=(len(labels), 1, 1, 1))
    x = np.exp(tails * x / np.sqrt(2)) if tails else x
    x *= np.where(labels == 0, spread, 1.0)[:, None, None, None]
    names = [f"class{c}" for c in range(len(sizes))]
    return analyses.MemoryStore({"S": x}, labels=labels, class_names=names)


def tests_of_classes(seed: int, sizes: Sequence[int], **design: float) -> Counts:
    """Return which tests call the classes of a store different at 5%."""
    f, d, p = _tests(classes_store(seed, sizes, **design), seed)
    old = false_discovery_control(f.p.reshape(-1))
    return {
        "any q <= 0.05, p of the F distribution (before)": bool((old <= 0.05).any()),
        "any q <= 0.05, permutation p": bool((f.q <= 0.05).any()),
        **{name: bool(one <= 0.05) for name, one in p.items()},
        "the sentences say that means differ": any(
            "no evidence" not in one.sentence.split(":")[0] and "perhaps not" not in one.sentence
            for one in (f, d)
        ),
    }


def _tests(
    store: analyses.MemoryStore, seed: int
) -> tuple[analyses.Result, analyses.Result, dict[str, float]]:
    """Return what f-statistic and class-distance find, and the p of their tests."""
    asked: dict[str, Any] = {"feature": "S", "permutations": PERMUTATIONS, "seed": seed}
    f = analyses.f_statistic(store, **asked)
    d = analyses.class_distance(store, splits=2, **asked)
    return f, d, {
        "family-wise, F": f.values["family_wise_p"],
        "family-wise, Welch's F": f.values["welch_family_wise_p"],
        "family-wise, TFCE": f.values["tfce_family_wise_p"],
        "family-wise, cluster mass": f.values["mass_family_wise_p"],
        "mean distance": d.values["p_mean_distance"],
        "PERMANOVA": d.values["p_pseudo_f"],
        "PERMANOVA, Welch's": d.values["p_welch_f"],
        "PERMDISP": d.values["p_dispersion"],
    }  # fmt: skip


def photographs_store(
    seed: int, photographs: int, crops: int | None, *, groups: bool = True, effect: float = 0.0
) -> analyses.MemoryStore:
    """Return crops of photographs, so many of each of two classes, `effect` apart everywhere.

    The class is the photograph's. Crops of one photograph correlate by 0.1 at every position.
    Without a number of `crops` photographs have 5 to 40, at random.
    """
    rng = np.random.default_rng(seed)
    count = 2 * photographs
    sizes = rng.integers(5, 41, count) if crops is None else np.full(count, crops)
    photograph = rng.permutation(np.repeat(np.arange(count), sizes))
    shape = (6, 6, 2)
    common = rng.normal(size=(count, *shape))[photograph]
    own = rng.normal(size=(len(photograph), *shape))
    values = 5.0 + np.sqrt(0.1) * common + np.sqrt(0.9) * own
    values += effect * (photograph % 2)[:, None, None, None]
    return analyses.MemoryStore(
        {"S": values}, labels=photograph % 2, class_names=["a", "b"],
        groups=photograph if groups else None,
    )  # fmt: skip


def tests_of_photographs(seed: int, *design: Any, **options: Any) -> Counts:
    """Return which tests call classes of photographs different at 5%; or that all refuse."""
    store = photographs_store(seed, *design, **options)
    asked: dict[str, Any] = {"permutations": PERMUTATIONS, "seed": seed}
    try:
        _, d, p = _tests(store, seed)
    except analyses.AnalysisError:
        with suppress(analyses.AnalysisError):
            analyses.ridge_probe(store, features=["S"], **asked)
            return {}
        return {"refused": True}
    p["ridge-probe"] = analyses.ridge_probe(store, features=["S"], **asked).table["p"][0]
    counts = {name: bool(one <= 0.05) for name, one in p.items()}
    return counts | {"mean crossnobis distance above 0": d.values["mean_crossnobis"] > 0}


def no_position_effect(seed: int, smooth: float = 0.0) -> Counts:
    """Return what mode-variance says of modes without any effect of position."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 6, 6, 2))
    x = gaussian_filter(x, (0, smooth, smooth, 0)) if smooth else x
    x = 20 + (x + rng.normal(size=(60, 1, 1, 2))) * [100.0, 1.0]
    found = analyses.mode_variance(analyses.MemoryStore({"S": x}), feature="S", seed=seed)
    table = found.table
    return {
        "the interval of the variance holds 0": bool(
            table["variance_low"][0] <= 0 <= table["variance_high"][0]
        ),
        "F for positions, p <= 0.05": bool(table["p"][0] <= 0.05),
        "some mode is said to vary": "no evidence" not in found.sentence,
    }


def common_map(seed: int) -> Counts:
    """Return what Moran's I says of images that share a smooth map and nothing else."""
    rng = np.random.default_rng(seed)
    common = gaussian_filter(rng.normal(size=(6, 6)), 1.0)[None, ..., None]
    x = 20 + 3 * common + rng.normal(size=(60, 6, 6, 1))
    values = analyses.spatial_cv(
        analyses.MemoryStore({"S": x}), feature="S", permutations=99, seed=seed
    ).values
    return {
        "mean Moran's I, p <= 0.05": values["p_mean_moran_queen"] <= 0.05,
        "without the mean map, p <= 0.05": values["p_mean_moran_queen_own"] <= 0.05,
    }


def heavy_means(seed: int) -> Counts:
    """Return how intervals of means do where the logarithm has a standard deviation of 2.5."""
    rng = np.random.default_rng(seed)
    sd, n = 2.5, 100
    x = np.exp(sd * (rng.normal(size=(n, 4, 4, 1)) + 2 * rng.normal(size=(n, 1, 1, 1))) / 5**0.5)
    store = analyses.MemoryStore({"S": x}, labels=np.arange(n) % 2, class_names=["a", "b"])
    true = np.exp(sd * sd / 2)
    values = analyses.image_summary(store, feature="S").values
    row = analyses.center_edge(store, feature="S").tables["modes"].iloc[0]
    given, missed = _given(values["mean_low"], values["mean_high"], true)
    edge, edge_missed = _given(row["difference_low"], row["difference_high"], 0.0)
    return {
        "image-summary: the mean has an interval": given,
        "image-summary: an interval of the mean misses it": missed,
        "image-summary: the geometric mean's interval holds it": bool(
            values["geometric_mean_low"] <= 1.0 <= values["geometric_mean_high"]
        ),
        "center-edge: the difference has an interval": edge,
        "center-edge: an interval of the difference misses it": edge_missed,
        "center-edge: the test calls edge and centre different": bool(row["p"] <= 0.05),
    }


def _given(low: float, high: float, true: float) -> tuple[bool, bool]:
    given = bool(np.isfinite(low))
    return given, given and not low <= true <= high


def probe(seed: int, n: int = 100, columns: int = 36, signal: float = 0.45) -> Counts:
    """Return whether the probe's interval holds the accuracy of the model fitted to all images."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=columns) / np.sqrt(columns)

    def draw(size: int) -> tuple[Floats, NDArray[np.int64]]:
        labels = rng.permutation(np.arange(size) % 2)
        rows = rng.normal(size=(size, columns))
        return rows + 2 * signal * (labels * 2 - 1)[:, None] * direction, labels

    x, labels = draw(n)
    store = analyses.MemoryStore(
        {"S": x.reshape(n, 6, 6, 1)}, labels=labels, class_names=["a", "b"]
    )
    found = analyses.ridge_probe(store, features=["S"], permutations=0, seed=seed)
    values = found.values["accuracy S"]
    target = one_hot(labels, 2)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / scale
    solved = choose_penalty(Dual(z @ z.T, target - target.mean(axis=0))).solved
    weights = z.T @ solved.coefficients
    new, true = draw(20_000)
    accuracy = float((((new - mean) / scale @ weights).argmax(axis=1) == true).mean())
    from frictionstore.analyses.stats.intervals import wilson_interval

    old = wilson_interval(values["accuracy"] * n, n)
    return {
        "Wilson's interval holds it (before)": bool(old[0] <= accuracy <= old[1]),
        "the interval holds it": bool(
            values["accuracy_low"] <= accuracy <= values["accuracy_high"]
        ),
    }


def verdicts(seed: int) -> Counts:
    """Return which of the notebook's verdicts are positive on a store of noise."""
    rng = np.random.default_rng(seed)
    shape = (200, 8, 8, 2)
    names = [str(c) for c in range(10)]
    store = analyses.MemoryStore(
        {"friction": rng.lognormal(2.0, 0.5, shape)},
        labels=rng.permutation(np.arange(200) % 10), class_names=names,
    )  # fmt: skip
    few: dict[str, Any] = {"permutations": 0, "seed": seed}
    found = {
        "spatial-cv": analyses.spatial_cv(store, **few).notebook["verdict"],
        "class-distance": analyses.class_distance(store, splits=2, **few).notebook["verdict"],
        "f-statistic": analyses.f_statistic(store, **few).notebook["verdict"],
        "ridge-probe": analyses.ridge_probe(store, features=["friction"], **few).notebook[
            "friction verdict"
        ],
    }
    negative = {
        "SPATIALLY UNIFORM", "NEARLY IDENTICAL PATTERNS", "NOT DISCRIMINATIVE"
    }  # fmt: skip
    return {name: verdict not in negative for name, verdict in found.items()}


def _classes(sizes: Sequence[int], **design: float) -> Callable[[int], Counts]:
    return lambda seed: tests_of_classes(seed, sizes, **design)


def _photographs(*design: Any, **options: Any) -> Callable[[int], Counts]:
    return lambda seed: tests_of_photographs(seed, *design, **options)


VERDICTS = f"notebook verdicts: {DESIGN}"
DESIGNS: dict[str, Callable[[int], Counts]] = {
    "3 classes of 20, normal": _classes((20, 20, 20)),
    "3 classes of 20, heavy tails (log sd 2)": _classes((20, 20, 20), tails=2.0),
    "classes of 4 and 200, normal": _classes((4, 200)),
    "classes of 4 and 200, heavy tails (log sd 2)": _classes((4, 200), tails=2.0),
    "classes of 10 and 100, the small one of twice the sd": _classes((10, 100), spread=2.0),
    "no effect of position": no_position_effect,
    "no effect of position, patches alike": lambda seed: no_position_effect(seed, 1.2),
    "images share a smooth map": common_map,
    "means of heavy tails (log sd 2.5)": heavy_means,
    "accuracy of the model fitted to all of 100 images": probe,
    "2 photographs of 60 crops, groups not said": _photographs(1, 60, groups=False),
    "2 photographs of 60 crops": _photographs(1, 60),
    "12 photographs of 20 crops, groups not said": _photographs(6, 20, groups=False),
    "12 photographs of 20 crops": _photographs(6, 20),
    "12 photographs of 5 to 40 crops": _photographs(6, None),
    VERDICTS: verdicts,
}


def count(name: str, stores: int, seed: int = 0) -> dict[str, int]:
    """Return on how many stores of a design each thing is so."""
    total: dict[str, int] = {}
    with progress_bar(stores, name, unit="stores", show=True) as advance:
        for number in range(stores):
            for what, so in DESIGNS[name](seed + number).items():
                total[what] = total.get(what, 0) + bool(so)
            advance(1)
    return total


def run(stores: int, seed: int = 0, *, only: str = "", write: bool = False) -> dict[str, Any]:
    """Count over designs whose name holds `only`; written, they replace those of the page."""
    found: dict[str, Any] = {}
    for name in DESIGNS:
        if only in name:
            found[name] = {"stores": stores, "counts": count(name, stores, seed)}
            if write:
                _write(name, found[name])
    return found


def _write(name: str, found: dict[str, Any]) -> None:
    """Put the counts of one design into the page; those of verdicts into the package too."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    sections = {
        part.partition("\n")[0]: part for part in rest.strip().split("\n### ")[0:] if part.strip()
    }
    sections = {key.removeprefix("### "): part for key, part in sections.items()}
    rows = [f"| {what} | {n} |" for what, n in found["counts"].items()]
    head = [f"| of {found['stores']} stores | |", "|---|---|"]
    sections[name] = "\n".join([name, "", *head, *rows, ""])
    ordered = [sections[key].removeprefix("### ") for key in DESIGNS if key in sections]
    page = f"{before}{MARK}\n\n" + "\n".join(f"### {part.strip()}\n" for part in ordered)
    PAGE.write_text(page, encoding="utf-8")
    if name == VERDICTS:
        content = {"stores": found["stores"], "positive": found["counts"]}
        FILE.write_text(json.dumps(content) + "\n", encoding="utf-8")
