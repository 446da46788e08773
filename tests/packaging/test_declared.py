"""What is imported is declared where it is needed, has a lowest version, and is pinned."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support import DATA

ROOT = DATA.parent.parent
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = TABLE["project"]["dependencies"]
EXTRAS = TABLE["project"]["optional-dependencies"]
OWN = {"frictionstore", "analyses", "tests", "tools"}
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}  # where names differ
OPTIONAL = {
    "atheris": "fuzzes by hand; its inputs are run again without it",
    "triton": "comes with torch on the platforms where it runs; asked for before it is used",
    "pyarrow": "pandas writes Parquet with it where it is; asked for before it is used",
    "zarrs": "a benchmark compares with it where it is",
    "pip": "asks whether it is here, to be run by tests",
    "geolip_core": "comes with geolip-svae, which refers to it itself",
}
ASKING = ("import_module", "find_spec", "importorskip", "remote_module")
FOLDERS = {  # the first prefix that fits: which extras its imports may rest on
    "frictionstore/extract/": ("extract", "geolip", "cluster"),
    "frictionstore/extract/job.py": ("extract",),
    "frictionstore/share/hub.py": ("remote",),
    "frictionstore/share/export.py": ("export",),
    "frictionstore/torch.py": ("extract",),
    "frictionstore/io/remote.py": ("remote",),
    "frictionstore/cluster.py": ("cluster",),
    "analyses/core/cluster.py": ("cluster",),
    "analyses/probe/cnn.py": ("extract",),
    "frictionstore/": (),
    "analyses/": (),
    "tools/site.py": ("extract", "docs"),
    "tools/": ("extract", "dev"),
    "tests/packaging/test_make_docs.py": ("extract", "remote", "dev", "docs"),
    "tests/": ("extract", "remote", "dev"),
    "benchmarks/": ("extract", "remote", "dev", "bench"),
}


def named(requirement: str) -> str:
    """The distribution's name, normalised."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def bounds(requirements: list[str]) -> dict[str, str]:
    """Name to lowest version, of requirements that are not one commit."""
    found = {}
    for requirement in requirements:
        if " @ " not in requirement:
            match = re.fullmatch(r"[\w.-]+(\[\w+\])?>=([\d.]+)", requirement)
            assert match, f"{requirement} is not NAME>=VERSION"
            found[named(requirement)] = match[2]
    return found


def imported(source: str) -> Iterator[str]:
    """Top-level names of modules that `source` imports anywhere, or asks importlib for."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args:
            function = node.func.attr if isinstance(node.func, ast.Attribute) else (
                getattr(node.func, "id", ""))  # fmt: skip
            first = node.args[0]
            if function in ASKING and isinstance(first, ast.Constant) and first.value:
                names = [str(first.value)]
        yield from (name.split(".")[0] for name in names)


def sources() -> Iterator[tuple[str, tuple[str, ...]]]:
    for folder in sorted({prefix.split("/")[0] for prefix in FOLDERS}):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            yield (
                name,
                next(extras for prefix, extras in FOLDERS.items() if name.startswith(prefix)),
            )


def undeclared(source: str, extras: tuple[str, ...], beside: set[str]) -> set[str]:
    """Modules of `source` whose distribution neither the core nor the extras declare."""
    declared = {named(item) for item in [*CORE, *(r for extra in extras for r in EXTRAS[extra])]}
    known = OWN | OPTIONAL.keys() | sys.stdlib_module_names | beside
    return {
        module
        for module in imported(source)
        if module not in known and named(DISTRIBUTIONS.get(module, module)) not in declared
    }


def test_every_import_is_declared_in_the_extra_that_it_rests_on() -> None:
    wrong = {}
    for name, extras in sources():
        if name.startswith("tests/data/"):
            continue  # programs that made figures, with packages that no test needs
        own = name.startswith(("benchmarks/", "tools/"))  # scripts import what lies beside them
        beside = {path.stem for path in (ROOT / name).parent.glob("*.py")} if own else set()
        found = undeclared((ROOT / name).read_text(encoding="utf-8"), extras, beside)
        if found:
            wrong[name] = sorted(found)
    assert wrong == {}
    build = undeclared((ROOT / "hatch_build.py").read_text(), (), set())
    assert {named(module) for module in build} <= {
        named(r) for r in TABLE["build-system"]["requires"]
    }


@pytest.mark.parametrize(
    ("source", "extras", "expected"),
    [
        ("import google_crc32c_x", (), {"google_crc32c_x"}),
        ("def f():\n    from llvmlite import ir", (), {"llvmlite"}),
        ("def f():\n    from llvmlite import ir", ("extract",), set()),
        ("from importlib import import_module as i\nimport importlib\n"
         "importlib.import_module('obstore.store')", (), {"obstore"}),
        ("import numpy, os.path, frictionstore.text", (), set()),
    ],
)  # fmt: skip
def test_an_undeclared_import_is_seen(
    source: str, extras: tuple[str, ...], expected: set[str]
) -> None:
    assert undeclared(source, extras, set()) == expected


def test_what_everybody_installs_is_imported_by_what_everybody_uses() -> None:
    used = {
        named(DISTRIBUTIONS.get(module, module))
        for name, extras in sources()
        if name.startswith(("frictionstore/", "analyses/")) and not extras
        for module in imported((ROOT / name).read_text(encoding="utf-8"))
    }
    assert {named(requirement) for requirement in CORE} <= used


def number(text: str) -> tuple[int, ...]:
    """A version's numbers, without trailing zeros, so that 2 and 2.0.0 are one."""
    numbers = [int(part) for part in re.findall(r"\d+", text.split(".post")[0].split("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def test_every_dependency_has_one_lowest_version_and_a_pin_above_it() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {named(line): line.split("==")[1] for line in lines if not line.startswith("#")}
    lowest: dict[str, set[str]] = {}
    for requirements in [CORE, *EXTRAS.values()]:
        for name, bound in bounds(requirements).items():
            lowest.setdefault(name, set()).add(bound)
    for name, found in lowest.items():
        assert len(found) == 1, f"{name} has the lowest versions {sorted(found)}"
        assert number(found.pop()) <= number(pins[name])


@pytest.mark.skipif(
    not os.environ.get("FRICTIONSTORE_LOWEST"),
    reason="make test-lowest installs what this looks at",
)
def test_the_lowest_declared_versions_are_what_is_installed() -> None:
    expected = bounds([*CORE, *EXTRAS["remote"], *EXTRAS["dev"]])
    installed = {name: version(name) for name in expected}
    wrong = {
        name: f"{installed[name]}, not {bound}"
        for name, bound in expected.items()
        if number(installed[name]) != number(bound)
    }
    assert wrong == {}
    assert "torch" not in {path.name for path in Path(pytest.__file__).parent.parent.iterdir()}
