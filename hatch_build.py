"""Build hook: puts the explorer page into a wheel, where Node is there to build it.

A checkout without Node, or without a network the first time, gets a wheel of everything else and
one sentence that says so. Editable installs build the page in place when it is first looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # a build knows only what it requires

from frictionstore.show.page import PAGE, build_page

ANALYSES = Path("frictionstore", "analyses")


class ExplorerHook(BuildHookInterface):
    """Builds `explorer/` with npm and adds the page to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if not (root / ANALYSES).is_dir():
            raise RuntimeError(
                f"{ANALYSES} is not the link to analyses/ that it is in git: get the sources with "
                "git or as a .tar.gz, which keep links"
            )
        if version == "editable":
            return
        problem = build_page(root)
        if problem is not None:
            self.app.display_warning(
                f"this wheel has no explorer page ({problem}): frictionstore view will say so, "
                "everything else is there"
            )
            return
        build_data["force_include"][str(root / PAGE)] = PAGE.as_posix()
