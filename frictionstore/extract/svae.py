"""The PatchSVAE encoder: each image patch becomes a V x D matrix with rows on the unit sphere.

What lives here: the architecture, state-dict compatible with geolip-svae (v1), and the two ways
of running it: `measure_inputs` (encoder half, what extraction needs) and `reconstruct` (the
decoder, for the reconstruction-error map and training). What does not: reading checkpoints
(`checkpoints.py`), tiling and devices (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frictionstore.errors import CheckpointError

GRAM_RIDGE = 1e-12  # added to the Gram matrix's diagonal before its eigendecomposition
EIGENVALUE_FLOOR = 1e-24


@dataclass(frozen=True)
class SVAEConfig:
    """What decides the shapes of a PatchSVAE.

    Attributes
    ----------
    V, D : int
        Rows and columns of the matrix one patch becomes; D is the number of modes.
    patch_size : int
        Height and width of a patch in pixels.
    hidden, depth : int
        Width and number of residual blocks of the encoder's and the decoder's MLP.
    n_cross_layers, n_heads : int
        Layers and heads of the spectral cross-attention.
    smooth_mid : int
        Channels between the two convolutions that smooth patch boundaries.
    """

    V: int
    D: int
    patch_size: int
    hidden: int
    depth: int
    n_cross_layers: int
    n_heads: int
    smooth_mid: int

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> SVAEConfig:
        """Read a checkpoint's `config`, deriving upstream's defaults for the two optional keys.

        Raises
        ------
        CheckpointError
            A key is missing or is not a whole number in its range, or `model_type` names
            another architecture.
        """
        model_type = config.get("model_type")
        if model_type is not None and model_type != "v1":
            raise CheckpointError(
                f"model_type is {model_type!r}: only 'v1' (the PatchSVAE) can be read here"
            )
        required = ("V", "D", "patch_size", "hidden", "depth", "n_cross_layers")
        missing = [key for key in required if key not in config]
        if missing:
            raise CheckpointError(
                f"config lacks {', '.join(missing)}: a PatchSVAE config has {', '.join(required)}"
            )
        D, patch = config["D"], config["patch_size"]
        values = {key: config[key] for key in required}
        for key, value in values.items():
            _require_whole(key, value, 0 if key in ("depth", "n_cross_layers") else 1)
        values["n_heads"] = config.get("n_heads", 2 if D <= 8 else min(4, D))
        values["smooth_mid"] = config.get("smooth_mid", 16 if patch >= 16 else 8)
        for key in ("n_heads", "smooth_mid"):
            _require_whole(key, values[key], 1)
        made = cls(**values)
        if made.D % made.n_heads:
            raise CheckpointError(
                f"config has D {made.D}, which its n_heads {made.n_heads} does not divide"
            )
        if made.D > made.V:
            raise CheckpointError(f"config has D {made.D} larger than V {made.V}")
        return made

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def _require_whole(key: str, value: object, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= 1 << 20:
        raise CheckpointError(
            f"config has {key} {value!r}: expected a whole number of {smallest} or more"
        )


class Residual(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: added to its input by the caller."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )


class SpectralCrossAttention(nn.Module):
    """Self-attention of an image's patches over their singular values; scales S, never flips it."""

    def __init__(self, D: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_dim = D // n_heads
        self.qkv = nn.Linear(D, 3 * D)
        self.out_proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)
        self.alpha_logits = nn.Parameter(torch.full((D,), -2.0))

    def forward(self, S: Tensor) -> Tensor:
        """S of shape (images, patches, D) to the same shape."""
        B, N, D = S.shape
        qkv = self.qkv(self.norm(S)).reshape(B, N, 3, self.n_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # its scale is head_dim**-0.5
        mixed = mixed.transpose(1, 2).reshape(B, N, D)
        alpha = 0.2 * torch.sigmoid(self.alpha_logits)
        return S * (1.0 + alpha * torch.tanh(self.out_proj(mixed)))


class BoundarySmooth(nn.Module):
    """Adds to the image what two 3 x 3 convolutions make of it."""

    def __init__(self, mid: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, mid, 3, padding=1), nn.GELU(), nn.Conv2d(mid, 3, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class Spectrum(NamedTuple):
    """The thin SVD of the patch matrices through their Gram matrices.

    S_orig : (..., D) float32, descending; V : (..., D, D) float32, right singular vectors in columns.
    """

    S_orig: Tensor
    V: Tensor


class PatchSVAE(nn.Module):
    """Encoder, spectral cross-attention and decoder (spec: geolip-svae at commit 735ca4e)."""

    def __init__(self, config: SVAEConfig) -> None:
        super().__init__()
        self.config = config
        flat = 3 * config.patch_size**2
        matrix = config.V * config.D
        self.enc_in = nn.Linear(flat, config.hidden)
        self.enc_blocks = nn.ModuleList(Residual(config.hidden) for _ in range(config.depth))
        self.enc_out = nn.Linear(config.hidden, matrix)
        self.dec_in = nn.Linear(matrix, config.hidden)
        self.dec_blocks = nn.ModuleList(Residual(config.hidden) for _ in range(config.depth))
        self.dec_out = nn.Linear(config.hidden, flat)
        self.cross_attn = nn.ModuleList(
            SpectralCrossAttention(config.D, config.n_heads) for _ in range(config.n_cross_layers)
        )
        self.boundary_smooth = BoundarySmooth(config.smooth_mid)

    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, N, 3*ps*ps): row-major patches, each flattened channel-first."""
        B, C, H, W = images.shape
        ps = self.config.patch_size
        grid = images.reshape(B, C, H // ps, ps, W // ps, ps).permute(0, 2, 4, 1, 3, 5)
        return grid.reshape(B, (H // ps) * (W // ps), C * ps * ps)

    def stitch(self, patches: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `patches`."""
        B = patches.shape[0]
        ps = self.config.patch_size
        grid = patches.reshape(B, height // ps, width // ps, 3, ps, ps).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(B, 3, height, width)

    def encode(self, patches: Tensor) -> Tensor:
        """(..., 3*ps*ps) to M of shape (..., V, D), rows of unit length."""
        h = F.gelu(self.enc_in(patches))
        for block in self.enc_blocks:
            h = h + block(h)
        M = self.enc_out(h).unflatten(-1, (self.config.V, self.config.D))
        return F.normalize(M, dim=-1)

    @staticmethod
    def spectrum(M: Tensor) -> Spectrum:
        """Singular values and right singular vectors of M from its float64 Gram matrix."""
        M64 = M.double()
        gram = M64.mT @ M64
        gram.diagonal(dim1=-2, dim2=-1).add_(GRAM_RIDGE)
        values, vectors = torch.linalg.eigh(gram)
        S = values.clamp_min(EIGENVALUE_FLOOR).sqrt().flip(-1)
        return Spectrum(S.float(), vectors.flip(-1).float())

    def coordinate(self, S: Tensor) -> Tensor:
        """S_orig (B, N, D) to S (B, N, D): the cross-attention layers."""
        for layer in self.cross_attn:
            S = layer(S)
        return S

    def decode(self, M_hat: Tensor, height: int, width: int) -> Tensor:
        """Matrices (B, N, V, D) to images (B, 3, height, width)."""
        h = F.gelu(self.dec_in(M_hat.flatten(-2)))
        for block in self.dec_blocks:
            h = h + block(h)
        return self.boundary_smooth(self.stitch(self.dec_out(h), height, width))

    @staticmethod
    def rescale(M: Tensor, spectrum: Spectrum, S: Tensor) -> Tensor:
        """``U diag(S) V'`` without forming U: ``M V diag(S / S_orig) V'``."""
        ratio = (S / spectrum.S_orig).unsqueeze(-2)
        return M @ ((spectrum.V * ratio) @ spectrum.V.mT)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruction of `images`, (B, 3, H, W).

        The singular vectors are held constant in the gradient: the derivative of an
        eigenvector is unbounded where singular values meet, and the reconstruction depends on
        them only as far as the cross-attention moves S (a few percent).
        """
        M = self.encode(self.patches(images))
        with torch.no_grad():
            V = self.spectrum(M).V
        S_orig = (M @ V).norm(dim=-2)
        S = self.coordinate(S_orig)
        return self.decode(self.rescale(M, Spectrum(S_orig, V), S), *images.shape[-2:])
