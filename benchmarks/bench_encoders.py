"""The published encoders' shapes: images a second and memory, beside upstream's own code.

    python benchmarks/bench_encoders.py
    PYTHONPATH=/path/to/geolip-core:/path/to/geolip-svae python benchmarks/bench_encoders.py

With upstream's packages on the path the two engines take turns on the same images in one process.
Weights are random: no time depends on them but that of attention scores near the float32 range.
Maps are S, friction and settle, nothing is written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from frictionstore.errors import DeviceError
from frictionstore.extract.encoder.checkpoints import Source
from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.extract.encoder.svae import PatchSVAE
from frictionstore.extract.engines.geolip import GeolipEngine, load_upstream
from frictionstore.extract.engines.make import native_engine

MAPS = ("S", "friction", "settle")
FRECKLES = {"V": 48, "D": 4, "patch_size": 4, "hidden": 384, "depth": 4, "n_cross_layers": 2}
LARGE = {"V": 256, "D": 16, "patch_size": 16, "hidden": 768, "depth": 4, "n_cross_layers": 2}
ENCODERS: dict[str, tuple[dict[str, int], int, int]] = {  # config, pixels, images
    "v40_freckles_noise, v50_fresnel_64": (FRECKLES, 64, 64),
    "v41_freckles_256": (FRECKLES, 256, 64),
    "v18_johanna_curriculum, v19_fresnel_tiny": (LARGE, 64, 64),
    "v12_imagenet128, v14_noise, v16_johanna_omega, v22_alexandria_small, v30_grandmaster": (
        LARGE, 128, 64,
    ),
    "v13_imagenet256, v20_johanna_base": (LARGE, 256, 64),
}  # fmt: skip


def upstream_engine(model: PatchSVAE, config: dict[str, int], device: torch.device) -> GeolipEngine:
    """Upstream's code with the same weights, as it reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pt"
        torch.save({"config": config, "model_state_dict": model.state_dict()}, path)
        return GeolipEngine(load_upstream(Source(path, "benchmark"), device), MAPS, device)


def measure(name: str, rounds: int, theirs: bool, device: torch.device) -> dict[str, Any]:
    """Seconds an image of each engine, in turns, and the peak memory of this process."""
    config, pixels, count = ENCODERS[name]
    torch.manual_seed(0)
    model = PatchSVAE(SVAEConfig.from_mapping(config, "benchmark")).eval().requires_grad_(False)
    engines: dict[str, Any] = {}
    if theirs:
        engines["upstream"] = upstream_engine(model, config, device)
    engines["ours"] = native_engine(model, MAPS, device)
    images = np.random.default_rng(0).random((count, 3, pixels, pixels), dtype=np.float32)
    rows = np.arange(count)
    shares: dict[str, Callable[[], int]] = {}
    for which, engine in engines.items():
        try:
            engine.tile_images(pixels)
        except DeviceError as error:  # upstream holds attention scores that may not fit
            print(error, file=sys.stderr)
            continue
        shares[which] = lambda engine=engine: len(engine.start(images, rows).finish()["S"])
        shares[which]()
    seconds: dict[str, list[float]] = {which: [] for which in shares}
    for _ in range(rounds):
        for which, task in shares.items():
            started = time.perf_counter()
            done = task()
            seconds[which].append((time.perf_counter() - started) / done)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": {k: float(np.median(v)) for k, v in seconds.items()}, "peak": peak}


def in_a_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoders", nargs="+", default=["v"], help="beginnings of rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    there = all(importlib.util.find_spec(name) for name in ("geolip_core", "geolip_svae"))
    if arguments.one:
        theirs = there and not arguments.alone
        device = torch.device(arguments.device)
        print(json.dumps(measure(arguments.one, arguments.rounds, theirs, device)))
        return
    table = []
    for name, (config, pixels, _) in ENCODERS.items():
        if not name.startswith(tuple(arguments.encoders)):
            continue
        common = ("--one", name, "--rounds", str(arguments.rounds), "--device", arguments.device)
        both, alone = in_a_process(*common), in_a_process(*common, "--alone")
        ours, upstream = both["seconds"]["ours"], both["seconds"].get("upstream")
        table.append(
            {
                "encoders": name,
                "V x D": f"{config['V']} x {config['D']}",
                "hidden": config["hidden"],
                "patch": config["patch_size"],
                "pixels": pixels,
                "patches": (pixels // config["patch_size"]) ** 2,
                "images/s": 1 / ours,
                "peak MB": alone["peak"],
                "upstream, images/s": upstream and 1 / upstream,
                "times faster": upstream and upstream / ours,
            }
        )
        print(harness.table(table[-1:]).splitlines()[-1], flush=True)
    harness.save(
        "encoders",
        table,
        f"maps S, friction and settle on {arguments.device}, two cores where the machine has two; "
        "random weights, images in memory, nothing written; "
        f"median of {arguments.rounds} rounds of one engine after the other",
    )


if __name__ == "__main__":
    main()
