"""Train the bundled encoder, speckle: reconstruct sixteen kinds of noise.

Two stages over one cosine schedule. In the first the decoder reads M itself, in bfloat16
(the cross-attention starts a few percent from the identity, so this is nearly the same
function and four times cheaper); in the second the whole forward pass runs in float32.

    python tools/train_speckle.py --out frictionstore/extract/weights/speckle.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from frictionstore.extract.data.noise import KIND_NAMES, indexed_noise_image
from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.extract.encoder.svae import PatchSVAE

SIZE = 64
HELD_OUT_SEED = 1_000_003  # evaluation images come from another sequence than training's
CONFIG = SVAEConfig(
    V=48, D=4, patch_size=4, hidden=128, depth=2, n_cross_layers=2, n_heads=2, smooth_mid=8
)


def batches(count: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """`count` batches of fresh noise images, drawn one step ahead in a thread."""
    ready: queue.Queue[torch.Tensor] = queue.Queue(maxsize=4)

    def draw() -> None:
        for step in range(count):
            first = step * batch
            images = [indexed_noise_image(first + i, SIZE, seed) for i in range(batch)]
            ready.put(torch.from_numpy(np.stack(images)))

    threading.Thread(target=draw, daemon=True).start()
    for _ in range(count):
        yield ready.get()


def photo_crops() -> torch.Tensor:
    """Every whole 64 x 64 crop of scikit-learn's two sample photographs, in [0, 1]."""
    crops = []
    for photo in load_sample_images().images:
        rows, columns = photo.shape[0] // SIZE, photo.shape[1] // SIZE
        grid = photo[: rows * SIZE, : columns * SIZE].reshape(rows, SIZE, columns, SIZE, 3)
        crops.append(grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIZE, SIZE))
    return torch.from_numpy(np.concatenate(crops)).float() / 255.0


@torch.inference_mode()
def squared_error(model: PatchSVAE, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image's reconstruction, shape (images,)."""
    parts = [(model(x) - x).square().mean(dim=(1, 2, 3)) for x in images.split(64)]
    return torch.cat(parts)


def evaluate(model: PatchSVAE, per_kind: int) -> dict[str, float]:
    count = per_kind * len(KIND_NAMES)
    noise = np.stack([indexed_noise_image(i, SIZE, HELD_OUT_SEED) for i in range(count)])
    error = squared_error(model, torch.from_numpy(noise)).reshape(per_kind, -1).mean(dim=0)
    kinds = {f"noise_{name}": float(e) for name, e in zip(KIND_NAMES, error, strict=True)}
    return {
        "noise_mse": float(error.mean()),
        "photos_mse": float(squared_error(model, photo_crops()).mean()),
        **kinds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--log", type=Path, help="JSON lines, one per report")
    parser.add_argument("--steps", type=int, nargs=2, default=(8000, 2500), metavar=("M", "FULL"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-every", type=int, default=250)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    model = PatchSVAE(CONFIG)
    optimiser = torch.optim.Adam(model.parameters(), lr=arguments.rate)
    total = sum(arguments.steps)
    warm = 200

    def schedule(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (total - warm)))

    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
    log = arguments.log.open("w") if arguments.log else None
    started = time.monotonic()
    running = 0.0
    for step, images in enumerate(batches(total, arguments.batch, arguments.seed), start=1):
        optimiser.zero_grad(set_to_none=True)
        if step <= arguments.steps[0]:
            with torch.autocast("cpu", torch.bfloat16):
                made = model.decode(model.encode(model.patches(images)), SIZE, SIZE)
            loss = F.mse_loss(made.float(), images)
        else:
            loss = F.mse_loss(model(images), images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
        running += loss.item()
        if step % arguments.report_every == 0 or step == total:
            since = step % arguments.report_every or arguments.report_every
            entry: dict[str, float] = {
                "step": step,
                "images": step * arguments.batch,
                "seconds": round(time.monotonic() - started, 1),
                "train_mse": running / since,
            }
            running = 0.0
            if step % (4 * arguments.report_every) == 0 or step == total:
                entry |= evaluate(model, 100 if step == total else 10)
            print(json.dumps(entry), flush=True)
            if log:
                log.write(json.dumps(entry) + "\n")
                log.flush()
    metadata = {
        "format": "frictionstore-encoder",
        "name": "speckle",
        "config": json.dumps({**CONFIG.as_dict(), "model_type": "v1"}),
        "trained_on": "16 kinds of synthetic noise, 64 x 64",
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, arguments.out, metadata)


if __name__ == "__main__":
    main()
