"""Every analysis over repeats of the measurement: what is reproducible, and what is said of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses import MemoryStore, Result
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.leading import probe_sets
from frictionstore.analyses.core.saved import save_all
from tests.analyses.material import noise_store, with_repeats

QUICK = {"permutations": 60, "probe_permutations": 9}


def maps_of(store: MemoryStore) -> dict[str, np.ndarray]:
    return dict(store._maps)


def like(store: MemoryStore, maps: dict[str, np.ndarray], **options: Any) -> MemoryStore:
    return MemoryStore(
        maps, labels=store.labels, class_names=store.class_names, batch=16, **options
    )


def noise_free(store: MemoryStore, repeats: int = 2) -> MemoryStore:
    maps = maps_of(store)
    for name in ("friction", "settle"):
        maps[f"{name}_repeats"] = np.repeat(maps[name][..., None], repeats, axis=4)
    return like(store, maps)


def rounded(seed: int = 0, n: int = 90, effect: float = 0.0) -> MemoryStore:
    """Friction in which a few values, others in each measurement, are 1e5 times the rest.

    `effect` moves the logarithm of one mode of all patches by class.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    exact = rng.lognormal(2.0, 1.8, (n, 4, 4, 2))
    exact[..., 1] *= np.exp(effect * labels)[:, None, None]
    measured = np.repeat(exact[..., None], 3, axis=4)
    for k in range(3):
        image, mode = rng.choice(n, 6, replace=False), rng.integers(0, 2, 6)
        measured[image, rng.integers(0, 4, 6), rng.integers(0, 4, 6), mode, k] = (
            10.0 ** rng.uniform(5, 7, 6)
        )
    measured = measured.astype(np.float32)
    return MemoryStore(
        {"friction": measured[..., 0].copy(), "friction_repeats": measured[..., 1:].copy()},
        labels=labels, class_names=["ant", "bee", "cow"], batch=16,
    )  # fmt: skip


def plain(result: Result) -> dict[str, Any]:
    """A result without its record, its claims and what only repeats add."""
    found = json.loads(result.to_json())
    for key in ("provenance", "claims", "caveats"):
        del found[key]
    found["tables"].pop("repeats", None)
    for row in found["tables"].get("summary", ()):
        for key in ("lowest", "highest", "under_rounding"):
            row.pop(key, None)
    return found


def test_noise_free_maps_are_reproducible_and_unchanged_to_the_last_digit():
    store = noise_store(n=48, effect=3.0)
    before = analyses.analyze_all(store, feature="friction", **QUICK)
    after = analyses.analyze_all(noise_free(store), feature="friction", **QUICK)
    measured = [one for one in after if one.analysis == "reliability"]
    assert len(measured) == 1
    np.testing.assert_array_equal(measured[0].reliability_raw, 1.0)
    after = [one for one in after if one.analysis != "reliability"]
    for one, other in zip(before, after, strict=True):
        assert [claim.word for claim in one.claims] == [""] * len(one.claims)
        assert {claim.word for claim in other.claims} <= {"reproducible"}
        known, found = plain(one), plain(other)
        if one.analysis == "summary":
            assert other.table["under_rounding"].dropna().unique() == ["reproducible"]
            found["tables"]["summary"] = found["tables"]["summary"][: len(one.table)]
            for name in list(found["values"]):
                if name not in known["values"]:
                    del found["values"][name]
            found["parameters"]["analyses"].remove("reliability")
            del found["parameters"]["lines"][len(one.table) :]
        else:
            assert other.claims
            assert found["sentences"].pop() == "Reproducible under rounding (in 2 repeats)."
        assert found == known, one.analysis
        extra = {"measurement noise is not known: this store has no repeats"}
        assert set(one.caveats) - set(other.caveats) == (
            extra if one.analysis != "summary" else set()
        )


def test_a_map_that_is_not_noisy_has_no_caveat_and_no_repeats():
    for store in (noise_store(n=20), noise_free(noise_store(n=20))):
        found = analyses.mode_variance(store, feature="S")
        assert not any("noise" in caveat and "repeats" in caveat for caveat in found.caveats)
        assert "repeats" not in found.columns
    maps = with_repeats(maps_of(noise_store(n=20)))
    found = analyses.mode_variance(like(noise_store(n=20), maps), feature="friction_exact")
    caveat = "measurement noise of friction_exact is not known: this store has no repeats of it"
    assert caveat in found.caveats


