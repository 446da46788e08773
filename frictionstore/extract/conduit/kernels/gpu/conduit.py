"""The conduit in one pass on a GPU: `program.py` as a Triton kernel, one matrix per thread.

Nothing of a matrix goes through memory between its entries and its results. Contraction into fused
multiply-add is switched off and division and square root are the correctly rounded ones, so that
the bits are those of `reference.py` and of `cpu/conduit.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frictionstore.extract.conduit import exact, program
from frictionstore.extract.conduit.constants import LARGEST_WRITTEN_OUT, ConduitConstants
from frictionstore.extract.conduit.kernels.gpu import source as text

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128  # matrices per program
WARPS = 4
OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}  # no fused multiply-add, no prefetching


def options(n: int) -> dict[str, Any]:
    """How Triton compiles the kernel for one order.

    At n = 8 the assembler's full optimisation finds no assignment of registers and falls back to
    one that keeps everything in local memory; its first level does far better (on compute
    capability 9.0 in 8.7 kB against 4.2 kB of it).
    """
    return {**OPTIONS, "ptx_options": "--opt-level 1"} if n == 8 else OPTIONS


def _loaded(n: int, from_spectrum: bool) -> tuple[text.TextOperations, program.Matrix]:
    """The beginning of a kernel: the entries of this thread's matrix."""
    op = text.TextOperations()
    op.line("b = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)")
    op.line("inside = b < count")
    loaded = op.load(
        {f"a{e}": f"A + b * {n * n} + {e}" for e in range(n * n)}
        | {f"s{k}": f"S + b * {n} + {k}" for k in range(n if from_spectrum else 0)}
    )
    A = [loaded[i * n : (i + 1) * n] for i in range(n)]
    return op, program.gram(loaded[n * n :], A) if from_spectrum else A


@functools.cache
def exact_kernel(n: int, from_spectrum: bool, constants: ConduitConstants) -> Any:
    """The Triton function of the exact maps for one order and kind of input.

    Apart from `kernel`: a program's time to compile grows faster than its length.
    """
    op, A = _loaded(n, from_spectrum)
    fields = exact.measure(op, A, constants)
    op.line(f"measured = {fields['measured_exact'][0].name} > 0")
    op.line('nan = tl.full((BLOCK,), float("nan"), tl.float64)')
    stores = []
    for i in range(n):
        settle = fields["settle_exact"][i].name
        op.line(f"settle_{i} = tl.where(measured, {settle}, {constants.iterations}.0).to(tl.int32)")
        friction = f"tl.where(measured, {fields['friction_exact'][i].name}, nan)"
        stores.append((f"friction_exact + b * {n} + {i}", friction))
        stores.append((f"settle_exact + b * {n} + {i}", f"settle_{i}.to(tl.uint8)"))
    op.store(stores)
    return text.triton_function(
        "measure_exact(S, A, count, once, friction_exact, settle_exact, BLOCK: tl.constexpr)",
        op,
        f"<exact n={n} from_spectrum={from_spectrum} {constants}>",
    )


