"""Feed one parser with changed bytes, guided by coverage, until the time is over or it fails.

``python -m tests.torture.fuzz.run TARGET CORPUS [libFuzzer options]`` in the checkout, with
``atheris`` from PyPI on the path. New inputs that reach new code go into CORPUS; an input that
ends in anything but one sentence is written to the working folder and named.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["frictionstore", "zipfile", "json"]):
    from tests.torture.fuzz import targets


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: targets.fed(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
