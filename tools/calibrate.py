"""Measure that the analyses' p-values and intervals mean what they say.

Three things, on made-up stores: p-values are uniform where there is nothing to find, 95% intervals
hold the true value 95% of the time, and a planted effect is found where it is while nothing else
is. Exit status 1 if any of them is not so.

    python tools/calibrate.py --stores 200
    python tools/calibrate.py --design groups --stores 400

The second is of images that belong together (photographs of which there are several crops each):
counts of stores are in `docs/calibration.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, kstest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frictionstore import analyses
from frictionstore.analyses.probe.ridge import compare_paired
from frictionstore.analyses.stats.intervals import wilson_interval
from frictionstore.progress import progress_bar

GRID = (6, 6)
MODES = 2
IMAGES = 60
CLASSES = 3
PERMUTATIONS = 199
LEVEL = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Check:
    """One measured property, what it should be, and whether it is."""

    name: str
    measured: float
    expected: str
    passed: bool


def noise_store(rng: np.random.Generator, **planted: NDArray[Any]) -> analyses.MemoryStore:
    """Return positive noise with labels that have nothing to do with it.

    Neighbouring patches of an image share half their variance, so that positions are not
    independent of each other; S is independent noise.
    """
    shape = (IMAGES, *GRID, MODES)
    labels = rng.permutation(np.arange(IMAGES) % CLASSES)
    common = rng.normal(size=(IMAGES, 1, 1, MODES))
    friction = np.exp(0.5 * (common + rng.normal(size=shape)))
    maps = {"friction": friction, "S": rng.normal(5.0, 1.0, shape)}
    for name, effect in planted.items():
        maps[name] = maps[name] + effect * labels[:, None, None, None]
    return analyses.MemoryStore(maps, labels=labels, class_names=["a", "b", "c"])


def null_p_values(seed: int) -> dict[str, float]:
    """Return p-values of one store in which every null hypothesis holds."""
    rng = np.random.default_rng(seed)
    store = noise_store(rng)
    here = (int(rng.integers(GRID[0])), int(rng.integers(GRID[1])), int(rng.integers(MODES)))
    f = analyses.f_statistic(store, permutations=PERMUTATIONS, seed=seed)
    normal = analyses.f_statistic(store, feature="S", permutations=0)
    distance = analyses.class_distance(store, permutations=PERMUTATIONS, splits=2, seed=seed)
    moran = analyses.spatial_cv(store, feature="S", permutations=PERMUTATIONS, seed=seed)
    edge = analyses.center_edge(store, feature="S")
    probe = analyses.ridge_probe(
        store, features=["S", "friction"], permutations=PERMUTATIONS, seed=seed
    )
    image = int(rng.integers(IMAGES))
    return {
        "f-statistic: p of one F, normal values": float(normal.p[here]),
        "f-statistic: permutation p of one F": float(f.p_permutation[here]),
        "f-statistic: family-wise p of the largest F": float(f.values["family_wise_p"]),
        "class-distance: p of the mean distance": distance.values["p_mean_distance"],
        "class-distance: p of the smallest cosine": distance.values["p_min_cosine"],
        "class-distance: p of PERMANOVA": distance.values["p_pseudo_f"],
        "spatial-cv: p of one Moran's I, queen": float(moran.moran_queen_p[image, here[2]]),
        "spatial-cv: p of one Moran's I, rook": float(moran.moran_rook_p[image, here[2]]),
        "center-edge: paired t": float(edge.values["p"]),
        "ridge-probe: p of the accuracy": _randomised(probe, rng),
    }


def _randomised(probe: analyses.Result, rng: np.random.Generator) -> float:
    """Return the probe's p with ties broken at random: accuracies are few, so plain p is large."""
    null = probe.permuted_accuracy[0]
    observed = probe.table["accuracy"][0]
    tied = np.isclose(null, observed, atol=1e-12)
    above = int((null[~tied] > observed).sum())
    return (above + rng.uniform() * (int(tied.sum()) + 1)) / (len(null) + 1)


