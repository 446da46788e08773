"""Checkpoints of later trainers: every key that changes what is computed, or refuses to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import erf, expit

import frictionstore as fs
from frictionstore.errors import CheckpointError, RequestError, StoreError
from frictionstore.extract.encoder.config import ACTIVATIONS, SVAEConfig
from frictionstore.extract.job import run_job
from frictionstore.extract.request import EncoderIdentity, Job, build_request
from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.conduit import conduit  # noqa: E402
from frictionstore.extract.encoder import onednn as packed  # noqa: E402
from frictionstore.extract.encoder.checkpoints import (  # noqa: E402
    Checkpoint,
    Source,
    build_encoder,
    read_checkpoint,
)
from frictionstore.extract.encoder.svae import ACTIVATION_FUNCTIONS, PatchSVAE  # noqa: E402
from frictionstore.extract.engines.base import gram, original_gram  # noqa: E402
from frictionstore.extract.engines.devices import choose_device  # noqa: E402
from frictionstore.extract.engines.make import native_engine  # noqa: E402

FOLDER = DATA / "svae"
NAMES = ("plain", "activations", "layernorm", "scale", "readout", "fp32", "grey")
MAPS = ("S", "friction", "settle", "S_orig", "recon_error", "slot", "image")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def path_of(name: str) -> Path:
    return FOLDER / f"later_{name}.pt"


def checkpoint(name: str, **changes: Any) -> Checkpoint:
    read = read_checkpoint(Source(path_of(name), "file"))
    return Checkpoint({**read.config, **changes}, read.weights)


def load(name: str, **changes: Any) -> tuple[PatchSVAE, Any]:
    model = build_encoder(checkpoint(name, **changes), name)
    return model, np.load(path_of(name).with_suffix(".npz"))


def largest_relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- conformance --------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_conforms_to_the_vectors(name: str, device: str) -> None:
    model, vectors = load(name)
    engine = native_engine(model, MAPS, choose_device(device))
    made = engine.measure(vectors["images"])
    engine.close()
    for field in ("S", "S_orig"):
        assert largest_relative(made[field], vectors[field]) < 2e-5, field
    error = np.abs(made["recon_error"] - vectors["recon_error"]) / vectors["recon_error"]
    assert error.max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_both_gram_matrices_conform(name: str) -> None:
    model, vectors = load(name)
    with torch.inference_mode():
        M = model.encode(model.patches(torch.from_numpy(vectors["images"])))
        spectrum = model.spectrum(M)
        coordinated = gram(model.coordinate(spectrum.S_orig), spectrum.V).numpy()
        original = original_gram(M).numpy()
    shape = vectors["gram"].shape
    assert largest_relative(coordinated.reshape(shape), vectors["gram"]) < 2e-5
    assert largest_relative(original.reshape(shape), vectors["original_gram"]) < 2e-5


@pytest.mark.parametrize("which", ["", "original_"])
@pytest.mark.parametrize("name", NAMES)
def test_friction_and_settle_of_their_gram_matrices(name: str, which: str) -> None:
    vectors = np.load(path_of(name).with_suffix(".npz"))
    matrices = vectors[f"{which}gram"]
    packet = conduit(torch.from_numpy(matrices))
    expected = vectors[f"{which}friction_ascending"][..., ::-1]
    noise, stable = np.zeros_like(expected), np.ones(expected.shape, bool)
    rng = np.random.default_rng(0)
    for _ in range(16):
        step = rng.integers(-1, 2, matrices.shape)
        step = np.triu(step) + np.swapaxes(np.triu(step, 1), -1, -2)
        moved = (matrices + np.spacing(np.abs(matrices)) * step).astype(np.float32)
        other = conduit(torch.from_numpy(moved))
        noise = np.maximum(noise, np.abs(other.friction.numpy() - packet.friction.numpy()))
        stable &= other.settle.numpy() == packet.settle.numpy()
    difference = np.abs(packet.friction.numpy() - expected)
    bound = np.maximum(1e-5 * np.abs(expected), 8 * noise)
    settle = packet.settle.numpy() == vectors[f"{which}settle_ascending"][..., ::-1]
    if name == "layernorm":  # one eigenvalue is near zero: that mode is noise
        kept = np.arange(4) < 3
        difference, bound = difference[..., kept], bound[..., kept]
        settle, stable = settle[..., kept], stable[..., kept]
    assert (difference <= bound).mean() >= 0.99
    assert settle[stable].mean() >= 0.995


@pytest.mark.parametrize("name", NAMES)
def test_the_conduit_measures_the_matrix_that_was_asked_for(name: str) -> None:
    model, vectors = load(name)
    cpu = torch.device("cpu")
    made = {}
    for which in ("coordinated", "original"):
        engine = native_engine(model, ("friction", "settle"), cpu, gram=which)
        made[which] = engine.measure(vectors["images"])
        engine.close()
    for which, prefix in (("coordinated", ""), ("original", "original_")):
        friction = vectors[f"{prefix}friction_ascending"][..., ::-1]
        near = np.abs(made[which]["friction"] - friction) <= 1e-3 * friction
        kept = slice(0, 3) if name == "layernorm" else slice(None)
        assert near[..., kept].mean() > 0.85
        assert (made[which]["settle"] == vectors[f"{prefix}settle_ascending"][..., ::-1])[
            ..., kept
        ].mean() > 0.95
    other = np.abs(made["original"]["friction"] - made["coordinated"]["friction"])
    assert (other > 1e-3 * made["original"]["friction"]).mean() > 0.3


GPU_ENGINE = """
import sys
import numpy as np, torch
from pathlib import Path
from frictionstore.extract.engines import cpu as module
from frictionstore.extract.encoder.checkpoints import Source
from frictionstore.extract.encoder.checkpoints import build_encoder
from frictionstore.extract.encoder.checkpoints import read_checkpoint
from frictionstore.extract.engines.cpu import CpuEngine
from frictionstore.extract.engines.gpu import GpuEngine

