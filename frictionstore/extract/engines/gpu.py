"""The engine on a GPU: large tiles, nothing waited for but the end of a batch.

A batch is started by queueing everything it takes: images cross on a stream of their own while the
tile before is computed, and maps come back into page-locked memory behind the last kernel. The
caller starts the next batch before it waits for this one, so that the GPU has work while the CPU
makes thumbnails, checks, compresses and writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frictionstore.extract.conduit import conduit_maps, kernel_name
from frictionstore.extract.conduit.constants import LARGEST_WRITTEN_OUT
from frictionstore.extract.data.images import thumbnails
from frictionstore.extract.donors import DONATED
from frictionstore.extract.encoder.svae import PatchSVAE, Spectrum, torch_attention
from frictionstore.extract.engines.base import (
    ENCODER_MAPS,
    Maps,
    NativeEngine,
    gram,
    gram_diag,
    original_gram,
    spectrum_or_nan,
)
from frictionstore.extract.engines.devices import matrix_products
from frictionstore.text import printable

TILE_PATCHES = 16384


class Transfers:
    """Copies between host and device that nobody waits for until `arrived`.

    On a CPU device, where tests run the engine, they are no copies at all.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self._incoming = torch.cuda.Stream(device) if self.on_gpu else None

    def _page_locked(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def send(self, host: Tensor) -> Tensor:
        """`host` on the device, ready for the current stream."""
        if self._incoming is None:
            return host
        with torch.cuda.stream(self._incoming):
            # A copy that runs beside kernels has to start from page-locked memory.
            sent = self._page_locked(host).copy_(host).to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._incoming)
        sent.record_stream(computing)
        return sent

    def fetch(self, x: Tensor) -> Tensor:
        """`x` on the host, once `arrived` says so."""
        if not self.on_gpu:
            return x
        return self._page_locked(x).copy_(x, non_blocking=True)

    def arrived(self) -> Callable[[], None]:
        """A function that waits for everything fetched so far."""
        if not self.on_gpu:
            return lambda: None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize


