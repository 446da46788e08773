"""Reliability of maps against brute force, and the claims of every analysis over repeats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from frictionstore import analyses
from frictionstore.analyses import AnalysisError, MemoryStore
from frictionstore.check.agreement import RankAgreement

N, GRID, MODES = 40, (4, 5), 3


def noisy_maps(seed: int = 0, n: int = N, repeats: int = 2) -> dict[str, np.ndarray]:
    """Friction whose modes repeats change ever more, one constant; exact friction; settle."""
    rng = np.random.default_rng(seed)
    exact = rng.lognormal(2.0, 0.7, (n, *GRID, MODES))
    noise = np.array([1e-6, 0.1, 0.9])
    measured = exact[..., None] * np.exp(
        noise[:, None] * rng.standard_normal((*exact.shape, repeats + 1))
    )
    measured = measured.astype(np.float32)
    settle = rng.integers(0, 9, (*exact.shape, repeats + 1)).astype(np.uint8)
    settle[..., 0, :] = 7
    return {
        "friction": np.ascontiguousarray(measured[..., 0]),
        "friction_repeats": np.ascontiguousarray(measured[..., 1:]),
        "friction_exact": exact.astype(np.float32),
        "settle": np.ascontiguousarray(settle[..., 0]),
        "settle_repeats": np.ascontiguousarray(settle[..., 1:]),
    }


def store_of(maps: dict[str, np.ndarray], batch: int = 7, **options) -> MemoryStore:
    n = len(maps["friction"])
    options = {"labels": np.arange(n) % 3 - (np.arange(n) % 8 == 0), **options}
    return MemoryStore(maps, class_names=["ant", "bee", "cow"], batch=batch, **options)


def every(maps: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Measurement and repeats, float64 of shape (image, row, col, mode, measurement)."""
    return np.concatenate([maps[name][..., None], maps[f"{name}_repeats"]], axis=4).astype(float)


def brute(x: np.ndarray) -> np.ndarray:
    within = x.var(axis=4, ddof=1).mean(axis=(0, 1, 2))
    total = np.moveaxis(x, 3, 0).reshape(x.shape[3], -1).var(axis=1, ddof=1)
    with np.errstate(invalid="ignore"):  # a constant mode
        return 1 - within / total


def ranks(x: np.ndarray) -> np.ndarray:
    out = np.empty(x.shape)
    for mode in range(x.shape[3]):
        out[..., mode, :] = rankdata(x[..., mode, :].ravel()).reshape(x[..., mode, :].shape)
    return out


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_reliability_is_that_of_brute_force_on_every_scale(batch):
    maps = noisy_maps()
    found = analyses.reliability(store_of(maps, batch), samples=10)
    x = every(maps, "friction")
    for scale, values in {"raw": x, "logarithm": np.log10(x), "rank": ranks(x)}.items():
        expected = brute(values)
        np.testing.assert_allclose(found.arrays[f"reliability_{scale}"], expected, rtol=1e-9)
    assert found.values["least_reliability_raw"] == found.reliability_raw.min()
    table = found.table
    assert list(table["scale"].unique()) == ["raw", "logarithm", "rank"]


def test_what_has_no_logarithm_and_what_is_constant():
    maps = noisy_maps()
    found = analyses.reliability(store_of(maps), feature="settle", samples=10)
    x = every(maps, "settle")
    np.testing.assert_allclose(found.reliability_raw[1:], brute(x)[1:], rtol=1e-9)
    np.testing.assert_allclose(found.reliability_rank[1:], brute(ranks(x))[1:], rtol=1e-9)
    assert np.isnan(found.reliability_raw[0])
    assert np.isnan(found.reliability_logarithm).all()
    assert any("no logarithm" in caveat for caveat in found.caveats)
    assert any("mode 0 (largest) of settle is constant" in caveat for caveat in found.caveats)


