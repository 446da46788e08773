"""The PatchSVAE encoder: each image patch becomes a V x D matrix, as a rule with unit rows.

What lives here: the architecture, state-dict compatible with geolip-svae (v1) and with what later
trainers' configs ask of it: the encoder half, which extraction runs, and the decoder, for the
reconstruction-error map and for training. What does not: reading checkpoints (`checkpoints.py`),
tiling and devices (`engines/base.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frictionstore.extract.conduit.spectrum import EIGENVALUE_FLOOR, RIDGE
from frictionstore.extract.encoder.config import SVAEConfig

SMALLEST_ROW = 1e-8  # what a row is divided by is at least this
SINGLE_RIDGE = 1e-6  # for svd_mode fp32
SINGLE_EIGENVALUE_FLOOR = 1e-12


Activation = Callable[[Tensor], Tensor]

ACTIVATION_FUNCTIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "identity": lambda x: x,
    **{
        name: getattr(F, name)
        for name in (
            "silu", "mish", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "tanh",
            "sigmoid", "hardtanh", "hardsigmoid", "hardswish", "softplus", "softsign",
            "logsigmoid", "tanhshrink",
        )
    },
}  # fmt: skip
"""torch's functions with torch's defaults, by their names in a config."""


class Named(nn.Module):
    """An activation function by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATION_FUNCTIONS[self.name](x)


