"""Input checks and the choice of a kernel; the arithmetic is in the kernels' own files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import repeats
from frictionstore.extract.conduit.constants import (
    DEFAULTS,
    EXACT_FIELDS,
    FIELDS,
    FUSED_N,
    LARGEST_EXACT_N,
    LARGEST_WRITTEN_OUT,
    ConduitConstants,
    check_want,
)

if TYPE_CHECKING:
    from torch import Tensor

KERNELS = ("auto", "reference", "fused")
LARGEST_N = 255  # slot is stored in one byte


class Packet(NamedTuple):
    """What the conduit measures on a batch of matrices; mode 0 is the largest eigenvalue.

    Attributes
    ----------
    eigenvalues : Tensor of shape (..., n), float32
        Rayleigh quotients, descending.
    eigenvectors : Tensor of shape (..., n, n), float32
        Column `i` belongs to mode `i`; its largest entry in magnitude is positive.
    friction : Tensor of shape (..., n), float32
        Sum over the rounds of `1 / (|p'| + delta)`, greater than 0.
    settle : Tensor of shape (..., n), uint8
        First round at which `|p| < tau`, in 0..iterations; `iterations` where there is none.
    slot : Tensor of shape (..., n), uint8
        The order in which the roots were extracted, 0 first.
    char_coeffs : Tensor of shape (..., n), float32
        `c_0 .. c_{n-1}` of the scaled matrix's characteristic polynomial, in that order.
    refinement_residual : Tensor of shape (...), float32
        `||V'V - I||_F` after the Newton-Schulz rounds.
    friction_exact : Tensor of shape (..., n), float64, or None
        Friction without the rounding of a characteristic polynomial, if asked for: see `exact.py`.
        Its modes are in the order of the roots that its slots extracted.
    settle_exact : Tensor of shape (..., n), uint8, or None
        Settle likewise.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    friction: Tensor
    settle: Tensor
    slot: Tensor
    char_coeffs: Tensor
    refinement_residual: Tensor
    friction_exact: Tensor | None = None
    settle_exact: Tensor | None = None


