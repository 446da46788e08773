"""Numbers of single images: the same results from memory and from a file, and one sentence."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses import spatial_cv
from frictionstore.analyses.core import collecting, rows, saved
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.rows import Column, ImageRows, Pile, Taken, ids_of, rows_of_classes
from frictionstore.analyses.stats import moran, spatial_rows
from frictionstore.analyses.stats.class_means import class_means
from frictionstore.analyses.stats.intervals import mean_interval, too_skewed
from frictionstore.analyses.stats.lattice import CONTIGUITIES
from frictionstore.analyses.stats.spatial_rows import Found
from tests.analyses.material import noise_store
from tests.support import MakeStore

ASKED: dict[str, dict[str, Any]] = {
    "center_edge": {},
    "image_summary": {},
    "spatial_cv": {"permutations": 19},
    "f_statistic": {"permutations": 9},
    "class_distance": {"permutations": 9, "splits": 4},
}


def made(n: int, parts: list[int]) -> tuple[ImageRows, dict[str, np.ndarray]]:
    """Rows of several parts, merged in order as a pass does, and what they are."""
    rng = np.random.default_rng(0)
    known = {"a": rng.normal(size=(n, 3)), "b": rng.integers(0, 9, n)}
    whole: Any = None
    start = 0
    for size in parts:
        part = ImageRows(n)
        for first in range(start, start + size, 7):
            some = slice(first, min(first + 7, start + size))
            part.add({name: values[some] for name, values in known.items()})
        whole = collecting.merged(whole, part)
        start += size
    return whole.whole(), known


@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("parts", [[50], [20, 1, 29]])
def test_rows_come_back_as_they_were(
    kept: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "KEPT", kept)
    monkeypatch.setattr(rows, "BLOCK", 8)
    found, known = made(50, parts)
    assert found["a"].flags.owndata == (kept > 0)
    found.derive("c", lambda a, b: a.sum(axis=1) + b, "a", "b")
    found.put_column("d", 1, "a", known["b"].astype(float))
    found.put_column("d", 0, "a", np.zeros(50))
    known |= {"c": known["a"].sum(axis=1) + known["b"], "d": known["a"].copy()}
    known["d"][:, 1], known["d"][:, 0] = known["b"], 0
    for name, values in known.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    np.testing.assert_array_equal(found.column("a", 2), known["a"][:, 2])
    whole = [b for _, (b,) in found.blocks("b")]
    assert [len(block) for block in whole] == [8] * 6 + [2]


@pytest.mark.parametrize("kept", [0, 300, 1 << 20])
def test_a_pile_gives_any_of_its_rows(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT", kept)
    pile = Pile()
    values = np.random.default_rng(0).normal(size=(40, 2, 3)).astype(np.float32)
    numbers = [pile.add(values[some]) for some in (slice(3), slice(3, 30))]
    np.testing.assert_array_equal(pile.take(np.array([29, 0, 4])), values[[29, 0, 4]])
    numbers.append(pile.add(values[30:]))
    assert np.concatenate(numbers).tolist() == list(range(40))
    found = Taken(pile, np.array([39, 2, 30, 1]))
    assert found.shape == (4, 2, 3)
    np.testing.assert_array_equal(found[np.array([3, 0])], values[[1, 39]])
    assert (pile._file is None) == (kept == 1 << 20)
    sent = pickle.loads(pickle.dumps(pile))
    np.testing.assert_array_equal(sent.take(np.arange(40)), values)
    np.testing.assert_array_equal(pile.take(np.arange(5, 9)), values[5:9])


def test_maps_to_be_shuffled_further_may_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps with structure in some modes, of which one has more than may be held."""
    x = np.random.default_rng(1).normal(size=(150, 4, 5, 3)).astype(np.float32)
    x[..., 1:] = np.cumsum(x[..., 1:], axis=1)
    x[40:, ..., 2] = np.random.default_rng(2).normal(size=(110, 4, 5))
    store = noise_store(n=150, maps={"friction": x})
    monkeypatch.setattr(collecting, "PART_IMAGES", 64)
    monkeypatch.setattr(spatial_rows, "HELD", 80 * 3 * 60)
    plain = analyses.spatial_cv(store, permutations=49)
    assert np.nanmax(plain.moran_queen_shuffles[:, 1]) == 49 < np.nanmax(plain.moran_queen_shuffles)
    monkeypatch.setattr(rows, "KEPT", 0)
    monkeypatch.setattr(moran, "_HELD", 7 * 8 * 20)
    assert analyses.spatial_cv(store, permutations=49).to_json() == plain.to_json()


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("grouped", [False, True])
def test_results_are_the_same_with_all_rows_on_disk(
    name: str, grouped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: dict[str, Any] = {"groups": np.arange(150) // 2} if grouped else {}
    x = np.random.default_rng(3).lognormal(0.0, 2.5, (150, 4, 5, 3)).astype(np.float32)
    store = noise_store(n=150, maps={"friction": x}, **groups)
    monkeypatch.setattr(collecting, "PART_IMAGES", 64)

    def every(where: str) -> tuple[str, dict[str, bytes]]:
        result = getattr(analyses, name)(store, **ASKED[name])
        folder = saved.save(result, tmp_path / where, figures=False)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".csv"}
        return result.to_json(), files

    plain = every("memory")
    monkeypatch.setattr(rows, "KEPT", 0)
    monkeypatch.setattr(rows, "BLOCK", 13)
    assert every("disk") == plain


def test_memory_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """What center-edge and image-summary keep of an image is 184 bytes; labels are 12 of it."""
    monkeypatch.setattr(rows, "KEPT", 1 << 16)
    monkeypatch.setattr(rows, "BLOCK", 256)

    class Repeated:
        """A store of so many images that takes the memory of a few."""

        def __init__(self, n: int) -> None:
            self._few = noise_store(n=256, grid=(4, 4), modes=2)
            self.n_images, self.labels = n, np.resize(self._few.labels, n)
            self.image_ids = Column(n, lambda some: [str(k) for k in range(some.start, some.stop)])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._few, name)

        def iter_chunks(self, names: Any, *, part: Any = None, **options: Any) -> Any:
            first, stop = (part.start, part.stop) if part else (0, self.n_images)
            for k in range(first, stop, 256):
                end = min(k + 256, stop)
                _, maps = next(self._few.iter_chunks(names, batch=end - k))
                yield slice(k, end), maps

    def peak(name: str, n: int) -> int:
        tracemalloc.start()
        getattr(analyses, name)(Repeated(n))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    for name in ("center_edge", "image_summary"):
        peak(name, 512)
        few, many = peak(name, 8192), peak(name, 5 * 8192)
        assert many - few < 64 * 4 * 8192, name  # bytes an image, of labels and their order


