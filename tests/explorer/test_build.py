"""The page's build: what a wheel gets with Node and without, and what it depends on."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from frictionstore.show.page import PAGE
from tests.browser import ROOT


@pytest.fixture
def hook() -> Any:
    pytest.importorskip("hatchling", reason="needs hatchling, which builds the wheel")
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copied(folder: Path) -> Path:
    """The explorer's sources in a checkout of their own, without a page."""
    shutil.copytree(
        ROOT / "explorer", folder / "explorer", ignore=shutil.ignore_patterns("node_modules")
    )
    return folder


def test_without_node_a_reason(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = hook.build_page(copied(tmp_path))
    assert reason == "Node 20 or newer with npm is not installed"
    assert not (tmp_path / hook.PAGE).exists()


def test_a_failing_build_is_a_reason(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = copied(tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("node", "npm"):
        tool = tmp_path / "bin" / name
        tool.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert hook.build_page(root) == "ci --no-progress failed: no network"


def test_a_page_newer_than_its_sources_is_taken(hook: Any, tmp_path: Path):
    root = copied(tmp_path)
    page = root / hook.PAGE
    page.parent.mkdir(parents=True)
    page.write_text("built")
    for source in (root / "explorer").rglob("*"):
        if source.is_file():
            os.utime(source, (1, 1))
    assert hook.build_page(root) is None


def test_dependencies_are_pinned_and_the_lock_names_no_host():
    package = json.loads((ROOT / "explorer" / "package.json").read_text())
    for group in ("dependencies", "devDependencies"):
        for name, version in package[group].items():
            assert version.replace(".", "").isdigit(), (name, version)
    lock = json.loads((ROOT / "explorer" / "package-lock.json").read_text())
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry
        assert not name or entry["integrity"].startswith("sha512-"), name


@pytest.mark.usefixtures("built_page")
def test_the_page_names_the_licences_of_what_it_contains():
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    notice = page[page.rindex("<!--") :]
    for name in ("zarrita", "fzstd"):
        version = json.loads((ROOT / "explorer" / "package.json").read_text())["dependencies"][name]
        assert f"\n{name} {version} (MIT)" in notice
    assert notice.count("Permission is hereby granted") >= 2
