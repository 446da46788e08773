"""Modules that can be called: `analyses.f_statistic` is a module and its main function.

A package attribute and a submodule of one name cannot both exist: importing the submodule
rebinds the attribute. So the submodule itself answers calls, in whatever order things are
imported.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module whose call is a call of the function that bears its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(getattr(self, self.__name__.rpartition(".")[2]))


def make_callable(name: str) -> None:
    """Let the module `name` be called; it must define a function of its own name."""
    sys.modules[name].__class__ = CallableModule
