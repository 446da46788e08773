"""Commands whose standard streams are closed, full, or lead to somebody who has left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import frictionstore as fs
from tests.support import random_maps

COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "recipes": ["recipes"],
    "recipes as JSON": ["recipes", "--json"],
    "info": ["info", "a.zarr"],
    "info as JSON": ["info", "a.zarr", "--json"],
    "verify": ["verify", "a.zarr"],
    "diff": ["diff", "a.zarr", "b.zarr"],
    "analyze": ["analyze", "mode-variance", "a.zarr"],
    "merge as JSON": ["merge", "a.zarr", "a.zarr", "--names", "x,y", "--out", "m.zarr", "--json"],
}  # fmt: skip
REMARKS = {
    "pack": ["pack", "a.zarr", "--overwrite"],
    "subset": ["subset", "a.zarr", "--limit", "2", "--out", "s.zarr"],
    "pull": ["pull", "a.zarr", "there"],
    "no such command": ["nosuch"],
    "no store": ["info", "nothing"],
}
OWN = {"diff": 1, "no such command": 2, "no store": 2}
"""Exit statuses that are not 0 where nothing is wrong with the streams."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in (("a", 0), ("b", 1)):
        fs.from_arrays(tmp_path / f"{name}.zarr", random_maps(8, seed=seed))
    return tmp_path


def run(folder: Path, arguments: list[str], redirection: str) -> tuple[int, str, str]:
    """Exit status and what was said where it still could be."""
    words = [sys.executable, "-m", "frictionstore", *arguments]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *words],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["info", "help"])
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_an_answer_that_cannot_be_given_is_an_error(
    folder: Path, name: str, redirection: str
) -> None:
    if name == "help" and redirection == ">&-":
        return  # click says nothing where there is nobody to say it to
    status, _, err = run(folder, COMMANDS[name], redirection)
    assert status == 2
    assert err.startswith("Error: standard output cannot be written: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_every_answer_that_cannot_be_given_is_an_error(
    folder: Path, name: str, redirection: str
) -> None:
    if name in ("help", "version") and redirection == ">&-":
        return
    test_an_answer_that_cannot_be_given_is_an_error(folder, name, redirection)


@pytest.mark.parametrize("name", ["info", "diff", "help"])
def test_who_reads_may_leave(folder: Path, name: str) -> None:
    """Quietly, and not with the status that says that two stores differ."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "frictionstore", *COMMANDS[name]],
        cwd=folder, stdout=writes, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writes)
    assert done.stderr == ""
    assert done.returncode == (1 if name == "help" else 141)


SOME = ["verify", "info"]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_remark_that_cannot_be_made_does_not_end_the_work(
    folder: Path, name: str, redirection: str
) -> None:
    arguments = {**COMMANDS, **REMARKS}[name]
    status, out, err = run(folder, arguments, redirection)
    assert status == OWN.get(name, 0)
    assert err == ""
    if name == "info":
        assert out == run(folder, arguments, "")[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, *REMARKS])
@pytest.mark.parametrize(
    "redirection", ["2>&-", "2>/dev/full", "2> >(true)", ">&- 2>&-", "<&- >/dev/full 2>&-"]
)
def test_no_command_ends_in_a_traceback(folder: Path, name: str, redirection: str) -> None:
    status, _, err = run(folder, {**COMMANDS, **REMARKS}[name], redirection)
    assert err == ""
    answer_lost = re.search(r"(?<!2)>(?!\()", redirection) and name in COMMANDS
    expected = 2 if answer_lost else OWN.get(name, 0)
    assert status == expected or name in ("help", "version")


def test_no_file_gets_the_place_of_a_closed_stream(folder: Path) -> None:
    """What libraries say on descriptors 1 and 2 must not go into a store's files."""
    program = (
        "import os, sys\n"
        "from frictionstore.cli import main as m\n"
        "m.open_closed_streams()\n"
        "first = os.open('first', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(2, b'a library complains')\n"
        "sys.exit(0 if first > 2 else 1)\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *words], cwd=folder)
    assert done.returncode == 0
    assert (folder / "first").read_bytes() == b""


def test_an_encoding_that_lacks_characters(folder: Path) -> None:
    """As on a terminal of another script: escapes, and JSON as ever."""
    fs.from_arrays(
        folder / "c.zarr", random_maps(4), label=[0, 1, 0, 1], class_names=["\u732b", "\x7f"]
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments in (["info", "c.zarr"], ["info", "c.zarr", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "frictionstore", *arguments],
            cwd=folder, capture_output=True, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode("ascii")
        assert "\\u732b" in text
        assert "\x7f" not in text
    assert json.loads(text)
