"""Which images of a data set belong together: by their names, their folders or a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import frictionstore as fs
from frictionstore.errors import RequestError, StoreError
from frictionstore.extract.data.groups import Grouping
from tests.support import DATA


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        ("stem", {
            "cat/tom-1.png": "cat/tom", "cat/tom-jr-12.jpeg": "cat/tom-jr", "dog/tom-1.png":
            "dog/tom", "rex.png": "rex", "-3.png": "-3", "a.b-2.png": "a.b", "x-1/y.png": "x-1/y",
            "gaussian-7": "gaussian", "7": "7",
        }),
        ("folder", {
            "china/row0-col3": "china", "cat/tom/1.png": "cat/tom", "rex.png": "rex.png",
        }),
    ],
)  # fmt: skip
def test_rules(rule: str, groups: dict[str, str]) -> None:
    assert Grouping(rule).of(list(groups), "a set") == list(groups.values())
    assert Grouping(rule).described == rule


def test_what_is_no_rule_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"groups cannot be 'stems': say stem or folder.*stem"):
        Grouping("stems")


def small(out: Path, **changes: Any) -> dict[str, Any]:
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job

    given = {
        "dataset": "noise", "count": 6, "encoder": str(DATA / "svae/svae_d4.pt"), "out": out,
        "image_size": 16, "maps": "S", "device": "cpu", "shard_images": 2, **changes,
    }  # fmt: skip
    return run_job(Job.from_options(given))


def grouped(store: fs.Store) -> list[str]:
    return [store.group_names[number] for number in store.groups]


def test_a_folder_by_stem_and_what_decides_the_fingerprint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from PIL import Image

    root, out = tmp_path / "set", tmp_path / "a.zarr"
    for name in ("cat/a-1.png", "cat/a-2.png", "cat/bad-1.png", "dog/c-1.png", "dog/c-2.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (len(name), 5, 9)).save(root / name)
    (root / "cat/bad-1.png").write_bytes(b"no picture")
    of: dict[str, Any] = {"dataset": f"folder:{root}", "count": None, "skip_unreadable": True}
    small(out, groups="stem", **of)
    store = fs.open(out)
    assert grouped(store) == ["cat/a", "cat/a", "dog/c", "dog/c"], "not of what was left out"
    assert store.request["dataset"]["groups"] == "stem"
    assert fs.verify(out).ok
    assert small(out, groups="stem", **of)["status"] == "up to date"
    with pytest.raises(StoreError, match=r"dataset.groups"):
        small(out, groups="folder", **of)
    with pytest.raises(StoreError, match=r"dataset.groups"):
        small(out, **of)
    csv = tmp_path / "g.csv"
    csv.write_text("id,group\n" + "".join(f"{name},x\n" for name in store.image_ids))
    small(out.with_name("b.zarr"), groups=str(csv), **of)
    other = fs.open(out.with_name("b.zarr"))
    assert grouped(other) == ["x"] * 4
    assert str(tmp_path) not in str(other.request), "the file's hash, not its path"
    csv.write_text("id,group\ncat/a-1.png,x\n")
    with pytest.raises(RequestError, match="gives no group for 3 of 4 images"):
        small(out.with_name("c.zarr"), groups=str(csv), **of)
    assert not out.with_name("c.zarr").exists()


def test_damaged_groups_are_repaired(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job

    out = tmp_path / "a.zarr"
    small(out, groups="stem")
    whole = fs.open(out).digest
    (out / "group/c/1").write_bytes(b"0" * (out / "group/c/1").stat().st_size)
    assert not fs.verify(out).ok
    given = {
        "dataset": "noise", "count": 6, "encoder": str(DATA / "svae/svae_d4.pt"), "out": out,
        "image_size": 16, "maps": "S", "device": "cpu", "shard_images": 2, "groups": "stem",
    }  # fmt: skip
    assert run_job(Job.from_options(given), repair=True)["measured"] == 2
    assert fs.open(out).digest == whole


def test_photos_are_grouped_by_photograph(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from frictionstore.extract.request import Job

    assert Job.from_options({"recipe": "photos-speckle"}).groups == "folder"
    small(tmp_path / "a.zarr", dataset="photos", count=None, limit=62, groups="folder",
          shard_images=64, image_size=8)  # fmt: skip
    store = fs.open(tmp_path / "a.zarr")
    assert store.group_names == ["china", "flower"]
    assert grouped(store) == [text.partition("/")[0] for text in store.image_ids]
    with pytest.raises(fs.analyses.AnalysisError, match="belong to one group, 'china'"):
        fs.analyses.class_distance(store, feature="S")
