"""A store as a table of names, as an xarray Dataset, and as a netCDF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import StoreError
from tests.support import DATA, MakeStore

REFERENCE = DATA / "stores/v1/reference.zarr"


def test_iteration_is_over_names(make_store: MakeStore) -> None:
    store = make_store(n=12)
    names = ["S", "friction", "settle", "label", "image_id"]
    assert list(store) == list(store.keys()) == names
    assert all(name in store for name in store)
    assert {name: array.shape for name, array in dict(store).items()} == {
        name: store[name].shape for name in names
    }
    assert len(store) == store.n_images == 12
    with pytest.raises(StoreError, match="has no map '0'"):
        store[0]  # type: ignore[index]


def test_a_mistyped_attribute_is_explained_by_python(make_store: MakeStore) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = make_store().frictoin
    assert caught.value.name == "frictoin"
    assert "friction" in dir(caught.value.obj)


def test_index_arrays_are_coordinates_and_thumbnails_are_data() -> None:
    import xarray as xr

    store = fs.open(REFERENCE)
    data = store.to_xarray()
    assert set(data.coords) == {"label", "image_id"}
    assert set(data.data_vars) == set(store.maps)
    assert data.image.dims == ("image", "y", "x", "channel")
    assert data.image.dtype == np.uint8
    means = data.groupby("label").mean()
    wanted = store.friction[:][store.labels == 1].mean(axis=0)
    np.testing.assert_allclose(means.friction.sel(label=1), wanted, rtol=1e-6)
    assert data.isel(image=2).image_id == store.image_ids[2]
    with xr.open_zarr(REFERENCE, chunks=None) as plain:  # without this package's help
        for name in data.variables:
            np.testing.assert_array_equal(plain[name].values, data[name].values)


def test_what_the_store_says_is_text() -> None:
    store = fs.open(REFERENCE)
    attributes = store.to_xarray().attrs
    assert not any(isinstance(value, Mapping) for value in attributes.values())
    assert json.loads(attributes["frictionstore"]) == store.attributes


def test_netcdf_and_zarr_files_of_it_read_back(tmp_path: Path) -> None:
    """With the only backend that every installation has, which writes netCDF 3."""
    import xarray as xr

    store = fs.open(REFERENCE)
    assert store["image"][:].max() > 127
    store.to_xarray().to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "a.nc", engine="scipy") as data:
        for name in store:
            np.testing.assert_array_equal(data[name].values, store[name][:], name)
        assert json.loads(data.attrs["frictionstore"])["class_names"] == store.class_names
    store.to_xarray().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    with xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False) as data:
        for name in store:
            np.testing.assert_array_equal(data[name].values, store[name][:], name)
