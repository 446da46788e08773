"""Maps that are not in the format's table: written, read, checked, shared, compared, analysed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import frictionstore as fs
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import fingerprint
from frictionstore.format.plan import document_bytes
from frictionstore.share.copy import copy_store
from frictionstore.text import printable
from tests.support import DATA

N = 24
OWN = {
    "gap": fs.OwnMap("largest minus smallest singular value"),
    "torque": fs.OwnMap("made up", ("image", "row", "col", "mode"), unit="N m"),
    "votes": fs.OwnMap("counted by hand", dtype="uint8", unit="votes"),
}


def made_maps(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    S = np.sort(rng.random((N, 4, 4, 3), np.float32) + 1, axis=-1)[..., ::-1]
    return {
        "S": S,
        "gap": S[..., 0] - S[..., -1],
        "torque": rng.normal(size=S.shape).astype(np.float32),
        "votes": rng.integers(0, 255, (N, 4, 4)).astype(np.uint8),
    }


def make(path: Path, seed: int = 0, **options: Any) -> fs.Store:
    options = {"own": OWN, "label": np.arange(N) % 2, "class_names": ["a", "b"],
               "shard_images": 8, **options}  # fmt: skip
    return fs.from_arrays(path, options.pop("maps", made_maps(seed)), **options)


@pytest.fixture
def store(tmp_path: Path) -> fs.Store:
    return make(tmp_path / "own.zarr")


def test_they_are_read_back_and_described(store: fs.Store) -> None:
    wanted = made_maps()
    assert store.maps == ("S", "gap", "torque", "votes")
    for name, values in wanted.items():
        np.testing.assert_array_equal(store[name][:], values)
    np.testing.assert_array_equal(store.gap[3:9], wanted["gap"][3:9])
    assert "gap" in dir(store)
    assert fs.verify(store.location).ok
    with xr.open_zarr(store.location, chunks=None) as plain:
        np.testing.assert_array_equal(plain.torque.values, wanted["torque"])
        assert plain.torque.dims == OWN["torque"].dims
        assert plain.torque.attrs == {"units": "N m", "description": "made up"}
        assert plain.votes.dtype == np.uint8
    assert store.attributes["format"] == store.request["format"] == store.summary()["format"] == 2
    assert fs.open(store.location).fingerprint == fingerprint(store.request)


def test_stores_without_them_are_what_they_were(tmp_path: Path) -> None:
    """Same format, same bytes: the digest is that of the version before."""
    maps = {"S": made_maps()["S"]}
    plain = fs.from_arrays(tmp_path / "plain.zarr", maps, shard_images=8)
    none = fs.from_arrays(tmp_path / "none.zarr", maps, own={}, shard_images=8)
    assert plain.attributes["format"] == plain.request["format"] == 1
    assert "own_maps" not in plain.request
    assert plain.digest == none.digest
    if os.environ.get("FRICTIONSTORE_LOWEST"):
        return  # older zarr writes other documents
    assert plain.digest == "108bcb9ebebc2664d6ba3fa431806ae3e74352483b7dc817cca2cfc24d464eba"
    assert fs.open(DATA / "stores/v1/reference.zarr").attributes["format"] == 1


def test_what_they_are_is_part_of_the_identity(tmp_path: Path, store: fs.Store) -> None:
    other = {**OWN, "gap": fs.OwnMap("something else")}
    assert make(tmp_path / "other.zarr", own=other).fingerprint != store.fingerprint
    assert make(tmp_path / "again.zarr").digest == store.digest


def test_modes_given_smallest_first_are_turned(tmp_path: Path) -> None:
    maps = made_maps()
    turned = {n: v[..., ::-1] if n in ("S", "torque") else v for n, v in maps.items()}
    store = make(tmp_path / "a.zarr", maps=turned, mode_order="ascending")
    for name, values in maps.items():
        np.testing.assert_array_equal(store[name][:], values)


ASK: dict[str, Callable[[fs.Store, str], Any]] = {
    "f_statistic": lambda s, f: fs.analyses.f_statistic(s, feature=f, permutations=20),
    "mode_variance": lambda s, f: fs.analyses.mode_variance(s, feature=f),
    "class_distance": lambda s, f: fs.analyses.class_distance(s, feature=f, permutations=20),
    "image_summary": lambda s, f: fs.analyses.image_summary(s, feature=f),
    "spatial_cv": lambda s, f: fs.analyses.spatial_cv(s, feature=f, permutations=20),
    "center_edge": lambda s, f: fs.analyses.center_edge(s, feature=f),
    "ridge_probe": lambda s, f: fs.analyses.ridge_probe(s, features=f, permutations=20),
}


@pytest.mark.parametrize("analysis", ASK)
@pytest.mark.parametrize(("own", "known"), [("gap", "recon_error"), ("torque", "friction")])
def test_analyses_say_of_them_what_they_say_of_known_ones(
    analysis: str, own: str, known: str, tmp_path: Path
) -> None:
    """The same values under a name of the table are the oracle."""
    maps = made_maps()
    maps["torque"] = np.exp(maps["torque"])
    ours = make(tmp_path / "a.zarr", maps=maps)
    theirs = make(tmp_path / "b.zarr", own=None, maps={"S": maps["S"], known: maps[own]})
    mine, wanted = (ASK[analysis](s, f) for s, f in ((ours, own), (theirs, known)))
    shared = [name for name, array in mine.arrays.items() if array.dtype.kind in "fiu"]
    for name in shared:
        np.testing.assert_array_equal(mine.arrays[name], wanted.arrays[name], name)
    assert list(mine.columns) == list(wanted.columns)
    if analysis != "ridge_probe":  # names its sets
        for name, columns in mine.columns.items():
            for key, values in columns.items():
                np.testing.assert_array_equal(values, wanted.columns[name][key], key)


def test_they_are_packed_copied_cut_merged_and_compared(store: fs.Store, tmp_path: Path) -> None:
    fs.pack(store.location, tmp_path / "a.zip")
    assert fs.open(tmp_path / "a.zip").digest == store.digest
    fs.unpack(tmp_path / "a.zip", tmp_path / "unpacked.zarr")
    assert fs.verify(tmp_path / "unpacked.zarr").ok

    few = fs.subset(store.location, tmp_path / "few.zarr", maps=["gap", "S"], limit=5)
    assert few.maps == ("S", "gap")
    assert list(few.request["own_maps"]) == ["gap"]
    np.testing.assert_array_equal(few.gap[:], store.gap[:5])
    plain = fs.subset(store.location, tmp_path / "plain.zarr", maps=["S"])
    assert plain.attributes["format"] == 1

    other = make(tmp_path / "other.zarr", seed=1)
    both = fs.merge([store.location, other.location], tmp_path / "both.zarr", names=["x", "y"])
    np.testing.assert_array_equal(both.votes[N:], other.votes[:])
    assert both.request["own_maps"] == store.request["own_maps"]
    units = make(tmp_path / "units.zarr", seed=2, own={**OWN, "gap": fs.OwnMap("x", unit="m")})
    with pytest.raises(RequestError, match="cannot be merged.*own_maps.*gap"):
        fs.merge([store.location, units.location], tmp_path / "no.zarr", names=["x", "y"])

    assert fs.diff(store.location, few.location).maps["gap"].verdict == "equal"
    found = fs.diff(store.location, other.location).maps["gap"]
    assert found.verdict == "different"
    nearly = {**made_maps()}
    nearly["gap"] = np.nextafter(nearly["gap"], np.float32(9))
    near = make(tmp_path / "near.zarr", maps=nearly)
    # nothing is known of how such a map rounds: a last bit counts
    assert fs.diff(store.location, near.location).maps["gap"].verdict == "different"


def test_an_interrupted_copy_goes_on_and_gives_way(
    store: fs.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders of these maps are ours, in what is unfinished too."""
    from frictionstore.share import copy

    fetch = copy._fetch

    def failing(header: Any, key: str, *rest: Any) -> bool:
        if key.startswith("votes"):
            raise StoreError("the line went dead")
        return fetch(header, key, *rest)

    target = tmp_path / "copy.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(copy, "_fetch", failing)
        with pytest.raises(StoreError, match="went dead"):
            copy_store(store.location, target)
    assert (tmp_path / "copy.zarr.partial/gap").is_dir()
    copy_store(store.location, target)
    assert fs.verify(target).ok
    assert not (target / "transfer.json").exists()
    assert not (tmp_path / "copy.zarr.partial").exists()
    make(target, seed=3, overwrite=True)
    assert fs.verify(target).ok


