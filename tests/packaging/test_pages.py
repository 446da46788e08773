"""README and tour, run block by block in a fresh clone; a block that is not says why.

The line before a block may say, in an HTML comment:

- ``not run: REASON``: nowhere, since it needs what a test has not;
- ``slow: REASON``: only with the whole page, in order, in a test marked slow;
- ``serves: REASON``: slow, and goes on until Ctrl-C; it prints an address that has to answer.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from tests.packaging.checkout import ROOT, cloned, with_environment
from tests.support import heed_interrupts, random_maps

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("FRICTIONSTORE_LOWEST")), reason="the pages extract, which needs torch"
)
PAGES = ("README.md", "docs/tour.md")
STORE = "data/digits-speckle.zarr"
SECONDS = 900


@dataclass(frozen=True)
class Block:
    """A code block of a page, and what the page says about running it."""

    place: str
    language: str
    text: str
    how: str = "fast"
    reason: str = ""


def blocks(page: str, text: str) -> list[Block]:
    """All code blocks of a page, in order.

    Raises
    ------
    ValueError
        A comment before a block is none of those that are known, or gives no reason.
    """
    found = []
    for match in re.finditer(r"(?:^<!--([^\n]*)-->\n)?^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        place = f"{page}:{text.count(chr(10), 0, match.start(2)) + 1}"
        how, reason = "fast", ""
        if match[1] is not None:
            said = re.fullmatch(r" (not run|slow|serves): (\S.*) ", match[1])
            if said is None:
                raise ValueError(f"{place}: <!--{match[1]}--> is not HOW: REASON")
            how, reason = said[1], said[2]
        found.append(Block(place, match[2], match[3], how, reason))
    return found


ALL = [block for page in PAGES for block in blocks(page, (ROOT / page).read_text("utf-8"))]


def environment(clone: Path) -> dict[str, str]:
    """As a user's shell in the clone: nothing of this checkout on any path."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "DISPLAY", "WAYLAND_DISPLAY")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    folders = [
        f for f in kept["PATH"].split(os.pathsep) if not (Path(f).parent / "pyvenv.cfg").exists()
    ]
    return {**kept, "PATH": os.pathsep.join(folders), "PWD": str(clone)}


def program(block: Block, before: str) -> list[str]:
    if block.language == "python":  # a page's Python is one session
        return [".venv/bin/python", "-W", "error", "-c", before + block.text]
    return ["bash", "-euo", "pipefail", "-c", block.text]


def run(block: Block, clone: Path, before: str = "") -> None:
    done = subprocess.run(
        program(block, before), cwd=clone, env=environment(clone), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.place}\n{block.text}\n{done.stdout}\n{done.stderr}"


def serve(block: Block, clone: Path) -> None:
    """Start the block, fetch the address that it prints, and end it as Ctrl-C does."""
    with subprocess.Popen(
        program(block, ""), cwd=clone, env=environment(clone), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_interrupts,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                assert selector.select(SECONDS), f"{block.place} printed no address"
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), f"{block.place}\n{process.stderr.read()}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert b"frictionstore-store" in answer.read()
            os.killpg(process.pid, signal.SIGINT)
            started = time.monotonic()
            process.wait(timeout=10)
            assert time.monotonic() - started < 10
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def python_before(block: Block) -> str:
    """The page's Python above a block."""
    page = [one for one in ALL if one.place.split(":")[0] == block.place.split(":")[0]]
    earlier = page[: page.index(block)]
    return "".join(one.text for one in earlier if one.language == "python" and one.how == "fast")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an environment and, in place of what `make extract` takes long for, a store."""
    checkout = with_environment(cloned(tmp_path_factory.mktemp("pages") / "clone"))
    maps = random_maps(n=40, grid=16)
    names = [str(digit) for digit in range(10)]
    fs.from_arrays(checkout / STORE, maps, label=np.arange(40) % 10, class_names=names)
    return checkout


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.place)
def test_a_block_runs_as_it_stands(block: Block, clone: Path) -> None:
    if block.how != "fast":
        pytest.skip(f"{block.how}: {block.reason}")
    run(block, clone, python_before(block) if block.language == "python" else "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, as the pages say")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_its_beginning_to_its_end(page: str, tmp_path: Path) -> None:
    checkout = with_environment(cloned(tmp_path / "clone"))
    for block in ALL:
        if not block.place.startswith(f"{page}:") or block.how == "not run":
            continue
        if block.how == "serves":
            serve(block, checkout)
        else:
            run(block, checkout, python_before(block) if block.language == "python" else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n```\nls\n```\n", [("fast", "", "ls\n")]),
        ("<!-- slow: big -->\n```python\nx\n```\n\n```\nls\n```\n",
         [("slow", "big", "x\n"), ("fast", "", "ls\n")]),
        ("<!-- slow: far above -->\n\n```\nls\n```\n", [("fast", "", "ls\n")]),
    ],
)  # fmt: skip
def test_blocks_are_found(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(b.how, b.reason, b.text) for b in blocks("x.md", text)] == expected


@pytest.mark.parametrize("comment", ["slow", "slow:", "not run: ", "later: why"])
def test_a_block_left_out_without_a_reason_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="x.md:2"):
        blocks("x.md", f"<!-- {comment} -->\n```\nls\n```\n")
