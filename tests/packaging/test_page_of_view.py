"""The explorer's page in a checkout: built when view first needs it, and only once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from tests.packaging.checkout import cloned
from tests.support import heed_interrupts, random_maps

NPM = """#!/bin/sh
echo "$1" >> "$(dirname "$0")/called"
[ "$1" = run ] || exit 0
sleep 1
mkdir -p ../frictionstore/explorer_page
printf '<meta name="frictionstore-store" content="">' > ../frictionstore/explorer_page/index.html
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone without a page, and a store in it."""
    root = cloned(tmp_path / "clone")
    fs.from_arrays(root / "data/a.zarr", random_maps(12), label=np.arange(12) % 3)
    return root


def with_npm(tmp_path: Path, script: str = NPM) -> Path:
    """A folder with node and an npm that does as the script says."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in {"npm": script, "node": "#!/bin/sh\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return tools


def command(checkout: Path, *more: str) -> list[str]:
    code = "from frictionstore.cli.main import main; main()"
    return [
        sys.executable,
        "-c",
        code,
        "view",
        str(checkout / "data/a.zarr"),
        "--no-browser",
        *more,
    ]


def settings(checkout: Path, tools: Path | None) -> dict[str, str]:
    path = os.pathsep.join(str(folder) for folder in (tools, "/bin") if folder is not None)
    if tools is None:
        path = str(checkout / "empty")
    return {**os.environ, "PYTHONPATH": str(checkout), "PATH": path}


@contextmanager
def viewing(checkout: Path, tools: Path) -> Iterator[str]:
    with subprocess.Popen(
        command(checkout), env=settings(checkout, tools), cwd=checkout, text=True,
        stdout=subprocess.PIPE, preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)


def refused(checkout: Path, tools: Path | None) -> str:
    done = subprocess.run(
        command(checkout), env=settings(checkout, tools), cwd=checkout, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_the_first_view_builds_the_page_and_two_at_once_build_it_once(
    checkout: Path, tmp_path: Path
) -> None:
    tools = with_npm(tmp_path)
    with viewing(checkout, tools) as one, viewing(checkout, tools) as other:
        for url in (one, other):
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert b'content="store/a.zarr"' in answer.read()
    assert (tools / "called").read_text().split() == ["ci", "run"]


def test_without_node_one_sentence_says_what_is_needed(checkout: Path) -> None:
    assert refused(checkout, None) == (
        "Error: the explorer page is not built (Node 20 or newer with npm is not installed): "
        "frictionstore view builds it when Node 20 or newer is there and npm can fetch packages"
    )


def test_a_build_that_fails_is_named_and_tried_again(checkout: Path, tmp_path: Path) -> None:
    tools = with_npm(tmp_path, "#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    assert "(ci --no-progress failed: no network)" in refused(checkout, tools)
    with viewing(checkout, with_npm(tmp_path)) as url:
        assert url.startswith("http://127.0.0.1:")


def test_an_interrupted_build_leaves_nothing_that_stops_the_next(
    checkout: Path, tmp_path: Path
) -> None:
    tools = with_npm(tmp_path, '#!/bin/sh\ntouch "$(dirname "$0")/started"\nexec sleep 60\n')
    with subprocess.Popen(
        command(checkout), env=settings(checkout, tools), cwd=checkout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while not (tools / "started").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with viewing(checkout, with_npm(tmp_path)) as url:
        assert url.startswith("http://127.0.0.1:")


def test_a_page_older_than_its_sources_is_built_again_or_said_to_be_old(
    checkout: Path, tmp_path: Path
) -> None:
    page = checkout / "frictionstore/explorer_page/index.html"
    page.parent.mkdir()
    page.write_text('<meta name="frictionstore-store" content="">old')
    os.utime(page, (1, 1))
    done = subprocess.run(
        command(checkout, "--export", "site"), env=settings(checkout, None), cwd=checkout,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "older than its sources (Node 20 or newer with npm is not installed)" in done.stderr
    with viewing(checkout, with_npm(tmp_path)) as url:
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"old" not in answer.read()
