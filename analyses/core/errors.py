"""Exceptions of the analyses that a user can act on."""

from __future__ import annotations

from frictionstore.errors import FrictionstoreError


class AnalysisError(FrictionstoreError):
    """An analysis cannot be done on this input; the message says what would work."""