class Residual(nn.Sequential):
    """LayerNorm, Linear, activation, Linear: added to its input by the caller."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, width), Named(activation), nn.Linear(width, width)
        )


def normalise_rows(M: Tensor, row_norm: str) -> Tensor:
    """What `SVAEConfig.row_norm` names, of every row of M."""
    if row_norm == "sphere":
        return F.normalize(M, dim=-1)
    if row_norm == "layernorm":
        deviation = M.std(dim=-1, keepdim=True).clamp_min(SMALLEST_ROW)
        return (M - M.mean(dim=-1, keepdim=True)) / deviation
    if row_norm == "scale":
        return M / M.abs().amax(dim=-1, keepdim=True).clamp_min(SMALLEST_ROW)
    return M


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

    def __init__(self, channels: int, mid: int, activation: str) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, mid, 3, padding=1),
            Named(activation),
            nn.Conv2d(mid, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class Spectrum(NamedTuple):
    """The thin SVD of the patch matrices through their Gram matrices, or a readout's columns.

    S_orig : (..., D) float32, descending; a readout's are in the order of its columns.
    V : (..., D, D) float32, right singular vectors in columns; a readout's is the identity.
    """

    S_orig: Tensor
    V: Tensor


class PatchSVAE(nn.Module):
    """Encoder, spectral cross-attention and decoder (spec: geolip-svae at commit 735ca4e)."""

    def __init__(self, config: SVAEConfig) -> None:
        super().__init__()
        self.config = config
        flat, hidden = config.patch_values, config.hidden
        matrix = config.V * config.D
        encoding, decoding = (config.activation(f"{half}_block_inner") for half in ("enc", "dec"))
        self.enc_in = nn.Linear(flat, hidden)
        self.enc_blocks = nn.ModuleList(Residual(hidden, encoding) for _ in range(config.depth))
        self.enc_out = nn.Linear(hidden, matrix)
        self.dec_in = nn.Linear(matrix, hidden)
        self.dec_blocks = nn.ModuleList(Residual(hidden, decoding) for _ in range(config.depth))
        self.dec_out = nn.Linear(hidden, flat)
        self.cross_attn = nn.ModuleList(
            SpectralCrossAttention(config.D, config.n_heads) for _ in range(config.n_cross_layers)
        )
        self.boundary_smooth = BoundarySmooth(
            config.channels, config.smooth_mid, config.activation("boundary_smooth")
        )
        if config.linear_readout and config.match_params:
            self.readout = nn.Linear(matrix, matrix)

    def patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, C*ps*ps): row-major patches, each flattened channel-first."""
        B, C, H, W = images.shape
        ps = self.config.patch_size
        grid = images.reshape(B, C, H // ps, ps, W // ps, ps).permute(0, 2, 4, 1, 3, 5)
        return grid.reshape(B, (H // ps) * (W // ps), C * ps * ps)

    def stitch(self, patches: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `patches`."""
        B = patches.shape[0]
        C, ps = self.config.channels, self.config.patch_size
        grid = patches.reshape(B, height // ps, width // ps, C, ps, ps).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(B, C, height, width)

    def raw_matrices(self, patches: Tensor) -> Tensor:
        """(..., C*ps*ps) to the encoder's matrices (..., V, D), float32, rows as they come."""
        h = ACTIVATION_FUNCTIONS[self.config.activation("enc_in")](self.enc_in(patches))
        for block in self.enc_blocks:
            h = h + block(h)
        return self.enc_out(h).unflatten(-1, (self.config.V, self.config.D)).float()

    def encode(self, patches: Tensor) -> Tensor:
        """(..., C*ps*ps) to M of shape (..., V, D), float32, rows normalised."""
        return normalise_rows(self.raw_matrices(patches), self.config.row_norm)

    def read_out(self, M: Tensor) -> Tensor:
        """The matrices whose columns stand for the spectrum of M; only with `linear_readout`."""
        return self.readout(M.flatten(-2)).view_as(M) if self.config.match_params else M

    def spectrum(self, M: Tensor) -> Spectrum:
        """Singular values and right singular vectors of M, or what its config takes for them."""
        config = self.config
        if config.linear_readout:
            identity = torch.eye(config.D, dtype=M.dtype, device=M.device)
            return Spectrum(self.read_out(M).norm(dim=-2), identity.expand(*M.shape[:-2], -1, -1))
        single = config.svd_mode == "fp32"
        A = M if single else M.double()
        gram = A.mT @ A
        gram.diagonal(dim1=-2, dim2=-1).add_(SINGLE_RIDGE if single else RIDGE)
        values, vectors = torch.linalg.eigh(gram)
        floor = SINGLE_EIGENVALUE_FLOOR if single else EIGENVALUE_FLOOR
        S = values.clamp_min(floor).sqrt().flip(-1)
        return Spectrum(S.float(), vectors.flip(-1).float())

    def coordinate(self, S: Tensor, attend: Attend = torch_attention) -> Tensor:
        """S_orig (B, N, D) to S (B, N, D): the cross-attention layers."""
        for layer in self.cross_attn:
            S = layer(S, attend)
        return S

    def decode(self, M_hat: Tensor, height: int, width: int) -> Tensor:
        """Matrices (B, N, V, D) to images (B, C, height, width)."""
        h = ACTIVATION_FUNCTIONS[self.config.activation("dec_in")](self.dec_in(M_hat.flatten(-2)))
        for block in self.dec_blocks:
            h = h + block(h)
        return self.boundary_smooth(self.stitch(self.dec_out(h), height, width))

    def rescale(self, M: Tensor, spectrum: Spectrum, S: Tensor) -> Tensor:
        """``U diag(S) V'`` without forming U: ``M V diag(S / S_orig) V'``."""
        if self.config.linear_readout:
            return self.read_out(M) * S.unsqueeze(-2)  # U is the readout itself, V the identity
        ratio = (S / spectrum.S_orig).unsqueeze(-2)
        return M @ ((spectrum.V * ratio) @ spectrum.V.mT)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruction of `images`, (B, C, H, W).

        The singular vectors are held constant in the gradient: the derivative of an
        eigenvector is unbounded where singular values meet, and the reconstruction depends on
        them only as far as the cross-attention moves S (a few percent).
        """
        M = self.encode(self.patches(images))
        with torch.no_grad():
            V = self.spectrum(M).V
        S_orig = ((self.read_out(M) if self.config.linear_readout else M) @ V).norm(dim=-2)
        S = self.coordinate(S_orig)
        return self.decode(self.rescale(M, Spectrum(S_orig, V), S), *images.shape[-2:])
