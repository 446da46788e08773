"""What every benchmark shares: the machine in words, medians, and the JSON that is kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("frictionstore", "torch", "numpy", "numba", "zarr", "numcodecs", "scikit-learn")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    processor = platform.processor() or platform.machine()
    memory = 0
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        processor = names[0] if names else processor
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": versions,
    }


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds


def side_by_side(
    functions: dict[str, Callable[[], object]], repeats: int, turn: float = 0.0
) -> dict[str, float]:
    """Median seconds of several functions, called in turn so that a slow spell hits all.

    With `turn`, a function is called again and again for that many seconds when it is its turn,
    after a call that does not count: OpenMP's threads go on spinning for milliseconds after the
    function before has ended, and would take a core from one that is over as quickly.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if turn:
                function()
            ends = time.perf_counter() + turn
            while True:
                started = time.perf_counter()
                function()
                done = time.perf_counter()
                seconds[name].append(done - started)
                if done >= ends:
                    break
    return {name: statistics.median(values) for name, values in seconds.items()}


def save(name: str, rows: list[dict[str, Any]], notes: str) -> None:
    """Print the rows as a table and keep them under ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    entry = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "notes": notes,
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(entry, indent=2) + "\n")
    print(f"{name}: {notes}")
    print(table(rows))
    print()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table."""
    if not rows:
        return ""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
