"""Checkpoints as strangers make them: one sentence each, and no more memory than the file's."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frictionstore.errors import CheckpointError, RequestError
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.encoder import checkpoints  # noqa: E402
from frictionstore.extract.encoder.checkpoints import (  # noqa: E402
    Source,
    build_encoder,
    read_checkpoint,
)

UPSTREAM = DATA / "svae/svae_d4.pt"


def content() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(UPSTREAM, weights_only=True)
    return loaded


def refused(path: Path, match: str) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=match) as caught:
        build_encoder(read_checkpoint(Source(path, "file:best.pt")), path.name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert "\n" not in str(caught.value)
    return str(caught.value)


STRANGE: dict[str, tuple[Callable[[], Any], str]] = {
    "expanded": (lambda: torch.ones(1).expand(2_500_000_000), "has 2,500,000,000 values, of which"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "is a tensor that is sparse"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "is a tensor that is sparse"),
    "meta": (lambda: torch.empty(10**13, device="meta"), "is a tensor that is without values"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "is a tensor that is nested",
    ),
    "float8": (lambda: torch.ones(4).to(torch.float8_e4m3fn), "has dtype float8_e4m3fn: save it"),
    "scales": (lambda: torch.ones(4).to(torch.float8_e8m0fnu), "has dtype float8_e8m0fnu"),
    "quantised": (lambda: torch.ones(3).to(torch.int8), "is not a tensor of floats"),
}


@pytest.mark.filterwarnings("default")  # torch's own, of prototypes
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_that_are_not_plain(tmp_path: Path, kind: str) -> None:
    make, match = STRANGE[kind]
    made = content()
    made["model_state_dict"]["enc_in.weight"] = make()
    torch.save(made, tmp_path / "best.pt")
    assert "enc_in.weight" in refused(tmp_path / "best.pt", match)


def test_many_names_of_one_storage(tmp_path: Path) -> None:
    """Each alone is as large as what is stored; together they would be 4 GB."""
    made = content()
    shared = torch.zeros(1 << 20)
    made["model_state_dict"].update({f"w{i}": shared for i in range(1000)})
    torch.save(made, tmp_path / "best.pt")
    refused(tmp_path / "best.pt", "and those before it have .* and the file")


def test_tied_weights_are_no_fault(tmp_path: Path) -> None:
    made = content()
    state = made["model_state_dict"]
    state["dec_blocks.0.1.weight"] = state["enc_blocks.0.1.weight"]
    torch.save(made, tmp_path / "best.pt")
    build_encoder(read_checkpoint(Source(tmp_path / "best.pt", "file:best.pt")), "best.pt")


@pytest.mark.slow
def test_a_packed_archive_that_unpacks_to_more(tmp_path: Path) -> None:
    made = content()
    made["model_state_dict"]["enc_in.weight"] = torch.zeros(100_000_000)
    buffer = io.BytesIO()
    torch.save(made, buffer)
    with (
        zipfile.ZipFile(buffer) as plain,
        zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    del buffer, made
    refused(tmp_path / "best.pt", "unpacks to 400 MB from")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"depth": 1_000_000}, "config has depth 1000000, and the file has"),
        ({"n_cross_layers": 1_000_000}, "config has n_cross_layers 1000000, and the file"),
        ({"depth": 10**500}, "a number beyond 64 bits"),
        ({"V": 1 << 20, "D": 1 << 20, "patch_size": 1 << 20, "hidden": 1 << 20}, "too large"),
        ({"lr": nested(40)}, "a config of more than 10,000 values"),
        ({"_x": circle()}, "a config of more than 10,000 values"),
        ({"linear_readout_power": torch.ones(2)}, "a tensor in its config"),
        ({"_x": {"y": [torch.ones(1)]}}, "a tensor in its config"),
    ],
)
def test_configs_that_cost_more_than_their_file(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    made = content()
    made["config"].update(change)
    torch.save(made, tmp_path / "best.pt")
    refused(tmp_path / "best.pt", match)


@pytest.mark.parametrize("name", [("a",), "\udc80", 3])
def test_names_of_tensors_that_are_no_names(tmp_path: Path, name: Any) -> None:
    made = content()
    made["model_state_dict"][name] = torch.zeros(1)
    torch.save(made, tmp_path / "best.pt")
    refused(tmp_path / "best.pt", "a tensor whose name is not plain text")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16", "I32", "F64"])
def test_dtypes_of_safetensors(tmp_path: Path, dtype: str) -> None:
    size = {"F8_E4M3": 1, "BF16": 2, "I32": 4, "F64": 8}[dtype]
    header = json.dumps(
        {
            "__metadata__": {"config": "{}"},
            "a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]},
        }
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
    if dtype == "F64":
        assert read_checkpoint(Source(path, "file")).weights["a"].dtype == np.float32
    else:
        refused(path, "is not a safetensors file|has dtype")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        _ = Source(tmp_path / "best.pt", "file:best.pt").sha256


# ---- what is hashed is what is loaded -----------------------------------------------------------


def job(tmp_path: Path, out: str = "a.zarr", **changes: Any) -> Job:
    return Job("noise", str(tmp_path / "best.pt"), tmp_path / out, image_size=16, count=16,
               device="cpu", **changes)  # fmt: skip


def other_encoder(path: Path) -> None:
    made = content()
    made["model_state_dict"] = {k: v + 0.5 for k, v in made["model_state_dict"].items()}
    torch.save(made, path)


def test_an_encoder_replaced_during_a_run_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Provenance names the file that was measured with, and the new one is another encoder."""
    import frictionstore as fs
    from frictionstore.extract import pipeline

    path = tmp_path / "best.pt"
    shutil.copyfile(UPSTREAM, path)
    measured_with = Source(path, "").sha256
    extract_units = pipeline.extract_units

    def replacing(*arguments: Any, **options: Any) -> int:
        other_encoder(path)
        return extract_units(*arguments, **options)

    monkeypatch.setattr(pipeline, "extract_units", replacing)
    run_job(job(tmp_path))
    store = fs.open(tmp_path / "a.zarr")
    assert store.provenance["encoder"]["file_sha256"] == measured_with
    with pytest.raises(Exception, match=r"encoder\.weights_sha256 is"):
        run_job(job(tmp_path))


