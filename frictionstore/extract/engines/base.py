"""From images to maps: the encoder and the conduit, in tiles of a fixed number of images.

A matrix product's last bit may depend on how many rows it has. Every tile therefore has the
same number of images (the last one of a unit is padded), and tiles start where units start:
what an image gives does not depend on batch size, workers or interruption.

Here is what engines have in common; `cpu.py` and `gpu.py` compute.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frictionstore.errors import DeviceError, RequestError
from frictionstore.extract.conduit import ConduitConstants, dispatch, reference, repeats, sums
from frictionstore.extract.donors import DONATED
from frictionstore.extract.encoder.svae import PatchSVAE, Spectrum
from frictionstore.extract.engines.devices import check_precision, device_name
from frictionstore.format import schema
from frictionstore.progress import Report

Maps = dict[str, NDArray[Any]]

CONDUIT_MAPS = (
    "friction", "settle", "friction_exact", "settle_exact", "slot", "refinement_residual",
)  # fmt: skip
ENCODER_MAPS = ("S", "S_orig", "recon_error")


@dataclass(frozen=True)
class Started:
    """A batch that is being measured.

    finish : waits for its maps; called once.
    described : what the engine says of itself while it measures this batch.
    """

    finish: Callable[[], Maps]
    described: dict[str, Any]


class Engine(Protocol):
    """What the pipeline needs of whoever computes."""

    maps: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Of the images it takes: 3 for RGB, 1 for luma."""

    @property
    def ahead(self) -> int:
        """Batches worth starting before the one before them is finished."""

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of one image in each map."""

    def tile_images(self, image_size: int) -> int:
        """Images computed at a time; batches are cut at multiples of this."""

    def start(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None = None,
    ) -> Started:
        """Begin to measure images of shape (count, channels, size, size).

        `count` is the first axis of each map. `rows`, shape (count,), says where each image is in
        its data set: repeats depend on it. `donors` are the images that lend each its singular
        vectors, for `friction_donor`. The arrays must not change before the end.
        """

    def describe(self) -> dict[str, Any]:
        """Engine, device and versions, for the provenance."""

    def close(self) -> None:
        """Give threads back."""


class NativeEngine(ABC):
    """The PatchSVAE and the conduit of this package; `native_engine` makes one for a device.

    Parameters
    ----------
    model : PatchSVAE
    maps : names of maps
    device : torch.device
    value_range : (float, float)
        Pixel values that a thumbnail shows as black and white.
    precision : {"float32", "tf32", "bfloat16"}
        Of the encoder's matrix products. What follows them is the same for all.
    gram : {"coordinated", "original"}
        What the conduit measures: ``V diag(S^2) V'`` with the coordinated S, or ``M'M``.
    constants : ConduitConstants
    repeats : int
        What the maps of repeats hold.
    report : callable, optional
        Takes remarks for the user.
    """

    ahead = 0
    tile_patches: int
    fused: bool

    def __init__(
        self,
        model: PatchSVAE,
        maps: Sequence[str],
        device: torch.device,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        precision: str = "float32",
        gram: str = "coordinated",
        constants: ConduitConstants | None = None,
        repeats: int = 0,
        report: Report = lambda text: None,
    ) -> None:
        check_precision(precision, device)
        self.precision = precision
        self.gram = gram
        self.model = model.to(device)
        self.maps = tuple(maps)
        self.device = device
        self.value_range = value_range
        self.constants = ConduitConstants() if constants is None else constants
        self.repeats = repeats
        self.report = report
        self._tile: int | None = None

    @property
    def channels(self) -> int:
        return self.model.config.channels

    @property
    def wanted(self) -> tuple[str, ...]:
        """The maps that the conduit gives."""
        return tuple(name for name in CONDUIT_MAPS if name in self.maps)

    @property
    def conduit_runs(self) -> bool:
        """Whether any map is made of the matrices that the conduit measures."""
        return bool(self.wanted or self.repeated or {"gram_diag", DONATED} & {*self.maps})

    @property
    def repeated(self) -> dict[str, str]:
        """The maps of repeats, and which maps they repeat."""
        return {name: of for name, of in schema.REPEATS.items() if name in self.maps}

    def exact_kernel(self, name: str) -> dict[str, str]:
        """What says in provenance which kernel measures the exact maps, where there are any."""
        return {"exact_kernel": name} if any("exact" in one for one in self.maps) else {}

    @property
    def fused_spectrum(self) -> bool:
        """Whether a fused kernel takes M to its singular values."""
        return self.fused and self.model.config.double_gram

    def spectrum_kernel(self, fused: str) -> str:
        if self.model.config.linear_readout:
            return "column norms"
        return fused if self.fused_spectrum else "torch.linalg.eigh"

    @abstractmethod
    def close(self) -> None:
        """Give threads back."""

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        config = self.model.config
        return schema.map_row_shapes(
            self.maps, image_size, config.patch_size, config.D, self.repeats
        )

    def tile_images(self, image_size: int) -> int:
        if self._tile is None:
            patches = (image_size // self.model.config.patch_size) ** 2
            self._tile = max(1, self.tile_patches // patches)
        return self._tile

    @abstractmethod
    def kernels(self) -> dict[str, str]:
        """What computes which stage."""

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "engine": "native",
            "device": self.device.type,
            "device_name": device_name(self.device),
            **self.kernels(),
            "torch": torch.__version__,
        }
        if self._tile is not None:
            described["tile_images"] = self._tile
        return described

    def measure(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64] | None = None,
        donors: NDArray[np.float32] | None = None,
    ) -> Maps:
        """Start and finish in one; the data set's first images, unless `rows` says otherwise."""
        rows = np.arange(len(images)) if rows is None else rows
        return self.start(images, rows, donors).finish()

    def start(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None = None,
    ) -> Started:
        if donors is None and DONATED in self.maps:
            raise RequestError(f"the map {DONATED} needs the donors' images")
        finish = self._begin_in_memory(images, rows, donors)
        return Started(lambda: self._shaped(finish(), images), self.describe())

    def _begin_in_memory(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
    ) -> Callable[[], Maps]:
        """Begin with tiles that fit, halving them for good where they do not."""
        size = images.shape[-1]
        while True:
            tile = self.tile_images(size)
            try:
                return self._begin(images, rows, donors, tile)
            except torch.cuda.OutOfMemoryError:
                self._free_memory()
                if tile == 1:
                    raise DeviceError(
                        f"{self.device} has too little free memory for one image of {size} x "
                        f"{size}: free some, choose a smaller --image-size, or --device cpu"
                    ) from None
                self._tile = tile // 2
                self.report(
                    f"out of memory on {self.device}: going on with batches of {self._tile} images"
                )

    @abstractmethod
    def _begin(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
        tile: int,
    ) -> Callable[[], Maps]:
        """Begin with tiles of so many images; the function returned waits for the maps."""

    @abstractmethod
    def _free_memory(self) -> None:
        """Give back what a failed attempt holds."""

    def _shaped(self, made: Maps, images: NDArray[np.float32]) -> Maps:
        shapes = self.row_shapes(images.shape[-1])
        return {
            name: made[name]
            .reshape(len(images), *shapes[name])
            .astype(schema.MAPS[name].dtype, copy=False)  # the exact maps' one rounding
            for name in self.maps
        }

    @abstractmethod
    def _measured(self, G: Tensor, want: Sequence[str]) -> dict[str, Tensor]:
        """Fields of the conduit of matrices of shape (B, n, n)."""

    def _repeats(self, A: Tensor, S: Tensor | None, rows: Tensor) -> dict[str, Tensor]:
        """The maps of repeats of G or, with `S`, of `gram(S, V)`; rows of images come first."""
        if not self.repeated:
            return {}
        return repeated_maps(
            A,
            rows,
            self.repeats,
            lambda G: self._measured(G, tuple(self.repeated.values())),
            S,
        )

    def _matrix(self, S: Tensor, V: Tensor) -> Tensor:
        """The matrix of a spectrum that the conduit measures, with the bits that it has there."""
        if not self.fused:
            return gram(S, V)
        scaled = V * (S * S).unsqueeze(-2)
        return sums.in_order(
            [scaled[..., :, None, k] * V[..., None, :, k] for k in range(S.shape[-1])]
        )

    def _recon_error(self, batch: Tensor, M: Tensor, spectrum: Spectrum, S: Tensor) -> Tensor:
        height, width = batch.shape[-2:]
        made = self.model.decode(self.model.rescale(M, spectrum, S), height, width)
        return self.model.patches((made - batch).square()).mean(dim=-1)


