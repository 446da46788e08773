"""The upstream packages, geolip-svae and geolip-core, as an engine.

What they give is written to the same store with the engine recorded; friction and settle come
smallest eigenvalue first and are reversed here, once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from frictionstore.errors import CheckpointError, DeviceError, MeasurementError, RequestError
from frictionstore.extract.conduit import conduit_maps, kernel_name
from frictionstore.extract.data.images import thumbnails
from frictionstore.extract.donors import DONATED
from frictionstore.extract.encoder.checkpoints import (
    Checkpoint,
    Source,
    build_encoder,
    hash_weights,
    read_checkpoint,
)
from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.extract.engines.base import (
    Maps,
    Started,
    gram_diag,
    original_gram,
    repeated_maps,
)
from frictionstore.extract.engines.devices import available_memory, device_name
from frictionstore.format import schema
from frictionstore.installed import install_command
from frictionstore.text import byte_count, printable

EXACT = ("friction_exact", "settle_exact")
GIVEN = (
    "S", "friction", "settle", *EXACT, *schema.REPEATS, "S_orig", "recon_error",
    "refinement_residual", "gram_diag", DONATED, "image",
)  # fmt: skip
BATCH = 64
AGREEMENT = 1e-3  # of the largest value; a config that is overlooked makes a tenth or more
SPECTRAL = ("eigh", "svd")  # in the names of torch's operations that find singular values


@dataclass(frozen=True)
class UpstreamModel:
    """What geolip_svae.load_model gave, and its identity.

    Attributes
    ----------
    model : torch module
    config : dict
        The checkpoint's, without the keys that load_model adds.
    weights_sha256 : str
    notes : dict of epoch and test error, where it gives them
    """

    model: Any
    config: dict[str, Any]
    weights_sha256: str
    notes: dict[str, Any] = field(default_factory=dict)


def _modules() -> tuple[Any, Any]:
    try:
        return import_module("geolip_svae"), import_module("geolip_core.linalg.conduit")
    except ImportError as error:
        raise RequestError(
            f"the engine geolip needs geolip-svae and geolip-core ({printable(error)}): "
            f"{install_command('extract', 'geolip')}"
        ) from error


def load_upstream(encoder: Source | str, device: torch.device) -> UpstreamModel:
    """Load an encoder through geolip_svae.

    Parameters
    ----------
    encoder : Source or str
        A checkpoint file, or the name of a published version.

    Raises
    ------
    RequestError
        The packages are not installed.
    CheckpointError
        They cannot load it, or do not say what it is.
    """
    svae, _ = _modules()
    try:
        if isinstance(encoder, str):
            model, config = svae.load_model(hf_version=encoder, device=device)
        else:
            model, config = _load_file(svae, encoder, device)
    except CheckpointError:
        raise
    except Exception as error:
        shown = encoder if isinstance(encoder, str) else encoder.path.name
        raise CheckpointError(
            f"geolip_svae cannot load {printable(shown)}: {printable(error)}"
        ) from error
    if not hasattr(model, "state_dict"):
        raise CheckpointError("geolip_svae gave a model without a state_dict: it has no identity")
    state = {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    model.eval()
    # load_model adds keys of its own: `_path`, which is this machine's, `_epoch`, `_test_mse`.
    own = {key: value for key, value in config.items() if not str(key).startswith("_")}
    notes = {
        key: config[f"_{key}"]
        for key in ("epoch", "test_mse")
        if isinstance(encoder, str) and isinstance(config.get(f"_{key}"), int | float)
    }
    _check_it_computes(model, Checkpoint(own, state), device)
    return UpstreamModel(model, own, hash_weights(state), notes)


def _check_it_computes(model: Any, checkpoint: Checkpoint, device: torch.device) -> None:
    """Refuse an upstream that overlooks what a later config asks for, which fits its tensors."""
    config = SVAEConfig.from_mapping(checkpoint.config, "given by geolip_svae")
    later = config.later()
    if not later:
        return
    native = build_encoder(checkpoint, "given by geolip_svae")
    side = 2 * config.patch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((1, config.channels, side, side), generator=generator)
    asked = ", ".join(f"{key} {printable(value)}" for key, value in later.items())
    with torch.inference_mode():
        M = native.encode(native.patches(images))
        spectrum = native.spectrum(M)
        S = native.coordinate(spectrum.S_orig)
        expected = {"S": S, "recon": native.decode(native.rescale(M, spectrum, S), side, side)}
        try:
            out = model(images.to(device))
            found = {"S": out["svd"]["S"].cpu(), "recon": out["recon"].cpu()}
        except Exception as error:
            raise CheckpointError(
                f"geolip_svae cannot compute what the encoder's config asks for ({asked}): "
                f"{printable(error)}; use --engine native"
            ) from error
    for name, values in expected.items():
        off = float((found[name] - values).abs().max() / values.abs().max())
        if not off < AGREEMENT:
            raise CheckpointError(
                f"geolip_svae does not compute what the encoder's config asks for ({asked}): on a "
                f"trial image its {name} is off by {off:.0%} of the largest value; use --engine "
                "native, or a geolip-svae that knows these keys"
            )


def _load_file(svae: Any, source: Source, device: torch.device) -> tuple[Any, Mapping[str, Any]]:
    """A file is read as data by us first; upstream gets one that holds tensors and numbers only."""
    checkpoint = read_checkpoint(source)
    with tempfile.TemporaryDirectory() as folder:
        clean = os.path.join(folder, "best.pt")
        torch.save(
            {
                "config": checkpoint.config,
                "model_state_dict": {
                    name: torch.from_numpy(array.copy())
                    for name, array in checkpoint.weights.items()
                },
                "epoch": 0,
                "test_mse": float("nan"),
                **checkpoint.notes,
            },
            clean,
        )
        return svae.load_model(checkpoint_path=clean, device=device)


class GeolipEngine:
    """Runs the upstream model and solver; see `frictionstore.extract.engines.base.Engine`."""

    ahead = 0

    def __init__(
        self,
        upstream: UpstreamModel,
        maps: Sequence[str],
        device: torch.device,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        gram: str = "coordinated",
        repeats: int = 0,
    ) -> None:
        missing = [name for name in maps if name not in GIVEN]
        if missing:
            raise RequestError(
                f"the engine geolip does not give the map {missing[0]}: leave it out, or use "
                "--engine native"
            )
        _, conduit_module = _modules()
        self.model = upstream.model
        self.config = SVAEConfig.from_mapping(upstream.config, "given by geolip_svae")
        self.gram = gram
        self.repeats = repeats
        self.solver = conduit_module.FLEighConduit().to(device)
        self.maps = tuple(maps)
        self.device = device
        self.value_range = value_range
        self._spectral: set[str] | None = None

    @property
    def channels(self) -> int:
        return self.config.channels

    def close(self) -> None:
        """Nothing is held."""

    def tile_images(self, image_size: int) -> int:
        """Images computed at a time; refuses sizes whose attention scores cannot be held.

        Raises
        ------
        DeviceError
            Names the size and what works.
        """
        available = available_memory(self.device)
        # The scores and what the next operation makes of them are there together.
        if available is not None and 2 * self._score_bytes(image_size) > available:
            raise self._too_large(image_size, f"of which {byte_count(available)} are available")
        return BATCH

    def _score_bytes(self, image_size: int) -> int:
        """Size of one layer's attention scores of a tile, float32."""
        if not self.config.n_cross_layers:
            return 0
        return 4 * BATCH * self.config.n_heads * (image_size // self.config.patch_size) ** 4

    def _too_large(self, image_size: int, why: str) -> DeviceError:
        patches = (image_size // self.config.patch_size) ** 2
        return DeviceError(
            f"the engine geolip needs {byte_count(self._score_bytes(image_size))} for the "
            f"attention scores of {BATCH} images of {image_size} x {image_size} pixels "
            f"({patches:,} patches each), and as much again, in the memory of {self.device.type}, "
            f"{why}: choose a smaller --image-size, or --engine native, which never holds them"
        )

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        config = self.config
        return schema.map_row_shapes(
            self.maps, image_size, config.patch_size, config.D, self.repeats
        )

    def describe(self) -> dict[str, Any]:
        described = {
            "engine": "geolip",
            "device": self.device.type,
            "device_name": device_name(self.device),
            **_version("geolip-svae"),
            **_version("geolip-core"),
            "conduit_kernel": f"{type(self.solver).__module__}.{type(self.solver).__qualname__}",
            "torch": torch.__version__,
        }
        if any("exact" in name for name in self.maps):
            kernel = kernel_name(self.config.D, str(self.device))
            described["exact_kernel"] = kernel
        for key in ("solver", "svd_mode", "svd_method", "svd_compute_dtype"):
            value = getattr(self.model, key, None)
            if isinstance(value, str):
                described[f"model_{key}"] = value
        if self._spectral is not None:
            own = "geolip's own: no eigh or svd of torch's was called"
            described["spectrum_kernel"] = ", ".join(sorted(self._spectral)) or own
        return described

    def start(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None = None,
    ) -> Started:
        made = self.measure(images, rows, donors)
        return Started(lambda: made, self.describe())

    def measure(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None = None,
    ) -> Maps:
        tiles = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        try:
            parts = [
                self._measure(images[tile], rows[tile], None if donors is None else donors[tile])
                for tile in tiles
            ]
        except MeasurementError:
            raise
        except Exception as error:  # upstream's code meets what it meets
            if _is_out_of_memory(error):
                why = "which is not there"
                raise self._too_large(images.shape[-1], why) from error
            raise MeasurementError(
                f"geolip_svae or geolip_core failed: {type(error).__name__}: {printable(error)}; "
                "--engine native does not need them"
            ) from error
        return {name: np.concatenate([part[name] for part in parts]) for name in self.maps}

    def _forward(self, batch: torch.Tensor) -> dict[str, Any]:
        """Upstream's own forward pass; the first one is watched for how it finds the spectrum."""
        if self._spectral is not None:
            return self.model(batch)
        with _Watch() as watch:
            out = self.model(batch)
        self._spectral = watch.seen
        return out

    def _batch(self, images: NDArray[np.float32]) -> torch.Tensor:
        """Images padded to a batch."""
        batch = torch.zeros((BATCH, *images.shape[1:]))
        batch[: len(images)] = torch.from_numpy(images)
        return batch

    @torch.inference_mode()
    def _measure(
        self,
        images: NDArray[np.float32],
        rows: NDArray[np.int64],
        donors: NDArray[np.float32] | None,
    ) -> Maps:
        count, _, size, _ = images.shape
        batch = self._batch(images)
        out = self._forward(batch.to(self.device))
        svd = out["svd"]
        S, Vt = svd["S"], svd["Vt"]
        modes = S.shape[-1]
        if self.gram == "original":
            gram = original_gram(svd["M"])
        else:
            gram = torch.einsum("bnij,bnj,bnjk->bnik", Vt.transpose(-2, -1), S.square(), Vt)
        packet = self.solver(gram.reshape(-1, modes, modes))
        given: dict[str, Any] = {"S": S, **_largest_first(packet)}
        exact = [name for name in EXACT if name in self.maps]
        if exact:
            given |= conduit_maps(gram.float().reshape(-1, modes, modes), exact)
        given |= self._repeated(gram, rows)
        if "gram_diag" in self.maps:
            given["gram_diag"] = gram_diag(gram.float())
        if DONATED in self.maps and donors is not None:
            lent = self._forward(self._batch(donors).to(self.device))["svd"]["Vt"]
            own = svd["S_orig"] if self.gram == "original" else S
            G = torch.einsum("bnij,bnj,bnjk->bnik", lent.transpose(-2, -1), own.square(), lent)
            given[DONATED] = self.solver(G.reshape(-1, modes, modes)).friction.flip(-1)
        if "S_orig" in self.maps:
            given["S_orig"] = svd["S_orig"]
        if "refinement_residual" in self.maps:
            given["refinement_residual"] = packet.refinement_residual
        if "recon_error" in self.maps:
            given["recon_error"] = self._recon_error(batch, out["recon"])
        made: Maps = {}
        for name, shape in self.row_shapes(size).items():
            if name == "image":
                made[name] = thumbnails(images, *self.value_range)
                continue
            array = given[name].detach().cpu().numpy()
            if array.size != BATCH * int(np.prod(shape)):
                raise MeasurementError(
                    f"geolip_svae gave {name} of shape {array.shape} for {BATCH} images, "
                    f"expected {shape} an image"
                )
            array = array.reshape(BATCH, *shape)[:count]
            made[name] = array.astype(schema.MAPS[name].dtype)
        return made

    def _repeated(self, gram: torch.Tensor, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The maps of repeats: what the same solver gives for the moved matrices."""
        wanted = {of for name, of in schema.REPEATS.items() if name in self.maps}
        if not wanted:
            return {}
        exact = [name for name in EXACT if name in wanted]

        def measured(G: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                **(_largest_first(self.solver(G)) if wanted - set(EXACT) else {}),
                **(conduit_maps(G, exact) if exact else {}),
            }

        places = torch.zeros(len(gram), dtype=torch.int64)
        places[: len(rows)] = torch.from_numpy(rows)
        return repeated_maps(gram.float(), places.to(self.device), self.repeats, measured)

    def _recon_error(self, batch: torch.Tensor, recon: torch.Tensor) -> torch.Tensor:
        squared = (recon - batch.to(self.device)).square().mean(dim=1, keepdim=True)
        return torch.nn.functional.avg_pool2d(squared, self.config.patch_size)


def _largest_first(packet: Any) -> dict[str, torch.Tensor]:
    return {"friction": packet.friction.flip(-1), "settle": packet.settle.flip(-1)}


class _Watch(TorchDispatchMode):
    """Notes which of torch's decompositions are called inside, and in which dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(part in name for part in SPECTRAL):
            dtype = str(args[0].dtype).removeprefix("torch.")
            self.seen.add(
                f"{name.split('.')[1].strip('_').replace('linalg_', 'torch.linalg.')} in {dtype}"
            )
        return func(*args, **(kwargs or {}))


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("not enough memory" in text or "can't allocate memory" in text)
    )


def _version(package: str) -> dict[str, str]:
    """A package's version, and its commit where it was installed from a repository.

    A package that is only on the path says its version itself, if at all.
    """
    key = package.replace("-", "_")
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        return {key: str(getattr(import_module(key), "__version__", "unknown"))}
    found = {key: installed.version}
    try:
        commit = json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"]
        found[f"{key}_commit"] = str(commit)
    except (KeyError, TypeError, ValueError):
        pass  # it was not installed from a repository
    return found