@pytest.mark.parametrize(
    ("name", "own", "said"),
    [
        ("Gap", fs.OwnMap("x"), "'Gap' cannot be stored: a name is up to 64 small letters"),
        ("a/b", fs.OwnMap("x"), "'a/b' cannot be stored"),
        ("..", fs.OwnMap("x"), "cannot be stored"),
        ("g" * 65, fs.OwnMap("x"), "cannot be stored"),
        ("friction", fs.OwnMap("x"), "'friction' means something else already"),
        ("label", fs.OwnMap("x"), "means something else already"),
        ("erank", fs.OwnMap("x"), "means something else already"),
        ("log_gap", fs.OwnMap("x"), "names that begin with log_ or rank_"),
        ("gap_repeats", fs.OwnMap("x"), "end in _exact or _repeats"),
        ("gap", fs.OwnMap("x", ("row", "col")), r"has dims \['row', 'col'\]: expected image, row"),
        ("gap", fs.OwnMap("x", dtype="float64"), "has dtype float64: expected float32 or uint8"),
        ("gap", fs.OwnMap(""), "has the description ''"),
        ("gap", fs.OwnMap("a\x1b[31m"), r"has the description 'a.*x1b"),
        ("gap", fs.OwnMap("two\nlines"), "printable characters on one line"),
        ("gap", fs.OwnMap("x" * 1001), "expected 1 to 1,000"),
        ("gap", fs.OwnMap("x", unit=""), "has the unit ''"),
    ],
)
def test_what_cannot_be_a_map_is_refused(
    name: str, own: fs.OwnMap, said: str, tmp_path: Path
) -> None:
    maps = {name: made_maps()["gap"]}
    with pytest.raises(RequestError, match=said):
        fs.from_arrays(tmp_path / "a.zarr", maps, own={name: own})
    assert list(tmp_path.iterdir()) == []


