"""Reading addresses in a forked process.

The client of `remote.py` runs threads of its own, and a fork takes none along: in the child of a
process that has used it, every request would wait for ever. There, a process that is started anew
makes the requests. It ends when its pipe closes, so with the child, however that ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from frictionstore.errors import FrictionstoreError, StoreError
from frictionstore.text import printable

_SERVE = """
from frictionstore.io.relay import serve
from frictionstore.io.remote import locate_remote
serve(locate_remote)
"""
_user: int | None = None  # the process that used the client first
_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def needed() -> bool:
    """Whether requests of this process must go through another; asked before the client is used."""
    global _user
    if _user is None:
        _user = os.getpid()
    return _user != os.getpid()


def ask(address: str, method: str, *arguments: Any) -> Any:
    """What a method of the location at `address` returns.

    Raises
    ------
    FrictionstoreError
        What the method raised, or a `StoreError` where the other process has ended.
    """
    global _process
    with _lock:
        if _process is None:
            _process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        assert _process.stdin is not None
        assert _process.stdout is not None
        try:
            pickle.dump((address, method, arguments), _process.stdin)
            _process.stdin.flush()
            answer = pickle.load(_process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            _process = None
            raise StoreError(
                f"{printable(address)}: the process that reads it for this one ended: try again"
            ) from None
    if isinstance(answer, FrictionstoreError):
        raise answer
    return answer


def _start_anew() -> None:
    """A child of a fork has another's process and a lock that may be held."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def serve(locate: Callable[[str], Any]) -> None:
    """Answer what `ask` asks of standard input, until that closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    places: dict[str, Any] = {}
    while True:
        try:
            address, method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if address not in places:
                places[address] = locate(address)
            answer = getattr(places[address], method)(*arguments)
            if method == "files" and answer is not None:
                answer = list(answer)
        except FrictionstoreError as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()
