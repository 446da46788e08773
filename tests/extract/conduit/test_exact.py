"""The exact maps: against the definition in 120 digits, and the same bits from every kernel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support import slow

torch = pytest.importorskip("torch")

from frictionstore.errors import RequestError  # noqa: E402
from frictionstore.extract.conduit import ConduitConstants, conduit, conduit_maps  # noqa: E402

DATA = Path(__file__).parents[2] / "data" / "conduit"
WANT = ("friction_exact", "settle_exact")

with np.load(DATA / "exact.npz") as stored:
    REFERENCE = dict(stored)
REPEATED = ("identity_scaled", "zero")
FAMILIES = sorted({key.rpartition("/")[0] for key in REFERENCE})
SMALL = [family for family in FAMILIES if int(family.partition("/")[0][1:]) <= 4]


def _same_bits(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> None:
    for name in WANT:
        np.testing.assert_array_equal(x[name].view(np.uint8), y[name].view(np.uint8), name)


@pytest.mark.parametrize("kernel", ["reference", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_definition_in_120_digits(family: str, kernel: str) -> None:
    """Made by tools/exact_reference.py. Asked is 1e-5, for 99.9% up to n = 8 and 99% above."""
    n = int(family.partition("/")[0][1:])
    if kernel == "fused" and n == 1:
        pytest.skip("one by one matrices have no fused kernel")
    given = {k.rpartition("/")[2]: v for k, v in REFERENCE.items() if k.startswith(f"{family}/")}
    made = conduit_maps(given["A"], WANT, kernel=kernel)
    assert made["friction_exact"].dtype == np.float64
    kind = family.partition("/")[2]
    friction, exact = made["friction_exact"], given["friction"]
    if kind in REPEATED:  # which of equal roots is which mode is not defined
        friction, exact = np.sort(friction), np.sort(exact)
    error = np.abs(friction - exact) / exact
    decided = given["settle_margin"] > 1e-9
    # A root of multiplicity k is found to the k-th root of rounding only.
    if kind in REPEATED:
        assert np.mean(error < 1e-5) >= 0.6
    elif kind in ("near_degenerate", "rank_one"):
        assert np.mean(error < 1e-5) >= 0.95
    else:
        assert error.max() < 1e-9
    if kind not in REPEATED:
        np.testing.assert_array_equal(made["settle_exact"][decided], given["settle"][decided])


@pytest.mark.parametrize("family", [*SMALL, *slow(*sorted({*FAMILIES} - {*SMALL}))])
def test_never_worse_than_floats(family: str) -> None:
    n = int(family.partition("/")[0][1:])
    if n == 1:
        pytest.skip("nothing is computed")
    A, exact = REFERENCE[f"{family}/A"], REFERENCE[f"{family}/friction"]
    made = conduit_maps(A, ("friction", "friction_exact"))
    if family.partition("/")[2] in REPEATED:
        exact, made = np.sort(exact), {k: np.sort(v) for k, v in made.items()}
    close = {k: np.mean(np.abs(v - exact) <= 1e-5 * exact) for k, v in made.items()}
    assert close["friction_exact"] >= close["friction"]


@pytest.mark.parametrize("n", [2, 4, 6, 9, *slow(3, 5, 7, 8, 12, 16)])
def test_kernels_batches_widths_and_threads_give_the_same_bits(
    n: int, hard_matrices: Callable[[int], np.ndarray]
) -> None:
    from frictionstore.extract.conduit.constants import DEFAULTS
    from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu

    A = hard_matrices(n)
    whole = conduit_maps(A, WANT, kernel="reference")
    broken = ~np.isfinite(A).all(axis=(1, 2))
    assert np.isnan(whole["friction_exact"][broken]).all()
    assert (whole["settle_exact"][broken] == 5).all()
    with np.errstate(over="ignore"):
        norm = np.sqrt((A.astype(np.float64) ** 2).sum(axis=(1, 2)))
    fine = norm <= np.finfo(np.float32).max
    assert np.isfinite(whole["friction_exact"][fine]).all()
    _same_bits(whole, conduit_maps(A, WANT, kernel="fused"))
    _same_bits(whole, conduit_maps(A, WANT, kernel="fused", threads=3))
    for width in (4, 16):
        _same_bits(whole, fused_cpu.measure(A, WANT, DEFAULTS, width=width))
    pieces = [conduit_maps(A[k : k + 1], WANT, kernel="fused") for k in range(0, 40)]
    first = {name: np.concatenate([p[name] for p in pieces]) for name in WANT}
    _same_bits({name: whole[name][:40] for name in WANT}, first)


@pytest.mark.slow
def test_beside_the_other_fields_and_from_a_spectrum() -> None:
    from frictionstore.extract.conduit.kernels.cpu.gram import (
        gram_from_spectrum,
        maps_from_spectrum,
    )

    rng = np.random.default_rng(3)
    S = np.sort(rng.random((500, 4), dtype=np.float32))[:, ::-1].copy()
    V = np.linalg.qr(rng.standard_normal((500, 4, 4)))[0].astype(np.float32)
    A = gram_from_spectrum(S, V)
    alone = conduit_maps(A, WANT)
    for want in ((*WANT, "friction"), ("slot", *WANT), (*WANT, "eigenvectors")):
        made = conduit_maps(A, want)
        assert tuple(made) == want
        _same_bits(alone, made)
        name = next(name for name in want if name not in WANT)
        np.testing.assert_array_equal(made[name], conduit_maps(A, (name,))[name])
    _same_bits(alone, maps_from_spectrum(S, V, (*WANT, "settle")))


def test_the_packet() -> None:
    A = torch.eye(3) + 0.1 * torch.ones(3, 3)
    packet = conduit(A, exact=True)
    assert packet.friction_exact is not None
    assert packet.settle_exact is not None
    assert packet.friction_exact.shape == (3,)
    assert packet.friction_exact.dtype == torch.float64
    assert packet.settle_exact.dtype == torch.uint8
    assert conduit(A).friction_exact is None
    with pytest.raises(RequestError, match="up to 64 x 64"):
        conduit(torch.eye(65), exact=True)


def _in_digits(A: np.ndarray, constants: ConduitConstants) -> tuple[np.ndarray, np.ndarray]:
    pytest.importorskip("mpmath")
    from tools import exact_reference

    found = [exact_reference.measure(matrix, constants) for matrix in A]
    return tuple(np.array([one[k] for one in found]) for k in ("friction", "settle"))


@pytest.mark.parametrize(
    "constants",
    [
        ConduitConstants(iterations=1),
        ConduitConstants(iterations=2, tau=1e-2),
        # more rounds than products of speeds stay in float64's range for
        ConduitConstants(iterations=40, delta=1e-12),
        ConduitConstants(delta=1e-60),
        ConduitConstants(tau=0.5, delta=0.1),
    ],
    ids=["one round", "two rounds", "forty rounds", "no regulariser", "wide"],
)
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_other_constants(n: int, constants: ConduitConstants) -> None:
    """Where few rounds leave roots unconverged, deflation leaves more than a product."""
    rng = np.random.default_rng(n)
    X = rng.standard_normal((6, n, n)).astype(np.float32)
    A = X + X.swapaxes(1, 2)
    friction, settle = _in_digits(A, constants)
    for kernel in ("reference", "auto"):
        made = conduit_maps(A, WANT, constants=constants, kernel=kernel)
        np.testing.assert_allclose(made["friction_exact"], friction, rtol=1e-9)
        np.testing.assert_array_equal(made["settle_exact"], settle)


def test_a_tie_at_a_flat_point_takes_plus() -> None:
    """At z = 0 the polynomial of this matrix has derivative 0: the rule for ties decides."""
    A = np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32)
    friction, settle = _in_digits(A, ConduitConstants())
    made = conduit_maps(A, WANT)
    np.testing.assert_allclose(made["friction_exact"], friction, rtol=1e-12)
    np.testing.assert_array_equal(made["settle_exact"], settle)


def test_a_matrix_that_is_not_quite_symmetric() -> None:
    """Products in float32 leave a last bit: what is measured is the mean of both triangles."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((20, 5, 5)).astype(np.float32)
    A = X + X.swapaxes(1, 2)
    A[:, 0, 3] = np.nextafter(A[:, 0, 3], np.float32(9))
    friction, _ = _in_digits(A, ConduitConstants())
    np.testing.assert_allclose(conduit_maps(A, WANT)["friction_exact"], friction, rtol=1e-9)


