"""The torture bench: a fast slice in the test suite, all of it with ``--torture-full``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.processes import Zygote, zygote

_COUNTS: Counter[str] = Counter()
RESULT_VARIABLE = "TORTURE_RESULT"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture-full", action="store_true", default=False, help="all of the torture bench"
    )
    parser.addoption(
        "--torture-seed", type=int, default=0, help="seed of the random instants and places"
    )


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether all of the bench runs."""
    return bool(pytestconfig.getoption("--torture-full", default=False))


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--torture-seed", default=0) or 0)


@pytest.fixture(scope="session")
def counts() -> Counter[str]:
    """What was done and how it ended; printed at the end."""
    return _COUNTS


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts children that write, check and copy stores."""
    with zygote(tmp_path_factory.mktemp("child")) as started:
        yield started


@pytest.fixture(scope="session")
def other_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """A second one, for what goes on at the same time."""
    with zygote(tmp_path_factory.mktemp("other")) as started:
        yield started


@pytest.fixture(scope="session")
def extracting_child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Starts children that extract."""
    pytest.importorskip("torch")
    with zygote(tmp_path_factory.mktemp("extracting"), torch=True) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def result_file() -> Iterator[None]:
    """The counts as JSON where ``TORTURE_RESULT`` names a file."""
    yield
    target = os.environ.get(RESULT_VARIABLE)
    if target:
        Path(target).write_text(json.dumps(dict(sorted(_COUNTS.items())), indent=2) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _COUNTS:
        terminalreporter.section("torture bench")
        for what, count in sorted(_COUNTS.items()):
            terminalreporter.line(f"{count:>6,}  {what}")
