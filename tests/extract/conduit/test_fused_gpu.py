"""The Triton kernel: its bits in Triton's interpreter, its machine code, and both on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from frictionstore.extract.conduit import Packet, conduit, conduit_maps, kernel_name  # noqa: E402
from frictionstore.extract.conduit.constants import EXACT_FIELDS  # noqa: E402


def _run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


INTERPRETED = """
import sys
import numpy as np, torch
from frictionstore.extract.conduit import DEFAULTS, ConduitConstants
from frictionstore.extract.conduit.kernels.gpu import attention as fused_attention_gpu
from frictionstore.extract.conduit.kernels.gpu import conduit as fused_gpu
from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu
from frictionstore.extract.conduit.constants import EXACT_FIELDS, FIELDS
path = sys.argv[1]
given = dict(np.load(path))
results = {}
for name, x in given.items():
    kind, n = name.split("/")
    x = torch.from_numpy(x)
    constants, S = DEFAULTS, None
    if kind == "other":
        constants = ConduitConstants(3, 1, 0, 1e-6, 1e-4)
    if kind == "qkv":
        results[f"{name}/mixed"] = fused_attention_gpu.attend(x, int(n)).numpy()
        continue
    if kind == "rows":
        for field, y in zip(("S", "V"), fused_gram_gpu.spectrum(x)):
            results[f"{name}/{field}"] = y.numpy()
        continue
    if kind == "spectrum":
        S, x = x[:, 0].contiguous(), x[:, 1:]
    want = ("friction", "settle", "slot") if kind == "maps" else (*FIELDS, *EXACT_FIELDS)
    want = EXACT_FIELDS if kind == "exact" else want
    for field, y in fused_gpu.measure(x, want, constants, S=S).items():
        results[f"{name}/{field}"] = y.numpy()
np.savez(path, **results)
"""


@pytest.mark.parametrize("orders", [(2, 3, 4), pytest.param((7, 8), marks=pytest.mark.slow)])
def test_bits_of_the_reference_in_the_interpreter(
    orders, tmp_path, hard_matrices, assert_same_bits
):
    from frictionstore.extract.conduit.kernels.cpu.gram import gram_from_spectrum

    given = {}
    for n in orders:
        A = hard_matrices(n)
        given[f"packet/{n}"] = A[:: len(A) // (250 if n < 7 else 120)]
    given["maps/5"] = hard_matrices(5)[::25]
    given["exact/6"] = hard_matrices(6)[::25]
    given["other/4"] = hard_matrices(4)[::25]
    spectra = np.random.default_rng(1).standard_normal((140, 5, 4)).astype(np.float32)
    given["spectrum/4"] = spectra
    path = tmp_path / "arrays.npz"
    np.savez(path, **given)
    _run(INTERPRETED, str(path), TRITON_INTERPRET="1")

    with np.load(path) as results:
        for name, x in given.items():
            kind = name.split("/")[0]
            constants = {}
            if kind == "other":
                constants = {"iterations": 3, "polish": 1, "newton_schulz": 0}
                constants |= {"delta": 1e-6, "tau": 1e-4}
            A = gram_from_spectrum(x[:, 0], x[:, 1:]) if kind == "spectrum" else x
            packet = conduit(torch.tensor(A), kernel="reference", exact=True, **constants)._asdict()
            fields = ("friction", "settle", "slot") if kind == "maps" else Packet._fields
            fields = EXACT_FIELDS if kind == "exact" else fields
            for field in fields:
                assert_same_bits(results[f"{name}/{field}"], packet[field], f"{name} {field}")


@pytest.fixture(scope="session")
def hard_rows():
    """Encoder-like matrices (B, 7, D), and broken, degenerate and extreme ones."""

    def of(D: int) -> np.ndarray:
        M = np.random.default_rng(D).standard_normal((200, 7, D)).astype(np.float32)
        M[:150] /= np.linalg.norm(M[:150], axis=-1, keepdims=True)
        M[5] = 0
        M[6, :, 1:] = 0
        M[7, 0, 0] = np.nan
        M[8, 1, 1] = np.inf
        M[9] = 1
        M[10] = np.round(M[10])
        M[11] *= np.float32(1e-20)
        M[12] *= np.float32(1e15)
        M[13] = np.eye(7, D, dtype=np.float32)
        return M

    return of


@pytest.mark.slow
def test_bits_of_the_cpu_s_spectrum_in_the_interpreter(tmp_path, hard_rows, assert_same_bits):
    from frictionstore.extract.conduit.kernels.cpu import gram as fused_gram

    given = {f"rows/{D}": hard_rows(D) for D in (2, 3, 4, 5, 8)}
    given["rows/1"] = hard_rows(4)[:130, :1]  # one row to a matrix, and a block and two lanes
    path = tmp_path / "arrays.npz"
    np.savez(path, **given)
    _run(INTERPRETED, str(path), TRITON_INTERPRET="1")
    with np.load(path) as results:
        for name, M in given.items():
            for field, x in zip("SV", fused_gram.spectrum(M), strict=True):
                assert_same_bits(results[f"{name}/{field}"], x, f"{name} {field}")


def test_matrices_the_spectrum_is_not_made_for():
    from frictionstore.errors import RequestError
    from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu

    with pytest.raises(RequestError, match=r"made for D = 2\.\.8; got D = 9"):
        fused_gram_gpu.spectrum(torch.zeros((3, 12, 9)))
    for M in (torch.zeros((3, 4)), torch.zeros((3, 0, 4)), torch.zeros((3, 5, 4)).double()):
        with pytest.raises(RequestError, match=r"must be float32 of shape \(B, V, D\)"):
            fused_gram_gpu.spectrum(M)


@pytest.mark.slow
def test_bits_of_the_cpu_s_attention_in_the_interpreter(tmp_path, assert_same_bits):
    from frictionstore.extract.conduit.kernels.cpu import attention as fused_attention

    rng = np.random.default_rng(0)
    given = {
        "qkv/2": rng.standard_normal((2, 40, 12)),
        "qkv/1": 30 * rng.standard_normal((1, 33, 9)),
        "qkv/4": rng.standard_normal((1, 130, 24)),
        "qkv/3": rng.standard_normal((2, 1, 9)),
    }
    given = {name: x.astype(np.float32) for name, x in given.items()}
    given["qkv/2"][1, 3, 5] = np.nan
    path = tmp_path / "arrays.npz"
    np.savez(path, **given)
    _run(INTERPRETED, str(path), TRITON_INTERPRET="1")
    with np.load(path) as results:
        for name, x in given.items():
            expected = fused_attention.attend(x, int(name.split("/")[1]))
            assert_same_bits(results[f"{name}/mixed"], expected, name)


MACHINE_CODE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from frictionstore.extract.conduit import DEFAULTS
from frictionstore.extract.conduit.kernels.gpu import attention as fused_attention_gpu
from frictionstore.extract.conduit.kernels.gpu import conduit as fused_gpu
from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu
kinds = {"settle": "*u8", "slot": "*u8", "settle_exact": "*u8"}
kinds |= {"friction_exact": "*fp64", "count": "i32", "once": "i32", "matrix_rows": "i32"}
for kernel, more in (
    (fused_gpu.kernel(3, False, True, DEFAULTS), {"sqrt.rn.f64", "mul.rn.f64", "sqrt.rn.f32"}),
    (fused_gpu.exact_kernel(3, False, DEFAULTS), {"sqrt.rn.f64", "div.rn.f64", "mul.rn.f64"}),
    (fused_gram_gpu.kernel(3), {"sqrt.rn.f64", "mul.rn.f64", "sqrt.rn.f32"}),
    (fused_attention_gpu.kernel(40, 2, 2, 2**-0.5), {"mul.rn.f32", "add.rn.f32"}),
):
    signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
    signature["BLOCK"] = "constexpr"
    code = triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(len(signature) - 1,): fused_gpu.BLOCK},
        ),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": fused_gpu.WARPS, **fused_gpu.options(3)},
    ).asm["ptx"]
    names = set(re.findall(r"^\\s+(?:@!?%p\\d+ )?([a-z]+\\.[a-z0-9_.]+)", code, re.M))
    wrong = {x for x in names if re.search(r"fma|approx|ftz|full|rcp", x)}
    assert not wrong, wrong
    assert more <= names and names & {"div.rn.f32", "div.rn.f64"}, names
    print("read", len(names))
"""


