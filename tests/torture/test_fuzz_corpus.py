"""Inputs that the fuzzers found worth keeping, fed again: one sentence each, or nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support import DATA
from tests.torture.fuzz.targets import TARGETS, fed

pytest.importorskip("safetensors")
CORPUS = DATA / "fuzz"


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input(name: str, counts: Counter[str]) -> None:
    files = sorted(Path(CORPUS, name).iterdir())
    assert files
    for file in files:
        fed(name, file.read_bytes())
        counts["fuzz: kept inputs"] += 1
