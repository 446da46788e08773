"""What a message advises to install can be installed, for each way that this package came."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from frictionstore import installed
from tests.packaging.checkout import ROOT, cloned, shared_environment, tracked


@pytest.fixture
def came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[object], None]:
    """Pretend an installation with this record of where it came from."""

    def pretend(record: object) -> None:
        text = None if record is None else json.dumps(record)
        monkeypatch.setattr(installed, "ROOT", tmp_path)
        monkeypatch.setattr(
            "importlib.metadata.distribution",
            lambda name: SimpleNamespace(read_text=lambda f: text),
        )

    return pretend


def test_in_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert installed.install_command("extract").endswith(" -m pip install -e '.[extract]'")
    monkeypatch.chdir(tmp_path)
    shown = shlex.split(installed.install_command("extract", "geolip"))
    assert shown == [sys.executable, "-m", "pip", "install", "-e", f"{ROOT}[extract,geolip]"]


def test_the_interpreter_is_named_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    assert installed.install_command("remote").startswith("'my env/bin/python' -m pip install ")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"url": "https://host/frictionstore.git", "vcs_info": {"vcs": "git", "commit_id": "abc1"}},
         "frictionstore[remote] @ git+https://host/frictionstore.git@abc1"),
        ({"url": "https://host/x.whl", "archive_info": {}}, "frictionstore[remote] @ https://host/x.whl"),
        ({"url": "file:///gone/x.whl", "archive_info": {}}, ".[remote]"),
        (None, ".[remote]"),
    ],
)  # fmt: skip
def test_elsewhere_it_comes_from_where_this_came_from(
    came_from: Callable[[object], None], record: object, expected: str
) -> None:
    came_from(record)
    command = installed.install_command("remote")
    assert shlex.split(command)[4] == expected
    assert command.endswith(" in a checkout of frictionstore") == (expected == ".[remote]")


def test_no_message_advises_an_index_that_does_not_have_it() -> None:
    advice = re.compile(r"pip install ['\"]?frictionstore\b")
    mine = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        name
        for name in tracked()
        if name.endswith((".py", ".md", ".toml", ".ts", ".html", "Makefile")) and name != mine
        and advice.search((ROOT / name).read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert found == []


def made_package(folder: Path) -> None:
    """A wheel that no index has."""
    folder.mkdir()
    info = "made_in_a_test-1.0.dist-info"
    with zipfile.ZipFile(folder / "made_in_a_test-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("made_in_a_test.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: made-in-a-test\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pip") is None, reason="needs pip")
@pytest.mark.parametrize("how", ["checkout", "wheel"])
def test_the_advice_can_be_followed(how: str, tmp_path: Path) -> None:
    """Install one way, ask for the advice there, do as it says: the extra's package is there.

    Needs an index, as pip does to build anything.
    """
    checkout = cloned(tmp_path / "a clone")
    page = checkout / "frictionstore" / "explorer_page" / "index.html"
    page.parent.mkdir()
    page.write_text("built")
    table = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    more = table.replace("\nremote = [\n", '\nremote = [\n    "made-in-a-test>=1",\n')
    assert more != table
    (checkout / "pyproject.toml").write_text(more, encoding="utf-8")
    made_package(tmp_path / "packages")
    python = shared_environment(tmp_path / "env") / "bin" / "python"
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**settings, "PIP_FIND_LINKS": str(tmp_path / "packages")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = str(checkout)
    if how == "wheel":
        ask("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "out"), source)
        (wheel,) = (tmp_path / "out").glob("*.whl")
        source = str(wheel)
    editable = ["-e"] if how == "checkout" else []
    ask("-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", *editable, source)
    code = "from frictionstore.installed import install_command as c; print(c('remote'))"
    command = shlex.split(ask("-c", code))
    assert Path(command[0]) in (python, python.relative_to(tmp_path))
    ask(*command[1:], "-q")
    ask("-c", "import made_in_a_test, frictionstore")
