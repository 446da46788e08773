"""What must not matter (batch, order, split, threads, shape), what must scale, and bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from frictionstore.errors import FrictionstoreError, RequestError  # noqa: E402
from frictionstore.extract.conduit import (  # noqa: E402
    ConduitConstants,
    Packet,
    conduit,
    conduit_maps,
    kernel_name,
)

KERNELS = ("reference", "fused")


def _packet(A: np.ndarray, kernel: str) -> dict[str, np.ndarray]:
    packet = conduit(torch.tensor(A), kernel=kernel, exact=True)
    return {k: x.numpy() for k, x in packet._asdict().items()}


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Batches of symmetric matrices from ordinary to degenerate, over a wide range of scales."""
    n = draw(st.integers(2, 8))
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((count, n, n)).astype(np.float32)
    kind = draw(st.sampled_from(["symmetric", "gram", "low rank", "integers", "clustered"]))
    if kind == "symmetric":
        A = X + X.swapaxes(1, 2)
    elif kind == "gram":
        A = X @ X.swapaxes(1, 2)
    elif kind == "low rank":
        column = X[:, :, : draw(st.integers(1, n))]
        A = column @ column.swapaxes(1, 2)
    elif kind == "integers":
        A = np.round(X) + np.round(X).swapaxes(1, 2)
    else:
        small = np.float32(10.0 ** -draw(st.integers(1, 8)))
        A = np.eye(n, dtype=np.float32) + small * (X + X.swapaxes(1, 2))
    return np.ascontiguousarray(A * np.float32(2.0 ** draw(st.integers(-40, 40))))