module.pack = lambda *_: None  # both with torch's own products
maps = ("S", "friction", "settle", "S_orig", "recon_error", "refinement_residual", "slot", "image")
cpu = torch.device("cpu")
CpuEngine.tile_patches = GpuEngine.tile_patches = 64  # the interpreter is slow
for name in sys.argv[2:]:
    path = Path(sys.argv[1]) / f"later_{name}.pt"
    model = build_encoder(read_checkpoint(Source(path, "file")), name)
    images = np.load(path.with_suffix(".npz"))["images"].copy()
    images[1, 0, 0, 0] = np.nan
    for which in ("coordinated", "original"):
        made = []
        for engine in (CpuEngine(model, maps, cpu, gram=which),
                       GpuEngine(model, maps, cpu, gram=which)):
            with torch.inference_mode():
                torch.set_num_threads(1)
                made.append(engine.measure(images))
            print(name, engine.kernels())
            engine.close()
        for key in maps:
            a, b = (one[key] for one in made)
            assert a.shape == b.shape and a.dtype == b.dtype, (name, which, key)
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (name, which, key)
        assert np.isnan(made[0]["friction"][1]).any()
"""


@pytest.mark.slow
def test_the_gpu_s_path_gives_the_cpu_s_maps_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    names = ("scale", "readout", "fp32", "grey")
    done = subprocess.run(
        [sys.executable, "-c", GPU_ENGINE, str(FOLDER), *names],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name, kernel in (
        ("scale", "fused-gpu"), ("readout", "column norms"), ("fp32", "torch.linalg.eigh"),
    ):  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith(name)]
        assert f"'spectrum_kernel': '{kernel}'" in lines[1]
        assert "'conduit_kernel': 'fused-gpu'" in lines[1]


# ---- where a shortcut would be wrong ------------------------------------------------------------

FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x / 2 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * expit(x),
    "swish": lambda x: x * expit(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "tanh": np.tanh,
    "sigmoid": expit,
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "logsigmoid": lambda x: -np.log1p(np.exp(-x)),
    "tanhshrink": lambda x: x - np.tanh(x),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_function_of_its_name(name: str) -> None:
    x = np.linspace(-8, 8, 1601)
    canonical = SVAEConfig.from_mapping(
        {**checkpoint("plain").config, "activations": {"dec_in": name}}, "x"
    ).activation("dec_in")
    found = ACTIVATION_FUNCTIONS[canonical](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, FORMULAS[name](x), rtol=1e-9, atol=1e-9)


def exact(model: PatchSVAE, patches: np.ndarray) -> np.ndarray:
    """The matrices before row normalisation, in float64 with NumPy alone."""

    def linear(x: np.ndarray, layer: Any) -> np.ndarray:
        return x @ layer.weight.double().numpy().T + layer.bias.double().numpy()

    site = model.config.activation
    h = FORMULAS[site("enc_in")](linear(patches.astype(np.float64), model.enc_in))
    for block in model.enc_blocks:
        norm, inner, _, outer = block
        x = h - h.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps)
        x = x * norm.weight.double().numpy() + norm.bias.double().numpy()
        h = h + linear(FORMULAS[site("enc_block_inner")](linear(x, inner)), outer)
    return linear(h, model.enc_out).reshape(*patches.shape[:-1], model.config.V, model.config.D)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"gelu"}))
def test_packed_layers_do_not_assume_gelu(name: str) -> None:
    changes = {"activation": name, "activations": {"enc_block_inner": name}, "row_norm": "none"}
    model, _ = load("plain", **changes)
    patches = np.random.default_rng(0).normal(size=(2, 32, 48)).astype(np.float32)
    expected = exact(model, patches)
    gelu = exact(load("plain", row_norm="none")[0], patches)
    with torch.inference_mode():
        found = [model.encode(torch.from_numpy(patches)).numpy()]
        encode = packed.pack(model, 64)
        if encode is not None:  # this torch has oneDNN
            found.append(encode(torch.from_numpy(patches)).numpy())
    for M in found:
        assert largest_relative(M, expected) < 2e-6
    assert largest_relative(gelu, expected) > 1e-4


@pytest.mark.parametrize("row_norm", ["layernorm", "scale", "none"])
def test_packed_layers_do_not_assume_unit_rows(row_norm: str) -> None:
    model, _ = load("plain", row_norm=row_norm)
    patches = np.random.default_rng(0).normal(size=(2, 32, 48)).astype(np.float32)
    raw = exact(model, patches)
    expected = {
        "layernorm": lambda: (
            (raw - raw.mean(-1, keepdims=True)) / raw.std(-1, ddof=1, keepdims=True)
        ),
        "scale": lambda: raw / np.abs(raw).max(-1, keepdims=True),
        "none": lambda: raw,
    }[row_norm]()
    encode = packed.pack(model, 64)
    if encode is None:
        pytest.skip("this torch has no oneDNN to call")
    with torch.inference_mode():
        M = encode(torch.from_numpy(patches)).numpy()
    assert largest_relative(M, expected) < 2e-5


def test_packed_layers_are_used_whatever_the_scale_of_the_rows() -> None:
    """The trial of oneDNN compares rows of unit length: large ones round by more, not worse."""
    read = checkpoint("plain", row_norm="none")
    read.weights["enc_out.weight"] = read.weights["enc_out.weight"] * np.float32(1e6)
    model = build_encoder(read, "large")
    if packed.pack(load("plain")[0], 64) is None:
        pytest.skip("this torch has no oneDNN to call")
    assert packed.pack(model, 64) is not None


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_fused_spectrum_does_not_assume_unit_rows(scale: float) -> None:
    read = checkpoint("plain", row_norm="none")
    for part in ("weight", "bias"):
        read.weights[f"enc_out.{part}"] = read.weights[f"enc_out.{part}"] * np.float32(scale)
    model = build_encoder(read, "scaled")
    images = np.load(path_of("plain").with_suffix(".npz"))["images"]
    engine = native_engine(model, ("S_orig",), torch.device("cpu"))
    found = engine.measure(images)["S_orig"]
    engine.close()
    with torch.inference_mode():
        M = model.encode(model.patches(torch.from_numpy(images))).double().numpy()
    exact_values = np.linalg.svd(M, compute_uv=False).reshape(found.shape)
    assert largest_relative(found, np.sqrt(exact_values**2 + 1e-12)) < 2e-6  # the ridge


def test_fp32_is_not_the_fused_kernel_s_float64() -> None:
    """Rows without a mean leave an eigenvalue of zero: what the ridge makes of it tells them."""
    smallest = {}
    for mode in ("default", "fp64", "fp32"):
        model, vectors = load("layernorm", svd_mode=mode)
        engine = native_engine(model, ("S_orig",), torch.device("cpu"))
        smallest[mode] = engine.measure(vectors["images"])["S_orig"][..., -1]
        engine.close()
    assert smallest["default"].max() < 1e-5
    np.testing.assert_array_equal(smallest["fp64"], smallest["default"])
    assert smallest["fp32"].max() < 1e-2  # the square root of 1e-6 and float32's rounding
    assert np.median(smallest["fp32"]) > 1e-4


def test_a_readout_without_a_layer_is_the_matrix_itself() -> None:
    read = checkpoint("readout", match_params=False)
    for part in ("weight", "bias"):
        del read.weights[f"readout.{part}"]
    model = build_encoder(read, "identity")
    images = np.load(path_of("readout").with_suffix(".npz"))["images"]
    engine = native_engine(model, ("S_orig", "recon_error"), torch.device("cpu"))
    made = engine.measure(images)
    engine.close()
    with torch.inference_mode():
        x = torch.from_numpy(images)
        M = model.encode(model.patches(x))
        S = model.coordinate(M.norm(dim=-2))
        recon = model.decode(M * S[..., None, :], 16, 16)  # U = M, V the identity
        error = model.patches((recon - x).square()).mean(-1)
    expected = np.sqrt((M.double().numpy() ** 2).sum(-2)).reshape(made["S_orig"].shape)
    np.testing.assert_allclose(made["S_orig"], expected, rtol=1e-6)
    np.testing.assert_allclose(made["recon_error"], error.reshape(made["recon_error"].shape),
                               rtol=1e-5)  # fmt: skip
    with pytest.raises(CheckpointError, match=r"unknown tensors: readout\.weight, readout\.bias"):
        load("readout", match_params=False)
    with pytest.raises(CheckpointError, match=r"lacks readout\.weight"):
        load("plain", linear_readout=True)


# ---- what the config asks for -------------------------------------------------------------------

BASE = {"V": 12, "D": 4, "patch_size": 4, "hidden": 24, "depth": 2, "n_cross_layers": 2}


def asked(**changes: Any) -> dict[str, Any]:
    return SVAEConfig.from_mapping({**BASE, **changes}, "best.pt").as_dict()


def test_a_config_without_later_keys_has_the_identity_it_always_had() -> None:
    assert asked() == {**BASE, "n_heads": 2, "smooth_mid": 8}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_heads": None, "smooth_mid": None, "model_type": None, "channels": None},
        {"n_heads": 2, "smooth_mid": 8, "model_type": "v1", "channels": 3},
        {"activation": "gelu"}, {"activation": None}, {"activations": None}, {"activations": {}},
        {"activation": "relu", "activations": {"enc_in": "gelu"}},
        {"activations": {"enc_in": None, "dec_in": "gelu"}},
        {"row_norm": "sphere"}, {"row_norm": None},
        {"svd_mode": "default"}, {"svd_mode": "fp64"}, {"svd_mode": None},
        {"linear_readout": False}, {"linear_readout": None}, {"linear_readout_power": None},
        {"linear_readout_power": 1}, {"match_params": False}, {"match_params": None},
        {"solver": "conduit", "svd_method": "fl", "svd_compute_dtype": "fp32"},
        {"init_scheme": "xavier", "target_cv": 0.2, "dataset": ["a"], "img_size": 64, "lr": 1e-4},
        {"sp_tokenizer": "x", "tree_depth": 3, "_path": "/home/x", "_epoch": 4},
        {"anything": None, "something": False},
    ],
)  # fmt: skip
def test_the_same_computation_has_the_same_identity(changes: dict[str, Any]) -> None:
    assert asked(**changes) == asked()


DIFFERENT: list[dict[str, Any]] = [
    {"channels": 1}, {"activation": "relu"}, {"activation": "gelu_tanh"},
    {"activations": {"enc_block_inner": "silu"}}, {"activations": {"dec_in": "silu"}},
    {"activations": {"dec_block_inner": "silu"}}, {"activations": {"boundary_smooth": "silu"}},
    {"row_norm": "layernorm"}, {"row_norm": "scale"}, {"row_norm": "none"}, {"svd_mode": "fp32"},
    {"linear_readout": True}, {"linear_readout": True, "match_params": False}, {"n_heads": 4},
]  # fmt: skip


def test_a_different_computation_has_a_different_identity() -> None:
    found = [asked()] + [asked(**changes) for changes in DIFFERENT]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"activation": "swish"}, {"activations": {"enc_in": "silu"}}),
        ({"linear_readout": True, "svd_mode": "none"}, {"linear_readout": True}),
        ({"linear_readout": True, "svd_mode": "fp32"}, {"linear_readout": True}),
        ({"linear_readout": True, "match_params": None}, {"linear_readout": True}),
    ],
)
def test_two_ways_to_say_one_thing(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert asked(**one) == asked(**other) != asked()


@pytest.mark.parametrize("changes", [{}, *DIFFERENT])
def test_an_identity_reads_back_as_itself(changes: dict[str, Any]) -> None:
    found = asked(**changes)
    assert SVAEConfig.from_mapping(found, "best.pt").as_dict() == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spectral_gate": True}, "has spectral_gate True, a key that is not known here"),
        ({"row_norms": "scale"}, "has row_norms 'scale', a key that is not known here"),
        ({"readout_gain": 0}, "has readout_gain 0, a key that is not known here"),
        ({5: "x"}, "has 5 'x', a key that is not known here"),
        ({"svd_mode": "batch_shared"}, "svd_mode 'batch_shared', with which what an image gives"),
        ({"svd_mode": "batch_shared", "linear_readout": True}, "svd_mode 'batch_shared'"),
        ({"svd_mode": "none"}, "svd_mode 'none' without linear_readout"),
        ({"svd_mode": "fp16"}, "svd_mode 'fp16': expected one of default, fp64, fp32, none"),
        ({"row_norm": "l1"}, "row_norm 'l1': expected one of sphere, layernorm, scale, none"),
        ({"activation": "GELU"}, "activation 'GELU': expected one of gelu, gelu_tanh, silu"),
        ({"activations": {"dec_in": "exp"}}, r"activations\.dec_in 'exp': expected one of gelu"),
        ({"activations": {"enc_out": "relu"}}, "activations for enc_out: the sites are enc_in"),
        ({"activations": "relu"}, "activations 'relu': expected a mapping of enc_in"),
        ({"linear_readout": True, "linear_readout_power": 2}, "linear_readout_power 2: only 1"),
        ({"linear_readout_power": 0.5}, "linear_readout_power 0.5: only 1"),
        ({"linear_readout": "yes"}, "linear_readout 'yes': expected true or false"),
        ({"linear_readout": True, "match_params": 1}, "match_params 1: expected true or false"),
        ({"channels": 0}, "channels 0: expected a whole number of 1 or more"),
        ({"model_type": "v2"}, "model_type is 'v2': only 'v1'"),
        ({"V": None}, "config lacks V"),
    ],
)
def test_what_is_not_known_or_not_done_is_refused_by_name(
    changes: dict[Any, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        SVAEConfig.from_mapping({**BASE, **changes}, "best.pt")
    assert str(caught.value).startswith("encoder best.pt: ")
    assert "\n" not in str(caught.value)


def test_weights_called_model_state_are_read(tmp_path: Path) -> None:
    content = torch.load(path_of("plain"), weights_only=True)
    content["model_state"] = content.pop("model_state_dict")
    torch.save(content, tmp_path / "epoch_0300.pt")
    read = read_checkpoint(Source(tmp_path / "epoch_0300.pt", "file"))
    assert read.weights_sha256 == checkpoint("plain").weights_sha256


# ---- stores -------------------------------------------------------------------------------------


def job(out: Path, name: str = "plain", **changes: Any) -> Job:
    given = {
        "dataset": "noise", "count": 20, "encoder": str(path_of(name)), "out": out,
        "image_size": 16, "device": "cpu", "maps": ["S", "friction", "settle", "S_orig"],
        **changes,
    }  # fmt: skip
    return Job.from_options(given)


class Digits:
    """Enough of a data set for a request."""

    ids = ("0",)
    value_range = (0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        return {"name": "digits"}


def request_of(config: dict[str, Any], dataset: Any = None, **changes: Any) -> dict[str, Any]:
    identity = EncoderIdentity(config, "0" * 64)
    return build_request(identity, dataset or Digits(), job(Path("x.zarr"), **changes), 1)


def test_no_path_and_no_private_key_gets_into_a_request() -> None:
    here, there = (request_of({**BASE, "_path": f"/cache/{n}/best.pt", "_epoch": n}) for n in "ab")
    assert here == there

    class Leaky(Digits):
        def __init__(self, entry: dict[str, Any]) -> None:
            self.entry = entry

        def describe(self) -> dict[str, Any]:
            return {"name": "digits", **self.entry}

    for entry in ({"_seen": 1}, {"root": "/home/someone/data"}, {"deep": {"_x": {"y": 1}}}):
        with pytest.raises(RequestError, match=r"would hold dataset\.(_seen|root|deep\._x\.y)"):
            request_of(BASE, Leaky(entry))


def test_the_default_gram_is_not_named_and_the_other_is() -> None:
    assert "gram" not in request_of(BASE)["conduit"]
    assert request_of(BASE, gram="original")["conduit"]["gram"] == "original"
    assert request_of(BASE)["transform"]["channels"] == "RGB"
    assert request_of({**BASE, "channels": 1})["transform"]["channels"] == "L"
    with pytest.raises(RequestError, match="images of 4 channels: the data sets here give 3"):
        request_of({**BASE, "channels": 4})


@pytest.mark.slow
def test_gram_original_is_another_store_and_its_parts_keep_it(tmp_path: Path) -> None:
    from frictionstore.store.combine import subset

    run_job(job(tmp_path / "a.zarr"))
    with pytest.raises(StoreError, match=r"conduit\.gram is absent there, .original. was asked"):
        run_job(job(tmp_path / "a.zarr", gram="original"))
    run_job(job(tmp_path / "b.zarr", gram="original"))
    a, b = fs.open(tmp_path / "a.zarr"), fs.open(tmp_path / "b.zarr")
    np.testing.assert_array_equal(a.S[:], b.S[:])
    assert (a.friction[:] != b.friction[:]).mean() > 0.5
    subset(tmp_path / "b.zarr", tmp_path / "c.zarr", limit=5)
    assert fs.open(tmp_path / "c.zarr").request["conduit"]["gram"] == "original"


@pytest.mark.slow
def test_history_is_in_the_provenance_and_not_in_the_request(tmp_path: Path) -> None:
    run_job(job(tmp_path / "a.zarr", "activations"))
    store = fs.open(tmp_path / "a.zarr")
    assert store.provenance["encoder"]["config"]["target_cv"] == 0.215
    assert store.provenance["encoder"]["config"]["sp_tokenizer"] is None
    config = store.request["encoder"]["config"]
    assert config["activations"]["enc_block_inner"] == "silu"
    assert "target_cv" not in config
    assert "row_norm" not in config


def test_a_store_of_a_version_that_overlooked_a_key_is_not_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is the same: what the earlier version recorded of it is not."""
    import frictionstore.extract.job as jobs

    with monkeypatch.context() as earlier:
        earlier.setattr(SVAEConfig, "as_dict", lambda self: {**BASE, "n_heads": 2, "smooth_mid": 8})
        earlier.setattr(jobs, "as_json", lambda value: None)
        run_job(job(tmp_path / "a.zarr", "activations"))
    provenance = tmp_path / "a.zarr/provenance.json"
    provenance.write_text(provenance.read_text().replace('"config": null', '"x": null'))
    with pytest.raises(StoreError, match=r"encoder\.config\.activations"):
        run_job(job(tmp_path / "a.zarr", "activations"))


