"""Exceptions a user can act on: each message is one sentence that says what, where and what works.

The command line prints the message of a `FrictionstoreError` and exits with status 2.
"""

from __future__ import annotations


class FrictionstoreError(Exception):
    """Base of every error a user can act on.

    Parameters
    ----------
    message : str
    option : str, optional
        An argument that would help, as Python has it (``overwrite=True``): the end of the message.
    """

    def __init__(self, message: str = "", *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option

    def __str__(self) -> str:
        return " ".join([*map(str, self.args), *filter(None, [self.option])])

    def on_command_line(self) -> str:
        """The message with the option as a flag: ``--overwrite``."""
        if self.option is None:
            return str(self)
        name, _, value = self.option.partition("=")
        flag = "--" + name.replace("_", "-")
        return " ".join([*map(str, self.args), flag, *([] if value == "True" else [value])])


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


class UnreachableError(StoreError):
    """A server or the network failed: nothing is known of the store behind it."""


class BusyError(StoreError):
    """Another process is writing the same store."""


class OutputError(FrictionstoreError):
    """Standard output cannot be written.

    Parameters
    ----------
    reason : Exception
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(
            f"standard output cannot be written: {getattr(reason, 'strerror', None) or reason}"
        )
        self.pipe = isinstance(reason, BrokenPipeError)
