"""The engine on a CPU: small tiles that stay in a core's cache, one to a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frictionstore.cores import cores
from frictionstore.extract.conduit import conduit_maps, kernel_name
from frictionstore.extract.conduit.constants import LARGEST_WRITTEN_OUT
from frictionstore.extract.data.images import thumbnails
from frictionstore.extract.donors import DONATED
from frictionstore.extract.encoder.onednn import Encode, pack
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

TILE_PATCHES = 512  # activations of a hidden layer of 384 stay in a core's L2 cache


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Inside, a torch operation uses the thread that calls it and no other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CpuEngine(NativeEngine):
    """See `NativeEngine`; `threads` tiles are computed at once, by default one per core."""

    tile_patches = TILE_PATCHES

    def __init__(
        self,
        model: PatchSVAE,
        maps: Sequence[str],
        device: torch.device,
        *,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, maps, device, **options)
        self.threads = cores() if threads is None else threads
        self.conduit_kernel = kernel_name(model.config.D, "cpu")
        self.fused = self.conduit_kernel == "fused-cpu" and model.config.D <= LARGEST_WRITTEN_OUT
        self._encoders: dict[int, Encode | None] = {}
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="frictionstore-encode")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _free_memory(self) -> None:
        """A CPU's memory is given back by itself."""

    def kernels(self) -> dict[str, str]:
        packed = any(encode is not None for encode in self._encoders.values())
        return {
            "encoder_kernel": "onednn" if packed else "torch",
            "conduit_kernel": self.conduit_kernel,
            **self.exact_kernel(self.conduit_kernel),
            "spectrum_kernel": self.spectrum_kernel("fused-cpu"),
            "attention_kernel": "fused-cpu" if self.fused else "torch",
        }

    def _encoder(self, size: int, tile: int) -> Encode:
        """What encodes a tile; made for its number of patches, and kept."""
        rows = tile * (size // self.model.config.patch_size) ** 2
        if rows not in self._encoders:
            self._encoders[rows] = pack(self.model, rows, self.precision)
        return self._encoders[rows] or self.model.encode

    def _begin(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
        tile: int,
    ) -> Callable[[], Maps]:
        def tiles_of(whole: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            return [whole[first : first + tile] for first in range(0, len(whole), tile)]

        with one_thread_each():
            encode = self._encoder(images.shape[-1], tile)
            encoded = list(
                self._pool.map(lambda part: self._encode(part, tile, encode), tiles_of(images))
            )
            lent = list(
                self._pool.map(
                    lambda part: self._vectors(part, tile, encode),
                    [] if donors is None or DONATED not in self.maps else tiles_of(donors),
                )
            )
        made: Maps = {}
        for name in ENCODER_MAPS:
            if name in self.maps:
                made[name] = torch.cat([part[name] for part in encoded]).numpy()
        if lent:
            own = "S_orig" if self.gram == "original" else "S"
            G = self._matrix(torch.cat([part[own] for part in encoded]), torch.cat(lent))
            made[DONATED] = self._measured(G, ("friction",))["friction"].numpy()
        if self.conduit_runs:
            names = ("gram",) if self.gram == "original" else ("S", "V")
            given = [torch.cat([part[name] for part in encoded]) for name in names]
            made.update(self._conduit(torch.from_numpy(rows), *given))
        if "image" in self.maps:
            made["image"] = thumbnails(images, *self.value_range)
        return lambda: made

    def _conduit(self, rows: Tensor, S: Tensor, V: Tensor | None = None) -> Maps:
        """Friction and its company, all patches at once: of `gram(S, V)`, or of Gram matrices."""
        diagonal = {}
        if "gram_diag" in self.maps:
            diagonal["gram_diag"] = gram_diag(S if V is None else self._matrix(S, V)).numpy()
        if V is not None and self.fused:
            from frictionstore.extract.conduit.kernels.cpu.gram import maps_from_spectrum

            made = {}
            if self.wanted:
                made = maps_from_spectrum(
                    S.numpy(), V.numpy(), self.wanted,
                    threads=self.threads, constants=self.constants,
                )  # fmt: skip
            again = self._repeats(V, S, rows)
        else:
            G = S if V is None else gram(S, V)
            measured = self._measured(G, self.wanted) if self.wanted else {}
            made = {name: x.numpy() for name, x in measured.items()}
            again = self._repeats(G, None, rows)
        return made | diagonal | {name: x.numpy() for name, x in again.items()}

    def _measured(self, G: Tensor, want: Sequence[str]) -> dict[str, Tensor]:
        return conduit_maps(G, want, threads=self.threads, constants=self.constants)

    def _spectrum(self, M: Tensor) -> Spectrum:
        """The spectrum of a tile's matrices; NaN where M is not finite, and the caller says so."""
        if not self.fused_spectrum:
            return spectrum_or_nan(self.model, M)
        from frictionstore.extract.conduit.kernels.cpu.gram import spectrum

        S, V = spectrum(M.flatten(0, 1).numpy(), threads=1)  # tiles run side by side already
        shape = M.shape[:2]
        return Spectrum(
            torch.from_numpy(S).unflatten(0, shape), torch.from_numpy(V).unflatten(0, shape)
        )

    def _attend(self, qkv: Tensor, heads: int) -> Tensor:
        from frictionstore.extract.conduit.kernels.cpu.attention import attend

        return torch.from_numpy(attend(qkv.numpy(), heads, threads=1))

    @torch.inference_mode()
    def _vectors(self, images: NDArray[np.float32], tile: int, encode: Encode) -> Tensor:
        """The right singular vectors of one tile of images."""
        return self._spectrum(self._matrices(images, tile, encode)[1]).V[: len(images)]

    def _matrices(
        self, images: NDArray[np.float32], tile: int, encode: Encode
    ) -> tuple[Tensor, Tensor]:
        """A tile of images, padded to `tile` of them, and the encoder's matrices."""
        batch = torch.zeros((tile, *images.shape[1:]), dtype=torch.float32)
        batch[: len(images)] = torch.from_numpy(images)
        with matrix_products(self.precision, self.device):
            return batch, encode(self.model.patches(batch))

    @torch.inference_mode()
    def _encode(self, images: NDArray[np.float32], tile: int, encode: Encode) -> dict[str, Tensor]:
        """What the maps of one tile are made from; padded to `tile` images, cut back at the end."""
        model, count = self.model, len(images)
        batch, M = self._matrices(images, tile, encode)
        spectrum = self._spectrum(M)
        S = model.coordinate(spectrum.S_orig, self._attend if self.fused else torch_attention)
        made = {"S": S, "S_orig": spectrum.S_orig}
        measured = self.conduit_runs
        if measured and self.gram == "original":
            made["gram"] = original_gram(M)
        elif measured:
            made["V"] = spectrum.V
        if "recon_error" in self.maps:
            made["recon_error"] = self._recon_error(batch, M, spectrum, S)
        return {name: value[:count] for name, value in made.items()}
