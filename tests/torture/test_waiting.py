"""Who waits for whom: loading processes that are killed, and those whose parent is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.check.verify import verify
from tests import making
from tests.support import DATA, heed_interrupts
from tests.torture.processes import Work, Zygote, one_sentence

PNG = 400
LONGEST = 20.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that take a while to decode."""
    from PIL import Image

    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (500, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "0000.png", compress_level=1)
    for number in range(1, PNG):
        os.link(root / "0000.png", root / f"{number:04d}.png")
    return root


def arguments(images: Path, out: Path, *more: str) -> list[str]:
    return [
        "extract", "--dataset", f"folder:{images}", "--encoder", str(DATA / "svae/svae_d4.pt"),
        "--image-size", "16", "--shard-images", "16", "--batch-size", "16", "--device", "cpu",
        "--workers", "2", "--quiet", "--out", str(out), *more,
    ]  # fmt: skip


def started(images: Path, out: Path) -> subprocess.Popen[str]:
    """A run of its own process group that has written its first unit."""
    process = subprocess.Popen(
        [sys.executable, "-m", "frictionstore", *arguments(images, out)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    journal = out.with_name(f"{out.name}.partial") / "journal"
    until = time.monotonic() + 90
    while not list(journal.glob("unit-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def alive(pids: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if runs(pid)]


def all_end(pids: list[int]) -> None:
    until = time.monotonic() + LONGEST
    while alive(pids):
        assert time.monotonic() < until, f"{alive(pids)} go on"
        time.sleep(0.05)


def finishes(images: Path, out: Path, process: subprocess.Popen[str]) -> None:
    """What is complete is kept, and another run completes it."""
    left = list((out.with_name(f"{out.name}.partial") / "journal").glob("unit-*.json"))
    assert left, process.args
    done = subprocess.run(
        [sys.executable, "-m", "frictionstore", *arguments(images, out), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = fs.open(out)
    assert store.n_images == PNG
    assert verify(out).ok
    import json

    assert json.loads(done.stdout)["measured"] == PNG - 16 * len(left)


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
@pytest.mark.slow
def test_a_killed_loading_process_is_noticed(
    tmp_path: Path, images: Path, counts: Counter[str]
) -> None:
    """As the out-of-memory killer does it: one sentence within seconds."""
    process = started(images, tmp_path / "a.zarr")
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = process.communicate(timeout=LONGEST)
    assert time.monotonic() - killed < LONGEST
    assert process.returncode == 2, errors
    said = one_sentence(errors)
    assert "a process that loads images was ended by SIGKILL" in said
    assert "what is complete is kept" in said
    assert not alive(workers)
    finishes(images, tmp_path / "a.zarr", process)
    counts["loading processes killed: noticed, and resumed"] += 1


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL", "SIGKILL of all"])
def test_signals_leave_nobody_behind(
    tmp_path: Path, images: Path, counts: Counter[str], name: str
) -> None:
    """To the main process, or to its whole group: no process goes on, what is complete is kept."""
    process = started(images, tmp_path / "a.zarr")
    workers = children(process.pid)
    assert len(workers) == 2
    number = signal.Signals[name.partition(" ")[0]]
    if name.endswith("all"):
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    _, errors = process.communicate(timeout=LONGEST)
    all_end(workers)
    if number == signal.SIGKILL:
        assert process.returncode == -9
        assert not errors
    else:
        assert process.returncode == 128 + number, errors
        said = one_sentence(errors)
        how = "interrupted" if number == signal.SIGINT else f"ended by {name}"
        assert said == f"Error: {how}: what is complete is kept, run it again to go on"
    finishes(images, tmp_path / "a.zarr", process)
    counts[f"{name} with loading processes: nobody left, resumed"] += 1


@linux
@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path, images: Path) -> None:
    """Under nohup a run outlives its terminal."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "import sys, os; from frictionstore.cli.main import cli\n"
        "import threading; threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGHUP)).start()\n"
        f"cli.main(args={arguments(images, tmp_path / 'a.zarr', '--limit', '64')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert fs.open(tmp_path / "a.zarr").n_images == 64


@linux
@pytest.mark.slow
def test_kills_at_random_instants(
    tmp_path: Path, images: Path, counts: Counter[str], full: bool, seed: int
) -> None:
    """Of the main process, a loading process or all of them; resumed to the same bytes."""
    rng = np.random.default_rng([seed, 9])
    reference, target = tmp_path / "reference.zarr", tmp_path / "x.zarr"
    begin = time.monotonic()
    limit = ("--limit", "160")
    run = [sys.executable, "-m", "frictionstore"]
    subprocess.run([*run, *arguments(images, reference, *limit)], check=True, timeout=120)
    seconds = time.monotonic() - begin
    expected = making.content(reference)
    for _ in range(40 if full else 2):
        shutil.rmtree(target, ignore_errors=True)
        what = rng.choice(["main", "worker", "all"])
        process = subprocess.Popen(
            [*run, *arguments(images, target, *limit)], stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        there = children(process.pid) if process.poll() is None else []
        if process.poll() is None:
            if what == "worker" and there:
                os.kill(rng.choice(there), signal.SIGKILL)
            elif what == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        _, errors = process.communicate(timeout=60)
        all_end(there)
        if process.returncode == 2:
            assert "was ended by SIGKILL" in one_sentence(errors)
        again = subprocess.run([*run, *arguments(images, target, *limit)], timeout=120)
        assert again.returncode == 0
        assert making.content(target) == expected
        counts["kills with loading processes: resumed to the same bytes"] += 1


def test_two_different_jobs_on_one_target(
    tmp_path: Path, child: Zygote, other_child: Zygote, counts: Counter[str], full: bool
) -> None:
    """One ends whole; the other is told that it is being written, or that it is another store."""
    made = []
    for number, work_seed in enumerate((0, 7)):
        making.write(tmp_path / f"r{number}.zarr", making.plan(work_seed, 80))
        made.append(fs.open(tmp_path / f"r{number}.zarr").digest)
    target = tmp_path / "x.zarr"
    for _ in range(50 if full else 3):
        shutil.rmtree(target, ignore_errors=True)
        for each, work_seed in ((child, "0"), (other_child, "7")):
            each.start(Work("tests.torture.writing:write", [str(target), work_seed, "80", "0.002"]))
        ended = [child.wait(), other_child.wait()]
        statuses = [each.status for each in ended]
        assert sorted(statuses) == [0, 2], [each.errors for each in ended]
        said = ended[statuses.index(2)].check_sentence()
        assert "is being written" in said or "another" in said
        assert fs.open(target).digest == made[statuses.index(0)]
        assert verify(target).ok
        counts["two different jobs on one target: one whole, one told"] += 1


def test_a_clock_that_goes_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Counter[str]
) -> None:
    """No rate, no order and no decision depends on the time of day."""
    pytest.importorskip("torch")
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job

    now = [2_000_000_000.0]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    for out in ("a.zarr", "b.zarr"):
        job = Job("noise", str(DATA / "svae/svae_d4.pt"), tmp_path / out, image_size=16, count=40,
                  device="cpu", shard_images=16)  # fmt: skip
        outcome = run_job(job)
        assert outcome["seconds"] >= 0
        for path in (tmp_path / out).rglob("*"):
            os.utime(path, (0, 0))
        assert run_job(job)["status"] == "up to date"
        monkeypatch.undo()
    assert making.content(tmp_path / "a.zarr") == making.content(tmp_path / "b.zarr")
    counts["a clock that goes backwards: the same bytes"] += 1
