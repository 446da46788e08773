"""The one progress bar: when it shows, what it says, and that nothing draws another."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from frictionstore.progress import progress_bar
from tests.support import DATA

ROOT = DATA.parent.parent


def watch(monkeypatch: pytest.MonkeyPatch, watched: bool = True) -> None:
    """Say that standard error, which pytest replaces for each phase of a test, is a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    ticks: Iterator[float] = iter(times)
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))


def test_it_shows_after_two_seconds(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    watch(monkeypatch)
    clock(monkeypatch, 0.0, 1.0, 2.5, 2.6, 4.0)
    with progress_bar(100, "pass 1", show=True) as advance:
        advance(10)
        assert capsys.readouterr().err == ""
        advance(40)
        assert (
            "pass 1 [############............] 50/100 20 images/s, 2 s" in capsys.readouterr().err
        )
        advance(1)  # not more often than five times a second
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err.endswith("\n")


def test_what_goes_on_afterwards_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Reading may be quick and computing slow; where both were quick, no line is left."""
    watch(monkeypatch)
    for end, left in ((1.0, "\r\x1b[K"), (60.0, "\n")):
        clock(monkeypatch, 0.0, 0.5, end)
        with progress_bar(10, "pass 1", after="computing", show=True) as advance:
            advance(10)
            assert "10/10" in (said := capsys.readouterr().err)
            assert said.endswith("computing\x1b[K")
        assert capsys.readouterr().err.endswith(left)


@pytest.mark.parametrize(("watched", "show"), [(True, False), (False, True)])
def test_it_is_silent_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, watched: bool, show: bool
) -> None:
    watch(monkeypatch, watched)
    clock(monkeypatch, *range(0, 100, 10))
    with progress_bar(10, "pass 1", after="computing", show=show) as advance:
        advance(10)
    assert capsys.readouterr().err == ""


def test_analyses_draw_it_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from frictionstore import analyses
    from tests.analyses.material import noise_store

    watch(monkeypatch)
    monkeypatch.setattr("frictionstore.progress.PATIENCE", 0.0)
    monkeypatch.setattr("frictionstore.progress.REFRESH", 0.0)
    analyses.mode_variance(noise_store(), feature="S", show_progress=True)
    said = capsys.readouterr().err
    assert re.search(r"\rpass 1 \[#{24}\] \d+/\d+ [\d,]+ images/s, computing", said)
    assert said.endswith("\n")


def test_nothing_else_draws_a_bar() -> None:
    drawn = re.compile(r"\\r\{|\"\\r(?!\\n)|click\.progressbar|tqdm")
    sources = [f for d in ("frictionstore", "analyses", "tools") for f in (ROOT / d).rglob("*.py")]
    assert [f.name for f in sources if drawn.search(f.read_text())] == ["progress.py"]
