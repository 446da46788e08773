"""`docs/architecture.md`: its links lead somewhere, its names exist, its two examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import DATA

ROOT = DATA.parent.parent
PAGE = ROOT / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 20
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("def run_job", "frictionstore/extract/job.py"),
        ("class Job", "frictionstore/extract/request.py"),
        ("def build_request", "frictionstore/extract/request.py"),
        ("def open_dataset", "frictionstore/extract/data/choose.py"),
        ("def to_array", "frictionstore/extract/data/images.py"),
        ("def extract_units", "frictionstore/extract/pipeline.py"),
        ("def check_finite", "frictionstore/extract/pipeline.py"),
        ("def native_engine", "frictionstore/extract/engines/make.py"),
        ("def _shaped", "frictionstore/extract/engines/base.py"),
        ("def write_unit", "frictionstore/store/writer.py"),
        ("def publish", "frictionstore/store/place.py"),
        ("def checksums", "frictionstore/format/shards.py"),
        ("def crc32c", "frictionstore/format/shards.py"),
        ("def check_shard", "frictionstore/check/shard.py"),
        ("def what_to_keep", "frictionstore/check/repair.py"),
        ("def run", "analyses/core/passes.py"),
        ("class FStatistic", "analyses/f_statistic.py"),
        ("class Arrangements", "analyses/stats/arrangements.py"),
        ("def patch_shuffles", "analyses/stats/permutation.py"),
        ("def p_from_counts", "analyses/stats/permutation.py"),
        ("_BUILT_IN", "analyses/__init__.py"),
    ],
)
def test_what_the_page_names_is_where_it_says(name: str, file: str) -> None:
    bare = name.split()[-1]
    assert bare in TEXT
    assert re.search(rf"^\s*{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.M)


def example(heading: str) -> str:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)[0]


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_map_is_added(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = run(example("How to add a map"), tmp_path)
    assert out.startswith("mode-variance: gap\n")
    assert (tmp_path / "gap.zarr" / "gap" / "zarr.json").is_file()


def test_the_analysis_is_added(tmp_path: Path) -> None:
    out = run(example("How to add an analysis"), tmp_path)
    assert out.startswith("reach: friction\n")
    found = re.search(r"maximum is ([\d.]+) times", out)
    assert found is not None
    assert 4.0 < float(found[1]) < 8.0 / 1.9, "8 in one class, below 2 in the other"
    assert "note: No test" in out
