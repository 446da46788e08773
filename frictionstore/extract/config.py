"""The shapes of a PatchSVAE, from a checkpoint's config. The fingerprint needs it: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from frictionstore.errors import CheckpointError
from frictionstore.text import printable


@dataclass(frozen=True)
class SVAEConfig:
    """What decides the shapes of a PatchSVAE.

    Attributes
    ----------
    V, D : int
        Rows and columns of the matrix one patch becomes; D is the number of modes.
    patch_size : int
        Height and width of a patch in pixels.
    hidden, depth : int
        Width and number of residual blocks of the encoder's and the decoder's MLP.
    n_cross_layers, n_heads : int
        Layers and heads of the spectral cross-attention.
    smooth_mid : int
        Channels between the two convolutions that smooth patch boundaries.
    """

    V: int
    D: int
    patch_size: int
    hidden: int
    depth: int
    n_cross_layers: int
    n_heads: int
    smooth_mid: int

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any], where: str) -> SVAEConfig:
        """Read a checkpoint's `config`, deriving upstream's defaults for the two optional keys.

        Parameters
        ----------
        config : mapping
        where : str
            Name of the checkpoint, for messages.

        Raises
        ------
        CheckpointError
            A key is missing or is not a whole number in its range, or `model_type` names
            another architecture.
        """
        where = f"encoder {printable(where)}"
        model_type = config.get("model_type")
        if model_type is not None and model_type != "v1":
            raise CheckpointError(
                f"{where}: model_type is {model_type!r}: only 'v1' (the PatchSVAE) can be read here"
            )
        required = ("V", "D", "patch_size", "hidden", "depth", "n_cross_layers")
        missing = [key for key in required if key not in config]
        if missing:
            raise CheckpointError(
                f"{where}: config lacks {', '.join(missing)}: "
                f"a PatchSVAE config has {', '.join(required)}"
            )
        values = {key: config[key] for key in required}
        for key, value in values.items():
            _require_whole(where, key, value, 0 if key in ("depth", "n_cross_layers") else 1)
        D, patch = values["D"], values["patch_size"]
        values["n_heads"] = config.get("n_heads", 2 if D <= 8 else min(4, D))
        values["smooth_mid"] = config.get("smooth_mid", 16 if patch >= 16 else 8)
        for key in ("n_heads", "smooth_mid"):
            _require_whole(where, key, values[key], 1)
        made = cls(**values)
        if made.D % made.n_heads:
            raise CheckpointError(
                f"{where}: config has D {made.D}, which its n_heads {made.n_heads} does not divide"
            )
        if made.D > made.V:
            raise CheckpointError(f"{where}: config has D {made.D} larger than V {made.V}")
        return made

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def _require_whole(where: str, key: str, value: object, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= 1 << 20:
        raise CheckpointError(
            f"{where}: config has {key} {value!r}: expected a whole number of {smallest} or more"
        )
