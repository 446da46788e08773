"""Stores in others' formats, read back by numpy, pandas, pyarrow and xarray."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError, StoreError
from frictionstore.share import export as module
from frictionstore.share.export import WRITERS, export
from frictionstore.text import unguarded
from tests.support import DATA, MakeStore

REFERENCE = DATA / "stores/v1/reference.zarr"


@pytest.fixture
def store(make_store: MakeStore) -> fs.Store:
    """Several shards, an image without a class, ids of several widths."""
    return make_store(
        n=13, shard_images=4, label=np.arange(13) % 4 - 1,
        image_id=["a" * (1 + k * 7 % 5) + f"ä,\"{k}\n" for k in range(13)],
    )  # fmt: skip


@pytest.mark.parametrize("path", ["made", REFERENCE])
def test_npz_reads_back_with_numpy(path: object, store: fs.Store, tmp_path: Path) -> None:
    source = store if path == "made" else fs.open(REFERENCE)
    out = export(source.location, "npz", tmp_path / "a.npz")
    with np.load(out, allow_pickle=False) as found:
        for name in source.maps:
            assert found[name].dtype == source[name].dtype
            np.testing.assert_array_equal(found[name], source[name][:])
        np.testing.assert_array_equal(found["label"], source.labels)
        assert found["image_id"].tolist() == source.image_ids.tolist()
        assert found["class_names"].tolist() == source.class_names
        about = json.loads(str(found["about"]))
    assert about["digest"] == source.digest
    assert about["attributes"]["request"] == source.request


def test_csv_has_figures_of_every_image_map_and_mode(store: fs.Store, tmp_path: Path) -> None:
    out = export(store.location, "csv", tmp_path / "a.csv")
    found = pd.read_csv(out, keep_default_na=True)
    assert len(found) == 13 * 3 * 4
    wanted = []
    for row in range(13):
        for name in store.maps:
            values = store[name][row].astype(np.float64)
            for mode in range(4):
                flat = pd.Series(values[..., mode].ravel())
                wanted.append((store.image_ids[row], store.labels[row], name, mode,
                               flat.mean(), flat.median(), flat.min(), flat.max()))  # fmt: skip
    figures = ["mean", "median", "min", "max"]
    keys = ["image_id", "label", "map", "mode"]
    table = pd.DataFrame(wanted, columns=[*keys, *figures])
    assert found[keys].values.tolist() == table[keys].values.tolist()
    np.testing.assert_allclose(found[figures], table[figures], rtol=1e-12)
    assert found["class"].isna().sum() == (store.labels == -1).sum() * 12


def test_csv_of_maps_without_modes_and_no_thumbnails(tmp_path: Path) -> None:
    store = fs.open(REFERENCE)
    found = pd.read_csv(export(REFERENCE, "csv", tmp_path / "a.csv"))
    assert "image" not in set(found["map"])
    errors = found[found["map"] == "recon_error"]
    assert errors["mode"].isna().all()
    np.testing.assert_allclose(
        errors["mean"], store.recon_error[:].astype(np.float64).mean(axis=(1, 2)), rtol=1e-12
    )
    asked = export(REFERENCE, "csv", tmp_path / "b.csv", maps=["image"])
    assert set(pd.read_csv(asked)["map"]) == {"image"}


def test_csv_holds_no_text_that_a_spreadsheet_computes(
    make_store: MakeStore, tmp_path: Path
) -> None:
    """Ids, classes and groups are a stranger's; one apostrophe off gives them back."""
    begins = ["=1+1", "+1", "-2", "@SUM(A1)", "'=1", "a;=1"]
    store = make_store(
        n=6, modes=3, image_id=[f"{text} id" for text in begins], label=np.arange(6),
        class_names=[f"{text} class" for text in begins], group=[f"{text} g" for text in begins],
        maps={"S": np.full((6, 4, 4, 3), -1.5, np.float32)},
    )  # fmt: skip
    out = export(store.location, "csv", tmp_path / "a.csv", maps=["S"])
    text = out.read_bytes().decode("utf-8")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0][:6] == ["image_id", "label", "class", "group", "map", "mode"]
    shown = [*(f"'{begin}" for begin in begins[:5]), begins[5]]
    assert rows[1::3] == [
        [f"{one} id", str(k), f"{one} class", f"{one} g", "S", "0", *["-1.5"] * 4]
        for k, one in enumerate(shown)
    ]
    assert [unguarded(row[0]) for row in rows[1::3]] == store.image_ids.tolist()
    assert '"a;=1 id"' in text, "where a comma is the decimal sign a semicolon splits cells"


