"""The rules of import between the rooms, kept by reading every import there is.

All of them count: those inside functions, and those for the type checker alone, since a module
that names another's types cannot be read without it. Importing a name from a package is an import
of the module that the name is, where there is one. Names in strings do not count: by them the
command line finds its commands and `__init__` its public names, without importing them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import pytest

from tests.support import DATA

ROOT = DATA.parent.parent

# Rooms by level; a module imports from its own room and from rooms of lower levels.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "installed", "cores"),
    ("text",),
    ("progress", "cluster"),
    ("io",),
    ("format",),
    ("store",),
    ("check",),
    ("share", "show", "extract", "torch"),
    ("cli",),
    ("frictionstore",),  # __init__ and __main__: the public names
)
ANALYSES: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("stats",),
    ("probe",),
    ("questions",),  # the modules at the top: one a question, the registry and the commands
    ("report",),
)

# What the analyses may use of frictionstore, and why.
ALLOWED = {
    "frictionstore": "the public names",
    "frictionstore.text": "strangers' text made printable",
    "frictionstore.errors": "errors that a user can act on",
    "frictionstore.progress": "one progress bar",
    "frictionstore.cores": "how many threads share the work",
    "frictionstore.cluster": "workers of a Dask cluster, found and asked as for an extraction",
    "frictionstore.version": "who made a report",
    "frictionstore.format.schema": "which maps there are",
    "frictionstore.format.groups": "which images belong together, from a CSV file",
    "frictionstore.format.fingerprint": "a request's leaves, for the report's facts",
    "frictionstore.io.aside": "a folder of results gets its place when it is whole",
    "frictionstore.io.durable": "a report is written as a store is: whole or not at all",
    "frictionstore.io.locate": "no result is written into a store",
    "frictionstore.check.agreement": "reliability, which diff computes of two stores",
    "frictionstore.check.changes": "how far values moved, likewise",
    "frictionstore.cli.group": "the commands explain errors as the others do",
    "frictionstore.cli.options": "the commands take the options that the others take",
}

Graph = dict[str, set[str]]


def plain(name: str) -> str:
    """A module's name; the analyses have one, whichever way they are imported."""
    return re.sub(r"^frictionstore\.analyses(?=\.|$)", "analyses", name)


def sources() -> dict[str, str]:
    """Source text by module."""
    found = {}
    for top in ("frictionstore", "analyses"):
        for path in sorted((ROOT / top).rglob("*.py")):  # not through links
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[plain(name.removesuffix(".__init__"))] = path.read_text(encoding="utf-8")
    return found


