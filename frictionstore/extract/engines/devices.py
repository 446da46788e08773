"""Devices by name, and the precision of their matrix products."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frictionstore.errors import DeviceError, RequestError
from frictionstore.text import did_you_mean


def choose_device(asked: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:K``.

    Raises
    ------
    DeviceError
        It is not there. There is no falling back: only ``auto`` chooses.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, _, number = asked.partition(":")
    if (
        name not in ("cpu", "cuda")
        or (number and not number.isdigit())
        or (name == "cpu" and number)
    ):
        raise DeviceError(
            f"unknown device {asked!r}: choose auto, cpu, cuda or cuda:K"
            + did_you_mean(asked.lower().replace("gpu", "cuda"), ("auto", "cpu", "cuda"))
        )
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if number else 0
    if index >= count:
        there = f"this machine has {count} CUDA device{'' if count == 1 else 's'}"
        if not torch.backends.cuda.is_built():
            there = "this torch was built without CUDA"
        raise DeviceError(f"device {asked} was asked for, but {there}: choose --device auto or cpu")
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor()


def available_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device, roughly; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(available, int(file.read()))
    except (OSError, ValueError):  # no control group, or "max"
        return available


@functools.cache  # told with every batch
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device's matrix products do not have.

    Raises
    ------
    RequestError
        tf32 without CUDA.
    """
    if precision == "tf32" and device.type != "cuda":
        raise RequestError(
            f"precision tf32 exists on CUDA devices only, not on {device.type}: choose float32 or "
            "bfloat16"
        )


@contextmanager
def matrix_products(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, the encoder's matrix products have this precision; everything else is unchanged."""
    if precision == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
