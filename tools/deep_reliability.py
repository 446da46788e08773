"""Reliability of friction for an encoder of published shape with D = 16: a table of the note.

    python tools/deep_reliability.py               # random weights and 150 steps of training
    python tools/deep_reliability.py --steps 0     # random weights alone

V 256, D 16, patch 16, hidden 768, depth 4. The second encoder is the first after so many steps of
reconstructing crops of the bundled photographs: far from converged, but no random matrix any more.
Both measure 24 crops at 128 x 128, 1,536 patches, with two repeats of friction and friction_exact.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

import frictionstore as fs
from frictionstore import analyses
from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.extract.encoder.svae import PatchSVAE
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from frictionstore.format.schema import check_maps

SIZE, IMAGES, BATCH = 128, 24, 2
CONFIG = SVAEConfig(
    V=256, D=16, patch_size=16, hidden=768, depth=4, n_cross_layers=2, n_heads=4, smooth_mid=16
)
MAPS = ("S", "friction", "settle", "friction_exact", "settle_exact", "friction_exact_repeats")
HEADS = (
    "encoder", "mode", "friction: moved > 10%", "raw reliability", "rank reliability",
    "within 1% of exact", "exact: moved > 10%", "raw reliability", "log reliability",
)  # fmt: skip


def train(model: PatchSVAE, steps: int, seed: int) -> float:
    """Reconstruct random crops, the decoder reading M itself; return the last squared error."""
    photos = [torch.tensor(one).permute(2, 0, 1) / 255 for one in load_sample_images().images]
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(steps):
        crops = []
        for _ in range(BATCH):
            photo = photos[rng.integers(len(photos))]
            y, x = (int(rng.integers(side - SIZE + 1)) for side in photo.shape[1:])
            crops.append(photo[:, y : y + SIZE, x : x + SIZE])
        images = torch.stack(crops)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            made = model.decode(model.encode(model.patches(images)), SIZE, SIZE)
        loss = F.mse_loss(made.float(), images)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses[-20:])) if losses else float("nan")


def rows_of(name: str, model: PatchSVAE, folder: Path) -> list[list[str]]:
    """Extract with an encoder and return its row of each mode that varies."""
    file = folder / f"{name}.safetensors"
    config = json.dumps({**CONFIG.as_dict(), "model_type": "v1"})
    metadata = {"format": "frictionstore-encoder", "name": name, "config": config}
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file, metadata)
    out = folder / f"{name}.zarr"
    job = Job("photos", str(file), out, image_size=SIZE, maps=check_maps(MAPS), limit=IMAGES,
              device="cpu")  # fmt: skip
    run_job(job, report=lambda text: click.echo(text, err=True))
    store = fs.open(out)
    S = np.asarray(store["S"], np.float64)
    share = S / S.sum(axis=-1, keepdims=True)
    rank = np.exp(-(share * np.log(share)).sum(axis=-1)).mean()
    ratio = np.median(S.max(axis=-1) / S.min(axis=-1))
    click.echo(f"{name}: effective rank {rank:.2f}, ratio of singular values {ratio:.2f}", err=True)
    found = analyses.reliability(store)
    moved = {
        of: found.arrays[f"share_changed{mark}"].mean(axis=(0, 1))
        for of, mark in (("friction", ""), ("exact", "_friction_exact"))
    }
    rounding = found.columns["rounding"]
    exact = found.arrays["reliability_raw_friction_exact"]
    logs = found.arrays["reliability_logarithm_friction_exact"]
    raw, ranks = (found.arrays[f"reliability_{scale}"] for scale in ("raw", "rank"))
    return [
        [
            name, str(mode), f"{moved['friction'][mode]:.1%}", f"{raw[mode]:.3f}",
            f"{ranks[mode]:.3f}", f"{rounding['share_within'][mode]:.1%}",
            f"{moved['exact'][mode]:.1%}", f"{exact[mode]:.4f}", f"{logs[mode]:.4f}",
        ]
        for mode in np.flatnonzero(~np.isnan(exact))
    ]  # fmt: skip


@click.command(help=__doc__)
@click.option("--steps", default=150, show_default=True, help="Of training.")
@click.option("--seed", default=0, show_default=True)
def main(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = PatchSVAE(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        click.echo("| " + " | ".join(HEADS) + " |\n" + "|" + "---|" * len(HEADS))
        for name, count in (("random", 0), ("trained", steps)):
            if name == "trained" and not steps:
                break
            error = train(model, count, seed)
            if count:
                click.echo(f"{count} steps, squared error {error:.4f} at the end", err=True)
            for row in rows_of(name, model, Path(folder)):
                click.echo("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
