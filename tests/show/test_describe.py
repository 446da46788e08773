"""`info` in words: long values whole, wrapped, and harmless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import frictionstore as fs
from frictionstore.show.describe import describe
from tests.support import MakeStore

ORIGIN = (
    "hub:AbstractPhil/geolip-SVAE@9c2a7e51d3f04b6fa2c8b7d0e1f2a3b4c5d6e7f8/"
    "v40_freckles_noise/checkpoints/with_a_long_folder_name/best_of_all_epochs.pt"
)


def with_provenance(store: fs.Store, **changes: Any) -> fs.Store:
    path = Path(store.location, "provenance.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return fs.open(store.location)


@pytest.mark.parametrize("width", [60, 100])
def test_origin_and_revision_are_whole(make_store: MakeStore, width: int) -> None:
    command = ["frictionstore", "extract", *(f"--option-{k}" for k in range(40))]
    store = with_provenance(
        make_store(),
        encoder={"origin": ORIGIN, "file_sha256": "ab" * 32},
        runs=[{"device": "cpu", "versions": {"torch": "2.14.1", "numpy": "2.4.6"}}],
        command=command,
    )
    text = describe(store, width)
    assert f"encoder.origin:\n        {ORIGIN}\n" in text
    assert "ab" * 32 in text
    assert all(repr(word) in text for word in command)
    assert "run: device cpu, versions.numpy 2.4.6, versions.torch 2.14.1" in " ".join(text.split())
    made = text.split("\n  made\n")[1].splitlines()
    assert all(len(line) <= width or " " not in line.strip() for line in made)


def test_what_is_wrapped_cannot_move_the_cursor(make_store: MakeStore) -> None:
    store = with_provenance(make_store(), recipe="\x1b[2J\r" * 50, note="x" * 10_000)
    text = describe(store, 80)
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(map(len, text.splitlines())) < 2100