def test_an_up_to_date_store_of_a_later_checkpoint_needs_no_torch(tmp_path: Path) -> None:
    run_job(job(tmp_path / "a.zarr", "readout"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from frictionstore.extract.request import Job\n"
        "from frictionstore.extract.job import run_job\n"
        f"print(run_job(Job('noise', {str(path_of('readout'))!r}, Path({str(tmp_path)!r}, "
        "'a.zarr'), 16, ('S', 'friction', 'settle', 'S_orig'), count=20))['status'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "up to date", done.stderr


def test_a_readout_s_store_says_that_its_modes_are_not_ordered(tmp_path: Path) -> None:
    from frictionstore.check.verify import verify
    from frictionstore.show.describe import describe
    from frictionstore.store.combine import subset

    run_job(job(tmp_path / "plain.zarr"))
    run_job(job(tmp_path / "a.zarr", "readout"))
    plain, store = fs.open(tmp_path / "plain.zarr"), fs.open(tmp_path / "a.zarr")
    assert plain.attributes["mode_order"] == "descending"
    assert store.attributes["mode_order"] == "as stored"
    assert (np.diff(plain.S_orig[:], axis=-1) <= 0).all()
    assert (np.diff(store.S_orig[:], axis=-1) > 0).mean() > 0.1
    assert "largest first" in describe(plain)
    assert "largest first" not in describe(store).split("stored")[0]
    assert "columns" in describe(store).split("stored")[0]
    assert "order" in store.S.attrs["description"]
    assert "descending" not in store.S.attrs["description"]
    # G = diag(S^2): friction's modes are those of S sorted, whichever column they come from.
    values = np.sort(store.S[:], axis=-1)[..., ::-1].astype(np.float64) ** 2
    packet = conduit(torch.from_numpy(np.stack([np.diag(v) for v in values.reshape(-1, 4)])
                                      .astype(np.float32)))  # fmt: skip
    same = np.isclose(packet.friction.numpy().reshape(values.shape), store.friction[:], rtol=1e-2)
    assert same.mean() > 0.9
    assert not verify(tmp_path / "a.zarr").damage
    subset(tmp_path / "a.zarr", tmp_path / "b.zarr", limit=5)
    assert fs.open(tmp_path / "b.zarr").attributes["mode_order"] == "as stored"


def test_a_mode_order_that_does_not_fit_the_encoder_is_refused() -> None:
    from frictionstore.format import schema

    assert schema.mode_order({"encoder": {"config": {"linear_readout": True}}}) == "as stored"
    for other in ({}, {"encoder": "x"}, {"encoder": {"config": {"linear_readout": 1}}},
                  {"encoder": {"config": None}}):  # fmt: skip
        assert schema.mode_order(other) == "descending"


# ---- grey ---------------------------------------------------------------------------------------


def test_colour_is_read_as_pillow_s_luma_before_it_is_resized(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 40, 40, 3)).astype(np.uint8)
    (tmp_path / "set").mkdir()
    for k, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"set/{k}.png")
    maps = ["S", "image", "recon_error"]
    options = {"dataset": f"folder:{tmp_path / 'set'}", "count": None, "maps": maps}
    for name, workers in (("a", 0), ("b", 2)):
        run_job(job(tmp_path / f"{name}.zarr", "grey", workers=workers, **options))
    store = fs.open(tmp_path / "a.zarr")
    model, _ = load("grey")
    luma = [Image.fromarray(p).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
            for p in pixels]  # fmt: skip
    x = np.stack([np.asarray(image) for image in luma])[:, None].astype(np.float32) / 255
    with torch.inference_mode():
        M = model.encode(model.patches(torch.from_numpy(x)))
        S = model.coordinate(model.spectrum(M).S_orig).numpy().reshape(store.S.shape)
    assert largest_relative(store.S[:], S) < 2e-6
    np.testing.assert_array_equal(store.S[:], fs.open(tmp_path / "b.zarr").S[:])
    shown = store["image"][:]
    assert (shown == shown[..., :1]).all()
    np.testing.assert_array_equal(shown[..., 0], np.rint(x[:, 0] * 255))
    assert store.request["transform"]["channels"] == "L"


def test_a_grey_picture_is_itself_and_noise_is_weighed_like_it() -> None:
    from frictionstore.extract.data.base import DatasetOptions
    from frictionstore.extract.data.choose import open_dataset

    digits = open_dataset("digits", DatasetOptions(), print)
    np.testing.assert_array_equal(digits.load(3, 16, grey=True)[0], digits.load(3, 16)[0])
    noise = open_dataset("noise", DatasetOptions(count=16), print)
    weights = np.array([0.299, 0.587, 0.114])
    for k in range(16):
        grey, colour = noise.load(k, 16, grey=True), noise.load(k, 16)
        assert grey.shape == (1, 16, 16)
        expected = np.einsum("c,cyx->yx", weights, colour)
        np.testing.assert_allclose(grey[0], expected, atol=1e-4)