def kernel_name(n: int, device: str = "cpu", kernel: str = "auto") -> str:
    """The kernel that measures `n` by `n` matrices on a device, as provenance records it.

    Parameters
    ----------
    n : int
        Order of the matrices.
    device : str
        `cpu`, `cuda` or `cuda:k`.
    kernel : {"auto", "reference", "fused"}
        What was asked for.

    Returns
    -------
    str
        `reference`, `fused-cpu` or `fused-gpu`. All of them give the same bits.

    Raises
    ------
    RequestError
        If the kernel asked for is unknown or cannot run here.
    """
    if kernel not in KERNELS:
        raise RequestError(f"unknown conduit kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    if kernel == "reference":
        return "reference"
    if device == "cpu":
        fused, package = "fused-cpu", "numba"
    elif device.partition(":")[0] == "cuda":
        # beyond what registers hold, LLVM makes the kernel, which comes with numba
        fused, package = "fused-gpu", "triton" if n <= LARGEST_WRITTEN_OUT else "numba"
    else:
        raise RequestError(f"the conduit runs on cpu and cuda, not on {device}")
    least, most = FUSED_N[fused]
    if not least <= n <= most:
        obstacle = f"it measures n = {least}..{most}, not {n}"
    elif importlib.util.find_spec(package) is None:
        obstacle = f"the package {package} is not installed"
    else:
        return fused
    if kernel == "fused":
        raise RequestError(f"the fused conduit kernel cannot run on {device}: {obstacle}")
    return "reference"


def conduit(
    A: Tensor,
    *,
    iterations: int = DEFAULTS.iterations,
    polish: int = DEFAULTS.polish,
    newton_schulz: int = DEFAULTS.newton_schulz,
    delta: float = DEFAULTS.delta,
    tau: float = DEFAULTS.tau,
    kernel: str = "auto",
    exact: bool = False,
) -> Packet:
    """Measure symmetric matrices: eigenvalues, eigenvectors and how hard each root was to find.

    Parameters
    ----------
    A : Tensor of shape (..., n, n), float32
        Symmetric matrices on a CPU or a CUDA device; the batch may have any shape, also none.
    iterations, polish, newton_schulz, delta, tau
        See `ConduitConstants`.
    kernel : {"auto", "reference", "fused"}
        `auto` takes the fused kernel where there is one for this `n`, device and installation.
    exact : bool
        Add `friction_exact` and `settle_exact`.

    Returns
    -------
    Packet
        On the device of `A`. What one matrix gives depends on that matrix alone. A matrix that
        holds NaN or infinity, or whose Frobenius norm exceeds the float32 range, gives NaN,
        `settle = iterations` and `slot = n-1 .. 0`; no exception is raised for it.

    Raises
    ------
    RequestError
        If `A` is not a float32 tensor of square matrices, or an argument is out of range.
    """
    import torch

    if not isinstance(A, torch.Tensor):
        raise RequestError(f"conduit takes a torch tensor, got {type(A).__name__}")
    constants = ConduitConstants(iterations, polish, newton_schulz, delta, tau)
    want = (*FIELDS, *EXACT_FIELDS) if exact else FIELDS
    return Packet(**_measure(A, want, None, constants, kernel))


def conduit_maps(
    A: Any,
    want: Sequence[str] = ("friction", "settle"),
    *,
    threads: int | None = None,
    constants: ConduitConstants = DEFAULTS,
    kernel: str = "auto",
) -> dict[str, Any]:
    """Measure symmetric matrices and return only the fields asked for.

    Parameters
    ----------
    A : ndarray or Tensor of shape (..., n, n), float32
        Symmetric matrices.
    want : sequence of str
        Names of `Packet` fields.
    threads : int, optional
        Threads of the fused CPU kernel; all cores by default. No value depends on it.
    constants : ConduitConstants
    kernel : {"auto", "reference", "fused"}

    Returns
    -------
    dict
        The fields asked for, in that order, as arrays of the kind given: NumPy for NumPy, tensors
        on the same device for tensors. See `Packet` for shapes, and `conduit` for what NaN gives.

    Raises
    ------
    RequestError
        If `A` is not float32 and square, a field is unknown, or an argument is out of range.
    """
    check_want(want, threads)
    return _measure(A, tuple(want), threads, constants, kernel)


def moved(
    A: Tensor,
    numbers: range,
    patch: Tensor,
    row: Tensor,
    *,
    S: Tensor | None = None,
    seed: int = repeats.SEED,
    threads: int | None = None,
) -> Tensor:
    """`G + E` of some repeats: see `repeats.py`.

    Parameters
    ----------
    A : Tensor of shape (B, n, n), float32
        G, of which both triangles are moved alike; with `S`, the matrices V of `V diag(S^2) V'`.
    numbers : range
        Of the repeats; the first is 1.
    patch, row : Tensor of shape (B,), int64, on the device of `A`
        Of each matrix: its place on the grid, and its image's row in the data set.
    S : Tensor of shape (B, n), float32, optional
        Singular values: G is what `gram_from_spectrum` gives.
    seed : int in [0, 2**64)
    threads : int, optional
        On a CPU; all cores by default. No value depends on it.

    Returns
    -------
    Tensor of shape (numbers, B, n, n), float32
    """
    if A.device.type == "cpu" and importlib.util.find_spec("numba") is not None:
        import torch

        from frictionstore.extract.conduit.kernels.cpu import repeats as compiled

        given = (A.numpy(), numbers, patch.numpy(), row.numpy())
        spectrum = None if S is None else S.numpy()
        return torch.from_numpy(compiled.moved(*given, spectrum, repeats.key_of(seed), threads))
    return repeats.moved_by_torch(A, numbers, patch, row, S, repeats.key_of(seed))


def _measure(
    A: Any, want: Sequence[str], threads: int | None, constants: ConduitConstants, kernel: str
) -> dict[str, Any]:
    _check_matrices(A)
    batch, n = tuple(A.shape[:-2]), int(A.shape[-1])
    flat = A.reshape(math.prod(batch), n, n)
    is_numpy = isinstance(A, np.ndarray)
    device = "cpu" if is_numpy else str(A.device)
    if n > LARGEST_EXACT_N and not set(want).isdisjoint(EXACT_FIELDS):
        raise RequestError(
            f"the exact maps are made for matrices up to {LARGEST_EXACT_N} x {LARGEST_EXACT_N}; "
            f"got shape {tuple(A.shape)}"
        )
    measured = _run(flat, want, kernel_name(n, device, kernel), threads, constants)
    fields = {}
    for name in want:
        x = measured[name].reshape(batch + tuple(measured[name].shape[1:]))
        if is_numpy and not isinstance(x, np.ndarray):
            x = x.numpy()
        elif not is_numpy and isinstance(x, np.ndarray):
            import torch

            x = torch.from_numpy(x)
        fields[name] = x
    return fields


def _run(
    flat: Any, want: Sequence[str], kernel: str, threads: int | None, constants: ConduitConstants
) -> dict[str, Any]:
    is_numpy = isinstance(flat, np.ndarray)
    match kernel:
        case "fused-cpu":
            from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu

            flat = flat if is_numpy else flat.detach().numpy()
            return fused_cpu.measure(flat, want, constants, threads)
        case "fused-gpu":
            from frictionstore.extract.conduit.kernels.gpu import conduit as fused_gpu

            return fused_gpu.measure(flat.detach(), want, constants)
        case _:
            import torch

            from frictionstore.extract.conduit import reference

            flat = torch.tensor(flat) if is_numpy else flat.detach()
            measured: dict[str, Any] = {}
            if any(name in FIELDS for name in want):
                measured |= reference.measure(flat, constants)
            if any(name in EXACT_FIELDS for name in want):
                measured |= reference.measure_exact(flat, constants)
            return measured


def _check_matrices(A: Any) -> None:
    if not hasattr(A, "shape") or not hasattr(A, "dtype"):
        raise RequestError(f"the conduit takes an array or a tensor, got {type(A).__name__}")
    shape = tuple(A.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise RequestError(
            f"the conduit takes square matrices, shape (..., n, n) with n >= 1; got shape {shape}"
        )
    if shape[-1] > LARGEST_N:
        raise RequestError(
            f"the conduit takes matrices up to {LARGEST_N} x {LARGEST_N}; got shape {shape}"
        )
    if str(A.dtype).removeprefix("torch.") != "float32":
        raise RequestError(
            f"the conduit is defined for float32; got {A.dtype}, convert the matrices first"
        )
