"""From the encoder's matrices to their spectrum on a GPU: `spectrum.py` as a Triton kernel.

One thread sums the Gram matrix of one patch, row by row in float64, and diagonalises it in
registers. The bits are those of `fused_gram.spectrum` on a CPU.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import spectrum as program
from frictionstore.extract.conduit.kernels.gpu import source as text
from frictionstore.extract.conduit.kernels.gpu.conduit import BLOCK, OPTIONS, WARPS

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def kernel(D: int) -> Any:
    """The Triton function for matrices of D columns."""
    op = text.TextOperations()
    op.line("b = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)")
    op.line("inside = b < count")
    for i in range(D):
        op.line(f"p{i} = M + b * matrix_rows * {D} + {i}")
    totals = [text.Name(op, f"total{k}", text.FLOAT64) for k in range(len(program.pairs(D)))]
    for x in totals:
        op.line(f"{x.name} = tl.zeros((BLOCK,), tl.float64)")

    def add_row(_: str, totals: list[text.Name]) -> list[text.Name]:
        row = []
        for i in range(D):
            x = op.assign(f"tl.load(p{i}, mask=inside, other=0.0)", text.FLOAT32)
            row.append(op.to_float64(x))
            op.line(f"p{i} += {D}")
        return program.add_row(totals, row)

    op.loop("matrix_rows", totals, add_row)
    found = program.spectrum(op, totals, D)

    op.line(f"finite = {found.finite.name} > 0")
    op.line('nan = tl.full((BLOCK,), float("nan"), tl.float32)')
    stores = []
    for i in range(D):
        rank = found.ranks[i].name
        op.line(f"mode_{i} = tl.where(finite, {D - 1} - {rank}.to(tl.int32), {i})")
        stores.append((f"singular + b * {D} + mode_{i}", found.singular[i].name))
        for k in range(D):
            address = f"vectors + b * {D * D} + {k * D} + mode_{i}"
            stores.append((address, found.vectors[k][i].name))
    op.store((address, f"tl.where(finite, {name}, nan)") for address, name in stores)
    return text.triton_function(
        "spectrum(M, count, matrix_rows, once, singular, vectors, BLOCK: tl.constexpr)",
        op,
        f"<spectrum D={D}>",
    )


def spectrum(M: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors of the encoder's matrices.

    Parameters
    ----------
    M : Tensor of shape (B, V, D), float32, on a CUDA device
        D in 2..8, V at least 1.

    Returns
    -------
    S_orig : Tensor of shape (B, D), float32
    V : Tensor of shape (B, D, D), float32
        On the device of `M`, with the bits of `fused_gram.spectrum`, which describes them.

    Raises
    ------
    RequestError
        If `M` is not a float32 tensor of that shape.
    """
    import torch

    if M.dtype != torch.float32 or M.ndim != 3 or M.shape[1] < 1:
        raise RequestError(
            f"M must be float32 of shape (B, V, D) with V at least 1; got {M.dtype} of shape "
            f"{tuple(M.shape)}"
        )
    B, V, D = (int(x) for x in M.shape)
    program.check_columns(D, "spectrum")
    singular = torch.empty((B, D), dtype=torch.float32, device=M.device)
    vectors = torch.empty((B, D, D), dtype=torch.float32, device=M.device)
    if B:
        launch = kernel(D)[(-(-B // BLOCK),)]
        with torch.cuda.device_of(M):  # Triton launches on the current device
            launch(
                M.contiguous(), B, V, 1, singular, vectors, BLOCK=BLOCK, num_warps=WARPS, **OPTIONS
            )
    return singular, vectors
