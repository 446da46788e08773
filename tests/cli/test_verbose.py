"""`--verbose` says what was asked again or taken up, and nothing is said without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from frictionstore.cli.main import cli
from frictionstore.io import remote
from tests import making
from tests.servers.http import serve


def test_what_was_asked_again(tmp_path: Path) -> None:
    making.write(tmp_path / "x.zarr", making.plan())
    for number, options in enumerate([["--verbose"], [], ["--verbose", "--quiet"]]):
        with serve(tmp_path) as (url, how):
            how.truncate, how.truncate_times = 300, 1
            to = str(tmp_path / f"to{number}")
            run = CliRunner().invoke(cli, ["pull", f"{url}/x.zarr", to, *options])
        assert run.exit_code == 0, run.output
        assert ("asked again" in run.stderr) == ("--verbose" in options)
        assert ("up to date" in run.stderr or "pulled" in run.stderr) == ("--quiet" not in options)


def test_what_was_taken_up(tmp_path: Path) -> None:
    from frictionstore.io import owned

    making.write(tmp_path / "x.zarr", making.plan())
    part = tmp_path / "to/x.zarr.partial/S/c/0/0/0/0.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((tmp_path / "x.zarr/S/c/0/0/0/0").read_bytes()[:700])
    owned.mark(tmp_path / "to/x.zarr.partial", tmp_path / "to/x.zarr", "transfer")
    arguments = ["pull", str(tmp_path / "x.zarr"), str(tmp_path / "to"), "--verbose"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    assert "S/c/0/0/0/0: 700 B are here already" in run.stderr


def test_what_took_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that obstore makes by itself are not told of; the time that they take is."""
    making.write(tmp_path / "x.zarr", making.plan())
    monkeypatch.setattr(remote, "SLOW_SECONDS", 0.05)  # it waits 0.1 s at least
    for options in ["--verbose"], []:
        with serve(tmp_path) as (url, how):
            how.status, how.status_times = {"provenance.json": 503}, 2
            to = str(tmp_path / f"to{len(options)}")
            run = CliRunner().invoke(cli, ["pull", f"{url}/x.zarr", to, *options])
        assert run.exit_code == 0, run.output
        assert len([line for line in how.requests if "provenance.json" in line]) > 1
        assert ("/x.zarr/provenance.json: that took " in run.stderr) == bool(options)
