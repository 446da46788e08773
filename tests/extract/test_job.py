"""The command itself, in processes of its own: recipes, overrides, bad input, no torch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError
from frictionstore.extract.recipe import read_recipe, recipe_table
from frictionstore.extract.request import Job
from tests.support import DATA, heed_interrupts

pytest.importorskip("torch")

ROOT = DATA.parent.parent
ENCODER = str(DATA / "svae/svae_d4.pt")
FORBID = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"


def run(
    *arguments: str, cwd: Path, forbid: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    code = FORBID.format(names=forbid) + "from frictionstore.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True,
        timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def run_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same without a process of its own, which takes longer to start than to refuse."""
    with contextlib.chdir(cwd), pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "1")
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def small(*more: str, out: str = "a.zarr") -> list[str]:
    return ["extract", "--dataset", "noise", "--count", "40", "--encoder", ENCODER, "--image-size",
            "16", "--out", out, "--device", "cpu", *more]  # fmt: skip


def refused(result: subprocess.CompletedProcess[str], *, contains: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: "), result.stderr
    assert contains in lines[-1]
    assert "Traceback" not in result.stderr


def test_the_bundled_recipes_are_valid_and_described() -> None:
    table = recipe_table()
    assert {"digits-speckle", "freckles-cifar10"} <= set(table)
    for name, recipe in table.items():
        assert recipe["description"]
        assert recipe["out"] == f"data/{name}.zarr"
        job = Job.from_options({"recipe": name})
        assert job.recipe == name
    freckles = Job.from_options({"recipe": "freckles-cifar10"})
    assert (freckles.encoder, freckles.split, freckles.image_size) == (
        "v40_freckles_noise", "test", 64,
    )  # fmt: skip


def test_options_override_the_recipe_and_none_does_not() -> None:
    job = Job.from_options(
        {"recipe": "noise-speckle", "seed": 0, "count": 5, "maps": "settle, S", "limit": None}
    )
    assert (job.seed, job.count, job.maps, job.limit) == (0, 5, ("S", "settle"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset = ", "is not valid TOML"),
        ("colour = 'red'", "unknown key 'colour': the keys are description, dataset"),
        ("image_size = '64'", "image_size is '64', expected int"),
        ("image_size = true", "image_size is True, expected int"),
        ("maps = 'S'", "expected a list of names"),
        ("count = 0", "count is 0, which is too small"),
        ("engine = 'magic'", "engine must be native or geolip"),
    ],
)
def test_recipes_that_are_not_valid(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_recipe(str(tmp_path / "r.toml"))


def test_extract_then_up_to_date_without_torch_and_fast(tmp_path: Path) -> None:
    made = run(*small(), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert "a.zarr is complete: 40 images" in made.stderr
    started = time.monotonic()
    again = run(*small("--json"), cwd=tmp_path, forbid=("torch", "torchvision", "zarr", "numba"))
    assert time.monotonic() - started < 10
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    outcome = json.loads(again.stdout)
    assert (outcome["status"], outcome["images"], outcome["measured"]) == ("up to date", 40, 0)
    assert outcome["digest"] == fs.open(tmp_path / "a.zarr").digest


def test_info_needs_no_torch_and_its_json_is_json(tmp_path: Path) -> None:
    assert run(*small("--quiet"), cwd=tmp_path).stderr == ""
    shown = run("info", "a.zarr", cwd=tmp_path, forbid=("torch", "numba"))
    assert shown.returncode == 0, shown.stderr
    assert "grid         4 x 4 patches, 4 modes, largest first" in shown.stdout
    parsed = json.loads(run("info", "a.zarr", "--json", cwd=tmp_path).stdout)
    assert parsed["maps"]["friction"]["shape"] == [40, 4, 4, 4]
    assert parsed["request"]["dataset"]["name"] == "noise"


@pytest.mark.slow
def test_repair_measures_only_what_is_damaged(tmp_path: Path) -> None:
    options = small("--shard-images", "16")
    assert run(*options, cwd=tmp_path).returncode == 0
    files = {p: p.read_bytes() for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()}
    target = tmp_path / "a.zarr/friction/c/1/0/0/0"
    target.write_bytes(target.read_bytes()[:-7])
    refused(run(*options, cwd=tmp_path), contains="friction/c/1/0/0/0 has")
    mended = run(*options, "--repair", "--json", cwd=tmp_path)
    assert mended.returncode == 0, mended.stderr
    assert json.loads(mended.stdout)["measured"] == 16
    for path, data in files.items():
        assert path.name == "provenance.json" or path.read_bytes() == data
    again = run(*options, "--repair", cwd=tmp_path)
    assert "there is nothing to repair" in again.stderr


@pytest.mark.slow
def test_limit_takes_the_first_images(tmp_path: Path) -> None:
    assert run(*small("--limit", "5"), cwd=tmp_path).returncode == 0
    store = fs.open(tmp_path / "a.zarr")
    assert store.image_ids.tolist()[-1] == "pink-4"
    assert store.n_images == 5


def pickle_bomb(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"config": {}, "run": os.getcwd}))


@pytest.mark.parametrize(
    ("arguments", "contains"),
    [
        (["extract"], "--dataset is missing"),
        (["extract", "--recipe", "nosuch"], "there is no recipe 'nosuch': the recipes are"),
        (["extract", "--recipe", "./nosuch.toml"], "there is no recipe file ./nosuch.toml"),
        (small("--dataset", "nosuchset"), "unknown data set 'nosuchset'"),
        (small("--encoder", "bomb.pt"), "encoder bomb.pt"),
        (small("--encoder", "absent.pt"), "'absent.pt' is not a file"),
        (small("--encoder", "v40_freckles_noise"), "v40_freckles_noise cannot be fetched"),
        (small("--image-size", "18"), "image size 18 is not divisible by the encoder's patch size"),
        (small("--maps", "S,colour"), "unknown map 'colour'"),
        (small("--maps", ","), "no map was named"),
        (small("--device", "tpu"), "unknown device 'tpu'"),
        (small("--shard-images", "10"), "images per shard is 10: it must be a power of two"),
        (small("--engine", "geolip"), f"pip install -e '{ROOT}[extract,geolip]'"),
        (small("--overwrite", "--repair"), "choose one"),
        (small("--dataset", "folder:empty"), "data set folder:empty has no --count"),
        (["extract", "--dataset", "folder:empty", "--encoder", ENCODER, "--out", "x.zarr"],
         "folder:empty has no images"),
        (small(out="empty"), "empty is an empty folder, not a store"),
        (small(out="full"), "full exists and is not a store"),
        (small(out="bomb.pt"), "bomb.pt exists and is not a store"),
        (small(out="bomb.pt/x.zarr"), "bomb.pt"),
        (["info", "absent.zarr"], "absent.zarr does not exist"),
        (["info", "full"], "has no zarr.json"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, arguments: list[str], contains: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    pickle_bomb(tmp_path / "bomb.pt")
    before = sorted(p.name for p in tmp_path.iterdir())
    refused(run_here(*arguments, cwd=tmp_path), contains=contains)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "full/thesis.tex").read_text() == "precious"


def test_without_torch_the_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    result = run(*small(), cwd=tmp_path, forbid=("torch",))
    refused(result, contains="extraction needs torch: ")
    assert f"-m pip install -e '{ROOT}[extract]'" in result.stderr


@pytest.mark.slow
def test_ctrl_c_says_what_to_do(tmp_path: Path) -> None:
    import signal

    code = "from frictionstore.cli.main import main; main()"
    options = small("--shard-images", "16")
    options[options.index("40")] = "20000"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    journal = tmp_path / "a.zarr.partial/journal"
    deadline = time.monotonic() + 120
    while not list(journal.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == (
        "Error: interrupted: what is complete is kept, run it again to go on"
    )
    assert "Traceback" not in said
    assert not (tmp_path / "a.zarr").exists()
    assert not (tmp_path / "a.zarr.lock").exists()


@pytest.mark.slow
def test_no_space_left(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk: the shard does not fit."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    code = "from frictionstore.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *small()], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=limit, env={**os.environ, "NUMBA_DISABLE_JIT": "0"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "limit was reached while writing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "a.zarr").exists()
    assert run(*small(), cwd=tmp_path).returncode == 0
    assert np.isfinite(fs.open(tmp_path / "a.zarr").friction[:]).all()