@pytest.mark.slow
def test_one_unit_in_the_last_place_moves_little() -> None:
    """What it is for: on a nearly flat spectrum friction is noise and this is not."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 16, 16))
    Q = np.linalg.qr(X)[0]
    values = np.geomspace(1.0, 1.5, 16) * (1 + 0.03 * rng.standard_normal((400, 16)))
    A = np.einsum("bij,bj,bkj->bik", Q, values, Q).astype(np.float32)
    A = np.tril(A) + np.tril(A, -1).swapaxes(1, 2)
    moved = A.copy()
    moved[:, 3, 2] = moved[:, 2, 3] = np.nextafter(A[:, 3, 2], np.float32(9))
    change = {}
    for name in ("friction", "friction_exact"):
        before, after = (conduit_maps(x, (name,))[name] for x in (A, moved))
        change[name] = np.mean(np.abs(after - before) > 0.1 * before)
    assert change["friction"] > 0.5
    assert change["friction_exact"] < 0.001


def test_the_reference_tool_prints_what_it_made(tmp_path: Path) -> None:
    """A small run of the tool that made the reference numbers gives them again."""
    pytest.importorskip("mpmath")
    tool = Path(__file__).parents[3] / "tools" / "exact_reference.py"
    out = tmp_path / "again.npz"
    subprocess.run([sys.executable, tool, out, "--only", "n3/diagonal"], check=True)
    with np.load(out) as again:
        assert set(again) == {k for k in REFERENCE if k.startswith("n3/diagonal/")}
        for key, value in again.items():
            np.testing.assert_array_equal(value, REFERENCE[key])
