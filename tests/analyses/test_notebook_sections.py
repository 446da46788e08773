"""The notebook's sections 1 to 6 on more images than it kept, against it written anew.

It kept single maps of the first 2,000 images only: sections 1 and 6 see these, 2 to 5 see all. The
arithmetic below is the notebook's: float32, modes in ascending order, sums image by image.
Sections 7 to 9 are the probe's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from frictionstore.analyses.core.source import NOTEBOOK_IMAGES

N, G, D, C = 2300, 8, 4, 5
F32 = np.float32


def maps_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Friction in the store's order, mode 0 the largest; the last 300 images differ clearly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, C - 1, N)
    labels[NOTEBOOK_IMAGES:] = rng.integers(0, C, N - NOTEBOOK_IMAGES)
    labels[5] = C - 1  # one image of the last class among the first 2,000: the notebook shows one
    level = np.array([5.0, 40.0, 200.0, 8.0])
    maps = level * np.exp(0.3 * rng.normal(size=(N, G, G, D)))
    maps *= 1 + 0.02 * labels[:, None, None, None]
    maps[:, 2:6, 2:6] *= 1.3
    maps[NOTEBOOK_IMAGES:] = (
        level * 3 * np.exp(1.2 * rng.normal(size=(N - NOTEBOOK_IMAGES, G, G, D)))
    )
    return maps.astype(F32), labels


def notebook() -> dict[str, Any]:
    """What the notebook would print, written from its text."""
    maps, labels = maps_and_labels()
    ascending = maps[..., ::-1]
    total, square = np.zeros((C, G, G, D), F32), np.zeros((C, G, G, D), F32)
    count = np.zeros(C, F32)
    kept = []
    for image, label in zip(ascending, labels, strict=True):
        total[label] += image
        square[label] += image**2
        count[label] += 1
        if len(kept) < 2000:
            kept.append((image, label))

    flat = np.stack([image.reshape(-1, D) for image, _ in kept])
    variance = flat.var(axis=1, ddof=1, dtype=F32)
    cv = flat.std(axis=1, ddof=1, dtype=F32) / (flat.mean(axis=1, dtype=F32) + F32(1e-8))

    mean = total / count[:, None, None, None]
    within = square / count[:, None, None, None] - mean**2
    rows = mean.reshape(C, -1).astype(np.float64)
    apart = ~np.eye(C, dtype=bool)
    distance = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=2))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T

    centre = np.zeros((G, G), bool)
    centre[G // 4 : G - G // 4, G // 4 : G - G // 4] = True
    edges = [(float(one[centre].mean()), float(one[~centre].mean())) for one in mean]

    ratio = np.empty((G, G, D))
    for r in range(G):
        for c in range(G):
            for d in range(D):
                between = mean[:, r, c, d].var(ddof=1)
                ratio[r, c, d] = between / (within[:, r, c, d].mean() + 1e-10)
    overall = ratio.mean(axis=2)

    mean_map = total.sum(axis=0) / count.sum()
    samples = []
    for label in range(C):
        for image in [image for image, of in kept if of == label][:2]:
            patches = image.reshape(-1, D)
            summed = patches.sum(axis=1)
            share = summed / (summed.sum() + 1e-8)
            samples.append(
                {
                    "class": f"c{label}",
                    "mean": patches.mean(),
                    "std": patches.std(axis=0, ddof=1).mean(),
                    "max": patches.max(),
                    "entropy": -(share * np.log(share + 1e-10)).sum() / np.log(G * G),
                    "hot_spots": int((summed > 2 * summed.mean()).sum()),
                }
            )
    return {
        "variance": variance, "cv": cv, "distance": distance[apart].mean(),
        "cosine": cosine[apart], "edges": edges, "ratio": ratio, "overall": overall,
        "mean_map": mean_map, "samples": samples,
    }  # fmt: skip


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    return notebook()


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    maps, labels = maps_and_labels()
    return MemoryStore(
        {"friction": maps}, labels=labels, class_names=[f"c{c}" for c in range(C)], batch=333
    )


def close(value: float) -> Any:
    return pytest.approx(float(value), rel=1e-3)


def test_the_images_beyond_the_first_2000_would_be_seen(printed):
    """If figures of all images passed for the notebook's, the tests below could not fail."""
    maps, _ = maps_and_labels()
    flat = maps.reshape(N, -1, D)
    everything = (flat.std(axis=1, ddof=1) / flat.mean(axis=1)).mean()
    assert everything > 1.2 * printed["cv"].mean()