def imports(modules: Mapping[str, str]) -> Graph:
    """What each module imports of these modules; of others, their top-level name."""
    graph: Graph = {name: set() for name in modules}
    for name, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                asked = [(plain(alias.name), "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: an import is relative, here they are absolute"
                asked = [(plain(node.module or ""), alias.name) for alias in node.names]
            else:
                continue
            for module, attribute in asked:
                whole = plain(f"{module}.{attribute}") if attribute else module
                found = whole if whole in modules else module
                if found not in modules:
                    found = module.split(".")[0]
                    assert found not in ("frictionstore", "analyses"), (
                        f"{name} imports {whole}, which does not exist"
                    )
                # the package's own name for its part, for the type checker; in use it is a string
                if (name, found) != ("frictionstore", "analyses"):
                    graph[name].add(found)
    return graph


def room(module: str) -> str:
    top, _, rest = module.partition(".")
    first = rest.split(".")[0]
    if top == "analyses":
        return first if (first,) in ANALYSES else "questions"
    return "frictionstore" if first in ("", "__main__") else first


def level(module: str) -> int:
    levels = ANALYSES if module.split(".")[0] == "analyses" else LEVELS
    for number, rooms in enumerate(levels):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} is in no room that the rules know: give it one")


def forbidden(module: str, other: str) -> str | None:
    """Why `module` may not import `other`; None where it may."""
    here, there = module.split(".")[0], other.split(".")[0]
    if there == "torch":
        # frictionstore.torch is what who has torch imports himself: a store as its data set; and
        # of the analyses one readout, when it is asked for, is a network
        known = room(module) in ("extract", "torch") or module == "analyses.probe.cnn"
        return None if known else "only extract imports torch"
    if there not in ("frictionstore", "analyses"):
        return None
    if here == there:
        below = level(other) < level(module) or room(other) == room(module)
        return None if below else "an arrow up or across"
    if here == "frictionstore":
        return "frictionstore knows no analysis"
    return None if other in ALLOWED else "not one of frictionstore's public names"


def violations(graph: Graph) -> list[str]:
    """Every import that the rules forbid, and every circle."""
    wrong = [
        f"{module} imports {other}: {why}"
        for module, imported in sorted(graph.items())
        for other in sorted(imported)
        if (why := forbidden(module, other))
    ]
    for module in graph:
        level(module)  # every module has a room, imported or not
    return wrong + [" -> ".join(circle) for circle in circles(graph)]


def circles(graph: Graph) -> list[list[str]]:
    """For every module that imports itself by any way, the shortest; each circle once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        paths: list[list[str]] = [[start]]
        seen: set[str] = set()
        for path in paths:  # grows while it is read: the shortest ways come first
            reached = sorted(graph[path[-1]] & graph.keys())
            if start in reached:
                found.setdefault(frozenset(path), [*path, start])
                break
            paths.extend([*path, other] for other in reached if other not in seen)
            seen.update(reached)
    return list(found.values())


def test_the_rules_hold() -> None:
    assert violations(imports(sources())) == []


def test_every_permission_is_used() -> None:
    graph = imports(sources())
    used = {o for m, imported in graph.items() if m.split(".")[0] == "analyses" for o in imported}
    assert ALLOWED.keys() - used == set()


SOUND = {
    "frictionstore": "from frictionstore.version import __version__",
    "frictionstore.version": "__version__ = '1'",
    "frictionstore.text": "",
    "frictionstore.io.base": "import frictionstore.text",
    "frictionstore.store.reader": "from frictionstore.io import base",
    "frictionstore.store.writer": "from frictionstore.store import reader",
    "frictionstore.check.verify": "import frictionstore.store.reader",
    "frictionstore.extract.job": "import torch\nfrom frictionstore.store.writer import write",
    "frictionstore.share.copy": "from frictionstore.check.verify import verify",
    "frictionstore.cli.main": "from frictionstore.share.copy import copy\nLAZY = 'analyses.cli'",
    "analyses": "from frictionstore.text import printable",
    "analyses.core.source": "from frictionstore import open",
    "analyses.stats.lattice": "from analyses.core.source import rows",
    "analyses.probe.ridge": "from analyses.stats import lattice",
    "analyses.spatial_cv": "from frictionstore.analyses.probe.ridge import fit",
    "analyses.report.page": "from analyses import spatial_cv",
}


def test_a_sound_house_is_found_sound() -> None:
    assert violations(imports(SOUND)) == []


@pytest.mark.parametrize(
    ("module", "planted", "said"),
    [
        ("frictionstore.text", "import frictionstore.io.base", "an arrow up"),
        ("frictionstore.io.base", "from frictionstore.store import reader", "an arrow up"),
        (
            "frictionstore.store.reader",
            "def f():\n    from frictionstore.check.verify import verify",
            "an arrow up",
        ),
        (
            "frictionstore.store.reader",
            "if TYPE_CHECKING:\n    from frictionstore.check.verify import Report",
            "an arrow up",
        ),
        ("frictionstore.share.copy", "import frictionstore.extract.job", "or across"),
        ("frictionstore.extract.job", "import frictionstore.cli.main", "an arrow up"),
        ("frictionstore.store.reader", "from frictionstore import open", "an arrow up"),
        ("frictionstore.cli.main", "import analyses", "knows no analysis"),
        ("frictionstore.cli.main", "from frictionstore import analyses", "knows no analysis"),
        ("frictionstore.cli.main", "from analyses.core import source", "knows no analysis"),
        ("frictionstore.cli.main", "def f():\n    import torch.nn", "only extract imports torch"),
        ("analyses.core.source", "from torch import Tensor", "only extract imports torch"),
        ("analyses.core.source", "import frictionstore.store.reader", "public names"),
        ("analyses.core.source", "from analyses.stats.lattice import moran", "an arrow up"),
        ("analyses.stats.lattice", "from frictionstore.analyses.probe import ridge", "arrow up"),
        ("analyses.probe.ridge", "import analyses.spatial_cv", "an arrow up"),
        ("analyses.spatial_cv", "from analyses.report.page import write", "an arrow up"),
        (
            "frictionstore.store.reader",
            "def f():\n    import frictionstore.store.writer",
            "store.reader -> frictionstore.store.writer -> frictionstore.store.reader",
        ),
        ("frictionstore.text", "import frictionstore.text", "text -> frictionstore.text"),
    ],
)
def test_a_planted_violation_is_found(module: str, planted: str, said: str) -> None:
    found = violations(imports({**SOUND, module: f"{SOUND[module]}\n{planted}"}))
    assert any(line.startswith(module) and said in line for line in found), found


def test_a_long_circle_is_found() -> None:
    rooms = {f"frictionstore.io.r{k}": f"import frictionstore.io.r{(k + 1) % 4}" for k in range(4)}
    assert [len(circle) for circle in circles(imports(rooms))] == [5]


def test_a_module_without_a_room_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"frictionstore\.utils is in no room"):
        violations(imports({**SOUND, "frictionstore.utils": ""}))


def test_an_import_of_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="which does not exist"):
        imports({**SOUND, "frictionstore.text": "from frictionstore.moved import gone"})


def test_no_file_and_no_function_is_too_long() -> None:
    """450 lines and 80; the conduit's kernels are written out, and may be longer."""
    long = {}
    for module, text in sources().items():
        if module.startswith("frictionstore.extract.conduit"):
            continue
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        lengths = {f"{module}.{n.name}": (n.end_lineno or 0) - n.lineno + 1 for n in functions}
        long |= {name: count for name, count in lengths.items() if count > 80}
        if text.count("\n") > 450:
            long[module] = text.count("\n")
    assert long == {}