def test_values_shapes_and_names_are_checked_as_those_of_others(tmp_path: Path) -> None:
    maps = made_maps()
    out = tmp_path / "a.zarr"
    for wrong, said in (
        ({"gap": maps["gap"][..., None]}, r"gap has shape \(24, 4, 4, 1\): expected 3 axes"),
        ({"gap": maps["gap"][:, :3]}, "gap has 3 along row, but S has 4"),
        ({"gap": np.where(maps["gap"] > 0.9, np.nan, maps["gap"])}, "gap has NaN"),
        ({"votes": np.full((N, 4, 4), 255)}, "votes has values outside 0 to 254"),
        ({"torque": maps["torque"][..., :2]}, "torque has 2 along mode, but S has 3"),
        ({"nosuch": maps["gap"]}, "unknown map 'nosuch': the maps are .*gap"),
    ):
        with pytest.raises(RequestError, match=said):
            fs.from_arrays(out, {**maps, **wrong}, own=OWN)
    with pytest.raises(RequestError, match="own describes the map gap, which is not among"):
        fs.from_arrays(out, {"S": maps["S"]}, own={"gap": OWN["gap"]})
    assert list(tmp_path.iterdir()) == []


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A stranger's store: changed metadata, with fingerprint and manifest made to fit."""
    group = json.loads((path / "zarr.json").read_text())
    change(group)
    own = group["attributes"]["frictionstore"]
    own["fingerprint"] = fingerprint(own["request"])
    data = document_bytes(group)
    (path / "zarr.json").write_bytes(data)
    lines = (path / "MANIFEST.sha256").read_text().splitlines()
    lines = [
        f"{hashlib.sha256(data).hexdigest()}  zarr.json" if line.endswith("  zarr.json") else line
        for line in lines
    ]
    (path / "MANIFEST.sha256").write_text("\n".join(lines) + "\n")


