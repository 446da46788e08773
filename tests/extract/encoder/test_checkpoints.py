"""Checkpoints are data: what loads, what is refused, and in which words."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.checkpoints import (
    Source,
    build_encoder,
    find_checkpoint,
    hash_weights,
    read_checkpoint,
)
from tests.support import DATA

torch = pytest.importorskip("torch")

UPSTREAM = DATA / "svae" / "svae_d4.pt"


def at(path: Path) -> Source:
    return Source(path, f"file:{path.name}")


def upstream() -> dict[str, Any]:
    return torch.load(UPSTREAM, weights_only=True)


def saved(tmp_path: Path, content: object) -> Source:
    torch.save(content, tmp_path / "best.pt")
    return at(tmp_path / "best.pt")


def test_an_upstream_file_loads_unchanged() -> None:
    checkpoint = read_checkpoint(at(UPSTREAM))
    assert checkpoint.notes == {"epoch": 7, "test_mse": 0.0123}
    assert checkpoint.config["dataset"] == "omega_noise"
    model = build_encoder(checkpoint, "x")
    assert (model.config.n_heads, model.config.smooth_mid) == (2, 8)
    for name, tensor in upstream()["model_state_dict"].items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


def test_optimiser_states_do_not_matter(tmp_path: Path) -> None:
    content = {**upstream(), "optimizer_state_dict": {"state": {0: {"step": torch.tensor(3)}}}}
    assert (
        read_checkpoint(saved(tmp_path, content)).weights_sha256
        == read_checkpoint(at(UPSTREAM)).weights_sha256
    )


def test_the_same_weights_have_the_same_hash_in_both_formats(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    content = upstream()
    path = tmp_path / "same.safetensors"
    save_file(content["model_state_dict"], path, {"config": json.dumps(content["config"])})
    one, two = read_checkpoint(at(path)), read_checkpoint(at(UPSTREAM))
    assert one.weights_sha256 == two.weights_sha256
    content["model_state_dict"]["enc_in.bias"][0] += 1
    assert hash_weights({k: v.numpy() for k, v in content["model_state_dict"].items()}) != (
        two.weights_sha256
    )


def test_safetensors_are_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from frictionstore.extract.encoder.checkpoints import *\n"
        "print(read_checkpoint(find_checkpoint('speckle')).weights_sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == 64


class Payload:
    """Unpickling this would create the file it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    source = saved(tmp_path, {**upstream(), "extra": Payload(witness)})
    with pytest.raises(CheckpointError, match=r"best\.pt holds more than tensors .* refused"):
        read_checkpoint(source)
    assert not witness.exists()


def test_a_random_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"config": Payload(witness)}))
    with pytest.raises(CheckpointError, match=r"encoder x\.pt"):
        read_checkpoint(at(tmp_path / "x.pt"))
    assert not witness.exists()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", ["empty", "random", "truncated", "text"])
def test_damaged_files_are_one_sentence(tmp_path: Path, ending: str, kind: str) -> None:
    path = tmp_path / f"x.{ending}"
    whole = UPSTREAM.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "random": np.random.default_rng(0).bytes(5000),
            "truncated": whole[: len(whole) // 2],
            "text": b"<html>404 not found</html>",
        }[kind]
    )
    with pytest.raises(CheckpointError, match=rf"^encoder x\.{ending} is not a") as caught:
        read_checkpoint(at(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("config"), "has no config"),
        (lambda c: c.pop("model_state_dict"), "has no model_state_dict"),
        (lambda c: c["config"].pop("hidden"), "config lacks hidden: a PatchSVAE config has V, D"),
        (lambda c: c["config"].update(V="48"), "config has V '48': expected a whole number of 1"),
        (lambda c: c["config"].update(depth=-1), "config has depth -1: expected a whole number"),
        (lambda c: c["config"].update(D=True), "config has D True"),
        (lambda c: c["config"].update(n_heads=3), "D 4, which its n_heads 3 does not divide"),
        (lambda c: c["config"].update(V=2), "D 4 larger than V 2"),
        (lambda c: c["config"].update(model_type="aleph"), "model_type is 'aleph': only 'v1'"),
        (lambda c: c["config"].update(hidden=33), "tensors of another shape: enc_in.weight is"),
        (lambda c: c["model_state_dict"].pop("enc_out.bias"), "lacks enc_out.bias"),
        (lambda c: c["model_state_dict"].update(odd=torch.zeros(1)), "unknown tensors: odd"),
        (lambda c: c["model_state_dict"].update({"enc_in.bias": torch.zeros(32).long()}),
         "enc_in.bias is not a tensor of floats"),
        (lambda c: c["model_state_dict"].update({"enc_in.bias": [0.0] * 32}),
         "enc_in.bias is not a tensor of floats"),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    content = upstream()
    change(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        build_encoder(read_checkpoint(saved(tmp_path, content)), "best.pt")
    assert "best.pt" in str(caught.value)


def test_a_list_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a list, expected a dictionary"):
        read_checkpoint(saved(tmp_path, [1, 2]))


@pytest.mark.parametrize(("model_type", "fits"), [(None, True), ("v1", True), ("v2", False)])
def test_model_type_decides_the_architecture(
    tmp_path: Path, model_type: str | None, fits: bool
) -> None:
    content = upstream()
    content["config"]["model_type"] = model_type
    checkpoint = read_checkpoint(saved(tmp_path, content))
    if fits:
        build_encoder(checkpoint, "x")
    else:
        with pytest.raises(CheckpointError, match="model_type is 'v2'"):
            build_encoder(checkpoint, "x")


def test_names_that_stand_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'nothing' is not a file, nor speckle, nor the name"):
        find_checkpoint("nothing")
    with pytest.raises(CheckpointError, match="is a folder: name the file in it"):
        find_checkpoint(str(tmp_path))


# ---- the Hub ------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(root: Path) -> None:
    """A cache as huggingface_hub lays it out, holding one published version."""
    repo = root / "models--AbstractPhil--geolip-SVAE"
    snapshot = repo / "snapshots" / COMMIT / "v40_freckles_noise" / "checkpoints"
    snapshot.mkdir(parents=True)
    (snapshot / "best.pt").write_bytes(UPSTREAM.read_bytes())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)


def run_offline(cache: Path, code: str) -> str:
    import os

    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FIND = """
from frictionstore.errors import CheckpointError
from frictionstore.extract.encoder.checkpoints import find_checkpoint
try:
    print(find_checkpoint({name!r}).origin)
except CheckpointError as error:
    print("refused:", error)
"""


def test_a_published_version_comes_from_the_cache_with_its_commit(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    expected = f"hub:AbstractPhil/geolip-SVAE@{COMMIT}/v40_freckles_noise/checkpoints/best.pt"
    assert run_offline(tmp_path, FIND.format(name="v40_freckles_noise")) == expected
    pinned = FIND.format(name=f"v40_freckles_noise@{COMMIT}")
    assert run_offline(tmp_path, pinned) == expected


def test_a_version_that_cannot_be_fetched_is_one_sentence(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    said = run_offline(tmp_path, FIND.format(name="v50_fresnel_64"))
    assert said.startswith("refused: encoder v50_fresnel_64 cannot be fetched: it is not in the")
    said = run_offline(tmp_path, FIND.format(name="v40_freckles_noise@" + "f" * 40))
    assert said.startswith(f"refused: encoder v40_freckles_noise@{'f' * 40} cannot be fetched")