def test_the_claims_are_those_of_each_repeat_as_a_store_of_its_own():
    """The oracle: each repeat analysed by itself, as if it were the measurement."""
    store = rounded(3)
    maps = maps_of(store)
    repeats = maps["friction_repeats"]
    arrays = [maps["friction"], repeats[..., 0], repeats[..., 1]]
    alone = [analyses.analyze_all(like(store, {"friction": one.copy()}), **QUICK) for one in arrays]
    together = analyses.analyze_all(store, feature="friction", **QUICK)
    together = {one.analysis: one for one in together}
    for results in zip(*alone, strict=True):
        name = results[0].analysis
        found = together[name].claims
        assert len(found) == len(results[0].claims)
        for place, claim in enumerate(found):
            of_each = [one.claims[place] for one in results]
            np.testing.assert_array_equal(claim.values, [one.value for one in of_each])
            assert list(claim.p_values) == [one.p for one in of_each]
            assert [holds for _, holds in claim.answers] == [one.holds for one in of_each]
    table = together["class-distance"].tables["repeats"]
    assert table["lowest"][0] == min(together["class-distance"].claims[0].values)


@pytest.mark.parametrize("seed", range(3))
def test_raw_conclusions_from_a_few_values_that_rounding_drives_are_none(seed):
    found = analyses.analyze_all(rounded(seed), feature="friction", **QUICK)
    for one in found:
        if one.analysis in ("reliability", "summary"):
            continue
        assert one.claims
        assert {claim.word for claim in one.claims} == {"not reproducible"}, one.analysis
        assert "not reproducible under rounding" in one.sentence
        if "verdict" in one.notebook:
            assert one.sentence.endswith(f"notebook verdict: {one.notebook['verdict']}.")
        assert len(one.sentences) == 1  # nothing else is claimed
    summary = found[-1]
    assert summary.sentence.startswith("friction: spatial structure of friction within images: not")
    words = summary.table["under_rounding"].dropna()
    assert set(words) == {"not reproducible"}
    printed = str(next(one for one in found if one.analysis == "class-distance"))
    assert "not reproducible under rounding (p = " in " ".join(printed.split())


def test_an_effect_on_the_logarithm_is_found_and_reproducible():
    store = rounded(1, effect=1.5)
    found = analyses.analyze_all(store, **QUICK)
    assert [one.feature for one in found if one.analysis == "summary"] == [
        "log_friction", "friction",
    ]  # fmt: skip
    by_name = {one.analysis: one for one in found if one.feature == "log_friction"}
    distance = by_name["class-distance"]
    assert distance.claims[0].holds
    assert {claim.word for claim in distance.claims} == {"reproducible"}
    assert by_name["f-statistic"].claims[0].word == "reproducible"
    assert "log_friction's spatial pattern differs between classes" in distance.sentence
    summary = by_name["summary"].table.set_index("measure")
    raw = analyses.class_distance(store, permutations=60)
    assert summary["raw"]["mean distance"] == raw.values["mean_distance"]
    assert summary["raw_under_rounding"]["mean distance"] == "not reproducible"
    assert summary["under_rounding"]["mean distance"] == "reproducible"
    assert summary["notebook"]["smallest cosine"] == raw.notebook["min_cosine"]
    alone = analyses.summary(store, permutations=60)
    assert alone.feature == "log_friction"
    assert alone.table.set_index("measure")["raw"]["mean distance"] == raw.values["mean_distance"]


def test_where_raw_is_reliable_raw_leads():
    found = analyses.analyze_all(
        noise_free(noise_store(n=30)), only=["mode-variance", "reliability"]
    )
    summaries = [one.feature for one in found if one.analysis == "summary"]
    assert summaries == ["friction"]


def test_the_logarithm_leads_where_raw_values_without_rounding_are_not_reliable_either():
    store = rounded(4)
    maps = maps_of(store)
    maps["friction_exact"] = maps["friction"].copy()
    by_friction = analyses.analyze_all(like(store, maps), only=["center-edge", "reliability"])
    assert [one.feature for one in by_friction if one.analysis == "summary"] == [
        "log_friction_exact", "friction",
    ]  # fmt: skip
    # Its own repeats decide where it has some.
    maps["friction_exact_repeats"] = np.repeat(maps["friction_exact"][..., None], 2, axis=4)
    by_its_own = analyses.analyze_all(like(store, maps), only=["center-edge", "reliability"])
    assert [one.feature for one in by_its_own if one.analysis == "summary"] == [
        "friction_exact", "friction",
    ]  # fmt: skip


def test_the_probe_takes_every_map_without_rounding_if_it_takes_one():
    store = like(noise_store(n=20), with_repeats(maps_of(noise_store(n=20))))
    for form in ("friction_exact", "log_friction_exact"):
        joined = f"S+{form}+settle_exact"
        assert probe_sets(store, form) == ("S", form, "settle_exact", joined)
    assert probe_sets(store, "log_friction")[1:3] == ("log_friction", "settle")