@pytest.mark.slow
def test_no_operation_is_contracted_or_approximated(tmp_path):
    assert _run(MACHINE_CODE, TRITON_CACHE_DIR=str(tmp_path)).count("read") == 4


def test_the_choice_of_kernel_on_a_gpu(monkeypatch):
    assert kernel_name(4, "cuda") == kernel_name(4, "cuda:1") == "fused-gpu"
    assert kernel_name(9, "cuda") == kernel_name(16, "cuda") == "fused-gpu"
    assert kernel_name(17, "cuda") == "reference"
    assert kernel_name(4, "cuda", "reference") == "reference"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert kernel_name(4, "cuda") == "reference"
    assert kernel_name(9, "cuda") == "fused-gpu"
    with pytest.raises(Exception, match="cannot run on cuda: the package triton is not installed"):
        kernel_name(4, "cuda", "fused")
    with pytest.raises(Exception, match="runs on cpu and cuda, not on mps"):
        kernel_name(4, "mps")


@pytest.mark.gpu
@pytest.mark.parametrize("n", range(2, 17))
def test_bits_of_the_reference_on_a_gpu(n, hard_matrices, assert_same_bits):
    A = torch.from_numpy(hard_matrices(n, 3000 if n < 9 else 200))
    on_gpu = conduit(A.cuda(), kernel="fused", exact=True)
    for name, x in conduit(A, kernel="reference", exact=True)._asdict().items():
        assert_same_bits(getattr(on_gpu, name).cpu(), x, name)
    maps = conduit_maps(A.cuda(), ("friction", "settle"), kernel="fused")
    for name, x in maps.items():
        assert_same_bits(x.cpu(), getattr(on_gpu, name).cpu(), name)


@pytest.mark.gpu
@pytest.mark.parametrize("D", range(2, 9))
def test_bits_of_the_cpu_s_spectrum_on_a_gpu(D, hard_rows, assert_same_bits):
    from frictionstore.extract.conduit.kernels.cpu import gram as fused_gram
    from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu

    M = hard_rows(D)
    on_gpu = fused_gram_gpu.spectrum(torch.from_numpy(M).cuda())
    for field, x, y in zip("SV", on_gpu, fused_gram.spectrum(M), strict=True):
        assert_same_bits(x.cpu(), y, field)


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "heads", "head"), [(256, 2, 2), (257, 1, 8), (5, 4, 4)])
def test_bits_of_the_cpu_s_attention_on_a_gpu(tokens, heads, head, assert_same_bits):
    from frictionstore.extract.conduit.kernels.cpu import attention as fused_attention
    from frictionstore.extract.conduit.kernels.gpu import attention as fused_attention_gpu

    qkv = np.random.default_rng(0).standard_normal((3, tokens, 3 * heads * head))
    qkv = qkv.astype(np.float32)
    on_gpu = fused_attention_gpu.attend(torch.from_numpy(qkv).cuda(), heads)
    assert_same_bits(on_gpu.cpu(), fused_attention.attend(qkv, heads))
