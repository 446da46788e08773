"""Encoder checkpoints: where they come from, and reading them as data, never as code.

Three sources: the bundled encoder, a file (an upstream ``.pt`` or a ``.safetensors`` of ours),
and a file of the Hugging Face Hub.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.hub_address import parse_hub_file
from frictionstore.extract.encoder.hub_files import fetch_hub_file
from frictionstore.extract.given import expanded, read_whole
from frictionstore.progress import Report
from frictionstore.text import byte_count, did_you_mean, listed, printable

if TYPE_CHECKING:
    from frictionstore.extract.encoder.svae import PatchSVAE

BUNDLED = ("speckle",)
STATE = "model_state_dict"  # some trainers write it as model_state
LARGEST_FILE = 1 << 33
TIES = 4  # bytes of all tensors for each byte of the file: some names may share their values
LARGEST_CONFIG = 10_000  # values, at whatever depth


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

    @cached_property
    def data(self) -> bytes:
        """The file's bytes, read once: what is hashed is what is loaded."""
        try:
            return read_whole(self.path, LARGEST_FILE)
        except OSError as error:
            raise CheckpointError(
                f"encoder {printable(self.path)} cannot be read: {error.strerror}"
            ) from error

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


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
    path = expanded(encoder)
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
    safe = source.path.suffix == ".safetensors"
    read = (_read_safetensors if safe else _read_torch)(source.data, where)
    _check_config(read, where)
    return read


def _check_config(read: Checkpoint, where: str) -> None:
    """Refuse a config that would cost more than the file it is in.

    Lists may hold themselves or each other many times over, so nothing here follows all of one.
    """
    waiting: list[Any] = [read.config]
    seen = 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, int) and value.bit_length() > 64:
            raise CheckpointError(f"encoder {where} has a config with a number beyond 64 bits")
        if hasattr(value, "is_floating_point"):
            raise CheckpointError(
                f"encoder {where} has a tensor in its config: only numbers and text belong there"
            )
        inside: list[Any] = []
        if isinstance(value, Mapping):
            inside = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            inside = list(value)
        if seen + len(waiting) + len(inside) > LARGEST_CONFIG:
            raise CheckpointError(
                f"encoder {where} has a config of more than {LARGEST_CONFIG:,} values"
            )
        waiting += inside
    for key in ("depth", "n_cross_layers"):
        layers = read.config.get(key)
        if isinstance(layers, int) and layers > len(read.weights):
            raise CheckpointError(
                f"encoder {where}: config has {key} {layers}, and the file has "
                f"{len(read.weights)} tensors only"
            )


def _read_safetensors(data: bytes, where: str) -> Checkpoint:
    from safetensors.numpy import load

    try:
        weights = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # its own, and NumPy's of types that NumPy lacks
        raise CheckpointError(
            f"encoder {where} is not a safetensors file: {printable(error)}"
        ) from error
    metadata = header.get("__metadata__", {})
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


def _read_torch(data: bytes, where: str) -> Checkpoint:
    import pickle

    import torch

    _check_archive(data, where)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle(data):
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
    weights, size = {}, 0
    for name, tensor in content[state].items():
        if not isinstance(name, str) or not name.isascii():
            raise CheckpointError(f"encoder {where} has a tensor whose name is not plain text")
        shown = f"encoder {where}: {printable(name)}"
        _check_tensor(tensor, shown)
        size += tensor.numel() * tensor.element_size()
        if size > TIES * len(data):
            raise CheckpointError(
                f"{shown} and those before it have {byte_count(size)}, and the file "
                f"{byte_count(len(data))} only"
            )
        weights[name] = tensor.detach().float().contiguous().numpy()
    notes = {
        key: content[key]
        for key in ("epoch", "test_mse", "val_mse")
        if isinstance(content.get(key), int | float) and not abs(content[key]) > 1 << 53
    }
    return Checkpoint(dict(content["config"]), weights, notes)


def _check_tensor(tensor: Any, shown: str) -> None:
    """Refuse what is not as many floats as are stored for it."""
    import torch

    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        raise CheckpointError(f"{shown} is not a tensor of floats")
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = (
            "nested"
            if tensor.is_nested
            else "sparse"
            if tensor.layout != torch.strided
            else "without values"
        )
        raise CheckpointError(f"{shown} is a tensor that is {kind}: save it as a dense one")
    if tensor.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{shown} has dtype {dtype}: save it as float32, float64, float16 or bfloat16"
        )
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise CheckpointError(
            f"{shown} has {tensor.numel():,} values, of which {stored:,} are stored: save a "
            "contiguous copy of it"
        )


def _check_archive(data: bytes, where: str) -> None:
    """Refuse an archive whose entries, unpacked, are more than the file: torch.save packs none."""
    if not data.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # of a damaged directory
        raise CheckpointError(
            f"encoder {where} is not a checkpoint: torch cannot read it"
        ) from error
    if size > len(data):
        raise CheckpointError(
            f"encoder {where} unpacks to {byte_count(size)} from {byte_count(len(data))}, which "
            "torch.save does not do: save it again"
        )


def _is_pickle(data: bytes) -> bool:
    """Whether it is an archive as torch.save writes them, or a bare pickle."""
    return zipfile.is_zipfile(io.BytesIO(data)) or (
        data[:1] == b"\x80" and data[1:2] in b"\2\3\4\5"
    )


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
    try:
        with torch.device("meta"):
            model = PatchSVAE(config)
    except (RuntimeError, OverflowError) as error:  # sizes beyond 64 bits
        raise CheckpointError(
            f"encoder {printable(where)}: config asks for a model that is too large to be made"
        ) from error
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
