"""Encoder checkpoints: where they come from, and reading them as data, never as code.

Three sources: the bundled encoder, a file (an upstream ``.pt`` or a ``.safetensors`` of ours),
and a file of the Hugging Face Hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.hub_files import fetch_hub_file, parse_hub_file
from frictionstore.format.fingerprint import file_sha256
from frictionstore.progress import Report
from frictionstore.text import did_you_mean, listed, printable

if TYPE_CHECKING:
    from frictionstore.extract.encoder.svae import PatchSVAE

BUNDLED = ("speckle",)
STATE = "model_state_dict"  # some trainers write it as model_state


@dataclass(frozen=True)
class Source:
    """A checkpoint file and where it came from.

    Attributes
    ----------
    path : Path
    origin : str
        ``bundled:speckle``, ``file:best.pt`` (no folder), or ``hub:REPOSITORY@COMMIT/FILE``.
    """

    path: Path
    origin: str

    @property
    def sha256(self) -> str:
        try:
            return file_sha256(self.path)
        except OSError as error:
            raise CheckpointError(
                f"encoder {printable(self.path)} cannot be read: {error.strerror}"
            ) from error


@dataclass(frozen=True)
class Checkpoint:
    """An encoder as arrays.

    Attributes
    ----------
    config : dict
        As the file has it.
    weights : dict of name to float32 ndarray
    weights_sha256 : str
        Hash of names, shapes and values: the same for a ``.pt`` and a ``.safetensors`` of the
        same weights.
    notes : dict
        Epoch and test error, where the file has them.
    """

    config: dict[str, Any]
    weights: dict[str, NDArray[np.float32]]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_sha256(self) -> str:
        return hash_weights(self.weights)


def hash_weights(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over every tensor's name, shape and little-endian float32 values, by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def find_checkpoint(
    encoder: str, report: Report = lambda text: None, *, show_progress: bool = False
) -> Source:
    """The file that an encoder's name stands for; fetches it from the Hub where needed.

    Parameters
    ----------
    encoder : str
        ``speckle``, a path, a published version's name, or ``hf://OWNER/REPO/path/in/repo.pt``;
        the last two with ``@REVISION`` if one is meant.
    report : callable
        Takes remarks for the user.
    show_progress : bool

    Raises
    ------
    CheckpointError
        There is no such file or version, or it cannot be fetched.
    """
    if encoder in BUNDLED:
        with as_file(files("frictionstore.extract") / "weights" / f"{encoder}.safetensors") as path:
            return Source(path, f"bundled:{encoder}")
    path = Path(encoder).expanduser()
    if path.is_file():
        return Source(path, f"file:{path.name}")
    file = parse_hub_file(encoder)
    if file is not None:
        fetched, commit = fetch_hub_file(file, report, show_progress=show_progress)
        return Source(fetched, file.origin(commit))
    if path.is_dir():
        raise CheckpointError(f"encoder {printable(encoder)} is a folder: name the file in it")
    raise CheckpointError(
        f"encoder {printable(encoder)!r} is not a file, nor {', '.join(BUNDLED)}, nor the name of "
        "a published version such as v40_freckles_noise, nor hf://OWNER/REPO/path.pt"
        + did_you_mean(encoder, BUNDLED)
    )


def read_checkpoint(source: Source) -> Checkpoint:
    """Read a checkpoint file as data.

    A ``.safetensors`` file is read without torch; anything else through
    ``torch.load(weights_only=True)``, which builds tensors and plain containers only.

    Raises
    ------
    CheckpointError
        The file is damaged, would need code to be run, or lacks what a checkpoint has.
    """
    where = printable(source.path.name)
    if source.path.suffix == ".safetensors":
        return _read_safetensors(source.path, where)
    return _read_torch(source.path, where)


def _read_safetensors(path: Path, where: str) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"encoder {where} is not a safetensors file: {printable(error)}"
        ) from error
    if "config" not in metadata:
        raise CheckpointError(
            f"encoder {where} has no config in its metadata: it is not one of frictionstore's"
        )
    try:
        config = json.loads(metadata["config"])
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"encoder {where} has a config that is not a JSON object")
    for name, array in weights.items():
        if array.dtype.kind != "f":
            raise CheckpointError(f"encoder {where}: {printable(name)} has dtype {array.dtype}")
    return Checkpoint(config, {name: a.astype(np.float32) for name, a in weights.items()})


def _read_torch(path: Path, where: str) -> Checkpoint:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle(path):
            needs = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({needs[1]})" if needs else ""
            raise CheckpointError(
                f"encoder {where} holds more than tensors and plain data{what}: loading it would "
                "run code, so it is refused; save only its config and model_state_dict"
            ) from error
        raise CheckpointError(
            f"encoder {where} is not a checkpoint: torch cannot read it"
        ) from error
    except Exception as error:  # torch.load meets damaged files with many kinds of exception
        raise CheckpointError(
            f"encoder {where} is not a checkpoint: torch cannot read it"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"encoder {where} holds a {type(content).__name__}, expected a dictionary with config "
            "and model_state_dict"
        )
    state = "model_state" if content.get(STATE) is None else STATE
    for key, value in (("config", content.get("config")), (STATE, content.get(state))):
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"encoder {where} has no {key}: a checkpoint has config and {STATE}"
            )
    weights = {}
    for name, tensor in content[state].items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise CheckpointError(f"encoder {where}: {printable(name)} is not a tensor of floats")
        weights[str(name)] = tensor.detach().float().contiguous().numpy()
    notes = {
        key: content[key]
        for key in ("epoch", "test_mse", "val_mse")
        if isinstance(content.get(key), int | float)
    }
    return Checkpoint(dict(content["config"]), weights, notes)


def _is_pickle(path: Path) -> bool:
    """Whether it is an archive as torch.save writes them, or a bare pickle."""
    import zipfile

    with open(path, "rb") as file:
        start = file.read(2)
    return zipfile.is_zipfile(path) or (start[:1] == b"\x80" and start[1:] in b"\2\3\4\5")


def build_encoder(checkpoint: Checkpoint, where: str) -> PatchSVAE:
    """The model with the checkpoint's weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        The config is not a PatchSVAE's, or tensors are missing, unknown or misshapen.
    """
    import torch

    from frictionstore.extract.encoder.config import SVAEConfig
    from frictionstore.extract.encoder.svae import PatchSVAE

    config = SVAEConfig.from_mapping(checkpoint.config, where)
    with torch.device("meta"):
        model = PatchSVAE(config)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: array.shape for name, array in checkpoint.weights.items()}
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    for items, what in (
        (missing, "lacks"),
        (wrong, "has tensors of another shape:"),
        (unknown, "has unknown tensors:"),
    ):
        if items:
            raise CheckpointError(f"encoder {printable(where)} {what} {listed(items, 3)}")
    state = {name: torch.from_numpy(array.copy()) for name, array in checkpoint.weights.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
