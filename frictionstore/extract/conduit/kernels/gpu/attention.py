"""`attention.py` on a GPU: one thread to a query; the threads of a block read the same key."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import attention
from frictionstore.extract.conduit.attention import check_shape
from frictionstore.extract.conduit.kernels.gpu import source as text
from frictionstore.extract.conduit.kernels.gpu.conduit import BLOCK, OPTIONS, WARPS

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def kernel(keys: int, heads: int, head: int, scale: float) -> Any:
    """The Triton function for so many keys and heads."""
    D = heads * head
    op = text.TextOperations()
    op.line("i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)")
    op.line(f"inside = i < {keys}")
    op.line("number = tl.program_id(1)")
    op.line(f"image = (number // {heads}).to(tl.int64)")
    op.line(f"offset = number % {heads} * {head}")
    op.line(f"tokens = QKV + image * {keys * 3 * D} + offset")
    query = [
        op.assign(f"tl.load(tokens + i * {3 * D} + {c}, mask=inside, other=0.0)", text.FLOAT32)
        for c in range(head)
    ]

    def key_at(j: str) -> tuple[list[text.Name], list[text.Name]]:
        key, value = (
            [
                op.assign(f"tl.load(tokens + {j} * {3 * D} + {part * D + c})", text.FLOAT32)
                for c in range(head)
            ]
            for part in (1, 2)
        )
        return key, value

    mixed = attention.attend(op, query, scale, keys, key_at)
    op.line(f"place = mixed + (image * {keys} + i) * {D} + offset")
    for c in range(head):
        op.line(f"tl.store(place + {c}, {mixed[c].name}, mask=inside)")
    return text.triton_function(
        "attend(QKV, mixed, BLOCK: tl.constexpr)",
        op,
        f"<attention keys={keys} heads={heads} head={head} scale={scale}>",
    )


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention from the queries, keys and values of its tokens.

    Parameters
    ----------
    qkv : Tensor of shape (B, N, 3 * D), float32, on a CUDA device
        See `fused_attention.attend`.
    heads : int

    Returns
    -------
    Tensor of shape (B, N, D), float32
        On the device of `qkv`, with the bits of `fused_attention.attend`.

    Raises
    ------
    RequestError
        If `qkv` is not a float32 tensor of such a shape.
    """
    import torch

    if qkv.dtype != torch.float32:
        raise RequestError(f"qkv must be float32, got {qkv.dtype}")
    B, N, head = check_shape(tuple(qkv.shape), heads)
    mixed = torch.empty((B, N, heads * head), dtype=torch.float32, device=qkv.device)
    if B:
        launch = kernel(N, heads, head, head**-0.5)[(-(-N // BLOCK), B * heads)]
        with torch.cuda.device_of(qkv):  # Triton launches on the current device
            launch(qkv.contiguous(), mixed, BLOCK=BLOCK, num_warps=WARPS, **OPTIONS)
    return mixed