class GpuEngine(NativeEngine):
    """See `NativeEngine`."""

    ahead = 1
    tile_patches = TILE_PATCHES

    def __init__(
        self, model: PatchSVAE, maps: Sequence[str], device: torch.device, **options: Any
    ) -> None:
        super().__init__(model, maps, device, **options)
        self._transfers = Transfers(device)
        self.conduit_kernel = kernel_name(model.config.D, "cuda")
        on_gpu = self.conduit_kernel == "fused-gpu"
        self.fused = on_gpu and model.config.D <= LARGEST_WRITTEN_OUT
        if not (on_gpu and self._kernels_work()):
            # The processor's kernel has the same bits, and beats single operations.
            self.fused = False
            self.conduit_kernel = kernel_name(model.config.D, "cpu")

    def _kernels_work(self) -> bool:
        """Whether the fused kernels compile and run here; says so where they do not.

        Triton builds its launchers with the machine's C compiler, which may be missing; what LLVM
        makes the driver may refuse.
        """
        V, D = self.model.config.V, self.model.config.D
        try:
            with self._on_device():
                M = torch.ones((1, 1, V, D), device=self.device)
                found = self._spectrum(M)
                S = self.model.coordinate(found.S_orig, self._attend)
                self._conduit(M, S, found.V, torch.zeros(1, dtype=torch.int64, device=self.device))
        except torch.cuda.OutOfMemoryError:
            return True  # met again, and dealt with, when images are measured
        except Exception as error:
            self.report(
                f"the kernels for GPUs cannot be used here ({printable(error)}): going on without "
                "them, which is slower"
            )
            return False
        return True

    def _on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def close(self) -> None:
        """No threads are held."""

    def kernels(self) -> dict[str, str]:
        return {
            "encoder_kernel": "torch",
            "conduit_kernel": self.conduit_kernel,
            **self.exact_kernel(self.conduit_kernel),
            "spectrum_kernel": self.spectrum_kernel("fused-gpu"),
            "attention_kernel": "fused-gpu" if self.fused else "torch",
        }

    def _free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the batch before may still be computing
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _begin(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
        tile: int,
    ) -> Callable[[], Maps]:
        with self._on_device():
            parts = []
            for first in range(0, len(images), tile):
                part = slice(first, first + tile)
                lent = None if donors is None or DONATED not in self.maps else donors[part]
                queued = self._tile_maps(images[part], rows[part], lent, tile)
                parts.append({name: self._transfers.fetch(x) for name, x in queued.items()})
            arrived = self._transfers.arrived()
        made: Maps = {}
        if "image" in self.maps:
            made["image"] = thumbnails(images, *self.value_range)

        def finish() -> Maps:
            arrived()
            for name in parts[0]:
                made[name] = np.concatenate([part[name].numpy() for part in parts])
            return made

        return finish

    def _tile_maps(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
        tile: int,
    ) -> dict[str, Tensor]:
        """Queue what one tile takes; its maps on the device, one row to an image."""
        model, count = self.model, len(images)
        batch, M = self._matrices(images, tile)
        spectrum = self._spectrum(M)
        S = model.coordinate(spectrum.S_orig, self._attend if self.fused else torch_attention)
        made = {"S": S, "S_orig": spectrum.S_orig}
        if "recon_error" in self.maps:
            made["recon_error"] = self._recon_error(batch, M, spectrum, S)
        own = S if self.gram != "original" else spectrum.S_orig
        made = {name: made[name] for name in ENCODER_MAPS if name in self.maps}
        if donors is not None:
            V = self._spectrum(self._matrices(donors, tile)[1]).V
            G = self._matrix(own, V).flatten(0, 1)
            made[DONATED] = self._measured(G, ("friction",))["friction"].unflatten(0, S.shape[:2])
        if self.conduit_runs:
            places = torch.zeros(tile, dtype=torch.int64)
            places[:count] = torch.from_numpy(rows)
            made.update(self._conduit(M, S, spectrum.V, self._transfers.send(places)))
        return {name: x[:count] for name, x in made.items()}

    def _matrices(self, images: NDArray[np.float32], tile: int) -> tuple[Tensor, Tensor]:
        """A tile of images on the device, padded to `tile` of them, and the encoder's matrices."""
        host = torch.from_numpy(images)
        if len(images) < tile:
            host = torch.cat([host, host.new_zeros((tile - len(images), *images.shape[1:]))])
        batch = self._transfers.send(host)
        with matrix_products(self.precision, self.device):
            return batch, self.model.encode(self.model.patches(batch))

    def _spectrum(self, M: Tensor) -> Spectrum:
        """The spectrum of a tile's matrices; NaN where M is not finite, and the caller says so."""
        if not self.fused_spectrum:
            return spectrum_or_nan(self.model, M)
        from frictionstore.extract.conduit.kernels.gpu import gram as fused_gram_gpu

        S, V = fused_gram_gpu.spectrum(M.flatten(0, 1))
        return Spectrum(S.unflatten(0, M.shape[:2]), V.unflatten(0, M.shape[:2]))

    def _attend(self, qkv: Tensor, heads: int) -> Tensor:
        from frictionstore.extract.conduit.kernels.gpu import attention as fused_attention_gpu

        return fused_attention_gpu.attend(qkv, heads)

    def _conduit(self, M: Tensor, S: Tensor, V: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Friction and its company from the coordinated spectrum, or from M itself."""
        A, spectrum = V, S if self.fused and self.gram != "original" else None
        if spectrum is None:
            A = original_gram(M) if self.gram == "original" else gram(S, V)
        fields = self._measured(A.flatten(0, 1), self.wanted, spectrum) if self.wanted else {}
        made = {name: x.unflatten(0, S.shape[:2]) for name, x in fields.items()}
        if "gram_diag" in self.maps:
            made["gram_diag"] = gram_diag(A if spectrum is None else self._matrix(S, V))
        return made | self._repeats(A, spectrum, rows)

    def _measured(
        self, G: Tensor, want: Sequence[str], S: Tensor | None = None
    ) -> dict[str, Tensor]:
        if self.conduit_kernel == "fused-gpu":
            from frictionstore.extract.conduit.kernels.gpu import conduit as fused_gpu

            # With S given, G stands for the V of gram(S, V).
            S = None if S is None else S.flatten(0, 1)
            return fused_gpu.measure(G, want, self.constants, S=S)
        if self.conduit_kernel == "fused-cpu":
            made = conduit_maps(G.cpu(), want, constants=self.constants)
            return {name: x.to(self.device) for name, x in made.items()}
        return conduit_maps(G, want, constants=self.constants, kernel="reference")
