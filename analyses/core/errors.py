"""Exceptions of the analyses that a user can act on."""

from __future__ import annotations

from frictionstore.errors import FrictionstoreError


class AnalysisError(FrictionstoreError):
    """An analysis cannot be done on this input; the message says what would work."""


class UndefinedError(AnalysisError):
    """A map holds a value of which what was asked for is not defined: `found` says where.

    Without advice: the message ends with `instead`, which only helps who chose the feature.
    """

    found: str
    instead: str

    @classmethod
    def of(cls, found: str, instead: str) -> UndefinedError:
        error = cls(f"{found}; use {instead} itself")
        error.found, error.instead = found, instead
        return error