def test_changes_are_those_of_brute_force():
    maps = noisy_maps()
    maps["friction"][3, 0, 0, 2] = 0.0  # then a change has no size: infinity
    found = analyses.reliability(store_of(maps), samples=10)
    x = every(maps, "friction")
    with np.errstate(divide="ignore"):
        change = np.abs(x[..., 1:] - x[..., :1]) / x[..., :1]
    table = found.tables["change"]
    for mode in range(MODES):
        of_mode = change[..., mode, :].ravel()
        assert table["median_change"][mode] == pytest.approx(np.median(of_mode), rel=4e-3)
        assert table["share_changed"][mode] == pytest.approx((of_mode > 0.1).mean(), rel=1e-12)
        expected = np.quantile(of_mode[np.isfinite(of_mode)], 0.99, method="inverted_cdf")
        assert table["change_99"][mode] == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(found.share_changed, (change > 0.1).mean(axis=(0, 4)))
    labels = store_of(maps).labels
    by_class = [(change[labels == c] > 0.1).mean() for c in range(3)]
    np.testing.assert_allclose(found.tables["classes"]["share_changed"], by_class)


def test_rounding_error_is_that_of_brute_force():
    maps = noisy_maps()
    store = store_of(maps)
    found = analyses.reliability(store, samples=10)
    f, e = (maps[name].astype(float) for name in ("friction", "friction_exact"))
    error = np.abs(f - e) / e
    table = found.tables["rounding"]
    for mode in range(MODES):
        assert table["median_error"][mode] == pytest.approx(np.median(error[..., mode]), rel=4e-3)
        within = (error[..., mode] <= 0.01).mean()
        assert table["share_within"][mode] == pytest.approx(within, rel=1e-12)
        expected = np.corrcoef(np.log(f[..., mode]).ravel(), np.log(e[..., mode]).ravel())[0, 1]
        assert table["log_correlation"][mode] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.share_within, (error <= 0.01).mean(axis=0))
    within = [(error[store.labels == c] <= 0.01).mean() for c in range(3)]
    np.testing.assert_allclose(found.tables["classes"]["share_within"], within)
    # A derived feature that any analysis takes.
    mean_map = analyses.mode_variance(store, feature="rounding_error").mean_map
    np.testing.assert_allclose(mean_map, error.mean(axis=0), rtol=1e-5)


def test_a_store_with_exact_maps_only_and_one_with_neither():
    maps = {key: value for key, value in noisy_maps().items() if "repeats" not in key}
    found = analyses.reliability(store_of(maps))
    assert found.sentence == (
        "measurement noise of friction is not known: this store has no repeats."
    )
    assert "rounding" in found.tables
    assert "reliability" not in found.tables
    assert "share_within" in found.arrays
    del maps["friction_exact"]
    message = "measurement noise is not known: this store has no repeats; extract again with"
    with pytest.raises(AnalysisError, match=message):
        analyses.reliability(store_of(maps))
    with pytest.raises(AnalysisError, match="on all scales: name one of the store's"):
        analyses.reliability(store_of(noisy_maps()), feature="log_friction")


@pytest.mark.slow
def test_two_repeats_agree_with_32_within_their_interval():
    inside = []
    for seed in range(12):
        maps = noisy_maps(seed, n=150, repeats=32)
        many = analyses.reliability(store_of(maps, 64), samples=2)
        few = {**maps, "friction_repeats": maps["friction_repeats"][..., :2]}
        found = analyses.reliability(store_of(few, 64), samples=400, seed=seed).table
        for scale in ("raw", "logarithm", "rank"):
            rows = found[found["scale"] == scale]
            known = many.arrays[f"reliability_{scale}"]
            assert (rows["reliability_high"] - rows["reliability_low"] < 0.5).all()
            # Ranks of one patch's measurements are neighbours: more of them are further apart.
            low, high = rows["reliability_low"] - 1e-6, rows["reliability_high"] + 1e-6
            inside += list((low <= known) & (known <= high))
    # A 95% interval, and 32 repeats of the same images vary less than other images do.
    assert np.mean(inside) >= 0.9


