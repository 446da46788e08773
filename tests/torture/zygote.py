"""A process that has the packages loaded and forks children on request, one at a time.

    python -m tests.torture.zygote

Reads one JSON object per line: ``call`` ("module:function"), ``arguments``, ``log`` (a file for
the child's standard streams) and ``largest_file`` (a file-size limit in bytes, or null). Answers
with the child's process id, and with how it ended. It runs no threads of its own, so a fork is a
clean copy of a started interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

PRELOADED = (
    "zarr",
    "numcodecs",
    "google_crc32c",
    "frictionstore.cli.main",
    "frictionstore.share.pack",
    "frictionstore.share.push_pull",
    "frictionstore.extract.job",
    "frictionstore.check.verify",
    "tests.torture.writing",
)
WITH_TORCH = (
    "torch",
    "frictionstore.extract.pipeline",
    "frictionstore.extract.engines.base",
    "frictionstore.extract.data.choose",
    "frictionstore.extract.encoder.checkpoints",
    "frictionstore.extract.conduit.kernels.cpu.conduit",
    "frictionstore.extract.data.noise",
    "numpy.random",
)


def live(task: dict[str, Any]) -> None:
    """The child's life."""
    status = 98
    try:
        descriptor = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        if task["largest_file"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            limit = task["largest_file"]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        module, function = task["call"].split(":")
        status = getattr(importlib.import_module(module), function)(task["arguments"])
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(status)


def main() -> None:
    for name in (*PRELOADED, *(WITH_TORCH if "--torch" in sys.argv else ())):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(json.loads(line))
        print(f"child {pid}", flush=True)
        _, raw = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(raw)}", flush=True)


if __name__ == "__main__":
    main()
