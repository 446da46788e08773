"""The notebook's way of extracting, written from its description, as the baseline to beat.

Batches of 64, the whole forward pass with decoder, the op-by-op solver, maps moved to the CPU,
accumulation image by image in Python, and a second pass over the first fifth of the images (2,000
of 10,000) for S.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frictionstore.extract.conduit import conduit
from frictionstore.extract.encoder.svae import PatchSVAE

BATCH = 64
SECOND_PASS = 5  # one image in this many is measured again


@torch.inference_mode()
def forward(model: PatchSVAE, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S, Vt and the reconstruction: everything the model computes."""
    M = model.encode(model.patches(images))
    spectrum = model.spectrum(M)
    U = (M @ spectrum.V) / spectrum.S_orig.unsqueeze(-2)
    S = model.coordinate(spectrum.S_orig)
    Vt = spectrum.V.mT
    recon = model.decode((U * S.unsqueeze(-2)) @ Vt, *images.shape[-2:])
    return S, Vt, recon


@torch.inference_mode()
def measure(model: PatchSVAE, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Friction, settle and S maps of a batch."""
    S, Vt, _ = forward(model, images)
    B, N, D = S.shape
    side = int(N**0.5)
    gram = torch.einsum("bnij,bnj,bnjk->bnik", Vt.transpose(-2, -1), S.square(), Vt)
    packet = conduit(gram.reshape(B * N, D, D), kernel="reference")
    return (
        packet.friction.reshape(B, side, side, D).cpu(),
        packet.settle.reshape(B, side, side, D).cpu(),
        S.reshape(B, side, side, D).cpu(),
    )


def run(model: PatchSVAE, images: NDArray[np.float32], labels: NDArray[np.int32]) -> Tensor:
    """Both passes; returns the sums of friction by class."""
    classes = int(labels.max()) + 1
    total = squares = settled = None
    kept = []
    for first in range(0, len(images), BATCH):
        friction, settle, _ = measure(model, torch.from_numpy(images[first : first + BATCH]))
        if total is None:
            total = torch.zeros(classes, *friction.shape[1:])
            squares, settled = torch.zeros_like(total), torch.zeros_like(total)
        for i in range(len(friction)):
            c = int(labels[first + i])
            total[c] += friction[i]
            squares[c] += friction[i].square()
            settled[c] += settle[i]
            if len(kept) < len(images) // SECOND_PASS:
                kept.append((friction[i], settle[i]))
    features = []
    for first in range(0, len(images) // SECOND_PASS, BATCH):
        batch = torch.from_numpy(images[first : first + BATCH])
        friction, settle, S = measure(model, batch)
        for i in range(len(S)):
            features.append(torch.cat([friction[i].flatten(), settle[i].flatten(), S[i].flatten()]))
    assert total is not None
    return total
