"""What a PatchSVAE computes, from a checkpoint's config. The fingerprint needs it: no torch.

A key that changes what is computed while every tensor keeps its shape is as dangerous as a wrong
tensor: each key is known here or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from frictionstore.errors import CheckpointError
from frictionstore.text import printable

SITES = ("enc_in", "enc_block_inner", "dec_in", "dec_block_inner", "boundary_smooth")
ACTIVATIONS = (
    "gelu", "gelu_tanh", "silu", "swish", "mish", "relu", "relu6", "leaky_relu", "elu", "selu",
    "celu", "tanh", "sigmoid", "hardtanh", "hardsigmoid", "hardswish", "softplus", "softsign",
    "logsigmoid", "tanhshrink", "identity",
)  # fmt: skip
ROW_NORMS = ("sphere", "layernorm", "scale", "none")
SVD_MODES = ("default", "fp64", "fp32", "none")
CHANNELS = (1, 3)
"""Input channels that image data sets have: luma and RGB."""

_REQUIRED = ("V", "D", "patch_size", "hidden", "depth", "n_cross_layers")
_DECIDING = (
    *_REQUIRED, "n_heads", "smooth_mid", "model_type", "channels", "activation", "activations",
    "row_norm", "svd_mode", "linear_readout", "linear_readout_power", "match_params",
)  # fmt: skip
_LATER = ("channels", "activations", "row_norm", "svd_mode", "linear_readout", "match_params")
_HISTORY = (
    "solver", "svd_method", "svd_compute_dtype", "init_scheme", "target_cv", "dataset", "img_size",
    "lr", "tree_depth",
)  # fmt: skip
_HISTORY_PREFIXES = ("_", "sp_")


@dataclass(frozen=True)
class SVAEConfig:
    """What decides the shapes and the arithmetic of a PatchSVAE.

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
    channels : int
        Of the images: 3 for RGB, 1 for luma.
    activations : mapping of site to name
        Only the sites of `SITES` whose function is not `gelu`.
    row_norm : {"sphere", "layernorm", "scale", "none"}
        What is done to each row of a patch's matrix.
    svd_mode : {"default", "fp32"}
        Precision of the Gram matrix behind the singular values: float64 or float32.
    linear_readout : bool
        Norms of columns, in their order, take the place of singular values.
    match_params : bool
        Whether the readout has a layer; without one it is the identity.
    """

    V: int
    D: int
    patch_size: int
    hidden: int
    depth: int
    n_cross_layers: int
    n_heads: int
    smooth_mid: int
    channels: int = 3
    activations: Mapping[str, str] = field(default_factory=dict)
    row_norm: str = "sphere"
    svd_mode: str = "default"
    linear_readout: bool = False
    match_params: bool = True

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any], where: str) -> SVAEConfig:
        """Read a checkpoint's `config`; null is absent, and what is absent has upstream's default.

        Parameters
        ----------
        config : mapping
        where : str
            Name of the checkpoint, for messages.

        Raises
        ------
        CheckpointError
            A key is missing, unknown or out of its range, or asks for what is not done here.
        """
        where = f"encoder {printable(where)}"
        given = {key: value for key, value in config.items() if value is not None}
        model_type = given.get("model_type", "v1")
        if model_type != "v1":
            raise CheckpointError(
                f"{where}: model_type is {model_type!r}: only 'v1' (the PatchSVAE) can be read here"
            )
        missing = [key for key in _REQUIRED if key not in given]
        if missing:
            raise CheckpointError(
                f"{where}: config lacks {', '.join(missing)}: "
                f"a PatchSVAE config has {', '.join(_REQUIRED)}"
            )
        _refuse_unknown(where, given)
        values: dict[str, Any] = {key: given[key] for key in _REQUIRED}
        for key, value in values.items():
            _require_whole(where, key, value, 0 if key in ("depth", "n_cross_layers") else 1)
        D, patch = values["D"], values["patch_size"]
        values["n_heads"] = given.get("n_heads", 2 if D <= 8 else min(4, D))
        values["smooth_mid"] = given.get("smooth_mid", 16 if patch >= 16 else 8)
        values["channels"] = given.get("channels", 3)
        for key in ("n_heads", "smooth_mid", "channels"):
            _require_whole(where, key, values[key], 1)
        made = cls(
            **values,
            activations=_activations(where, given),
            row_norm=_choice(where, "row_norm", given.get("row_norm", "sphere"), ROW_NORMS),
            **_spectrum(where, given),
        )
        if made.D % made.n_heads:
            raise CheckpointError(
                f"{where}: config has D {made.D}, which its n_heads {made.n_heads} does not divide"
            )
        if made.D > made.V and not made.linear_readout:
            raise CheckpointError(f"{where}: config has D {made.D} larger than V {made.V}")
        return made

    def activation(self, site: str) -> str:
        return self.activations.get(site, "gelu")

    @property
    def patch_values(self) -> int:
        """Entries of one patch's vector."""
        return self.channels * self.patch_size**2

    @property
    def double_gram(self) -> bool:
        """Whether singular values come from the float64 Gram matrix, as fused kernels do it."""
        return not self.linear_readout and self.svd_mode == "default"

    def later(self) -> dict[str, Any]:
        """What differs from the PatchSVAE that knew none of the later keys."""
        return {key: value for key, value in self.as_dict().items() if key in _LATER}

    def as_dict(self) -> dict[str, Any]:
        """For the request: the shapes, and of the rest what differs from its default.

        Two configs that ask for the same computation give the same dictionary, and the one of a
        config that knows none of the later keys has not changed with them.
        """
        kept = asdict(self)
        for each in fields(self):
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if kept[each.name] == default:
                del kept[each.name]
        return kept


