"""The upstream packages, geolip-svae and geolip-core, as an engine.

What they give is written to the same store with the engine recorded; friction and settle come
smallest eigenvalue first and are reversed here, once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frictionstore import schema
from frictionstore.errors import CheckpointError, MeasurementError, RequestError
from frictionstore.extract.checkpoints import Source, hash_weights, read_checkpoint
from frictionstore.extract.devices import device_name
from frictionstore.extract.engine import Maps, Started
from frictionstore.extract.images import thumbnails
from frictionstore.installed import install_command
from frictionstore.text import printable

GIVEN = ("S", "friction", "settle", "S_orig", "recon_error", "refinement_residual", "image")
BATCH = 64


@dataclass(frozen=True)
class UpstreamModel:
    """What geolip_svae.load_model gave, and its identity."""

    model: Any
    config: dict[str, Any]
    weights_sha256: str


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
    config = dict(config)
    if not isinstance(config.get("patch_size"), int):
        raise CheckpointError("geolip_svae gave a config without a patch_size")
    if not hasattr(model, "state_dict"):
        raise CheckpointError("geolip_svae gave a model without a state_dict: it has no identity")
    state = {
        name: tensor.detach().float().cpu().numpy()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    model.eval()
    plain = {
        key: value
        for key, value in config.items()
        if isinstance(value, str | int | float | bool) or value is None
    }
    return UpstreamModel(model, plain, hash_weights(state))


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
    """Runs the upstream model and solver; see `frictionstore.extract.engine.Engine`."""

    ahead = 0

    def __init__(
        self,
        upstream: UpstreamModel,
        maps: Sequence[str],
        device: torch.device,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        missing = [name for name in maps if name not in GIVEN]
        if missing:
            raise RequestError(
                f"the engine geolip does not give the map {missing[0]}: leave it out, or use "
                "--engine native"
            )
        _, conduit_module = _modules()
        self.model = upstream.model
        self.config = upstream.config
        self.solver = conduit_module.FLEighConduit().to(device)
        self.maps = tuple(maps)
        self.device = device
        self.value_range = value_range
        self._modes: int | None = None

    def close(self) -> None:
        """Nothing is held."""

    def tile_images(self, image_size: int) -> int:
        return BATCH

    def row_shapes(self, image_size: int) -> dict[str, tuple[int, ...]]:
        patch = self.config["patch_size"]
        modes = self.config.get("D")
        if not isinstance(modes, int):
            raise CheckpointError("geolip_svae gave a config without D, the number of modes")
        return schema.map_row_shapes(self.maps, image_size, patch, modes)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "geolip",
            "device": self.device.type,
            "device_name": device_name(self.device),
            "geolip_svae": _version("geolip-svae"),
            "geolip_core": _version("geolip-core"),
            "torch": torch.__version__,
        }

    def start(self, images: NDArray[np.float32]) -> Started:
        made = self.measure(images)
        return Started(lambda: made, self.describe())

    def measure(self, images: NDArray[np.float32]) -> Maps:
        parts = [self._measure(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.maps}

    @torch.inference_mode()
    def _measure(self, images: NDArray[np.float32]) -> Maps:
        count, _, size, _ = images.shape
        batch = torch.zeros((BATCH, *images.shape[1:]))
        batch[:count] = torch.from_numpy(images)
        out = self.model(batch.to(self.device))
        svd = out["svd"]
        S, Vt = svd["S"], svd["Vt"]
        modes = S.shape[-1]
        gram = torch.einsum("bnij,bnj,bnjk->bnik", Vt.transpose(-2, -1), S.square(), Vt)
        packet = self.solver(gram.reshape(-1, modes, modes))
        given: dict[str, Any] = {
            "S": S,
            "friction": packet.friction.reshape(S.shape).flip(-1),
            "settle": packet.settle.reshape(S.shape).flip(-1),
        }
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
            made[name] = array.astype(np.uint8 if name == "settle" else np.float32)
        return made

    def _recon_error(self, batch: torch.Tensor, recon: torch.Tensor) -> torch.Tensor:
        patch = self.config["patch_size"]
        squared = (recon - batch.to(self.device)).square().mean(dim=1, keepdim=True)
        return torch.nn.functional.avg_pool2d(squared, patch)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
