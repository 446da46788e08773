"""Extraction on real Dask clusters, with real kills: the bytes of a plain run, or one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frictionstore.cluster import check_cluster
from frictionstore.errors import DeviceError, RequestError
from frictionstore.extract.sharing import Sharing
from frictionstore.store.place import partial_path
from tests.support import heed_interrupts

pytest.importorskip("torch")
pytest.importorskip("distributed")

ROOT = Path(__file__).parents[2]
UNITS, UNIT = 6, 16
MANY = 10 * UNITS
"""Units of a run that goes on for many seconds after its first, so that it can be disturbed."""
OPTIONS = [
    "--dataset", "noise", "--seed", "1", "--encoder", "speckle", "--image-size", "32",
    "--device", "cpu", "--workers", "0", "--batch-size", "16",
]  # fmt: skip


def start(out: Path, *more: str, units: int = UNITS, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "frictionstore", "extract", *OPTIONS, "--count",
            str(units * UNIT), "--shard-images", str(UNIT), "--out", str(out), *more,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent, **options,
    )  # fmt: skip


def extract(out: Path, *more: str, **options: Any) -> dict[str, Any]:
    process = start(out, "--json", *more, **options)
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert errors == ""
    found: dict[str, Any] = json.loads(said)
    return found


def sentence(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    return line


def manifest(store: Path) -> bytes:
    return (store / "MANIFEST.sha256").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("plain") / "x.zarr"
    extract(out)
    return manifest(out)


@pytest.fixture(scope="module")
def plain_of_many(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("many") / "x.zarr"
    extract(out, units=MANY)
    return manifest(out)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(stat[1])
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found[1:]


def workers_of(pid: int) -> list[int]:
    """The workers of a cluster on this machine: what `spawn` has started."""
    found = []
    for one in descendants(pid):
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
    return found


def recorded(out: Path) -> int:
    return len(list((partial_path(out) / "journal").glob("unit-*.json")))


def wait_for_record(out: Path, process: subprocess.Popen[str], count: int = 1) -> None:
    deadline = time.monotonic() + 200
    while recorded(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- the fast slice --------------------------------------------------------------------------


def test_two_workers_make_the_plain_store(tmp_path: Path, plain: bytes) -> None:
    outcome = extract(tmp_path / "x.zarr", "--cluster", "local:2")
    assert manifest(tmp_path / "x.zarr") == plain
    assert (outcome["measured"], outcome["units"], outcome["retries"]) == (UNITS * UNIT, UNITS, 0)
    assert sum(worker["units"] for worker in outcome["workers"]) == UNITS
    assert sum(worker["images"] for worker in outcome["workers"]) == UNITS * UNIT
    said = json.loads((tmp_path / "x.zarr" / "provenance.json").read_bytes())
    assert said["cluster"]["workers"] == outcome["workers"]
    assert all(worker["images_per_second"] > 0 for worker in outcome["workers"])
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_a_plain_run_imports_no_scheduler() -> None:
    program = (
        "import sys, frictionstore.extract.job, frictionstore.extract.pipeline, "
        "frictionstore.cli.main; print({'dask', 'distributed', 'tornado'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout == "set()\n"


@pytest.mark.parametrize(
    "address", ["", "remote", "local:0", "local:x", "local:-1", "tcp", "tcp://", "local:", "a.jso"]
)
def test_what_is_no_cluster(address: str) -> None:
    with pytest.raises(RequestError, match=r"is not local, local:N, tcp://HOST:PORT or"):
        check_cluster(address)
    for good in ("local", "local:3", "tcp://host:8786", "tls://host:1"):
        check_cluster(good)
    with pytest.raises(RequestError, match="is not there"):
        check_cluster("nowhere/scheduler.json")


def test_without_dask_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frictionstore.cluster.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"--cluster needs Dask: .*pip install .*\[cluster\]"):
        check_cluster("local")


@pytest.mark.parametrize(
    ("sharing", "overwrite", "repair", "said"),
    [
        (Sharing("1/2", cluster="local"), False, False, "--cluster and --part are two ways"),
        (Sharing("1/2"), True, False, "--overwrite and --part do not go together"),
        (Sharing("1/2"), False, True, "--repair and --part do not go together"),
        (Sharing(given_timeout=5.0), False, False, "--claim-timeout is of runs with --part"),
        (Sharing(allow_mixed_devices=True), False, False, "--allow-mixed-devices is of runs"),
        (Sharing("3/2"), False, False, "is not I/N"),
    ],
)
def test_ways_to_share_that_contradict(
    sharing: Sharing, overwrite: bool, repair: bool, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        sharing.check(overwrite=overwrite, repair=repair)


def test_devices_of_two_kinds_are_refused_unless_allowed() -> None:
    from frictionstore.extract.cluster import Kinds

    def run(name: str, torch: str = "2.9", device: str = "cuda:0") -> dict[str, Any]:
        versions = {"frictionstore": "1", "numpy": "2"}
        return {"device": device, "device_name": name, "torch": torch, "versions": versions}

    for mixed in (False, True):
        kinds = Kinds(mixed)
        kinds.add("a", run("H100"))
        kinds.add("b", run("H100", device="cuda:1"))  # another one of the same kind
        for other in (run("A100"), run("H100", torch="2.10"), run("H100", device="cpu")):
            if mixed:
                kinds.add("c", other)
            else:
                with pytest.raises(DeviceError, match=r"worker c has .* and worker a"):
                    kinds.add("c", other)


def unit_worker(tmp_path: Path, dataset: Any) -> Any:
    """What a worker is sent, of a store that is begun."""
    from frictionstore.extract.cluster_worker import UnitWorker
    from frictionstore.extract.encoder.checkpoints import find_checkpoint, read_checkpoint
    from frictionstore.extract.measuring import Measuring
    from frictionstore.extract.request import Job
    from frictionstore.store.writer import StoreWriter
    from tests import making

    plan = making.plan(0, len(dataset.ids))
    StoreWriter(tmp_path / "x.zarr", plan).__enter__()._stack.close()
    job = Job("folder", "speckle", tmp_path / "x.zarr", image_size=32, device="cpu")
    checkpoint = read_checkpoint(find_checkpoint("speckle"))
    measuring = Measuring(job, checkpoint, "speckle", dataset)
    return UnitWorker(partial_path(tmp_path / "x.zarr"), plan, measuring, 1)


class AWorker:
    """What Dask gives to a plugin."""

    class state:
        nthreads = 1


def test_a_worker_that_sees_something_else_says_so(tmp_path: Path) -> None:
    from PIL import Image

    from frictionstore.extract.data.base import DatasetOptions
    from frictionstore.extract.data.choose import open_dataset

    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for k in range(3):
        pixels = np.full((32, 32, 3), 20 * k, np.uint8)
        Image.fromarray(pixels).save(folder / "a" / f"{k}.png")
    plugin = unit_worker(
        tmp_path, open_dataset(f"folder:{folder}", DatasetOptions(), lambda text: None)
    )

    plugin.setup(AWorker())
    described = plugin.ready()
    assert (described["device"], plugin.ready()) == ("cpu", described)
    plugin.teardown(AWorker())

    first = folder / "a" / "0.png"
    kept = first.read_bytes()
    first.unlink()
    plugin.setup(AWorker())
    with pytest.raises(Exception, match=r"0\.png"):
        plugin.ready()
    first.write_bytes(kept)
    plan = plugin.partial / "plan.json"
    plan.rename(tmp_path / "moved.json")
    with pytest.raises(RequestError, match=r"does not see .*x\.zarr\.partial"):
        plugin.ready()
    (tmp_path / "moved.json").rename(plan)
    assert plugin.ready() == described
    plugin.teardown(AWorker())


# ---- all of it -------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_worker_and_parts_make_the_plain_store(tmp_path: Path, plain: bytes) -> None:
    extract(tmp_path / "x.zarr", "--cluster", "local:1")
    assert manifest(tmp_path / "x.zarr") == plain
    parts = [start(tmp_path / "p.zarr", "--part", f"{k}/3") for k in (3, 1, 2)]
    for part in parts:
        _, errors = part.communicate(timeout=200)
        assert part.returncode == 0, errors
    assert manifest(tmp_path / "p.zarr") == plain
    for k in (2, 1, 3):
        extract(tmp_path / "q.zarr", "--part", f"{k}/3")
    assert manifest(tmp_path / "q.zarr") == plain
    assert sorted(os.listdir(tmp_path)) == ["p.zarr", "q.zarr", "x.zarr"]


@pytest.mark.slow
def test_a_client_that_is_killed(tmp_path: Path, plain_of_many: bytes) -> None:
    """Its workers end with it, and the plain run goes on from what is recorded."""
    out = tmp_path / "x.zarr"
    process = start(out, "--cluster", "local:2", units=MANY)
    wait_for_record(out, process)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate()
    assert workers
    done = recorded(out)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    outcome = extract(out, units=MANY)
    assert outcome["measured"] == (MANY - done) * UNIT
    assert manifest(out) == plain_of_many
    assert os.listdir(tmp_path) == ["x.zarr"]


@pytest.mark.slow
def test_a_client_that_is_interrupted(tmp_path: Path, plain_of_many: bytes) -> None:
    out = tmp_path / "x.zarr"
    process = start(
        out, "--cluster", "local:1", units=MANY, start_new_session=True, preexec_fn=heed_interrupts
    )
    wait_for_record(out, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: its workers get it too
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "what is complete is kept" in errors
    assert recorded(out) >= 1
    extract(out, "--cluster", "local:1", units=MANY)
    assert manifest(out) == plain_of_many


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler of its own, and its file."""
    file = folder / "scheduler.json"
    with running(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
        "--scheduler-file", str(file),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, str(file)


@pytest.mark.slow
def test_a_scheduler_that_stands_and_is_lost(
    tmp_path: Path, plain: bytes, plain_of_many: bytes
) -> None:
    """By its address and by its file; then it is killed, and the plain run goes on."""
    out, other = tmp_path / "x.zarr", tmp_path / "y.zarr"
    worker = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--scheduler-file"]
    folder = {"--local-directory": str(tmp_path / "scratch")}
    with scheduler(tmp_path) as (process, file):
        with running("worker", *worker, file, *folder.popitem()):
            extract(out, "--cluster", file)
            assert manifest(out) == plain
            address = json.loads(Path(file).read_bytes())["address"]
            client = start(other, "--cluster", address, units=MANY)
            wait_for_record(other, client)
            os.killpg(process.pid, signal.SIGKILL)
            said = sentence(client)
            assert "what is complete is kept" in said
    assert recorded(other) >= 1
    extract(other, units=MANY)
    assert manifest(other) == plain_of_many


@pytest.mark.slow
def test_a_worker_of_other_versions_is_named(tmp_path: Path) -> None:
    """Before anything is begun."""
    told = tmp_path / "packages" / "numpy-9.9.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9\n")
    path = f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', ROOT)}"
    worker = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--name", "odd-one"]
    place = ["--local-directory", str(tmp_path / "scratch")]
    with scheduler(tmp_path) as (_, file):
        with running("worker", *worker, *place, "--scheduler-file", file, PYTHONPATH=path):
            said = sentence(start(tmp_path / "x.zarr", "--cluster", file))
    assert "odd-one" in said
    assert "has numpy 9.9" in said
    assert not (tmp_path / "x.zarr").exists()
    assert not partial_path(tmp_path / "x.zarr").exists()


@pytest.mark.slow
def test_no_scheduler_there(tmp_path: Path) -> None:
    environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    said = sentence(start(tmp_path / "x.zarr", "--cluster", "tcp://127.0.0.1:1", env=environment))
    assert "no scheduler answers at --cluster tcp://127.0.0.1:1" in said
