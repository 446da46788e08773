"""The engine for a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from frictionstore.extract.encoder.svae import PatchSVAE
from frictionstore.extract.engines.base import NativeEngine


def native_engine(
    model: PatchSVAE,
    maps: Sequence[str],
    device: torch.device,
    *,
    threads: int | None = None,
    **options: Any,
) -> NativeEngine:
    """The engine for a device; `options` are `NativeEngine`'s.

    Parameters
    ----------
    threads : int, optional
        Tiles computed at once on a CPU; by default one per core.
    """
    if device.type == "cuda":
        from frictionstore.extract.engines.gpu import GpuEngine

        return GpuEngine(model, maps, device, **options)
    from frictionstore.extract.engines.cpu import CpuEngine

    return CpuEngine(model, maps, device, threads=threads, **options)