def test_friction_without_its_rounding_leads_where_there_is_one(tmp_path):
    base = noise_store(n=30, effect=2.0)
    maps = with_repeats(maps_of(base))
    maps["friction_exact"] = maps["friction"] * np.float32(1.5)
    path = tmp_path / "made.zarr"
    fs.from_arrays(path, maps, label=base.labels, class_names=base.class_names)
    store = fs.open(path)
    found = analyses.analyze_all(store, **QUICK)
    assert [one.feature for one in found if one.analysis == "summary"] == [
        "friction_exact", "friction",
    ]  # fmt: skip
    summary = next(one for one in found if one.analysis == "summary")
    table = summary.table.set_index("measure")
    raw = analyses.class_distance(store, permutations=60)
    assert table["value"]["mean distance"] == pytest.approx(1.5 * table["raw"]["mean distance"])
    assert table["raw"]["mean distance"] == raw.values["mean_distance"]
    assert table["notebook"]["smallest cosine"] == raw.notebook["min_cosine"]
    assert table["value"]["share of values within 1% of exact"] == 0.0
    probes = summary.table[summary.table["measure"] == "cross-validated accuracy"]
    assert list(probes["line"]) == [
        "friction_exact map linear probe", "settle_exact map linear probe",
        "eigenvalue map linear probe", "combined conduit linear probe",
    ]  # fmt: skip
    assert probes["raw"].notna().all()
    assert probes["notebook"].notna().all()
    # From saved results, and by the analysis alone, it is the same table.
    saved = analyses.summary(store, results=save_all(found, tmp_path / "out", figures=False))
    pd.testing.assert_frame_equal(saved.table, summary.table, check_dtype=False)
    alone = analyses.summary(store, permutations=60).table
    without_p = [c for c in alone if c not in ("p", "p_holm")]
    pd.testing.assert_frame_equal(alone[without_p], summary.table[without_p])


def test_chunks_change_nothing_and_one_pass_reads_both():
    store = rounded(2)
    names = []
    read = store.iter_chunks

    def counted(asked, **options):
        if options.get("threads") is None:  # with one thread it is the first chunk alone
            names.append(set(asked))
        return read(asked, **options)

    store.iter_chunks = counted
    found = analyses.class_distance(store, permutations=20)
    # Once to learn how many repeats there are, once for all, once for distances from class means.
    assert names == [{"friction_repeats"}, {"friction", "friction_repeats"}, {"friction"}]
    other = like(store, maps_of(store))
    other._batch = 1000
    again = analyses.class_distance(other, permutations=20)
    np.testing.assert_allclose(
        [claim.values for claim in found.claims], [claim.values for claim in again.claims]
    )


def test_repeats_that_are_not_finite_are_named():
    store = rounded(2)
    store._maps["friction_repeats"][5, 1, 1, 0, 1] = np.nan
    with pytest.raises(analyses.AnalysisError, match="map 'friction_repeats' of memory holds 1"):
        analyses.class_distance(store, permutations=9)


@pytest.mark.parametrize(
    ("repeat", "reliability", "expected"),
    [
        ({}, 0.95, True),
        ({}, np.nan, True),  # a map without repeats in the same result
        ({}, 0.89, False),
        ({"p": 0.06}, 0.95, False),  # another answer at the level
        ({"p": 0.049}, 0.95, True),
        ({"value": 1.19}, 0.95, True),
        ({"value": 1.21}, 0.95, False),  # as far as the interval is wide
        ({"value": np.nan}, 0.95, False),
        ({"says": "a difference, the other way"}, 0.95, False),
    ],
)  # fmt: skip
def test_the_rule(repeat, reliability, expected):
    given = {"figure": "x", "says": "a difference", "value": 1.0, "low": 0.9, "high": 1.1}
    claim = Claim(**given, p=0.01, level=0.05)
    again = Claim(**{**given, "p": 0.01, "level": 0.05, **repeat})
    found = claim.compared([again, copy.copy(claim)], reliability)
    assert found.reproducible is expected
    assert found.word in found.text()
    assert claim.reproducible is None


def test_a_figure_without_an_interval_and_one_of_no_width():
    one = Claim("x", "a figure", 1.0)
    assert one.compared([Claim("x", "a figure", 5.0)], 1.0).reproducible
    exact = Claim("x", "a figure", 1.0, 1.0, 1.0)
    assert exact.compared([exact], 1.0).reproducible
    assert not exact.compared([Claim("x", "a figure", 1.1, 1.1, 1.1)], 1.0).reproducible