@pytest.mark.slow
@given(A=matrices(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_split_and_order_do_not_matter(A, data, assert_same_bits):
    cut = data.draw(st.integers(0, len(A)))
    order = np.array(data.draw(st.permutations(range(len(A)))))
    for kernel in KERNELS:
        whole = _packet(A, kernel)
        halves = [_packet(part, kernel) for part in (A[:cut], A[cut:])]
        shuffled = _packet(A[order], kernel)
        for name, x in whole.items():
            assert_same_bits(np.concatenate([half[name] for half in halves]), x, name)
            assert_same_bits(shuffled[name], x[order], name)


@given(A=matrices())
@settings(max_examples=30, deadline=None)
def test_fused_has_the_bits_of_the_reference(A, assert_same_bits):
    fused = _packet(A, "fused")
    for name, x in _packet(A, "reference").items():
        assert_same_bits(fused[name], x, name)


@pytest.mark.slow
@given(A=matrices(), power=st.integers(-8, 8))
@settings(max_examples=30, deadline=None)
def test_a_power_of_two_scales_eigenvalues_and_changes_nothing_else(A, power, assert_same_bits):
    packet = _packet(A, "auto")
    scaled = _packet(A * np.float32(2.0**power), "auto")
    # Below the smallest scale and among subnormal numbers a power of two does change the rounding.
    exact = np.linalg.norm(A.astype(np.float64), axis=(1, 2)) > 1e-8
    for name, x in packet.items():
        expected = x * np.float32(2.0**power) if name == "eigenvalues" else x
        assert_same_bits(scaled[name][exact], expected[exact], name)


@given(A=matrices())
@settings(max_examples=30, deadline=None)
def test_output_is_finite_and_in_range(A):
    packet = _packet(A, "auto")
    n = A.shape[-1]
    for name, x in packet.items():
        assert np.all(np.isfinite(x)), name
    assert np.all(packet["friction"] > 0)
    assert np.all(packet["settle"] <= 5)
    assert np.all(np.sort(packet["slot"], axis=1) == np.arange(n))
    assert np.all(np.diff(packet["eigenvalues"], axis=1) <= 0)
    last = packet["slot"] == n - 1
    assert np.all(packet["friction"][last] == 5.0)


@pytest.mark.parametrize("n", range(2, 9))
def test_every_branch_has_the_bits_of_the_reference(n, hard_matrices, assert_same_bits):
    A = hard_matrices(n)
    reference, fused = _packet(A, "reference"), _packet(A, "fused")
    assert np.isnan(reference["friction"]).any()
    for name, x in reference.items():
        assert_same_bits(fused[name], x, name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_broken_matrices_give_nan_and_touch_no_other(kernel, assert_same_bits):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((50, 4, 4)).astype(np.float32)
    A = X + X.swapaxes(1, 2)
    clean = _packet(A, kernel)
    bad = {3: np.nan, 17: np.inf, 18: -np.inf, 40: np.float32(3e38)}
    for row, value in bad.items():
        A[row, 1, 2] = A[row, 2, 1] = value
    packet = _packet(A, kernel)
    rows = list(bad)
    for name in ("eigenvalues", "eigenvectors", "friction", "char_coeffs", "refinement_residual"):
        assert np.all(np.isnan(packet[name][rows])), name
    assert np.all(packet["settle"][rows] == 5)
    assert np.all(packet["slot"][rows] == [3, 2, 1, 0])
    others = np.setdiff1d(np.arange(50), rows)
    for name, x in packet.items():
        assert_same_bits(x[others], clean[name][others], name)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [(), (1,), (0,), (2, 3), (2, 0, 3), (3, 1, 2, 2)])
def test_batch_shapes(kernel, batch, assert_same_bits):
    X = torch.randn((*batch, 3, 3), generator=torch.Generator().manual_seed(0))
    A = X + X.mT
    packet = conduit(A, kernel=kernel, exact=True)
    assert isinstance(packet, Packet)
    for name in ("eigenvalues", "friction", "settle", "slot", "char_coeffs"):
        assert getattr(packet, name).shape == (*batch, 3)
    assert packet.eigenvectors.shape == (*batch, 3, 3)
    assert packet.refinement_residual.shape == batch
    assert packet.settle.dtype == packet.slot.dtype == torch.uint8
    flat = conduit(A.reshape(-1, 3, 3), kernel=kernel, exact=True)
    for one, other in zip(packet, flat, strict=True):
        assert_same_bits(one.reshape(other.shape), other)


def test_strides_do_not_matter(assert_same_bits):
    X = torch.randn((20, 4, 4), generator=torch.Generator().manual_seed(1))
    A = X + X.mT
    spread = torch.zeros(40, 4, 8)
    spread[::2, :, ::2] = A
    for kernel in KERNELS:
        packets = conduit(A, kernel=kernel), conduit(spread[::2, :, ::2], kernel=kernel)
        for one, other in zip(*packets, strict=True):
            assert_same_bits(one, other)


@pytest.mark.slow
def test_maps_are_the_packet_s_fields_of_the_kind_given(assert_same_bits):
    X = np.random.default_rng(5).standard_normal((6, 7, 4, 4)).astype(np.float32)
    A = X @ X.swapaxes(-1, -2)
    A.flags.writeable = False
    packet = conduit(torch.tensor(A), exact=True)
    for kernel in ("auto", *KERNELS):
        for want in [("settle",), Packet._fields, ("slot", "friction"), ()]:
            arrays = conduit_maps(A, want, kernel=kernel)
            tensors = conduit_maps(torch.tensor(A), want, kernel=kernel)
            assert list(arrays) == list(tensors) == list(want)
            for name in want:
                assert isinstance(arrays[name], np.ndarray)
                assert isinstance(tensors[name], torch.Tensor)
                assert_same_bits(arrays[name], getattr(packet, name), name)
                assert_same_bits(tensors[name], getattr(packet, name), name)


def test_gradients_are_not_tracked():
    A = torch.eye(3).requires_grad_()
    for kernel in KERNELS:
        assert not conduit(A, kernel=kernel).friction.requires_grad


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (torch.zeros(3, 4), r"square matrices.*got shape \(3, 4\)"),
        (torch.zeros(4), r"square matrices.*got shape \(4,\)"),
        (torch.zeros(2, 0, 0), r"n >= 1; got shape \(2, 0, 0\)"),
        (torch.zeros(256, 256), "up to 255"),
        (torch.zeros(3, 3, dtype=torch.float64), "float32; got torch.float64"),
        (torch.zeros(3, 3, dtype=torch.int32), "float32; got torch.int32"),
        (np.zeros((3, 3), np.float32), "takes a torch tensor, got ndarray"),
        ([[1.0]], "takes a torch tensor, got list"),
    ],
)
def test_bad_matrices(A, message):
    with pytest.raises(RequestError, match=message):
        conduit(A)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"want": ("frction",)}, "no field 'frction'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"kernel": "fast"}, "unknown conduit kernel 'fast'"),
    ],
)
def test_bad_arguments_of_maps(arguments, message):
    with pytest.raises(RequestError, match=message):
        conduit_maps(np.zeros((1, 3, 3), np.float32), **arguments)


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        ({"iterations": 0}, r"iterations must lie in 1\.\.255, got 0"),
        ({"iterations": 256}, r"1\.\.255, got 256"),
        ({"iterations": 2.0}, "iterations must be an integer, got float"),
        ({"polish": -1}, r"polish must lie in 0\.\.255"),
        ({"newton_schulz": True}, "must be an integer, got bool"),
        ({"delta": 0.0}, "delta must be a positive number"),
        ({"tau": float("nan")}, "tau must be a positive number"),
    ],
)
def test_bad_constants(constant, message):
    with pytest.raises(FrictionstoreError, match=message):
        ConduitConstants(**constant)
    with pytest.raises(FrictionstoreError, match=message):
        conduit(torch.eye(2), **constant)


def test_the_fused_kernel_says_why_it_cannot_run(monkeypatch):
    with pytest.raises(RequestError, match=r"cannot run on cpu: it measures n = 2\.\.16, not 17"):
        conduit(torch.eye(17), kernel="fused")
    assert kernel_name(17) == kernel_name(1) == "reference"
    assert kernel_name(4) == kernel_name(16) == "fused-cpu"
    assert kernel_name(4, kernel="reference") == "reference"
    monkeypatch.setitem(sys.modules, "numba", None)
    assert kernel_name(4) == "reference"
    with pytest.raises(RequestError, match="cannot run on cpu: the package numba is not installed"):
        conduit(torch.eye(4), kernel="fused")


def test_constants_need_neither_torch_nor_numba():
    code = (
        "import sys, frictionstore.extract.conduit as c;"
        "c.ConduitConstants().as_dict(); c.DEFAULTS;"
        "assert not {'torch', 'numba'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_reference_on_a_gpu_has_the_bits_of_the_cpu(n, assert_same_bits):
    X = torch.randn((500, n, n), generator=torch.Generator().manual_seed(n))
    A = torch.cat([X + X.mT, X @ X.mT])
    on_gpu = conduit(A.cuda(), kernel="reference")
    for name, x in conduit(A, kernel="reference", exact=True)._asdict().items():
        assert_same_bits(getattr(on_gpu, name).cpu(), x, name)