def test_a_column_is_made_as_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 10)
    asked: list[slice] = []

    def make(some: slice) -> list[int]:
        asked.append(some)
        return list(range(some.start, some.stop))

    column = Column(35, make)
    assert len(column) == 35
    assert column[:3] == [0, 1, 2]
    assert asked == [slice(0, 3)]
    assert (column[-1], column[7]) == (34, 7)
    assert list(column) == list(range(35))
    assert column.take([31, 2, 30]) == [31, 2, 30]
    assert column[30:99:2] == [30, 32, 34]
    assert np.asarray(column).tolist() == list(range(35))
    with pytest.raises(IndexError):
        column[35]
    assert max(some.stop - some.start for some in asked[:-2]) <= 10


def test_names_of_images_are_read_some_at_a_time(make_store: MakeStore) -> None:
    store = make_store()
    names = ids_of(store, slice(2, 5))
    assert "image_ids" not in vars(store)
    assert names == [str(name) for name in store.image_ids[2:5]] == ids_of(store, slice(2, 5))


def test_rows_of_classes_are_where_the_labels_are() -> None:
    labels = np.random.default_rng(0).integers(-1, 5, 200)
    labels[labels == 3] = -1
    for c, found in enumerate(rows_of_classes(labels, 6)):
        assert found.tolist() == np.flatnonzero(labels == c).tolist()


