"""The PatchSVAE encoder: each image patch becomes a V x D matrix with rows on the unit sphere.

What lives here: the architecture, state-dict compatible with geolip-svae (v1): the encoder half,
which extraction runs, and the decoder, for the reconstruction-error map and for training. What
does not: reading checkpoints (`checkpoints.py`), tiling and devices (`engine.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frictionstore.extract.conduit.spectrum import EIGENVALUE_FLOOR, RIDGE
from frictionstore.extract.config import SVAEConfig


class Residual(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: added to its input by the caller."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )


Attend = Callable[[Tensor, int], Tensor]
"""Multi-head self-attention: tokens' queries, keys and values (B, N, 3 * D) and the number of heads
to (B, N, D), scores scaled by the size of a head to the power of -1/2."""


def torch_attention(qkv: Tensor, heads: int) -> Tensor:
    """`Attend` by torch, with gradients."""
    B, N, width = qkv.shape
    q, k, v = qkv.reshape(B, N, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)  # its scale is head_dim**-0.5
    return mixed.transpose(1, 2).reshape(B, N, width // 3)


class SpectralCrossAttention(nn.Module):
    """Self-attention of an image's patches over their singular values; scales S, never flips it."""

    def __init__(self, D: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(D, 3 * D)
        self.out_proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)
        self.alpha_logits = nn.Parameter(torch.full((D,), -2.0))

    def forward(self, S: Tensor, attend: Attend = torch_attention) -> Tensor:
        """S of shape (images, patches, D) to the same shape."""
        mixed = attend(self.qkv(self.norm(S)), self.n_heads)
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

    S_orig : (..., D) float32, descending.
    V : (..., D, D) float32, right singular vectors in columns.
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
        """(..., 3*ps*ps) to M of shape (..., V, D), float32, rows of unit length."""
        h = F.gelu(self.enc_in(patches))
        for block in self.enc_blocks:
            h = h + block(h)
        M = self.enc_out(h).unflatten(-1, (self.config.V, self.config.D))
        return F.normalize(M.float(), dim=-1)

    @staticmethod
    def spectrum(M: Tensor) -> Spectrum:
        """Singular values and right singular vectors of M from its float64 Gram matrix."""
        M64 = M.double()
        gram = M64.mT @ M64
        gram.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
        values, vectors = torch.linalg.eigh(gram)
        S = values.clamp_min(EIGENVALUE_FLOOR).sqrt().flip(-1)
        return Spectrum(S.float(), vectors.flip(-1).float())

    def coordinate(self, S: Tensor, attend: Attend = torch_attention) -> Tensor:
        """S_orig (B, N, D) to S (B, N, D): the cross-attention layers."""
        for layer in self.cross_attn:
            S = layer(S, attend)
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
