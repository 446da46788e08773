"""Analyses on real Dask clusters: the results of a plain run to the last digit, or one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core import collecting, passes, rows
from frictionstore.analyses.core.groups import WithGroups
from frictionstore.analyses.core.reading import readers
from frictionstore.analyses.core.source import SelectedClasses
from frictionstore.cluster import connected
from frictionstore.errors import RequestError

pytest.importorskip("distributed")

from frictionstore.analyses.core.cluster import on_cluster
from tests.extract.test_cluster import descendants, running, scheduler, sentence
from tests.servers.http import serve

ROOT = Path(__file__).parents[2]
N, PART = 1100, 256
ASKED: dict[str, dict[str, Any]] = {
    "spatial_cv": {"permutations": 99},
    "class_distance": {"permutations": 60, "splits": 20},
    "center_edge": {},
    "f_statistic": {"permutations": 60},
    "mode_variance": {},
    "image_summary": {},
    "ridge_probe": {"permutations": 5},
    "information": {"images": 60},
    "conv_probe": {"images": 60},
    "reliability": {"samples": 50},
    "content": {"donors": 20},
    "compare": {"permutations": 20, "resamples": 20},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several parts: classes, groups and missing labels run through all of them."""
    rng = np.random.default_rng(8)
    labels = rng.integers(-1, 3, N).astype(np.int32)
    s = np.sort(rng.lognormal(1.0, 0.5, (N, 4, 4, 2)), axis=-1)[..., ::-1]
    friction = rng.lognormal(2.0, 0.5, (N, 4, 4, 2)) + labels[:, None, None, None] * 0.05
    maps = {
        "S": s.astype(np.float32),
        "friction": friction.astype(np.float32),
        "settle": rng.integers(0, 4, (N, 4, 4, 2)).astype(np.uint8),
        "image": rng.integers(0, 256, (N, 8, 8, 3)).astype(np.uint8),
    }
    maps["friction_exact"] = (friction * rng.lognormal(0, 1e-3, friction.shape)).astype(np.float32)
    noise = rng.lognormal(0, 0.01, (*friction.shape, 2))
    maps["friction_repeats"] = (friction[..., None] * noise).astype(np.float32)
    out = tmp_path_factory.mktemp("analyses") / "parts.zarr"
    fs.from_arrays(
        out, maps, label=labels, class_names=["a", "b", "c"], group=[str(k // 3) for k in range(N)]
    )
    return out


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "PART_IMAGES", PART)


def written(found: Any) -> str:
    """All of a result but when and how it was asked for."""
    results = found if isinstance(found, list) else [found]
    return "\n".join(result.to_json() for result in results)


def ungrouped(path: Path) -> Any:
    store = fs.open(path)
    return WithGroups(store, _Alone())


class _Alone:
    """Groups of one image each."""

    sha256 = "0" * 64

    def of(self, ids: Any, name: str) -> list[str]:
        return [str(k) for k, _ in enumerate(ids)]


def views(path: Path) -> dict[str, Callable[[], Any]]:
    return {
        "as it is": partial(fs.open, path),
        "some classes": lambda: SelectedClasses(fs.open(path), ["c", "a"]),
        "other groups": partial(ungrouped, path),
    }


def test_parts_cover_a_store_and_begin_where_chunks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Sized:
        def __init__(self, n: int) -> None:
            self.n_images = n

    for n in (1, 8192, 8193, 20_000, 524_288, 524_289, 1_281_167, 10**8):
        of = collecting.parts(Sized(n))  # type: ignore[arg-type]
        assert len(of) <= collecting.MOST_PARTS
        assert [part.start for part in of[1:]] == [part.stop for part in of[:-1]]
        assert (of[0].start, of[-1].stop) == (0, n)
        length = of[0].stop if len(of) > 1 else collecting.PART_IMAGES
        assert length % 8192 == 0
        assert (length // 8192).bit_count() == 1
        assert len(of) > 32 or length == 8192


def test_two_workers_find_what_one_process_finds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short slice: moments, sums under permuted labels, rows on disk, two passes and ranks."""
    asked: dict[str, dict[str, Any]] = {
        "f_statistic": {"permutations": 30}, "mode_variance": {"feature": "rank_friction"},
        "center_edge": {}, "spatial_cv": {"permutations": 9},
    }  # fmt: skip

    def every() -> str:
        store = views(path)["some classes"]()
        return written([getattr(analyses, name)(store, **of) for name, of in asked.items()])

    plain = every()
    monkeypatch.setattr(rows, "KEPT", 0)
    with on_cluster("local:2"):
        assert every() == plain


def test_progress_counts_the_images_that_were_chosen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, list[int]]] = []

    @contextmanager
    def bar(total: int, *_: Any, **__: Any) -> Iterator[Callable[[int], None]]:
        told.append((total, []))
        yield told[-1][1].append

    monkeypatch.setattr(passes, "progress_bar", bar)
    store = views(path)["some classes"]()
    analyses.mode_variance(store)
    with on_cluster("local:1"):
        analyses.mode_variance(store)
    assert len(told) == 2
    assert all(0 < sum(done) == total == store.n_images for total, done in told)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_analysis_is_the_same_on_workers(path: Path, workers: int) -> None:
    """To the last digit of the JSON, of the store, of some classes, and with groups."""
    plain = {
        (name, view): written(getattr(analyses, name)(make(), **asked))
        for name, asked in ASKED.items()
        for view, make in views(path).items()
    }
    with on_cluster(f"local:{workers}"):
        for (name, view), expected in plain.items():
            found = written(getattr(analyses, name)(views(path)[view](), **ASKED[name]))
            assert found == expected, (name, view)
        together = analyses.analyze_all(fs.open(path), permutations=20, probe_permutations=3)
    assert written(together) == written(
        analyses.analyze_all(fs.open(path), permutations=20, probe_permutations=3)
    )


@pytest.mark.slow
def test_rows_that_are_not_held_are_the_same_on_workers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gram matrices added up, and ranks of more values than fit."""
    from frictionstore.analyses import ridge_probe as module
    from frictionstore.check import agreement

    monkeypatch.setattr(module, "HELD", 1000)
    defaults = agreement.RankAgreement.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "memory", 20_000)

    def every() -> str:
        store = fs.open(path)
        probe = analyses.ridge_probe(store, features="S,S+friction", permutations=4)
        return written([probe, analyses.reliability(store, samples=20)])

    plain = every()
    with on_cluster("local:2"):
        assert every() == plain


@pytest.mark.slow
def test_how_images_are_cut_into_parts_changes_no_more_than_last_digits(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against one part, which is what was computed before there were any."""
    asked = {**ASKED, "ridge_probe": {"permutations": 3}}
    for name in ("information", "conv_probe", "compare"):
        del asked[name]  # they hold images: nothing is added up

    def every() -> list[dict[str, np.ndarray]]:
        store = fs.open(path)
        return [getattr(analyses, name)(store, **of).arrays for name, of in asked.items()]

    many = every()
    monkeypatch.setattr(collecting, "PART_IMAGES", 1 << 20)
    for name, one, other in zip(asked, every(), many, strict=True):
        for key in {*one} - {"notebook_f_ratio_float32"}:  # in float32 the order shows
            np.testing.assert_allclose(one[key], other[key], rtol=1e-7, atol=1e-9, err_msg=name)


# ---- one sentence ----------------------------------------------------------------------------


def analyze(path: Path | str, *more: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "frictionstore", "analyze", "mode-variance", str(path), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_plain_run_imports_no_scheduler(path: Path) -> None:
    program = (
        "import sys; from frictionstore.analyses.cli import analyze; "
        f"analyze(['mode-variance', {str(path)!r}], standalone_mode=False); "
        "print({'dask', 'distributed', 'tornado'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.endswith("set()\n")


@pytest.mark.parametrize("address", ["remote", "local:0", "nowhere.json"])
def test_what_is_no_cluster(path: Path, address: str) -> None:
    assert f"--cluster {address} is not" in sentence(analyze(path, "--cluster", address))


def test_maps_in_memory_are_not_sent() -> None:
    from frictionstore.analyses.core.cluster import Workers

    store = analyses.MemoryStore({"S": np.ones((3, 2, 2, 1), np.float32)})
    with pytest.raises(RequestError, match="for stores in a file or at an address"):
        list(Workers(None)(store, [], [slice(0, 3)], lambda n: None))  # type: ignore[arg-type]


@pytest.mark.slow
def test_workers_that_do_not_see_the_store_or_have_other_versions(
    path: Path, tmp_path: Path
) -> None:
    """They are named before any work; and a store that has changed is another."""
    told = tmp_path / "packages" / "scipy-9.9.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 9.9\n")
    packages = f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', ROOT)}"
    worker = ["worker", "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--name", "odd-one"]
    worker += ["--local-directory", str(tmp_path / "scratch"), "--scheduler-file"]
    with scheduler(tmp_path) as (_, file):
        with running(*worker, file, PYTHONPATH=packages):
            said = sentence(analyze(path, "--cluster", file))
            assert "worker odd-one has scipy 9.9" in said
    (tmp_path / "scheduler.json").unlink()
    # A worker that cannot see the folder: it opens what it is told, and there is nothing.
    from frictionstore.analyses.core import cluster

    moved = tmp_path / "moved.zarr"
    shutil.copytree(path, moved)
    store = fs.open(moved)
    with on_cluster("local:1"):
        moved.rename(tmp_path / "elsewhere.zarr")
        reader: Any = readers.get()
        with pytest.raises(RequestError, match=r"worker 0 cannot be used: StoreError.*moved\.zarr"):
            list(reader(store, [], [slice(0, 1)], lambda images: None))
    with pytest.raises(RequestError, match="sees another store"):
        cluster.sees(str(path), "0" * 64)


@pytest.mark.slow
def test_an_analysis_says_the_same_of_a_map_that_it_cannot_use(tmp_path: Path) -> None:
    """What is wrong in the last part is said as without workers."""
    x = np.ones((400, 4, 4, 2), np.float32) * np.arange(1, 3)
    x[::2] += 1
    x[390, 1, 1, 0] = 0.0
    fs.from_arrays(tmp_path / "x.zarr", {"friction": x})
    store = fs.open(tmp_path / "x.zarr")
    with pytest.raises(analyses.AnalysisError) as plain:
        analyses.mode_variance(store, feature="log_friction")
    with on_cluster("local:2"), pytest.raises(analyses.AnalysisError) as found:
        analyses.mode_variance(store, feature="log_friction")
    assert str(found.value) == str(plain.value)
    assert "row 390" in str(found.value)


@pytest.mark.slow
def test_workers_read_a_store_behind_an_address(path: Path) -> None:
    with serve(path.parent) as (root, _):
        address = f"{root}/{path.name}"
        plain = json.loads(run_json(analyze(address, "--json")))
        found = json.loads(run_json(analyze(address, "--json", "--cluster", "local:2")))
    assert plain.pop("provenance")["digest"] == found.pop("provenance")["digest"]
    assert plain == found


def run_json(process: subprocess.Popen[str]) -> str:
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return said


def heard(pids: list[int]) -> set[tuple[str, str]]:
    """Addresses and ports, as the system writes them, at which processes listen."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                address, port = fields[1].split(":")
                found.add((address, port))
    return found


def test_a_cluster_of_this_machine_is_heard_on_this_machine_alone(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Who reaches a worker runs code on it; and two clusters at once say nothing of ports."""
    before = heard([os.getpid()])
    with connected("local:1"), connected("local:1"):
        found = heard([os.getpid(), *descendants(os.getpid())]) - before
    assert len(found) >= 4
    assert {address for address, _ in found} == {"0100007F"}  # 127.0.0.1
    assert [str(one.message) for one in recwarn] == []
