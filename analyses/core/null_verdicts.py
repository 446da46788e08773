"""How often the notebook's verdicts are positive where there is nothing: what one of them is worth.

Counted by `tools/calibrate.py --designs`, which writes the file.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("null_verdicts.json")
DESIGN = "noise of 200 images in 10 classes (log sd 0.5)"


@cache
def _counts() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def beside(analysis: str, name: str) -> str:
    """Return what stands beside a notebook's figure: of a verdict, how often noise has it."""
    positive = _counts()["positive"].get(analysis)
    if positive is None or not name.endswith("verdict"):
        return ""
    return f" (positive on {positive} of {_counts()['stores']} stores of noise)"
