"""pip can resolve the extra `geolip`, against repositories that refer as upstream's do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.packaging.checkout import ROOT, cloned

UPSTREAM = "https://github.com/AbstractEyes/"
GEOLIP_SVAE = [
    "torch>=2.1.0", "torchvision>=0.16.0", "numpy>=1.24.0", "huggingface-hub>=0.20.0",
    f"geolip-core @ git+{UPSTREAM}geolip-core.git",
]  # fmt: skip
GEOLIP_CORE = ["torch>=2.0", f"geofractal @ git+{UPSTREAM}geofractal.git"]
GEOFRACTAL = ["numpy>=1.23", "torch>=2.1"]  # three more that no part of ours asks for

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
    pytest.mark.skipif(find_spec("pip") is None, reason="needs pip"),
    pytest.mark.skipif(find_spec("torch") is None, reason="needs torch, which upstream asks for"),
]


def repository(folder: Path, name: str, dependencies: list[str]) -> str:
    """A git repository with a package that depends as given; its commit."""
    (folder / name.replace("-", "_")).mkdir(parents=True)
    (folder / name.replace("-", "_") / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "0.1.0"\n'
        f"dependencies = {json.dumps(dependencies)}\n"
        "[tool.hatch.metadata]\nallow-direct-references = true\n"
    )
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "made in a test"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def resolve(tmp_path: Path, pyproject: str) -> subprocess.CompletedProcess[str]:
    """Ask pip what the extra brings; every reference to upstream leads to a repository here."""
    commits = {
        name: repository(tmp_path / "upstream" / f"{name}.git", name, dependencies)
        for name, dependencies in {
            "geolip-svae": GEOLIP_SVAE, "geolip-core": GEOLIP_CORE, "geofractal": GEOFRACTAL,
        }.items()
    }  # fmt: skip
    (tmp_path / "upstream" / "geolip-svae").symlink_to("geolip-svae.git")
    (tmp_path / "upstream" / "geolip-core").symlink_to("geolip-core.git")
    checkout = cloned(tmp_path / "checkout")
    for name, commit in commits.items():  # a commit's name cannot be chosen
        pyproject = re.sub(rf"({name}(\.git)?)@[0-9a-f]{{7,40}}\"", rf'\1@{commit}"', pyproject)
    (checkout / "pyproject.toml").write_text(pyproject)
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation",
         "--quiet", "--report", str(tmp_path / "report.json"), f"{checkout}[geolip]"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PIP_")},
            "PIP_CONFIG_FILE": os.devnull,
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/upstream/.insteadOf",
            "GIT_CONFIG_VALUE_0": UPSTREAM,
            "GIT_CONFIG_KEY_1": "protocol.file.allow",
            "GIT_CONFIG_VALUE_1": "always",
            "GIT_TERMINAL_PROMPT": "0",
        },
    )  # fmt: skip


@pytest.mark.slow
def test_pip_resolves_the_extra(tmp_path: Path) -> None:
    run = resolve(tmp_path, (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    found = {item["metadata"]["name"]: item["download_info"] for item in report["install"]}
    assert {"geolip-svae", "geolip-core", "geofractal"} <= found.keys()
    svae = found["geolip-svae"]["vcs_info"]
    # A whole commit: what it names cannot move, nor become ambiguous.
    assert svae["requested_revision"] == svae["commit_id"]


@pytest.mark.slow
def test_a_second_reference_cannot_be_resolved(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    both = text.replace(
        "geolip = [\n", f'geolip = [\n    "geolip-core @ git+{UPSTREAM}geolip-core@ae2a26b",\n'
    )
    assert both != text
    run = resolve(tmp_path, both)
    assert run.returncode == 1
    assert "ResolutionImpossible" in run.stderr