def covered(seed: int) -> dict[str, bool]:
    """Return whether each 95% interval of one made-up store holds the true value."""
    rng = np.random.default_rng(seed)
    centre, edge, position_sd = 10.0, 12.0, 0.5
    image = rng.normal(0.0, 1.0, (IMAGES, 1, 1, 1))
    x = centre + image + rng.normal(0.0, 2.0, (IMAGES, *GRID, 1))
    inside = np.zeros(GRID, bool)
    inside[1:5, 1:5] = True
    x[:, ~inside] += edge - centre
    store = analyses.MemoryStore({"S": x}, labels=np.arange(IMAGES) % 2, class_names=["a", "b"])
    result = analyses.center_edge(store, feature="S").values
    found = analyses.image_summary(store, feature="S").values
    true_mean = (inside.sum() * centre + (~inside).sum() * edge) / inside.size

    # Position effects that the mean map estimates; 60 images leave 4/60 of noise in its variance.
    effect = rng.normal(0.0, position_sd, (1, *GRID, 1))
    y = 20.0 + effect + rng.normal(0.0, 2.0, (IMAGES, *GRID, 1))
    variance = analyses.mode_variance(analyses.MemoryStore({"S": y}), feature="S", seed=seed)
    target = effect.var(ddof=1) + 4.0 / IMAGES

    p, n = 0.8, 150
    low, high = wilson_interval(float(rng.binomial(n, p)), n)
    both = rng.random(n)
    paired = compare_paired(both < 0.8, (both + 0.1 * rng.random(n)) < 0.75)
    # P(u < 0.8) - P(u + 0.1 v < 0.75) with u, v uniform.
    difference = 0.8 - (0.75 - 0.05)
    return {
        "center-edge: ratio": result["ratio_low"] <= edge / centre <= result["ratio_high"],
        "image-summary: mean": found["mean_low"] <= true_mean <= found["mean_high"],
        "mode-variance: variance of the mean map": bool(
            variance.table["variance_low"][0] <= target <= variance.table["variance_high"][0]
        ),
        "ridge-probe: accuracy": low <= p <= high,
        "ridge-probe: paired difference": paired.low <= difference <= paired.high,
    }


def planted(seed: int) -> dict[str, bool]:
    """Return whether a planted effect was found, and whether anything else was."""
    rng = np.random.default_rng(seed)
    effect = np.zeros((1, *GRID, MODES))
    places = [(1, 2, 0), (4, 4, 1)]
    for row, col, mode in places:
        effect[0, row, col, mode] = 1.5
    store = noise_store(rng, S=effect)
    result = analyses.f_statistic(store, feature="S", permutations=PERMUTATIONS, seed=seed)
    significant = result.p_family_wise <= ALPHA
    q = result.q <= ALPHA
    there = effect[0] > 0
    return {
        "found": bool(significant[there].all()),
        "false, family-wise": bool(significant[~there].any()),
        "false, share of q": float((q & ~there).sum() / max(q.sum(), 1)),  # type: ignore[dict-item]
    }


def photographs_store(
    seed: int, photographs: int, crops: int | None, correlation: float = 0.1, *, groups: bool = True
) -> analyses.MemoryStore:
    """Return crops of photographs, so many of each of two classes, between which nothing differs.

    The class is the photograph's. Crops of one photograph have this correlation at every position.
    Without a number of `crops` photographs have 5 to 40, at random.
    """
    rng = np.random.default_rng(seed)
    count = 2 * photographs
    sizes = rng.integers(5, 41, count) if crops is None else np.full(count, crops)
    photograph = rng.permutation(np.repeat(np.arange(count), sizes))
    shape = (*GRID, MODES)
    common = rng.normal(size=(count, *shape))[photograph]
    own = rng.normal(size=(len(photograph), *shape))
    values = 5.0 + np.sqrt(correlation) * common + np.sqrt(1.0 - correlation) * own
    return analyses.MemoryStore(
        {"S": values},
        labels=photograph % 2,
        class_names=["a", "b"],
        groups=photograph if groups else None,
    )


def class_tests(store: analyses.MemoryStore, seed: int) -> dict[str, float]:
    """Return p of the three tests of a difference between classes; NaN where one refuses."""
    shared: dict[str, Any] = {"permutations": PERMUTATIONS, "seed": seed}

    def f_statistic() -> float:
        return float(analyses.f_statistic(store, feature="S", **shared).values["family_wise_p"])

    def permanova() -> float:
        found = analyses.class_distance(store, feature="S", splits=2, **shared)
        return float(found.values["p_pseudo_f"])

    def probe() -> float:
        return float(analyses.ridge_probe(store, features=["S"], **shared).table["p"][0])

    tests = {"f-statistic, family-wise": f_statistic, "PERMANOVA": permanova, "ridge-probe": probe}
    found = {}
    for name, test in tests.items():
        try:
            found[name] = test()
        except analyses.AnalysisError:
            found[name] = float("nan")
    return found


PHOTOGRAPHS: dict[str, dict[str, Any]] = {
    "2 photographs of 60 crops": {"photographs": 1, "crops": 60},
    "2 photographs of 60 crops, groups not said": {
        "photographs": 1, "crops": 60, "groups": False,
    },
    "12 photographs of 20 crops": {"photographs": 6, "crops": 20},
    "12 photographs of 20 crops, groups not said": {
        "photographs": 6, "crops": 20, "groups": False,
    },
    "12 photographs of 5 to 40 crops": {"photographs": 6, "crops": None},
}  # fmt: skip
"""Designs without any effect, and how `photographs_store` makes them."""


