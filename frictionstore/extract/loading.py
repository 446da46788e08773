"""Batches of images, loaded ahead by processes or a thread. Knows no torch: nor do the processes.

A loading process is its own program with two pipes. On one it is given batch numbers and gives
batches; the other closes when the process that started it ends, however it ends, and so does then
the loading process. None shares a lock with another, so one that is killed keeps nobody waiting.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import DatasetError
from frictionstore.extract.data.base import REMOVE_OR_SKIP, ChangedError, Dataset

AHEAD = 2  # batches loaded ahead by the loading thread, or by each process


@dataclass(frozen=True)
class Batch:
    """Rows of the store and their images, or the reason why one cannot be read."""

    rows: range
    images: NDArray[np.float32] | None
    failure: str | None = None


class BatchLoader:
    """Loads one batch by its number; an error becomes part of the batch, whoever loads it."""

    def __init__(
        self, dataset: Dataset, batches: list[range], size: int, channels: int = 3
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        rows = self.batches[number]
        shape = (len(rows), self.channels, self.size, self.size)
        images = np.empty(shape, dtype=np.float32)
        options = {"grey": True} if self.channels == 1 else {}
        try:
            for place, row in enumerate(rows):
                images[place] = self.dataset.load(row, self.size, **options)
        except ChangedError as error:
            return Batch(rows, None, str(error))
        except DatasetError as error:
            return Batch(rows, None, f"{error}; {REMOVE_OR_SKIP}")
        return Batch(rows, images)


def loaded(loader: BatchLoader, workers: int) -> Iterator[Batch]:
    """The loader's batches in order, loaded ahead by `workers` processes, or a thread for 0.

    Raises
    ------
    DatasetError
        A loading process was killed.
    """
    if workers > 0:
        yield from _from_processes(loader, min(workers, len(loader)))
    else:
        yield from _from_thread(loader)


def _from_processes(loader: BatchLoader, workers: int) -> Iterator[Batch]:
    task = pickle.dumps(loader)
    processes: list[_LoadingProcess] = []
    idle: queue.SimpleQueue[_LoadingProcess] = queue.SimpleQueue()

    def load(number: int) -> Batch:
        process = idle.get()
        try:
            return process.load(number)
        finally:
            idle.put(process)

    under_way: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="frictionstore-load")
    try:
        for _ in range(workers):
            processes.append(_LoadingProcess(task))
            idle.put(processes[-1])
        for number in range(len(loader)):
            under_way.append(pool.submit(load, number))
            if len(under_way) > AHEAD * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for process in processes:
            process.end()  # which ends what its thread waits for
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.connection.close()


class _LoadingProcess:
    """A process that loads batches, and this side's ends of its pipes."""

    def __init__(self, task: bytes) -> None:
        self.task: bytes | None = task
        self.connection, theirs = Pipe()
        number = theirs.fileno()
        # -P: what lies in the working folder is not imported; sys.path comes first of all.
        program = (
            "import pickle, sys; from multiprocessing.connection import Connection; "
            f"pipe = Connection({number}); sys.path[:] = pickle.loads(pipe.recv_bytes()); "
            "from frictionstore.extract.loading import serve; serve(pipe)"
        )
        with theirs:
            # Not in this one's group: Ctrl-C is this one's to answer.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, pass_fds=[number], process_group=0,
            )  # fmt: skip

    def load(self, number: int) -> Batch:
        try:
            if self.task is not None:
                self.connection.send_bytes(pickle.dumps(sys.path))
                self.connection.send_bytes(self.task)
                self.task = None
            self.connection.send(number)
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise DatasetError(self._how_it_ended()) from None
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Batch)
        return answer

    def _how_it_ended(self) -> str:
        status = self.process.wait()
        if status >= 0:
            how = f"ended by itself with status {status}"
        else:
            name = signal.Signals(-status).name
            oom = ", as by a system that is out of memory" if name == "SIGKILL" else ""
            how = f"was ended by {name}{oom}"
        return (
            f"a process that loads images {how}: what is complete is kept, run it again to go on, "
            "with fewer --workers or a smaller --batch-size if memory is short"
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def serve(pipe: Connection) -> None:
    """The life of a loading process: batches by their numbers, until the other side is gone."""
    _end_with_parent()
    with suppress(EOFError, OSError):
        loader = pickle.loads(pipe.recv_bytes())
        while True:
            number = pipe.recv()
            try:
                answer: Batch | BaseException = loader[number]
            except Exception as error:
                answer = error
            try:
                pipe.send(answer)
            except (pickle.PicklingError, TypeError, AttributeError):
                pipe.send(RuntimeError(repr(answer)[:1000]))


def _end_with_parent() -> None:
    def wait() -> None:
        os.read(0, 1)  # nobody writes: it returns when the last other end is closed
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _from_thread(loader: BatchLoader) -> Iterator[Batch]:
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def load() -> None:
        try:
            for number in range(len(loader)):
                if stop.is_set():
                    return
                put(loader[number])
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=load, name="frictionstore-load", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
