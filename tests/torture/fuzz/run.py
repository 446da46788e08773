"""Feed one parser with changed bytes, guided by coverage, until the time is over or it fails.

``python -m tests.torture.fuzz.run TARGET CORPUS [libFuzzer options]`` in the checkout, with
``atheris`` from PyPI on the path. New inputs that reach new code go into CORPUS; an input that
ends in anything but one sentence is written to the working folder and named.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["frictionstore", "zipfile"]):
    from tests.torture.fuzz import targets

ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, 1e308, 0.5, "", "x", "\x1b[31m\n", "\ud800", "..",
    "../x", "/", [], {}, [[]], {"": ""}, [None], "9" * 400,
]  # fmt: skip


def change(value: Any, draw: random.Random) -> Any:
    """A JSON value with one place of it replaced, removed, repeated or renamed."""
    places: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        places = list(value.items() if isinstance(value, dict) else enumerate(value))
    if not places or draw.random() < 0.05:
        return draw.choice(ODD)
    key, held = draw.choice(places)
    what = draw.random()
    if what < 0.1:
        del value[key]
    elif what < 0.2 and isinstance(value, dict):
        value[str(draw.choice(ODD))] = value.pop(key)
    elif what < 0.3 and isinstance(value, list):
        value.append(held)
    else:
        value[key] = change(held, draw)
    return value


def mutate(data: bytes, limit: int, seed: int) -> bytes:
    draw = random.Random(seed)
    try:
        text = json.dumps(change(json.loads(data), draw))
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, limit))
    changed = text.encode()
    return changed if len(changed) <= limit and draw.random() < 0.9 else atheris.Mutate(data, limit)


def main() -> None:
    name = sys.argv.pop(1)
    structured = {"custom_mutator": mutate} if name in ("header", "saved", "index") else {}
    atheris.Setup(sys.argv, lambda data: targets.fed(name, data), **structured)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
