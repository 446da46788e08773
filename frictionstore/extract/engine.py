"""From images to maps: the encoder and the conduit, in tiles of a fixed number of images.

A matrix product's last bit may depend on how many rows it has. Every tile therefore has the
same number of images (the last one of a unit is padded), and tiles start where units start:
what an image gives does not depend on batch size, workers or interruption.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frictionstore import schema
from frictionstore.errors import DeviceError, RequestError
from frictionstore.extract.conduit import ConduitConstants, conduit_maps, kernel_name
from frictionstore.extract.images import thumbnails
from frictionstore.extract.svae import PatchSVAE, Spectrum

Report = Callable[[str], None]
Maps = dict[str, NDArray[Any]]

CPU_TILE_PATCHES = 512  # activations of a hidden layer of 384 stay in a core's L2 cache
CUDA_TILE_PATCHES = 16384
CONDUIT_MAPS = ("friction", "settle", "slot", "refinement_residual")


class Engine(Protocol):
    """What the pipeline needs of whoever computes."""

    maps: tuple[str, ...]

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of one image in each map."""

    def tile_images(self, image_size: int) -> int:
        """Images computed at a time; batches are cut at multiples of this."""

    def measure(self, images: NDArray[np.float32]) -> Maps:
        """Maps of images of shape (count, 3, size, size); `count` is each map's first axis too."""

    def describe(self) -> dict[str, Any]:
        """Engine, device and versions, for the provenance."""

    def close(self) -> None:
        """Give threads back."""


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
        raise DeviceError(f"unknown device {asked!r}: choose auto, cpu, cuda or cuda:K")
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


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, a torch operation uses the thread that calls it and no other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class NativeEngine:
    """The PatchSVAE and the conduit of this package.

    Parameters
    ----------
    model : PatchSVAE
    maps : names of maps
    device : torch.device
    value_range : (float, float)
        Pixel values that a thumbnail shows as black and white.
    precision : {"float32", "tf32", "bfloat16"}
        Of the encoder's matrix products. What follows them is the same for all.
    constants : ConduitConstants
    threads : int, optional
        Tiles computed at once on a CPU; by default one per core.
    report : callable, optional
        Takes remarks for the user.
    """

    def __init__(
        self,
        model: PatchSVAE,
        maps: Sequence[str],
        device: torch.device,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        precision: str = "float32",
        constants: ConduitConstants | None = None,
        threads: int | None = None,
        report: Report = lambda text: None,
    ) -> None:
        check_precision(precision, device)
        self.precision = precision
        self.model = model.to(device)
        self.maps = tuple(maps)
        self.device = device
        self.value_range = value_range
        self.constants = ConduitConstants() if constants is None else constants
        self.threads = (os.cpu_count() or 1) if threads is None else threads
        self.report = report
        self.fused = kernel_name(model.config.D, str(device)) == "fused-cpu"
        self._tile: int | None = None
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="frictionstore-encode")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        config = self.model.config
        return schema.map_row_shapes(self.maps, image_size, config.patch_size, config.D)

    def tile_images(self, image_size: int) -> int:
        if self._tile is None:
            patches = (image_size // self.model.config.patch_size) ** 2
            target = CUDA_TILE_PATCHES if self.device.type == "cuda" else CPU_TILE_PATCHES
            self._tile = max(1, target // patches)
        return self._tile

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "engine": "native",
            "device": self.device.type,
            "device_name": device_name(self.device),
            "conduit_kernel": kernel_name(self.model.config.D, str(self.device)),
            "spectrum_kernel": "fused-cpu" if self.fused else "torch.linalg.eigh",
            "torch": torch.__version__,
        }
        if self._tile is not None:
            described["tile_images"] = self._tile
        return described

    def measure(self, images: NDArray[np.float32]) -> Maps:
        size = images.shape[-1]
        while True:
            tile = self.tile_images(size)
            try:
                return self._measure(images, tile)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if tile == 1:
                    raise DeviceError(
                        f"{self.device} has too little free memory for one image of {size} x "
                        f"{size}: free some, choose a smaller --image-size, or --device cpu"
                    ) from None
                self._tile = tile // 2
                self.report(
                    f"out of memory on {self.device}: going on with batches of {self._tile} images"
                )

    def _measure(self, images: NDArray[np.float32], tile: int) -> Maps:
        count = len(images)
        parts = [images[first : first + tile] for first in range(0, count, tile)]
        if self.device.type == "cpu":
            with one_thread_each():
                encoded = list(self._pool.map(lambda part: self._encode(part, tile), parts))
        else:
            encoded = [self._encode(part, tile) for part in parts]
        made: Maps = {}
        for name in ("S", "S_orig", "recon_error"):
            if name in self.maps:
                made[name] = torch.cat([part[name] for part in encoded]).cpu().numpy()
        wanted = [name for name in CONDUIT_MAPS if name in self.maps]
        if wanted:
            S, V = (torch.cat([part[name] for part in encoded]) for name in ("S", "V"))
            made.update(self._conduit(S, V, wanted))
        shapes = self.row_shapes(images.shape[-1])
        if "image" in self.maps:
            made["image"] = thumbnails(images, *self.value_range)
        return {name: made[name].reshape(count, *shapes[name]) for name in self.maps}

    def _conduit(self, S: Tensor, V: Tensor, wanted: list[str]) -> Maps:
        """Friction and its company from the coordinated spectrum, all patches at once."""
        if self.fused:
            from frictionstore.extract.conduit.fused_gram import maps_from_spectrum

            return maps_from_spectrum(
                S.numpy(), V.numpy(), wanted, threads=self.threads, constants=self.constants
            )
        fields = conduit_maps(gram(S, V), wanted, threads=self.threads, constants=self.constants)
        return {name: field.cpu().numpy() for name, field in fields.items()}

    def _spectrum(self, M: Tensor) -> Spectrum:
        """The spectrum of a tile's matrices; NaN where M is not finite, and the caller says so."""
        if not self.fused:
            return spectrum_or_nan(M)
        from frictionstore.extract.conduit.fused_gram import spectrum

        S, V = spectrum(M.flatten(0, 1).numpy(), threads=1)  # tiles run side by side already
        shape = M.shape[:2]
        return Spectrum(
            torch.from_numpy(S).unflatten(0, shape), torch.from_numpy(V).unflatten(0, shape)
        )

    @torch.inference_mode()
    def _encode(self, images: NDArray[np.float32], tile: int) -> dict[str, Tensor]:
        """What the maps of one tile are made from; padded to `tile` images, cut back at the end."""
        model, count = self.model, len(images)
        batch = torch.zeros((tile, *images.shape[1:]), dtype=torch.float32)
        batch[:count] = torch.from_numpy(images)
        batch = batch.to(self.device, non_blocking=True)
        with matrix_products(self.precision, self.device):
            M = model.encode(model.patches(batch))
        spectrum = self._spectrum(M)
        S = model.coordinate(spectrum.S_orig)
        made = {"S": S, "S_orig": spectrum.S_orig, "V": spectrum.V}
        if "recon_error" in self.maps:
            made["recon_error"] = self._recon_error(batch, M, spectrum, S)
        return {name: value[:count] for name, value in made.items()}

    def _recon_error(self, batch: Tensor, M: Tensor, spectrum: Spectrum, S: Tensor) -> Tensor:
        height, width = batch.shape[-2:]
        made = self.model.decode(self.model.rescale(M, spectrum, S), height, width)
        return self.model.patches((made - batch).square()).mean(dim=-1)


def spectrum_or_nan(M: Tensor) -> Spectrum:
    """`PatchSVAE.spectrum`, but NaN for matrices that are not finite, which LAPACK refuses."""
    finite = M.sum(dim=(-2, -1)).isfinite()
    if bool(finite.all()):
        return PatchSVAE.spectrum(M)
    S, V = PatchSVAE.spectrum(torch.where(finite[..., None, None], M, torch.zeros_like(M)))
    nan = torch.tensor(float("nan"), device=M.device)
    return Spectrum(
        torch.where(finite[..., None], S, nan), torch.where(finite[..., None, None], V, nan)
    )


def gram(S: Tensor, V: Tensor) -> Tensor:
    """``V diag(S^2) V'``, float32, what the conduit measures."""
    return (V * S.square().unsqueeze(-2)) @ V.mT