@pytest.mark.slow
def test_the_interval_covers_what_other_images_would_give():
    truth = brute(np.log10(every(noisy_maps(99, n=20_000), "friction")))
    inside = []
    for seed in range(60):
        found = analyses.reliability(store_of(noisy_maps(seed), 64), samples=200, seed=seed).table
        rows = found[found["scale"] == "logarithm"]
        inside += list((rows["reliability_low"] <= truth) & (truth <= rows["reliability_high"]))
    assert 0.88 <= np.mean(inside) < 1


def test_ranks_among_some_of_the_images_are_close_and_do_not_depend_on_chunks():
    maps = noisy_maps(n=300)
    names = ["friction", "friction@1", "friction@2"]
    x = every(maps, "friction")
    found = []
    for batch in (7, 64):
        size = GRID[0] * GRID[1] * MODES * 4
        ranked = RankAgreement(names, size, 300, memory=size * 3 * 100)
        assert ranked.stride == 3
        for _ in range(2):
            for start in range(0, 300, batch):
                rows = slice(start, min(start + batch, 300))
                ranked.update(rows, {name: x[rows, ..., k] for k, name in enumerate(names)})
            ranked.end_pass()
        found.append(ranked.found.reliability)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    np.testing.assert_allclose(found[0], brute(ranks(x)), atol=0.01)


@pytest.mark.slow
def test_the_interval_knows_that_other_repeats_have_other_extremes():
    """A few values of every measurement are rounding's, of any size: which, no image tells."""
    inside = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = np.repeat(rng.lognormal(2.0, 0.7, (150, 4, 5, 1, 1)), 23, axis=4)
        hit = rng.random(x.shape) < 0.002
        x[hit] = 10 ** rng.uniform(2, 5, hit.sum())
        maps = {"friction": x[..., 0].astype(np.float32), "friction_repeats": x[..., 1:3]}
        rows = analyses.reliability(store_of(maps, 64), samples=400, seed=seed).table
        rows = rows[rows["scale"] == "raw"]
        many = brute(np.delete(x, (1, 2), axis=4))  # twenty others
        inside += list((rows["reliability_low"] <= many) & (many <= rows["reliability_high"]))
    assert np.mean(inside) >= 0.88


def test_what_spans_decades_may_change_and_be_reliable():
    """Logarithms with a variance of 1 and noise of 0.01: most values change by more than 10%."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(40, 3, 3, 2, 1)) + 0.1 * rng.normal(size=(40, 3, 3, 2, 3))
    values = 10**measured
    maps = {"friction": values[..., 0], "friction_repeats": values[..., 1:]}
    found = analyses.reliability(store_of(maps), samples=50)
    assert found.values["share_changed"] > 0.5
    assert found.values["least_reliability_logarithm"] > 0.98
    assert "rounding decides" not in found.sentence
    noise = 10 ** (measured + 3 * rng.normal(size=measured.shape))
    maps = {"friction": noise[..., 0], "friction_repeats": noise[..., 1:]}
    found = analyses.reliability(store_of(maps), samples=50)
    assert found.sentence.startswith("rounding decides friction")


def test_of_every_third_image_no_more_is_held() -> None:
    """A view of these would hold all: memory must be that of what is ranked among."""
    maps = {name: np.random.default_rng(0).normal(size=(64, 2, 2, 1)) for name in ("a", "b")}
    ranks = RankAgreement(("a", "b"), 32, 64, memory=1400)
    assert ranks.stride == 3
    for start in range(0, 64, 16):
        some = slice(start, start + 16)
        ranks.update(some, {name: values[some] for name, values in maps.items()})
    assert ranks._held is not None
    held = [values for _, of_chunk in ranks._held for values in of_chunk.values()]
    assert sum(len(values if values.base is None else values.base) for values in held) == 2 * 22
