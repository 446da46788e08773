"""Signals that end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class EndedBySignal(KeyboardInterrupt):
    """A signal that is to end this process.

    Parameters
    ----------
    number : int
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """TERM and HUP interrupt where they would kill; where they are ignored, as by nohup, they are.

    Only in a main thread: Python calls handlers nowhere else.
    """
    here = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if here and signal.getsignal(number) is signal.SIG_DFL
    ]

    def interrupt(number: int, frame: object) -> None:
        raise EndedBySignal(number)

    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
