from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frictionstore.errors import RequestError
from frictionstore.format import schema

FRECKLES = {"S": (16, 16, 4), "friction": (16, 16, 4), "settle": (16, 16, 4)}


def test_the_default_store_of_imagenet_stays_below_a_thousand_files() -> None:
    n = 1_281_167
    shard = schema.default_shard_images(FRECKLES, n)
    plans = schema.plan_arrays(FRECKLES, n, shard)
    units = -(-n // shard)
    files = len(plans) * units + len(plans) + 3
    assert files < 1000
    raw = shard * 16 * 16 * 4 * 4
    assert 32 << 20 <= raw <= 64 << 20


def test_chunks_are_about_a_mebibyte_and_shards_hold_whole_chunks() -> None:
    plans = schema.plan_arrays(FRECKLES, 100_000, schema.default_shard_images(FRECKLES, 100_000))
    for name in FRECKLES:
        plan = plans[name]
        size = schema.row_bytes(plan.spec, plan.shape[1:]) * plan.chunk_images
        assert 512 << 10 <= size <= 1 << 20
        assert plan.shard_images % plan.chunk_images == 0
    assert len({plan.shard_images for plan in plans.values()}) == 1


@given(
    st.integers(1, 10**7),
    st.integers(1, 64),
    st.integers(1, 32),
    st.lists(st.sampled_from(sorted(schema.MAPS)), min_size=1, unique=True),
)
def test_every_plan_is_consistent(n: int, grid: int, modes: int, names: list[str]) -> None:
    rows = {
        name: (grid, grid, modes) if schema.MAPS[name].modes
        else (64, 64, 3) if name == "image" else (grid, grid)
        for name in names
    }  # fmt: skip
    shard = schema.default_shard_images(rows, n)
    plans = schema.plan_arrays(rows, n, shard)
    assert set(plans) == set(names) | {"label", "image_id"}
    for plan in plans.values():
        assert plan.shape[0] == n
        assert plan.shard_images == shard
        assert shard % plan.chunk_images == 0
        largest = schema.row_bytes(plan.spec, plan.shape[1:])
        assert plan.chunk_images == 1 or plan.chunk_images * largest <= schema.CHUNK_BYTES
        assert shard == 1 or shard * largest <= schema.LARGEST_SHARD_BYTES
    assert shard < 2 * n or shard == 1


def test_unknown_and_absent_maps_are_refused() -> None:
    with pytest.raises(RequestError, match="unknown map 'frictoin': the maps are S, friction"):
        schema.check_maps(["S", "frictoin"])
    with pytest.raises(RequestError, match="no map was named"):
        schema.check_maps([])
    assert schema.check_maps(["settle", "S", "S"]) == ("S", "settle")


def test_shards_must_be_a_power_of_two() -> None:
    with pytest.raises(RequestError, match="images per shard is 100: it must be a power of two"):
        schema.plan_arrays(FRECKLES, 1000, 100)


def test_image_size_must_be_divisible_by_the_patch_size() -> None:
    assert schema.map_row_shapes(["S", "recon_error", "image"], 64, 4, 4) == {
        "S": (16, 16, 4), "recon_error": (16, 16), "image": (64, 64, 3),
    }  # fmt: skip
    with pytest.raises(RequestError, match="image size 66 is not divisible .* choose 64 or 68"):
        schema.map_row_shapes(["S"], 66, 4, 4)


@pytest.mark.parametrize(("size", "side"), [(32, 32), (128, 128), (256, 128), (224, 112), (131, 1)])
def test_thumbnail_side(size: int, side: int) -> None:
    assert schema.thumbnail_side(size) == side