def group_checks(
    stores: int, seed: int, designs: Sequence[str] = tuple(PHOTOGRAPHS)
) -> list[Check]:
    """Return in how many stores without an effect each test says p <= 0.05, and how it should be.

    A class of one photograph is refused always; several are called different no more often than
    in 5% of stores. What happens where nobody says which crops belong together stands beside it.
    """
    most = int(binom.ppf(0.9995, stores, ALPHA))
    checks = []
    for design in designs:
        options = PHOTOGRAPHS[design]
        found = _collect(
            lambda number, options=options: class_tests(  # type: ignore[misc]
                photographs_store(number, **options), number
            ),
            stores, seed, design,
        )  # fmt: skip
        for name, p in found.items():
            count, refused = int((p <= ALPHA).sum()), int(np.isnan(p).sum())
            if "groups" in options:
                expected, passed = "too many: nobody said what belongs together", True
            elif options["photographs"] < 2:
                count, expected = refused, f"refused in all {stores}"
                passed = refused == stores
            else:
                expected, passed = f"at most {most}", count <= most and not refused
            checks.append(Check(f"{design}: {name}", count, expected, passed))
    return checks


def _collect(
    of_one: Callable[[int], dict[str, Any]], stores: int, seed: int, label: str
) -> dict[str, NDArray[np.float64]]:
    rows = []
    with progress_bar(stores, label, unit="stores", show=True) as advance:
        for number in range(stores):
            rows.append(of_one(seed + number))
            advance(1)
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}


def uniform_checks(stores: int, seed: int) -> list[Check]:
    """Return Kolmogorov-Smirnov tests of the p-values, which fail below 0.001."""
    found = _collect(null_p_values, stores, seed, "p-values under the null")
    checks = []
    for name, p in found.items():
        test = float(kstest(p, "uniform").pvalue)
        checks.append(Check(f"{name}, uniform", test, "KS p >= 0.001", test >= 0.001))
        share = float((p <= ALPHA).mean())
        most = float(binom.ppf(0.9995, stores, ALPHA) / stores)
        checks.append(
            Check(f"{name}, share <= {ALPHA}", share, f"at most {most:.3f}", share <= most)
        )
    return checks


def coverage_checks(stores: int, seed: int) -> list[Check]:
    """Return how often 95% intervals hold the true value, and whether that is about 95%."""
    found = _collect(covered, stores, seed, "coverage of intervals")
    # A jackknife over 20 groups is approximate: one point is allowed on top of chance.
    low = float(binom.ppf(0.0005, stores, LEVEL - 0.01) / stores)
    high = float(binom.ppf(0.9995, stores, LEVEL + 0.01) / stores)
    return [
        Check(
            f"{name}, coverage", float(inside.mean()), f"{low:.3f} to {high:.3f}",
            low <= inside.mean() <= high,
        )
        for name, inside in found.items()
    ]  # fmt: skip


def planted_checks(stores: int, seed: int) -> list[Check]:
    """Return power and error rates of f-statistic with two planted positions."""
    found = _collect(planted, stores, seed, "planted effects")
    most = float(binom.ppf(0.9995, stores, ALPHA) / stores)
    power = float(found["found"].mean())
    wrong = float(found["false, family-wise"].mean())
    false_share = float(found["false, share of q"].mean())
    return [
        Check("planted positions found", power, "at least 0.9", power >= 0.9),
        Check("anything else found, family-wise", wrong, f"at most {most:.3f}", wrong <= most),
        Check(
            "false among q <= 0.05, mean share", false_share, f"at most {most:.3f}",
            false_share <= most,
        ),
    ]  # fmt: skip


def calibrate(stores: int, seed: int = 0) -> list[Check]:
    """Return all checks."""
    return [
        *uniform_checks(stores, seed),
        *coverage_checks(stores, seed),
        *planted_checks(stores, seed),
    ]


@click.command()
@click.option(
    "--design",
    type=click.Choice(["independent", "groups"]),
    default="independent",
    show_default=True,
    help="Independent images, or crops of photographs.",
)
@click.option("--stores", type=click.IntRange(min=20), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def main(design: str, stores: int, seed: int, as_json: bool) -> None:
    """Measure p-values under the null, coverage of intervals and planted effects."""
    checks = calibrate(stores, seed) if design == "independent" else group_checks(stores, seed)
    if as_json:
        click.echo(
            json.dumps({"stores": stores, "seed": seed, "checks": [asdict(c) for c in checks]})
        )
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok  " if check.passed else "FAIL"
            click.echo(f"{mark} {check.name:{width}s} {check.measured:8.4f}  ({check.expected})")
    if not all(check.passed for check in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