def _refuse_unknown(where: str, given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        known = key in _DECIDING or key in _HISTORY or str(key).startswith(_HISTORY_PREFIXES)
        if not known and value is not False:
            raise CheckpointError(
                f"{where}: config has {printable(key)} {printable(repr(value), 60)}, a key that is "
                "not known here: it may change what is computed, so this checkpoint is not "
                "measured; take the key out of the config if it does not"
            )


def _activations(where: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Function at each site where it is not `gelu`, each by one name."""
    asked = given.get("activations", {})
    if not isinstance(asked, Mapping):
        raise CheckpointError(
            f"{where}: config has activations {printable(repr(asked), 60)}: expected a mapping of "
            f"{', '.join(SITES)} to names"
        )
    named = {"enc_in": _choice(where, "activation", given.get("activation", "gelu"), ACTIVATIONS)}
    for site, name in asked.items():
        if site not in SITES:
            raise CheckpointError(
                f"{where}: config has activations for {printable(site)}: the sites are "
                f"{', '.join(SITES)}"
            )
        if name is not None:
            named[site] = _choice(where, f"activations.{site}", name, ACTIVATIONS)
    same = {"swish": "silu"}
    return {
        site: same.get(named[site], named[site])
        for site in SITES
        if named.get(site, "gelu") != "gelu"
    }


def _spectrum(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What takes a patch's matrix to its singular values."""
    readout = _flag(where, "linear_readout", given.get("linear_readout", False))
    mode = given.get("svd_mode", "default")
    if mode == "batch_shared":
        raise CheckpointError(
            f"{where}: config has svd_mode 'batch_shared', with which what an image gives depends "
            "on the images beside it: it is not measured here"
        )
    mode = _choice(where, "svd_mode", mode, SVD_MODES)
    if mode == "none" and not readout:
        raise CheckpointError(
            f"{where}: config has svd_mode 'none' without linear_readout: it has no singular values"
        )
    power = given.get("linear_readout_power", 1)
    if isinstance(power, bool) or power != 1:
        raise CheckpointError(
            f"{where}: config has linear_readout_power {printable(repr(power), 60)}: only 1 can be "
            "read here"
        )
    match = given.get("match_params", True)
    return {
        "svd_mode": "fp32" if mode == "fp32" and not readout else "default",
        "linear_readout": readout,
        "match_params": _flag(where, "match_params", match) if readout else True,
    }


def _choice(where: str, key: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(
            f"{where}: config has {key} {printable(repr(value), 60)}: expected one of "
            f"{', '.join(choices)}"
        )
    return value


def _flag(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise CheckpointError(
            f"{where}: config has {key} {printable(repr(value), 60)}: expected true or false"
        )
    return value


def _require_whole(where: str, key: str, value: object, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= 1 << 20:
        raise CheckpointError(
            f"{where}: config has {key} {value!r}: expected a whole number of {smallest} or more"
        )
