"""Stores, servers and a browser for the explorer's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.show.view import ViewServer
from tests import browser as chromium

GRID, MODES, CLASSES, TRANSFORMS = 16, 4, 10, 5


def smooth_maps(n: int, grid: int = GRID, modes: int = MODES, seed: int = 0) -> dict[str, Any]:
    """Maps with spatial structure; mode 0 of friction is constant, as a real store's is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:grid, 0:grid] / max(grid - 1, 1)
    centre = rng.uniform(0.2, 0.8, (n, 2, 1, 1))
    bump = np.exp(-((y - centre[:, :1]) ** 2 + (x - centre[:, 1:]) ** 2) * 6)[:, 0, ..., None]
    noise = rng.lognormal(0.0, 0.2, (n, grid, grid, modes))
    friction = (5 + 60 * bump * np.arange(modes)) * noise
    friction[..., 0] = 5.0
    falling = np.sort(rng.uniform(1, 6, (n, grid, grid, modes)), axis=-1)[..., ::-1]
    return {
        "S": falling.astype(np.float32),
        "friction": friction.astype(np.float32),
        "settle": rng.integers(1, 7, (n, grid, grid, modes)).astype(np.uint8),
    }


def thumbnails(n: int, side: int = 32) -> np.ndarray:
    """Images that differ, and that a codec cannot make nothing of."""
    y, x = np.mgrid[0:side, 0:side]
    phase = np.arange(n)[:, None, None, None]
    waves = [np.sin((x + y * k) / 5 + phase[..., 0]) for k in (1, 2, 3)]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium.skip_without_browser()
    with chromium.launched() as launched:
        yield launched


@contextmanager
def serving(store: fs.Store, beside: fs.Store | None = None) -> Iterator[str]:
    with ViewServer(store, beside=beside) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def built_page() -> None:
    problem = chromium.page_problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> fs.Store:
    """As many images as the digits have, several chunks of each map."""
    n = 1797
    rng = np.random.default_rng(3)
    maps = {**smooth_maps(n), "image": thumbnails(n)}
    maps["recon_error"] = rng.uniform(0, 1, (n, GRID, GRID)).astype(np.float32)
    return fs.from_arrays(
        tmp_path_factory.mktemp("explorer") / "digits.zarr",
        maps,
        label=rng.integers(0, CLASSES, n),
        class_names=[f"kind {k}" for k in range(CLASSES)],
        image_id=[f"image/{k:04d}.png" for k in range(n)],
    )


@pytest.fixture(scope="session")
def digits_url(digits: fs.Store, built_page: None) -> Iterator[str]:
    with serving(digits) as url:
        yield url


Visit = Callable[..., AbstractContextManager[tuple[Any, chromium.Watch]]]


@pytest.fixture
def visit(browser: Any, built_page: None) -> Visit:
    """Open an address and wait until everything on the screen is painted.

    When the test is done with the page, nothing may have been logged and no other host asked.
    """

    @contextmanager
    def open_page(
        url: str, hash_: str = "", *, quiet: bool = True, **options: Any
    ) -> Iterator[tuple[Any, chromium.Watch]]:
        with chromium.opened(browser, **options) as (page, watch):
            page.goto(url + hash_)
            page.wait_for_selector(chromium.READY)
            yield page, watch
            if quiet:
                assert watch.complaints == []
            assert len(watch.hosts()) == 1

    return open_page


@pytest.fixture
def show(visit: Visit) -> Callable[..., AbstractContextManager[tuple[Any, chromium.Watch]]]:
    """`visit` for a store that is served for as long as the page is open."""

    @contextmanager
    def open_store(
        store: fs.Store, hash_: str = "", **options: Any
    ) -> Iterator[tuple[Any, chromium.Watch]]:
        with serving(store) as url, visit(url, hash_, **options) as seen:
            yield seen

    return open_store


def plane(store: fs.Store, name: str, row: int, mode: int | None) -> np.ndarray:
    """One image's map at a mode (None: the sum over modes) in float64, read by zarr."""
    values = np.asarray(store[name][row]).astype(np.float64)
    if values.ndim == 2:
        return values
    return values.sum(-1) if mode is None else values[..., mode]


@pytest.fixture
def damaged_copy(
    digits: fs.Store, tmp_path: Path
) -> Callable[[str, Callable[[bytes], bytes]], fs.Store]:
    """The digits with one file changed; opened before it is, as a store that decays later."""
    import shutil

    def make(key: str, change: Callable[[bytes], bytes]) -> fs.Store:
        target = tmp_path / "damaged.zarr"
        shutil.copytree(digits.location, target)
        store = fs.open(target)
        path = target / key
        path.write_bytes(change(path.read_bytes()))
        return store

    return make