def test_an_encoder_replaced_between_hashing_and_loading_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import frictionstore as fs

    path = tmp_path / "best.pt"
    shutil.copyfile(UPSTREAM, path)
    reading = checkpoints.read_checkpoint
    expected = reading(Source(path, "")).weights_sha256

    def replaced(source: Source) -> Any:
        other_encoder(path)
        return reading(source)

    monkeypatch.setattr(checkpoints, "read_checkpoint", replaced)
    run_job(job(tmp_path))
    store = fs.open(tmp_path / "a.zarr")
    assert store.request["encoder"]["weights_sha256"] == expected


def test_a_store_that_lies_about_its_encoder_is_not_believed(tmp_path: Path) -> None:
    """Its provenance names our file beside another config, and the new one would repeat it."""
    path = tmp_path / "best.pt"
    shutil.copyfile(UPSTREAM, path)
    run_job(job(tmp_path))
    said = tmp_path / "a.zarr/provenance.json"
    provenance = json.loads(said.read_text())
    provenance["encoder"]["config"]["lr"] = 123.0
    said.write_text(json.dumps(provenance))
    with pytest.raises(RequestError, match=r"a\.zarr says of best\.pt what is not so"):
        run_job(job(tmp_path, maps=("S",)), overwrite=True)


def test_safetensors_are_read_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from frictionstore.extract.encoder.checkpoints import *\n"
        "print(len(read_checkpoint(find_checkpoint('speckle')).weights))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10