def test_section_1(printed, store):
    result = analyses.spatial_cv(store, permutations=20)
    found = result.notebook
    assert found["mean_cv"] == close(printed["cv"].mean())
    assert len(found["per_mode"]) == D
    for m, mine in enumerate(found["per_mode"]):
        cv, variance = printed["cv"][:, D - 1 - m], printed["variance"][:, D - 1 - m]
        assert mine["cv_mean"] == close(cv.mean())
        assert mine["cv_median"] == close(np.median(cv))
        assert mine["cv_max"] == close(cv.max())
        assert mine["variance_mean"] == close(variance.mean())
        assert mine["variance_std"] == close(variance.std(ddof=1))
    assert f"(mean CV {found['mean_cv']:.4f})" in result.sentence
    # The sounder figure is of all images, and is said to be.
    assert result.values["mean_cv"] == pytest.approx(result.cv.mean(), rel=1e-12)
    assert result.values["mean_cv"] > 1.2 * found["mean_cv"]
    assert any("first 2000 images only" in caveat for caveat in result.caveats)


def test_the_verdict_is_of_the_first_2000():
    """Uniform maps but for the last images: the notebook never saw those."""
    maps, _ = maps_and_labels()
    maps[:NOTEBOOK_IMAGES] = 5 + 0.01 * np.random.default_rng(0).random(maps[:2000].shape)
    maps[NOTEBOOK_IMAGES:] *= np.linspace(1, 30, G)[:, None, None]
    result = analyses.spatial_cv(MemoryStore({"friction": maps}), permutations=0)
    assert result.values["mean_cv"] > 0.1 > result.notebook["mean_cv"]
    assert result.notebook["verdict"] == "SPATIALLY UNIFORM"


def test_section_2(printed, store):
    found = analyses.class_distance(store, permutations=0).notebook
    assert found["mean_inter_class_distance"] == close(printed["distance"])
    assert found["mean_cosine"] == close(printed["cosine"].mean())
    assert 1 - found["min_cosine"] == close(1 - printed["cosine"].min())


def test_section_3(printed, store):
    found = analyses.center_edge(store).notebook["center_edge"]
    assert len(found) == C
    for mine, (centre, edge) in zip(found, printed["edges"], strict=True):
        assert mine["center"] == close(centre)
        assert mine["edge"] == close(edge)
        assert mine["ratio"] == close(edge / (centre + 1e-8))


def test_section_4(printed, store):
    found = analyses.f_statistic(store, permutations=0).notebook
    assert found["overall_max_f"] == close(printed["overall"].max())
    assert found["overall_mean_f"] == close(printed["overall"].mean())
    best = np.unravel_index(printed["overall"].argmax(), (G, G))
    assert found["overall_best_position"] == [int(i) for i in best]
    for m, mine in enumerate(found["per_mode"]):
        ratio = printed["ratio"][..., D - 1 - m]
        assert mine["mean"] == close(ratio.mean())
        assert mine["max"] == close(ratio.max())
        assert mine["q95"] == close(np.quantile(ratio, 0.95))


def test_section_5(printed, store):
    found = analyses.mode_variance(store).notebook["per_mode"]
    for m, mine in enumerate(found):
        of_mode = printed["mean_map"][..., D - 1 - m].astype(np.float64)
        assert mine["map_mean"] == close(of_mode.mean())
        assert mine["map_var"] == close(of_mode.var(ddof=1))
        assert mine["map_cv"] == close(of_mode.std(ddof=1) / of_mode.mean())


def test_section_6(printed, store):
    result = analyses.image_summary(store)
    found = result.notebook["samples"]
    assert len(found) == len(printed["samples"]) == 2 * C - 1
    for mine, theirs in zip(found, printed["samples"], strict=True):
        assert mine["class"] == theirs["class"]
        assert mine["index"] < NOTEBOOK_IMAGES
        assert mine["hot_spots"] == theirs["hot_spots"]
        for key in ("mean", "std", "max", "entropy"):
            assert mine[key] == close(theirs[key])
    # Our own table shows two of every class, the notebook's figures are of what it kept.
    assert len(result.tables["sample"]) == 2 * C
    assert any("first 2000 images only" in caveat for caveat in result.caveats)


def test_the_summary_s_column(printed, store):
    plain = [analyses.spatial_cv(store, permutations=0), analyses.image_summary(store)]
    result = analyses.summary(store, results=plain)
    first = result.table.iloc[0]
    assert first["notebook"] == close(printed["cv"].mean())
    assert first["value"] == pytest.approx(plain[0].values["mean_cv"])
    assert any("value is of all 2300" in caveat for caveat in result.caveats)


def test_2000_images_are_all_of_them():
    maps, labels = maps_and_labels()
    store = MemoryStore({"friction": maps[:2000]}, labels=labels[:2000] % 3)
    result = analyses.spatial_cv(store, permutations=0)
    assert result.notebook["mean_cv"] == pytest.approx(result.values["mean_cv"], rel=1e-6)
    assert not any("only" in caveat for caveat in result.caveats)
