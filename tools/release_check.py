"""Is this commit fit to be released? Builds it, and uses the wheel where nothing else is.

    make release-check
    python tools/release_check.py --python python3.11 --python python3.13

The last commit is cloned, so what is not committed is not looked at. An interpreter that this
machine lacks is a failure and not a pass.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("python3.11", "python3.12", "python3.13")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")

USE = """
import sys
import numpy as np
import frictionstore as fs
from frictionstore import analyses
random = np.random.default_rng(0)
maps = {"S": random.gamma(2.0, size=(24, 4, 4, 4)).astype("f4")}
maps["S"] = -np.sort(-maps["S"], axis=-1)
maps["friction"] = random.lognormal(size=(24, 4, 4, 4)).astype("f4")
fs.from_arrays("small.zarr", maps, label=np.arange(24) % 3, mode_order="descending")
assert fs.verify("small.zarr").ok
print(analyses.f_statistic(fs.open("small.zarr"), permutations=19))
assert "torch" not in sys.modules
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from this checkout's packages; its output, or an end with all it said."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean, capture_output=True, text=True
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def built(folder: Path) -> tuple[Path, Path, Path]:
    """Clone the last commit and build it: the clone, the source archive and the wheel."""
    clone = folder / "clone"
    run("git", "clone", "--quiet", ROOT, clone, cwd=folder)
    run(sys.executable, "-m", "hatchling", "build", "-d", folder / "out", cwd=clone)
    (sdist,), (wheel,) = (folder / "out").glob("*.tar.gz"), (folder / "out").glob("*.whl")
    return clone, sdist, wheel


def problems_of(clone: Path, sdist: Path, wheel: Path) -> list[str]:
    """What is wrong with the archives: files, licence, README, versions."""
    found = []
    with tarfile.open(sdist) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        meta = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(meta))
    if "frictionstore/explorer_page/index.html" not in names:
        found.append("the wheel has no explorer page: build where Node and npm are")
    if not any(name.endswith("/LICENSE") for name in names) or "LICENSE" not in inside:
        found.append("the licence is not in both archives")
    if metadata["Description-Content-Type"] != "text/markdown" or not metadata.get_payload():
        found.append("the wheel's metadata hold no README in Markdown")
    for target in LINK.findall((clone / "README.md").read_text(encoding="utf-8")):
        if not (clone / target).exists():
            found.append(f"README.md leads to {target}, which is not there")
    version = metadata["Version"]
    for name, pattern in (("CHANGELOG.md", r"^## (\S+)"), ("CITATION.cff", r"^version: (\S+)")):
        says = re.search(pattern, (clone / name).read_text(encoding="utf-8"), re.MULTILINE)
        if says is None or says[1] != version:
            found.append(f"{name} speaks of {says and says[1]}, the wheel is {version}")
    return found


def used(python: str, wheel: Path, folder: Path) -> str:
    """Install the wheel by itself under an interpreter and ask a store something."""
    started = time.monotonic()
    place = folder / python
    run(python, "-m", "venv", place, cwd=folder)
    run(place / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=place)
    run(place / "bin" / "python", "-c", USE, cwd=place)
    tool = place / "bin" / "frictionstore"
    for words in ("verify small.zarr", "info small.zarr", "analyze all small.zarr --out results",
                  "report small.zarr --results results"):  # fmt: skip
        run(tool, *words.split(), cwd=place)
    says = run(tool, "--version", cwd=place).strip()
    return f"{python}: {says}, from nothing to a report in {time.monotonic() - started:.0f} s"


def main() -> int:
    """Print what was found; 0 if the commit is fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", action="append", help="an interpreter; may be given again")
    asked = parser.parse_args().python or list(PYTHONS)
    absent = [name for name in asked if shutil.which(name) is None]
    with tempfile.TemporaryDirectory() as made:
        clone, sdist, wheel = built(Path(made))
        found = problems_of(clone, sdist, wheel)
        found += [f"{name} is not on this machine" for name in absent]
        for name in asked:
            if name not in absent:
                print(used(name, wheel, Path(made)), flush=True)
    for problem in found:
        print(problem, file=sys.stderr)
    print("not fit to be released" if found else "fit to be released")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