@pytest.mark.parametrize("grouped", [False, True])
def test_means_of_classes_are_those_of_each_by_itself(grouped: bool) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 4, 600)
    labels[labels == 2] = -1
    labels[5] = 2  # one image alone
    x = np.exp(rng.normal(size=(600, 3)) * [0.1, 1.0, 3.0])
    x[rng.random(600) < 0.1, 1] = np.nan
    groups = rng.integers(0, 60, 600) if grouped else None

    def blocks() -> Any:
        return ((slice(k, k + 50), x[k : k + 50]) for k in range(0, 600, 50))

    found = class_means(blocks, labels, 5, groups=groups)
    low, high = found.intervals()
    assert found.skewed.any()
    for c in range(5):
        for column in range(3):
            member = (labels == c) & np.isfinite(x[:, column])
            of = None if groups is None else groups[member]
            expected = mean_interval(x[member, column], groups=of)
            mine = (found.mean[c, column], low[c, column], high[c, column])
            np.testing.assert_allclose(mine, expected, rtol=1e-12)
            assert found.n[c, column] == member.sum()
            if member.sum() > 1:
                assert found.skewed[c, column] == too_skewed(x[member, column], of)


def test_figures_of_all_modes_hold_some_columns_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many images a column is what memory is counted in."""
    monkeypatch.setattr(rows, "KEPT", 0)
    monkeypatch.setattr(rows, "BLOCK", 256)
    n, modes = 1 << 15, 12
    rng = np.random.default_rng(0)
    held = ImageRows(n)
    keys = (*spatial_rows.KEYS, "shuffles", "q")
    names = ["mean", "variance", "cv", *(f"moran_{c}_{k}" for c in CONTIGUITIES for k in keys)]
    held.add({name: rng.random((n, modes)) for name in names})
    held.whole()
    asked = spatial_cv.SpatialCVParameters(permutations=19, feature="friction")
    found = Found(held, {}, {}, None, None, np.zeros(modes, bool))
    values = spatial_cv._values(asked, found, -1 / 255)  # and what is imported for it
    tracemalloc.start()
    try:
        spatial_cv._values(asked, found, -1 / 255)
        spatial_cv._mode_table(asked, found)
        spatial_cv._caveats(asked, found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values["n_tested_queen"] == n * modes
    assert values["mean_moran_rook"] == pytest.approx(held["moran_rook_i"].mean(), rel=1e-12)
    assert values["n_significant_rook"] == (held["moran_rook_q"] <= 0.05).sum()
    assert peak < 8 * 8 * n  # columns


# ---- one sentence ----------------------------------------------------------------------------


def test_no_folder_for_temporary_files_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "KEPT", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(AnalysisError, match=r"cannot be kept in .*missing: No such file.*TMPDIR$"):
        analyses.center_edge(noise_store())


FULL = """
import resource, sys
from frictionstore.analyses.core import rows
rows.KEPT = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from frictionstore.cli.main import cli
cli(["analyze", "center-edge", sys.argv[1]])
"""


def test_a_full_disk_is_one_sentence(make_store: MakeStore, tmp_path: Path) -> None:
    """As a limit on files' sizes says it; nothing is left where they are made."""
    store = make_store(n=400)
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL, store.location], capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "here")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "File too large; name a folder with room for them in TMPDIR" in done.stderr
    assert not list((tmp_path / "here").iterdir())


def test_a_large_store_like_none_is_one_sentence(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "make_large_store.py"
    done = subprocess.run(
        [sys.executable, tool, tmp_path / "out.zarr", "--like", tmp_path / "missing.zarr"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr
    assert "run 'make extract' first" in done.stderr
    assert not list(tmp_path.iterdir())
