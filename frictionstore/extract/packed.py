"""The encoder's layers on a CPU through oneDNN, with weights laid out once for its products.

Against torch's own choice of products this takes a tenth of the time off, and GELU and the residual
sum are done where a product's result is written instead of in passes of their own. The functions
are the ones torch's compiler calls; they have no promise of staying, so `pack` tries them on the
model and gives up where anything is different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frictionstore.extract.svae import PatchSVAE

Encode = Callable[[Tensor], Tensor]

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Mean difference from `PatchSVAE.encode` between entries of unit rows. Rounding makes 4e-7 and
3e-3 at Freckles' size; GELU by tanh in place of erf would make 1e-4 in float32."""


def pack(model: PatchSVAE, rows: int, precision: str = "float32") -> Encode | None:
    """`model.encode` for tensors of `rows` patches, or None where this torch lacks what it takes.

    Parameters
    ----------
    model : PatchSVAE
        On a CPU.
    rows : int
        Patches in a tile: the layout of the weights is chosen for it.
    precision : {"float32", "bfloat16"}
        Of the layers' inputs, weights and results; sums are float32.

    Returns
    -------
    callable or None
        From patches (B, N, 3*ps*ps), float32, with `B * N = rows` to M of shape (B, N, V, D),
        float32.
    """
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        with torch.inference_mode():
            encode = _packed(model, rows, dtype)
            flat = 3 * model.config.patch_size**2
            probe = torch.rand((1, rows, flat), generator=torch.Generator().manual_seed(0))
            difference = (encode(probe) - model.encode(probe)).abs().mean()
    except (AttributeError, RuntimeError, TypeError):
        return None
    # Weights that are not finite make NaN either way, and the caller says so of an image.
    return encode if not bool(difference > TOLERANCE[dtype]) else None


def _packed(model: PatchSVAE, rows: int, dtype: torch.dtype) -> Encode:
    operations: Any = torch.ops.mkldnn
    linear, reorder = operations._linear_pointwise, operations._reorder_linear_weight

    def layer(module: Any) -> tuple[Tensor, Tensor]:
        return reorder(module.weight.detach().to(dtype), rows), module.bias.detach().to(dtype)

    first, last = layer(model.enc_in), layer(model.enc_out)
    blocks: list[tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = [
        (block[0], layer(block[1]), layer(block[3]))  # type: ignore[index]
        for block in model.enc_blocks
    ]
    shape = (model.config.V, model.config.D)

    def encode(patches: Tensor) -> Tensor:
        # The algorithm "none" of gelu is the exact one, with erf.
        h = linear(patches.flatten(0, 1).to(dtype), *first, "gelu", [], "none")
        for norm, inner, outer in blocks:
            g = linear(norm(h), *inner, "gelu", [], "none")
            h = linear.binary(g, h, *outer, "add")
        M = linear(h, *last, "none", [], "").float()
        return F.normalize(M.view(*patches.shape[:2], *shape), dim=-1)

    return encode