def repeated_maps(
    A: Tensor,
    rows: Tensor,
    count: int,
    measured: Callable[[Tensor], dict[str, Tensor]],
    S: Tensor | None = None,
) -> dict[str, Tensor]:
    """Maps of `count` repeats, shape (images, patches, n, count), from what `measured` gives.

    Parameters
    ----------
    A, S : Tensor of shapes (images, patches, n, n) and (images, patches, n)
        See `dispatch.moved`.
    rows : Tensor of shape (images,), int64, on the device of `A`
    measured : callable
        Takes matrices of shape (B, n, n) and gives fields of shape (B, n).
    """
    images, patches, n = A.shape[:3]
    patch = torch.arange(patches, device=A.device).repeat(images)
    row = rows.repeat_interleave(patches)
    parts: dict[str, list[Tensor]] = {}
    for first in range(1, count + 1, repeats.AT_ONCE):
        numbers = range(first, min(first + repeats.AT_ONCE, count + 1))
        spectrum = None if S is None else S.flatten(0, 1)
        moved = dispatch.moved(A.flatten(0, 1), numbers, patch, row, S=spectrum)
        for name, x in measured(moved.flatten(0, 1)).items():
            made = x.view(len(numbers), images, patches, n)
            parts.setdefault(f"{name}_repeats", []).append(made)
    return {name: torch.cat(some).permute(1, 2, 3, 0) for name, some in parts.items()}


def gram_diag(G: Tensor) -> Tensor:
    """The diagonal of matrices (..., n, n) over their scale, sorted: what the root finder sees."""
    scaled, _ = reference._scale(G.flatten(0, -3).permute(1, 2, 0).contiguous())
    diagonal = scaled.diagonal().sort(dim=-1, descending=True).values
    return diagonal.reshape(G.shape[:-1])


def spectrum_or_nan(model: PatchSVAE, M: Tensor) -> Spectrum:
    """`PatchSVAE.spectrum`, but NaN for matrices that are not finite, which LAPACK refuses."""
    finite = M.sum(dim=(-2, -1)).isfinite()
    S, V = model.spectrum(torch.where(finite[..., None, None], M, torch.zeros_like(M)))
    nan = torch.tensor(float("nan"), device=M.device)
    return Spectrum(
        torch.where(finite[..., None], S, nan), torch.where(finite[..., None, None], V, nan)
    )


def gram(S: Tensor, V: Tensor) -> Tensor:
    """``V diag(S^2) V'``, float32, what the conduit measures."""
    return (V * S.square().unsqueeze(-2)) @ V.mT


def original_gram(M: Tensor) -> Tensor:
    """``M'M`` summed in float64, float32: what the conduit measures with ``--gram original``."""
    M64 = M.double()
    return (M64.mT @ M64).float()
