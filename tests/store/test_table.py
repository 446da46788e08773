"""A store as a table and as a picture, against pandas, numpy and what matplotlib was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import frictionstore as fs
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from tests.support import DATA, MakeStore, random_images

REFERENCE = DATA / "stores/v1/reference.zarr"


def test_a_row_an_image_with_means_of_its_maps(make_store: MakeStore) -> None:
    """In more than one shard, with images without a class."""
    store = make_store(n=13, shard_images=4, label=np.arange(13) % 4 - 1, maps={
        "recon_error": np.random.default_rng(3).random((13, 4, 4), np.float32),
    })  # fmt: skip
    made = store.to_pandas(("friction", "recon_error"))
    friction = store.friction[:].astype(np.float64)
    wanted = pd.DataFrame({
        "image_id": store.image_ids.astype(object), "label": store.labels,
        "class": pd.Categorical([None if k < 0 else f"class{k}" for k in store.labels],
                                categories=store.class_names),
        **{f"friction_{k}_mean": friction[..., k].mean(axis=(1, 2)) for k in range(4)},
        "recon_error_mean": store.recon_error[:].astype(np.float64).mean(axis=(1, 2)),
    })  # fmt: skip
    pd.testing.assert_frame_equal(made, wanted, rtol=1e-12, check_dtype=False)
    assert made.attrs["digest"] == store.digest
    # what a researcher asks next
    by_class = made.groupby("class", observed=True)["friction_1_mean"].mean()
    np.testing.assert_allclose(by_class["class2"], friction[store.labels == 2, :, :, 1].mean())


def test_repeats_are_averaged_and_thumbnails_are_one_figure(make_store: MakeStore) -> None:
    repeats = np.random.default_rng(1).random((12, 4, 4, 4, 2), np.float32)
    images = random_images()
    store = make_store(maps={"friction_repeats": repeats, "image": images})
    made = store.to_pandas(["friction_repeats", "image"])
    np.testing.assert_allclose(
        made["friction_repeats_2_mean"], repeats[..., 2, :].mean(axis=(1, 2, 3)), rtol=1e-6
    )
    np.testing.assert_allclose(made["image_mean"], images.mean(axis=(1, 2, 3)))


def test_splits_are_a_column_of_a_merged_store(make_store: MakeStore, tmp_path: Path) -> None:
    """Also where blocks and splits end at different images."""
    parents = [make_store(name, n=n, seed=n) for name, n in (("train", 9), ("test", 5))]
    store = fs.merge([str(p.location) for p in parents], tmp_path / "both.zarr")
    assert store.to_pandas()["split"].tolist() == ["train"] * 9 + ["test"] * 5
    from frictionstore.store.table import index_columns

    for first, stop in ((0, 9), (8, 10), (3, 7), (9, 14), (13, 14)):
        found = index_columns(store, slice(first, stop))["split"].tolist()
        assert found == (["train"] * 9 + ["test"] * 5)[first:stop]


def test_groups_are_a_column_by_name(make_store: MakeStore) -> None:
    photographs = [f"photo{k // 2}" for k in range(13)]
    store = make_store(n=13, shard_images=4, group=photographs)
    assert store.to_pandas()["group"].tolist() == photographs


def test_two_classes_of_one_name_stay_readable(make_store: MakeStore) -> None:
    store = make_store(class_names=["cat", "cat", "dog"])
    assert store.to_pandas()["class"].tolist() == ["cat", "cat", "dog"] * 4
    unnamed = make_store("unnamed", label=None, class_names=None)
    assert unnamed.to_pandas()["class"].isna().all()


def test_a_map_that_is_not_there(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="has no map 'frction'.*friction"):
        make_store().to_pandas("frction")
    with pytest.raises(StoreError, match="has no map 'label'"):
        make_store("b").to_pandas(["label"])


@pytest.mark.parametrize("image", [2, -5, "dog/ä.png"])
def test_a_plot_shows_the_values(image: int | str) -> None:
    from matplotlib import pyplot
    from matplotlib.colors import LogNorm

    store = fs.open(REFERENCE)
    row = 1 if isinstance(image, str) else image % store.n_images
    figure, ax = pyplot.subplots()
    assert store.plot(image, "friction", mode=2, ax=ax) is ax
    shown = ax.images[0]
    values = store.friction[row][:, :, 2]
    drawn = np.ma.masked_less_equal(values, 0)
    np.testing.assert_array_equal(np.ma.filled(shown.get_array(), -1), drawn.filled(-1))
    assert isinstance(shown.norm, LogNorm)
    assert (shown.norm.vmin, shown.norm.vmax) == (drawn.min(), drawn.max())
    assert "mode 2 of 0 to 3" in ax.get_title()
    assert str(store.image_ids[row]) in ax.get_title()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("patch column", "patch row")
    pyplot.close(figure)


@pytest.mark.slow
def test_every_map_is_drawn(make_store: MakeStore) -> None:
    """Zeros are blank, a constant map has colours, a repeat's mean is shown, dollars are text."""
    from matplotlib import pyplot

    rng = np.random.default_rng(0)
    maps = {
        name: (rng.random((4, *shape)) * 3).astype(schema.MAPS[name].dtype)
        for name, shape in schema.map_row_shapes(tuple(schema.MAPS), 16, 4, 4, 2).items()
    }
    maps["friction"][0] = 0
    maps["friction"][1] = 7
    maps["S"] = np.sort(maps["S"], axis=-1)[..., ::-1]
    maps["S_orig"] = maps["S"]
    store = make_store(n=4, maps=maps, image_id=["$a$", "b", "c", "d"])
    for name in store.maps:
        ax = store.plot(0 if name != "friction_repeats" else 3, name, mode=3)
        if name == "friction_repeats":
            wanted = maps[name][3, :, :, 3].astype(np.float64).mean(axis=-1)
            np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), wanted)
        ax.figure.canvas.draw()
        pyplot.close(ax.figure)
    ax = store.plot("b")
    ax.figure.canvas.draw()
    pyplot.close(ax.figure)


def test_the_mode_drawn_unasked_is_there(tmp_path: Path) -> None:
    from matplotlib import pyplot

    one = np.ones((2, 3, 3, 1), np.float32)
    store = fs.from_arrays(tmp_path / "a.zarr", {"S": one, "friction": one})
    pyplot.close(store.plot(0).figure)
    for arguments in ((0.5,), (0, "friction", 0.0)):
        with pytest.raises(TypeError, match="float"):
            store.plot(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((12,), "no image 12: it has 12, 0 to 11"),
        ((-13,), "no image -13"),
        (("nobody",), "no image 'nobody'.*first is '0'"),
        ((0, "friction", 4), "no mode 4: its modes are 0 to 3"),
        ((0, "friction", -1), "no mode -1"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    make_store: MakeStore, arguments: tuple[object, ...], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        make_store().plot(*arguments)  # type: ignore[arg-type]


def test_an_unknown_map_and_labels_cannot_be_drawn(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="has no map 'nosuch'"):
        make_store().plot(0, "nosuch")
    with pytest.raises(RequestError, match="label has one value an image"):
        make_store("b").plot(0, "label")
