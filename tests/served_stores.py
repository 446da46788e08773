"""A whole store, and servers that have it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import making
from tests.servers.http import Behaviour, serve
from tests.servers.s3 import serve_s3


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store nobody changes."""
    target = tmp_path_factory.mktemp("whole") / "x.zarr"
    making.write(target, making.plan())
    return target


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A store the test may break."""
    return Path(shutil.copytree(whole, tmp_path / "x.zarr"))


@pytest.fixture
def server(whole: Path) -> Iterator[tuple[str, Behaviour]]:
    """An HTTP server with the folder that holds `whole`."""
    with serve(whole.parent) as running:
        yield running


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with serve_s3() as endpoint:
        yield endpoint