@functools.cache
def kernel(n: int, from_spectrum: bool, packet: bool, constants: ConduitConstants) -> Any:
    """The Triton function for one order, input and kind of result."""
    op, A = _loaded(n, from_spectrum)
    fields = program.measure(op, A, constants, packet)

    op.line(f"measured = {fields['measured'][0].name} > 0")
    op.line('nan = tl.full((BLOCK,), float("nan"), tl.float32)')
    stores: list[tuple[str, str]] = []

    def store(address: str, x: text.Name) -> None:
        stores.append((address, f"tl.where(measured, {x.name}, nan)"))

    for i in range(n):
        settle, rank = fields["settle"][i].name, fields["rank"][i].name
        op.line(f"mode_{i} = {n - 1} - tl.where(measured, {rank}, {i}.0).to(tl.int32)")
        op.line(f"settle_{i} = tl.where(measured, {settle}, {constants.iterations}.0).to(tl.int32)")
        place = f"b * {n} + mode_{i}"
        store(f"friction + {place}", fields["friction"][i])
        store(f"eigenvalues + {place}", fields["eigenvalues"][i])
        stores.append((f"settle + {place}", f"settle_{i}.to(tl.uint8)"))
        stores.append((f"slot + {place}", f"tl.full((BLOCK,), {i}, tl.uint8)"))
        if packet:
            store(f"char_coeffs + b * {n} + {i}", fields["char_coeffs"][i])
            for k in range(n):
                address = f"eigenvectors + b * {n * n} + {k * n} + mode_{i}"
                store(address, fields["eigenvectors"][k * n + i])
    if packet:
        store("refinement_residual + b", fields["refinement_residual"][0])
    op.store(stores)
    return text.triton_function(
        "measure(S, A, count, once, friction, settle, slot, eigenvalues, eigenvectors,"
        " char_coeffs, refinement_residual, BLOCK: tl.constexpr)",
        op,
        f"<conduit n={n} from_spectrum={from_spectrum} packet={packet} {constants}>",
    )


def measure(
    A: Tensor,
    want: Sequence[str],
    constants: ConduitConstants,
    *,
    S: Tensor | None = None,
) -> dict[str, Tensor]:
    """Measure a batch of matrices, with mode 0 the largest eigenvalue.

    Parameters
    ----------
    A : Tensor of shape (B, n, n), float32, on a CUDA device
        Symmetric matrices, n in 2..16, of which both triangles are read; with `S`, the matrices `V`
        whose columns are right singular vectors (n in 2..8).
    want : sequence of str
        Names of `Packet` fields; those beyond friction, settle, slot and eigenvalues cost a little.
    constants : ConduitConstants
    S : Tensor of shape (B, n), float32, optional
        Singular values: measure `V diag(S^2) V'`, computed as `fused_gram.gram_from_spectrum` does.

    Returns
    -------
    dict of Tensor
        The fields asked for, on the device of `A`, with the bits of `reference.measure` and
        `reference.measure_exact`.
    """
    import torch

    B, n = int(A.shape[0]), int(A.shape[1])
    if n > LARGEST_WRITTEN_OUT:
        from frictionstore.extract.conduit.kernels.gpu import looped

        return looped.measure(A, want, constants)
    given = set(want)
    exactly = given & {"friction_exact", "settle_exact"}
    rounded = given - exactly
    packet = not rounded <= {"friction", "settle", "slot", "eigenvalues"}
    some, more, also = (B if part else 0 for part in (rounded, packet, exactly))

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=A.device)

    fields = {
        "friction": empty(some, n),
        "settle": empty(some, n, dtype=torch.uint8),
        "slot": empty(some, n, dtype=torch.uint8),
        "eigenvalues": empty(some, n),
        "eigenvectors": empty(more, n, n),
        "char_coeffs": empty(more, n),
        "refinement_residual": empty(more),
    }
    exact_fields = {
        "friction_exact": empty(also, n, dtype=torch.float64),
        "settle_exact": empty(also, n, dtype=torch.uint8),
    }
    programs: list[tuple[Any, dict[str, Tensor]]] = []
    if B and rounded:
        programs.append((kernel(n, S is not None, packet, constants), fields))
    if B and exactly:
        programs.append((exact_kernel(n, S is not None, constants), exact_fields))
    if programs:
        matrices = A.contiguous()
        singular = matrices if S is None else S.contiguous()
        with torch.cuda.device_of(A):  # Triton launches on the current device
            for launch, results in programs:
                launch[(-(-B // BLOCK),)](
                    singular,
                    matrices,
                    B,
                    1,
                    *results.values(),
                    BLOCK=BLOCK,
                    num_warps=WARPS,
                    **options(n),
                )
    return {name: (fields | exact_fields)[name] for name in want}
