"""The encoder's layers through oneDNN against the model itself, and what happens without them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.encoder import onednn as packed  # noqa: E402
from frictionstore.extract.encoder.checkpoints import (  # noqa: E402
    Source,
    build_encoder,
    find_checkpoint,
    read_checkpoint,
)
from frictionstore.extract.encoder.svae import PatchSVAE  # noqa: E402
from frictionstore.extract.engines.make import native_engine  # noqa: E402

if packed.pack(build_encoder(read_checkpoint(find_checkpoint("speckle")), "speckle"), 256) is None:
    pytest.skip("this torch has no oneDNN to call", allow_module_level=True)


def load(name: str) -> PatchSVAE:
    source = Source(DATA / "svae" / f"{name}.pt", "file") if "_" in name else find_checkpoint(name)
    return build_encoder(read_checkpoint(source), name)


def exact(model: PatchSVAE, patches: torch.Tensor) -> torch.Tensor:
    """`PatchSVAE.encode` in float64, layer by layer."""
    F = torch.nn.functional

    def linear(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
        return x @ layer.weight.double().T + layer.bias.double()

    h = F.gelu(linear(patches.double(), model.enc_in))
    for block in model.enc_blocks:
        norm, inner, _, outer = block
        x = h - h.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        h = h + linear(F.gelu(linear(x * norm.weight + norm.bias, inner)), outer)
    M = linear(h, model.enc_out).unflatten(-1, (model.config.V, model.config.D))
    return M / M.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("name", ["svae_d4", "svae_d16", "speckle"])
def test_it_rounds_no_worse_than_torch(name: str) -> None:
    model = load(name)
    patches = torch.rand((3, 64, 3 * model.config.patch_size**2))
    encode = packed.pack(model, 192)
    assert encode is not None
    with torch.inference_mode():
        expected = exact(model, patches)
        own = (model.encode(patches) - expected).square().mean().sqrt()
        M = encode(patches)
    assert M.shape == expected.shape
    assert M.dtype == torch.float32
    assert (M - expected).square().mean().sqrt() < 2 * own
    torch.testing.assert_close(M.norm(dim=-1), torch.ones(M.shape[:-1]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["svae_d4", "speckle"])
def test_bfloat16_rounds_no_worse_than_torch_s(name: str) -> None:
    model = load(name)
    patches = torch.rand((3, 64, 3 * model.config.patch_size**2))
    encode = packed.pack(model, 192, "bfloat16")
    assert encode is not None
    with torch.inference_mode():
        expected = model.encode(patches)
        with torch.autocast("cpu", torch.bfloat16):
            own = (model.encode(patches) - expected).abs().mean()
        M = encode(patches)
    assert M.dtype == torch.float32
    assert 0 < (M - expected).abs().mean() < 1.5 * own


class Other:
    """Stands for oneDNN's functions in a torch where they have changed."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def _linear_pointwise(self) -> object:
        if self.kind == "gone":
            raise AttributeError("_linear_pointwise")
        true = torch.ops._OpNamespace("mkldnn")._linear_pointwise

        def linear(x: object, w: object, b: object, *rest: object) -> torch.Tensor:
            if self.kind == "takes other arguments":
                raise RuntimeError("mkldnn::_linear_pointwise() expected at most 3 arguments")
            if rest[0] == "gelu":
                rest = ("gelu", [], "tanh")
            return true(x, w, b, *rest)

        linear.binary = true.binary  # type: ignore[attr-defined]
        return linear

    @property
    def _reorder_linear_weight(self) -> object:
        return torch.ops._OpNamespace("mkldnn")._reorder_linear_weight


@pytest.mark.parametrize("kind", ["gone", "takes other arguments", "another gelu"])
def test_where_it_is_different_torch_s_own_products_are_taken(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).random((3, 3, 64, 64)).astype(np.float32)
    made = []
    for other in (False, True):
        if other:
            monkeypatch.setattr(torch.ops, "mkldnn", Other(kind))
        engine = native_engine(load("speckle"), ("S",), torch.device("cpu"))
        started = engine.start(images, np.arange(len(images)))
        made.append(started.finish()["S"])
        assert started.described["encoder_kernel"] == ("torch" if other else "onednn")
        engine.close()
    np.testing.assert_allclose(made[1], made[0], rtol=1e-5)


def test_weights_that_are_not_finite_are_no_difference() -> None:
    model = load("speckle")
    with torch.no_grad():
        model.enc_out.weight[0, 0] = float("nan")
    assert packed.pack(model, 64) is not None