def test_parquet_reads_back_with_pyarrow_and_pandas(store: fs.Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = export(store.location, "parquet", tmp_path / "a.parquet")
    table = parquet.read_table(out)
    assert table.column("image_id").to_pylist() == store.image_ids.tolist()
    assert table.column("label").to_pylist() == store.labels.tolist()
    assert table.column("class").to_pylist() == [
        None if k < 0 else store.class_names[k] for k in store.labels
    ]
    for name in store.maps:
        field = table.schema.field(name)
        shape = json.loads(field.metadata[b"shape"])
        values = np.array(table.column(name).to_pylist(), store[name].dtype)
        np.testing.assert_array_equal(values.reshape(-1, *shape), store[name][:])
    assert json.loads(table.schema.metadata[b"frictionstore"])["digest"] == store.digest
    frame = pd.read_parquet(out)
    np.testing.assert_array_equal(frame["S"][5], store.S[5].ravel())


def test_netcdf_reads_back_with_xarray(tmp_path: Path) -> None:
    import xarray as xr

    store = fs.open(REFERENCE)
    out = export(REFERENCE, "netcdf", tmp_path / "a.nc", maps=["S", "image"])
    with xr.open_dataset(out, engine="scipy") as found:
        assert set(found.variables) == {"S", "image", "label", "image_id"}
        for name in ("S", "image", "label", "image_id"):
            np.testing.assert_array_equal(found[name].values, store[name][:])
        assert found.attrs["digest"] == store.digest


def test_merged_stores_say_the_split(make_store: MakeStore, tmp_path: Path) -> None:
    parents = [make_store(name, n=5, seed=k) for k, name in enumerate(("train", "test"))]
    merged = fs.merge([str(p.location) for p in parents], tmp_path / "both.zarr")
    splits = ["train"] * 5 + ["test"] * 5
    export(merged.location, "csv", tmp_path / "a.csv", maps=["S"])
    assert pd.read_csv(tmp_path / "a.csv")["split"][::4].tolist() == splits
    with np.load(export(merged.location, "npz", tmp_path / "a.npz")) as found:
        assert found["split"].tolist() == splits


def test_groups_go_along(make_store: MakeStore, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    groups = ["x", "y"] * 6
    store = make_store(group=groups)
    for to in ("npz", "csv", "parquet"):
        export(store.location, to, tmp_path / to, maps=["S"])
    with np.load(tmp_path / "npz") as found:
        assert found["group"].tolist() == groups
    assert pd.read_csv(tmp_path / "csv")["group"].tolist()[::4] == groups
    assert pd.read_parquet(tmp_path / "parquet")["group"].tolist() == groups


@pytest.mark.parametrize("to", WRITERS)
def test_what_fails_leaves_nothing_and_what_is_there_stays(
    to: str, store: fs.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged chunk in the middle."""
    pytest.importorskip("pyarrow")
    out = tmp_path / "out"
    out.mkdir()
    kept = out / "kept"
    kept.write_bytes(b"mine")
    shard = Path(store.location) / "settle/c/2/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[10] ^= 255
    shard.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"settle"):
        export(store.location, to, out / "new")
    with pytest.raises(StoreError, match=r"settle"):
        export(store.location, to, kept, overwrite=True)
    assert os.listdir(out) == ["kept"]
    assert kept.read_bytes() == b"mine"


def test_another_file_is_replaced_only_when_asked(store: fs.Store, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("mine")
    with pytest.raises(StoreError, match="exists.*overwrite=True"):
        export(store.location, "csv", out)
    assert out.read_text() == "mine"
    export(store.location, "csv", out, overwrite=True)
    assert out.read_text().startswith("image_id,label,class,map,mode,mean,median,min,max")


def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    """What is held at once is some chunks: less than a quarter of a map of 67 MB."""
    import tracemalloc

    friction = np.ones((4096, 16, 16, 16), np.float32)
    size = friction.nbytes
    store = fs.from_arrays(tmp_path / "big.zarr", {"friction": friction})
    del friction
    for to in ("npz", "parquet"):
        tracemalloc.start()
        export(store.location, to, tmp_path / to)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < size / 4, (to, peak)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(one) for one in arguments])
    return done.exit_code, done.output


def test_the_command(store: fs.Store, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    code, said = run("export", store.location, "--to", "npz", "--out", out, "--maps", "S")
    assert (code, said.startswith("exported ")) == (0, True)
    with np.load(out) as found:
        assert "friction" not in found
        np.testing.assert_array_equal(found["S"], store.S[:])


def test_bad_input_is_one_sentence_and_status_2(
    store: fs.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = store.location
    inside = Path(here) / "a.csv"
    for arguments, words in (
        (("export", here, "--to", "xlsx", "--out", tmp_path / "a"), "xlsx"),
        (("export", here, "--to", "csv", "--out", tmp_path / "a", "--maps", "frictoin"),
         "has no map 'frictoin'"),
        (("export", here, "--to", "csv", "--out", tmp_path / "a", "--maps", ","), "no map was"),
        (("export", here, "--to", "csv", "--out", inside), "lies inside the store"),
        (("export", here, "--to", "csv", "--out", tmp_path), "exists: choose another file"),
        (("export", here, "--to", "csv", "--out", tmp_path / "no/a.csv"), "No such file"),
        (("export", tmp_path / "no.zarr", "--to", "csv", "--out", tmp_path / "a"), "no.zarr"),
    ):  # fmt: skip
        code, said = run(*arguments)
        assert code == 2, said
        assert words in said
        assert "Traceback" not in said
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    code, said = run("export", here, "--to", "parquet", "--out", tmp_path / "a.parquet")
    assert (code, "needs pyarrow" in said, "[export]" in said) == (2, True, True)
    monkeypatch.setattr(module, "LARGEST_NETCDF3", 100)
    code, said = run("export", here, "--to", "netcdf", "--out", tmp_path / "a.nc")
    assert (code, "netCDF 3 holds up to 100" in said) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.zarr"]
    with pytest.raises(RequestError, match="there is no format 'netcf'.*netcdf"):
        export(here, "netcf", tmp_path / "a")


def test_netcdf_of_every_byte(tmp_path: Path) -> None:
    import xarray as xr

    votes = np.arange(255, dtype=np.uint8).reshape(255, 1, 1)
    own = {"votes": fs.OwnMap("all of uint8", dtype="uint8")}
    store = fs.from_arrays(tmp_path / "a.zarr", {"votes": votes}, own=own)
    out = export(store.location, "netcdf", tmp_path / "a.nc")
    with xr.open_dataset(out, engine="scipy") as found:
        np.testing.assert_array_equal(found["votes"].values, votes)
