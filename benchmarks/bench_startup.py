"""Start-up: how long `frictionstore --help`, an up-to-date extraction and `info` take.

python benchmarks/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

RUNS = 9
MAIN = "from frictionstore.cli.main import main; main()"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder, "a.zarr"))
        extract = ["extract", "--dataset", "digits", "--encoder", "speckle", "--out", store]
        subprocess.run([sys.executable, "-c", MAIN, *extract, "--quiet"], check=True)
        commands = {
            "frictionstore --help": ["--help"],
            "frictionstore extract --help": ["extract", "--help"],
            "frictionstore extract, up to date": [*extract, "--quiet"],
            "frictionstore info": ["info", store],
            "frictionstore analyze --help": ["analyze", "--help"],
        }
        rows = []
        for name, arguments in commands.items():
            command = [sys.executable, "-c", MAIN, *arguments]
            seconds = harness.timed(
                lambda command=command: subprocess.run(command, capture_output=True, check=True),
                RUNS,
            )
            rows.append({"command": name, "seconds": statistics.median(seconds)})
    harness.save("startup", rows, f"a process of its own each time; median of {RUNS}")


if __name__ == "__main__":
    main()
