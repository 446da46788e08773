"""The compiled CPU kernels: threads, vector widths, machine code, caches; and the spectrum path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import slow

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

import frictionstore  # noqa: E402
from frictionstore.errors import RequestError  # noqa: E402
from frictionstore.extract.conduit import DEFAULTS, Packet, conduit_maps  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu import gram as fused_gram  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu import tiles  # noqa: E402


def _sphere(rng: np.random.Generator, count: int, rows: int, D: int) -> np.ndarray:
    M = rng.standard_normal((count, rows, D)).astype(np.float32)
    return M / np.linalg.norm(M, axis=-1, keepdims=True)


@pytest.mark.parametrize("n", [2, *slow(5)])
def test_threads_and_widths_do_not_matter(n, hard_matrices, assert_same_bits, monkeypatch):
    A = hard_matrices(n)
    expected = fused_cpu.measure(A, Packet._fields, DEFAULTS, 1)
    monkeypatch.setattr(tiles, "SMALLEST_CHUNK", 37)
    for threads, width in [(1, 8), (1, 4), (2, None), (5, None)]:
        got = fused_cpu.measure(A, Packet._fields, DEFAULTS, threads, width=width)
        for name, x in expected.items():
            assert_same_bits(got[name], x, name)


@pytest.mark.parametrize("register", [4, 8, 16])
def test_a_processor_s_registers_do_not_matter(
    register, hard_matrices, assert_same_bits, monkeypatch
):
    """Half a register's float64 numbers go through float64 at a time; 4, 8, 16 float32 fit one."""
    A = hard_matrices(4)
    expected = conduit_maps(A, Packet._fields, kernel="reference")
    fused_cpu._kernel.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(tiles, "register_width", lambda: register)
        got = fused_cpu.measure(A, Packet._fields, DEFAULTS)
    fused_cpu._kernel.cache_clear()
    for name, x in expected.items():
        assert_same_bits(got[name], x, name)


@pytest.mark.parametrize("want", [("friction",), ("slot", "settle"), Packet._fields])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 70])
def test_whole_and_broken_tiles(count, want, hard_matrices, assert_same_bits):
    A = hard_matrices(4)
    last = fused_cpu.measure(A[-count:], want, DEFAULTS, 1)
    for name, x in fused_cpu.measure(A, want, DEFAULTS, 1).items():
        assert_same_bits(last[name], x[-count:], name)


def test_chunks_cover_the_batch_once(monkeypatch):
    monkeypatch.setattr(tiles, "SMALLEST_CHUNK", 10)
    for count in (0, 1, 9, 10, 11, 1003):
        for threads in (1, 2, 3, None):
            seen = np.zeros(count, int)

            def task(first: int, last: int, seen: np.ndarray = seen) -> None:
                seen[first:last] += 1

            tiles.in_chunks(task, count, threads)
            assert np.all(seen == 1)


def test_an_error_in_a_thread_is_not_lost(monkeypatch):
    monkeypatch.setattr(tiles, "SMALLEST_CHUNK", 1)

    def task(first: int, last: int) -> None:
        raise OSError(f"rows {first}..{last}")

    with pytest.raises(OSError, match="rows"):
        tiles.in_chunks(task, 10, 2)


MACHINE_CODE = """
import re
import numpy as np
from frictionstore.extract.conduit import DEFAULTS
from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu
fused_cpu.measure(
    np.eye(4, dtype=np.float32)[None], ("friction", "friction_exact"), DEFAULTS, 1
)
kernel = fused_cpu._kernel(4, False, 0, True, fused_cpu.tile_width(4), DEFAULTS)
(code,) = kernel.inspect_asm().values()
names = set(re.findall(r"^\\s+([a-z]\\w*)", code, re.M))
contracted = {x for x in names if re.match(r"v?fn?m(add|sub|la|ls)", x)}
assert not contracted, contracted
approximate = {x for x in names if "rcp" in x or "rsqrt" in x}
assert not approximate, approximate
assert not names or {"vdivps", "divps", "fdiv"} & names, sorted(names)
print("read", len(names))
"""


