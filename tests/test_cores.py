"""How many cores: the least of machine, affinity and control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frictionstore import cores as module
from frictionstore.cores import cores, quota


def groups(tmp_path: Path, membership: str, files: dict[str, str]) -> int | None:
    """The quota where /proc/self/cgroup and /sys/fs/cgroup are these."""
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return quota(tmp_path / "cgroup", tmp_path / "fs")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # one and a half keep two busy
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        # the limit of a group above holds as well, and the smaller one counts
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "300000 100000\n"}, 1),
        # a container that sees its own group as the root, under the host's path
        ("0::/docker/0123\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/x\n1:memory:/x\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "memory/x/cpu.max": "100000 100000\n",
            },
            3,
        ),
        (
            "4:cpu,cpuacct:/x\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            2,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("4:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, None),
        ("nonsense\n", {"cpu.max": "100000 100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
    ],
)
def test_quota(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int | None
) -> None:
    assert groups(tmp_path, membership, files) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert quota(tmp_path / "none", tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_is_kept() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() <= len(allowed)


def test_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(module, "quota", lambda: None)
    assert (cores(), cores(8)) == (64, 8)
    monkeypatch.setattr(module, "quota", lambda: 3)
    assert (cores(), cores(8), cores(2)) == (3, 3, 2)


def test_nobody_counts_cores_by_themselves() -> None:
    root = Path(__file__).parent.parent
    sources = [*(root / "frictionstore").rglob("*.py"), *(root / "analyses").rglob("*.py")]
    counting = {
        path.relative_to(root).as_posix()
        for path in sources
        if "cpu_count" in path.read_text() or "sched_getaffinity" in path.read_text()
    }
    counting = {name.replace("frictionstore/analyses/", "analyses/") for name in counting}
    assert counting == {"frictionstore/cores.py"}
