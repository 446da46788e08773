"""Exceptions a user can act on: each message is one sentence that says what, where and what works.

The command line prints the message of a `FrictionstoreError` and exits with status 2.
"""

from __future__ import annotations


class FrictionstoreError(Exception):
    """Base of every error a user can act on."""


class CheckpointError(FrictionstoreError):
    """An encoder checkpoint cannot be used."""


class DatasetError(FrictionstoreError):
    """A data set cannot be read as asked."""


class DeviceError(FrictionstoreError):
    """The device asked for cannot be used."""


class MeasurementError(FrictionstoreError):
    """A measured value is not finite."""


class RequestError(FrictionstoreError):
    """What was asked for contradicts itself or cannot be done."""


class StoreError(FrictionstoreError):
    """A store is missing, incomplete, damaged or of another format."""


class BusyError(StoreError):
    """Another process is writing the same store."""