def _run(code: str, cache: Path, **environment: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_no_operation_is_contracted_or_approximated(tmp_path):
    assert "read" in _run(MACHINE_CODE, tmp_path)


@pytest.mark.slow
def test_kernels_are_cached_and_a_changed_source_is_not_mistaken(tmp_path):
    code = """
import numpy as np
from frictionstore.extract.conduit import DEFAULTS
from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu, tiles
fused_cpu.measure(np.eye(2, dtype=np.float32)[None], ("friction",), DEFAULTS, 1)
kernel = fused_cpu._kernel(2, False, 0, False, fused_cpu.tile_width(2), DEFAULTS)
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""
    assert _run(code, tmp_path).split() == ["0", "1"]
    assert _run(code, tmp_path).split() == ["1", "0"]
    edited = code.replace(
        "fused_cpu.measure", "tiles.source_digest = lambda: 'x'\nfused_cpu.measure"
    )
    assert _run(edited, tmp_path).split() == ["0", "1"]


@pytest.mark.slow
def test_an_installation_that_cannot_be_written_caches_with_the_user(tmp_path):
    package, home = tmp_path / "site" / "frictionstore", tmp_path / "home"
    shutil.copytree(
        Path(frictionstore.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    # A file in the cache folder's place stops any user from writing there, the superuser included.
    (package / "extract" / "conduit" / "kernels" / "cpu" / "__pycache__").write_text("")
    home.mkdir()
    code = "import numpy as np, frictionstore, frictionstore.extract.conduit as c\n"
    code += (
        "print(frictionstore.__file__, c.conduit_maps(np.ones((1, 2, 2), np.float32))['settle'])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    environment |= {"PYTHONPATH": str(package.parent), "HOME": str(home)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        timeout=120,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert str(package) in done.stdout
    assert list(home.rglob("*.nbi"))


@pytest.mark.parametrize("D", range(2, 9))
@pytest.mark.parametrize("kind", ["sphere", "graded", "spread", "rank one", "repeated column"])
def test_spectrum_against_lapack(D, kind):
    rng = np.random.default_rng(D)
    M = _sphere(rng, 400, 48, D)
    if kind == "graded":
        M *= (10.0 ** -np.arange(D)).astype(np.float32)
    elif kind == "spread":
        left = np.linalg.qr(rng.standard_normal((400, 48, D)))[0]
        right = np.linalg.qr(rng.standard_normal((400, D, D)))[0]
        M = (left * 10.0 ** -rng.uniform(0, 6, (400, 1, D)) @ right).astype(np.float32)
    elif kind == "rank one":
        M = M[:, :, :1] * rng.standard_normal((400, 1, D)).astype(np.float32)
    elif kind == "repeated column":
        M[:, :, 1] = M[:, :, 0]
    S, V = fused_gram.spectrum(np.ascontiguousarray(M))
    exact = M.astype(np.float64)
    gram = exact.swapaxes(1, 2) @ exact + 1e-12 * np.eye(D)
    eigenvalues, vectors = (x[..., ::-1] for x in np.linalg.eigh(gram))
    expected = np.sqrt(np.maximum(eigenvalues, 1e-24))
    largest = expected[:, :1]
    assert np.all(np.abs(S - expected) <= 2e-7 * largest)
    assert np.all(np.diff(S, axis=1) <= 0)

    wide = V.astype(np.float64)
    assert np.all(np.abs(wide.swapaxes(1, 2) @ wide - np.eye(D)) < 5e-7)
    rebuilt = (wide * S.astype(np.float64)[:, None] ** 2) @ wide.swapaxes(1, 2)
    assert np.all(np.abs(rebuilt - gram) <= 5e-7 * largest[..., None] ** 2)
    gaps = np.abs(np.diff(eigenvalues, axis=1)) / eigenvalues[:, :1]
    safe = np.pad(gaps, ((0, 0), (1, 1)), constant_values=1)
    safe = np.minimum(safe[:, 1:], safe[:, :-1]) > 1e-3
    alignment = np.abs((wide * vectors).sum(axis=1))
    assert np.all(alignment[safe] > 1 - 1e-6)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    D=st.sampled_from([2, 4, 5]),
    count=st.integers(0, 60),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_spectrum_does_not_depend_on_the_batch(seed, D, count, data, assert_same_bits):
    M = _sphere(np.random.default_rng(seed), count, 12, D)
    cut = data.draw(st.integers(0, count))
    parts = [fused_gram.spectrum(part, 1, width=w) for part, w in ((M[:cut], 8), (M[cut:], 16))]
    for whole, *pieces in zip(fused_gram.spectrum(M), *parts, strict=True):
        assert_same_bits(np.concatenate(pieces), whole)


def test_spectrum_of_a_broken_matrix_is_nan_and_touches_no_other(assert_same_bits):
    M = _sphere(np.random.default_rng(2), 40, 48, 4)
    clean = fused_gram.spectrum(M)
    M[5, 3, 2], M[6, 0, 0], M[30, 47, 3] = np.nan, np.inf, np.nan
    broken = fused_gram.spectrum(M)
    others = np.setdiff1d(np.arange(40), [5, 6, 30])
    for x, y in zip(clean, broken, strict=True):
        assert np.all(np.isnan(y[[5, 6, 30]]))
        assert_same_bits(y[others], x[others])


def test_a_zero_matrix_has_the_smallest_spectrum():
    S, V = fused_gram.spectrum(np.zeros((1, 48, 4), np.float32))
    np.testing.assert_array_equal(S, np.full((1, 4), 1e-6, np.float32))
    np.testing.assert_array_equal(V, np.eye(4, dtype=np.float32)[None, :, ::-1])


@pytest.mark.parametrize("D", [2, 3, 4, *slow(5, 6, 7, 8)])
def test_maps_from_a_spectrum_are_the_maps_of_its_gram_matrix(D, assert_same_bits):
    M = _sphere(np.random.default_rng(D), 3000, 48, D)
    S, V = fused_gram.spectrum(M)
    G = fused_gram.gram_from_spectrum(S, V)
    expected = np.einsum("bik,bk,bjk->bij", *(x.astype(np.float64) for x in (V, S**2, V)))
    assert np.all(np.abs(G - expected) <= 1e-6 * S[:, :1, None] ** 2)
    maps = conduit_maps(G, Packet._fields)
    shaped = fused_gram.maps_from_spectrum(
        S.reshape(30, 100, D), V.reshape(30, 100, D, D), Packet._fields, threads=2
    )
    for name, x in maps.items():
        assert_same_bits(shaped[name].reshape(x.shape), x, name)
    # Mode 0 of the maps is mode 0 of S.
    sound = maps["refinement_residual"] < 1e-4
    assert np.mean(sound) > 0.97
    assert np.all(np.abs(maps["eigenvalues"] - S**2)[sound] <= 1e-5 * S[sound, :1] ** 2)


def test_encoder_gram_to_maps(encoder_vectors):
    gram = encoder_vectors["gram"]
    maps = conduit_maps(gram)
    reference = encoder_vectors["friction_ascending"][..., ::-1]
    close = np.abs(maps["friction"] - reference) <= 1e-5 * reference
    assert np.mean(close) >= 0.99
    assert np.mean(maps["settle"] == encoder_vectors["settle_ascending"][..., ::-1]) >= 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fused_gram.spectrum(np.zeros((2, 48, 9), np.float32)), r"D = 2\.\.8; got D = 9"),
        (lambda: fused_gram.spectrum(np.zeros((2, 48, 4))), "float32 .* got float64"),
        (lambda: fused_gram.spectrum(np.zeros((48, 4), np.float32)), "at least 3 axes"),
        (lambda: fused_gram.spectrum(np.zeros((2, 0, 4), np.float32)), "at least one row"),
        (lambda: fused_gram.spectrum(np.zeros((2, 3, 4), np.float32), 0), "threads must be at"),
        (
            lambda: fused_gram.maps_from_spectrum(
                np.zeros((2, 4), np.float32), np.zeros((2, 4, 3), np.float32)
            ),
            r"got \(2, 4\) and \(2, 4, 3\)",
        ),
        (
            lambda: fused_gram.maps_from_spectrum(
                np.zeros((2, 4), np.float32), np.zeros((2, 4, 4), np.float32), ("friktion",)
            ),
            "no field 'friktion'",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(RequestError, match=message):
        call()
