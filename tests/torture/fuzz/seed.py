"""Write the first inputs of every target: ``python -m tests.torture.fuzz.seed FOLDER``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import frictionstore as fs
from frictionstore.analyses.core.saved import save_all
from tests.support import random_maps
from tests.torture.fuzz.targets import TARGETS, seeds


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        label = np.arange(12) % 2
        store = fs.from_arrays(
            made / "s.zarr", random_maps(12), label=label, class_names=["a", "b"]
        )
        save_all([fs.analyses.mode_variance(store)], made / "results", figures=False)
        for target in TARGETS:
            (folder / target).mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(seeds(target, made / "s.zarr", made / "results")):
                (folder / target / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
