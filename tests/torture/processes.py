"""Child processes that can be killed at any instant and start quickly (`zygote.py`)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LONGEST = 120.0
ROOT = Path(__file__).parents[2]


@dataclass
class Ended:
    """How a child ended.

    Attributes
    ----------
    status : int
        Exit status, or minus the number of the signal that ended it.
    seconds : float
    errors : str
        What it wrote to its standard streams.
    """

    status: int
    seconds: float
    errors: str

    def check_sentence(self) -> str:
        """The one sentence of a child that ended with status 2."""
        assert self.status == 2, (self.status, self.errors)
        return one_sentence(self.errors)


def one_sentence(errors: str) -> str:
    """The error in what a command wrote to standard error; nothing else looks like one."""
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in errors, errors
    assert len(lines) == 1, errors
    return lines[0]


@dataclass(frozen=True)
class Work:
    """What a child does: ``module:function`` and its arguments."""

    call: str
    arguments: Sequence[str]


def command(*arguments: str) -> Work:
    """The command line with these arguments."""
    return Work("tests.torture.writing:command", arguments)


class Zygote:
    """Starts children, one at a time."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.log = folder / f"log-{process.pid}.txt"
        self.started = 0.0
        self.pid = 0
        assert process.stdout is not None
        self.answers = process.stdout.fileno()
        self.received = b""
        self._answer("ready")

    def _answer(self, what: str) -> int:
        """The number in the next line, which must be about `what`."""
        while b"\n" not in self.received:
            data = os.read(self.answers, 1000)
            assert data, f"the zygote ended: {self.process.poll()}"
            self.received += data
        line, self.received = self.received.split(b"\n", 1)
        word, _, number = line.decode().partition(" ")
        assert word == what, f"expected {what!r}, found {line!r}"
        return int(number) if number else 0

    def start(self, work: Work, *, largest_file: int | None = None) -> None:
        if self.pid:  # a test that failed has left its child to itself
            self._kill()
            self.wait()
        task = {
            "call": work.call,
            "arguments": list(work.arguments),
            "log": str(self.log),
            "largest_file": largest_file,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        self.pid = self._answer("child")
        self.started = time.monotonic()

    def _ended_within(self, seconds: float) -> bool:
        if b"\n" in self.received:
            return True
        ready, _, _ = select.select([self.answers], [], [], max(seconds, 0.0))
        return bool(ready)

    def kill_after(self, seconds: float) -> Ended:
        """SIGKILL at an instant; a child that is done before ends as it did."""
        if not self._ended_within(self.started + seconds - time.monotonic()):
            self._kill()
        return self.wait()

    def _kill(self) -> None:
        assert self.pid > 1, "there is no child"
        with suppress(ProcessLookupError):  # it ended just now
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        if not self._ended_within(LONGEST):
            self._kill()
            self._answer("ended")
            self.pid = 0
            raise AssertionError(f"a child hung for {LONGEST:g} s: {self.log.read_text()}")
        status = self._answer("ended")
        self.pid = 0
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return Ended(status, time.monotonic() - self.started, text)

    def run(self, work: Work, *, largest_file: int | None = None) -> Ended:
        self.start(work, largest_file=largest_file)
        return self.wait()


@contextmanager
def zygote(folder: Path, *, torch: bool = False) -> Iterator[Zygote]:
    """A zygote whose children's output goes into `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.zygote", *(["--torch"] if torch else [])],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Zygote(process, folder)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=LONGEST)
