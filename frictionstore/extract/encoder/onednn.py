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

from frictionstore.extract.encoder.svae import ACTIVATION_FUNCTIONS, PatchSVAE, normalise_rows

Encode = Callable[[Tensor], Tensor]

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Mean difference from `PatchSVAE.raw_matrices` between entries, rows made of unit length. Rounding
makes 4e-7 and 3e-3 at Freckles' size; GELU by tanh in place of erf would make 1e-4 in float32."""


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
        From patches (B, N, C*ps*ps), float32, with `B * N = rows` to M of shape (B, N, V, D),
        float32.
    """
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        with torch.inference_mode():
            raw_matrices = _packed(model, rows, dtype)
            shape = (1, rows, model.config.patch_values)
            probe = torch.rand(shape, generator=torch.Generator().manual_seed(0))
            # Unit rows, whatever the model makes of them: the tolerance needs a scale.
            found, expected = (
                F.normalize(made(probe), dim=-1) for made in (raw_matrices, model.raw_matrices)
            )
            difference = (found - expected).abs().mean()
    except (AttributeError, RuntimeError, TypeError):
        return None
    # Weights that are not finite make NaN either way, and the caller says so of an image.
    if bool(difference > TOLERANCE[dtype]):
        return None
    return lambda patches: normalise_rows(raw_matrices(patches), model.config.row_norm)


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

    def activated(x: Tensor, weights: tuple[Tensor, Tensor], site: str) -> Tensor:
        name = model.config.activation(site)
        if name == "gelu":  # its algorithm "none" is the exact one, with erf
            return linear(x, *weights, "gelu", [], "none")
        return ACTIVATION_FUNCTIONS[name](linear(x, *weights, "none", [], ""))

    def raw_matrices(patches: Tensor) -> Tensor:
        h = activated(patches.flatten(0, 1).to(dtype), first, "enc_in")
        for norm, inner, outer in blocks:
            g = activated(norm(h), inner, "enc_block_inner")
            h = linear.binary(g, h, *outer, "add")
        M = linear(h, *last, "none", [], "").float()
        return M.view(*patches.shape[:2], *shape)

    return raw_matrices