def attributes(group: dict[str, Any]) -> dict[str, Any]:
    return group["attributes"]["frictionstore"]


def document(group: dict[str, Any], name: str) -> dict[str, Any]:
    return group["consolidated_metadata"]["metadata"][name]


def declared(group: dict[str, Any]) -> dict[str, Any]:
    return attributes(group)["request"]["own_maps"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda g: declared(g)["gap"].update(description="a\x1b[2J"), "has the description"),
        (lambda g: declared(g)["gap"].update(unit=7), "has the unit '7'"),
        (lambda g: declared(g)["gap"].update(dtype="object"), "has dtype object"),
        (lambda g: declared(g)["gap"].update(dtype=[]), "has dtype"),
        (lambda g: declared(g)["gap"].update(dims=["image"]), "has dims"),
        (lambda g: declared(g)["gap"].update(dims={"image": 1}), "has dims"),
        (lambda g: declared(g)["gap"].update(scale_factor=2), "and no more"),
        (lambda g: declared(g).update({"../x": declared(g)["gap"]}), "cannot be stored"),
        (lambda g: declared(g).update({"more": declared(g)["gap"]}), "map more in its request"),
        (lambda g: declared(g).pop("gap"), "has an array 'gap' that format"),
        (lambda g: declared(g).clear(), "own_maps must declare 1 to 64"),
        (lambda g: attributes(g)["request"].update(own_maps=[1]), "own_maps must declare"),
        (lambda g: attributes(g)["request"].pop("own_maps"), "attribute format is 2, expected 1"),
        (lambda g: attributes(g).update(format=1), "attribute format is 1, expected 2"),
        (lambda g: document(g, "gap")["attributes"].update(scale_factor=2.0), "scale_factor"),
        (lambda g: document(g, "gap")["attributes"].update(units="m"), "units"),
        (lambda g: document(g, "gap").update(fill_value=0), "fill_value"),
        (lambda g: document(g, "votes").update(data_type="int8"), "data_type"),
        (lambda g: document(g, "gap").update(dimension_names=["a", "b", "c"]), "dimension_names"),
    ],
)
def test_strangers_maps_are_checked_as_strictly(
    change: Callable[[dict[str, Any]], None], said: str, store: fs.Store
) -> None:
    forged(Path(store.location), lambda group: None)
    fs.open(store.location)  # what is forged without a change is taken
    forged(Path(store.location), change)
    with pytest.raises(StoreError, match=said) as caught:
        fs.open(store.location)
    assert printable(str(caught.value), 10_000) == str(caught.value)


def test_they_stand_beside_groups(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", group=np.arange(N) // 2)
    assert store.maps == ("S", "gap", "torque", "votes")
    assert store.groups is not None
    np.testing.assert_array_equal(store.groups, np.arange(N) // 2)
    assert fs.verify(store.location).ok


def test_a_damaged_value_is_found_and_named(store: fs.Store) -> None:
    shard = Path(store.location) / "gap/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 4
    shard.write_bytes(data)
    report = fs.verify(store.location)
    assert not report.ok
    assert {one.file for one in report.damage} == {"gap/c/1/0/0"}
    assert report.units == [1]
    with pytest.raises(StoreError, match="gap of images 8"):
        _ = store["gap"][:]
    assert set(schema.MAPS).isdisjoint(OWN)


def test_tables_pictures_and_exports_have_them(store: fs.Store, tmp_path: Path) -> None:
    from matplotlib import pyplot

    from frictionstore.share.export import export

    table = store.to_pandas(["gap", "torque"])
    np.testing.assert_allclose(
        table["gap_mean"], store.gap[:].astype(np.float64).mean(axis=(1, 2)), rtol=1e-12
    )
    ax = store.plot(2, "votes")
    np.testing.assert_array_equal(ax.images[0].get_array(), store.votes[2])
    assert any("votes (votes)" in axes.get_ylabel() for axes in ax.figure.axes)
    pyplot.close(ax.figure)
    with np.load(export(store.location, "npz", tmp_path / "a.npz")) as found:
        np.testing.assert_array_equal(found["torque"], store.torque[:])
