"""What the encoder's precision changes in the maps: bfloat16 (and tf32 on a GPU) against float32.

python benchmarks/bench_precision.py [--device cpu]
"""

from __future__ import annotations

import argparse
import time

import harness
import numpy as np
import torch

from frictionstore.extract.data.base import DatasetOptions
from frictionstore.extract.data.choose import open_dataset
from frictionstore.extract.encoder.checkpoints import (
    build_encoder,
    find_checkpoint,
    read_checkpoint,
)
from frictionstore.extract.engines.make import native_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dataset = open_dataset(arguments.dataset, DatasetOptions(), print)
    images = np.stack([dataset.load(i, 64) for i in range(min(arguments.images, len(dataset.ids)))])
    precisions = ["float32", "bfloat16", *(["tf32"] if device.type == "cuda" else [])]
    made, seconds = {}, {}
    for precision in precisions:
        model = build_encoder(read_checkpoint(find_checkpoint("speckle")), "speckle")
        engine = native_engine(model, ("S", "friction", "settle"), device, precision=precision)
        engine.measure(images[:8])
        started = time.perf_counter()
        made[precision] = engine.measure(images)
        seconds[precision] = time.perf_counter() - started
        engine.close()
    exact = made["float32"]
    rows = []
    for precision in precisions:
        other = made[precision]
        friction = np.abs(other["friction"] - exact["friction"]) / exact["friction"]
        varying = friction[..., 1:]  # mode 0 is constant
        rows.append(
            {
                "precision": precision,
                "ms an image": 1000 * seconds[precision] / len(images),
                "S, largest relative difference": float(
                    (np.abs(other["S"] - exact["S"]) / exact["S"]).max()
                ),
                "friction, median relative difference": float(np.median(varying)),
                "friction, 95th percentile": float(np.quantile(varying, 0.95)),
                "settle that differs": float((other["settle"] != exact["settle"]).mean()),
            }
        )
    harness.save(
        "precision",
        rows,
        f"{len(images)} images of {arguments.dataset} through speckle on {device}, modes 1 to 3 of "
        "friction",
    )


if __name__ == "__main__":
    main()
