"""What messages advise: the name that was meant, and options as the reader can give them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError, StoreError
from frictionstore.io import owned
from frictionstore.text import did_you_mean
from tests.support import MakeStore, random_maps

# ---- did you mean --------------------------------------------------------------------------------

SPECKLE = ("--encoder", "speckle")
KNOWN = ("S", "friction", "settle", "S_orig", "recon_error")


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("frictoin", "friction"), ("Friction", "friction"), ("s", "S"), ("settel", "settle"),
        ("reconerror", "recon_error"), ("s_orig", "S_orig"), ("temperature", None), ("", None),
        (3, None),
    ],
)  # fmt: skip
def test_the_closest_name_is_named(given_name: object, meant: str | None) -> None:
    expected = "" if meant is None else f"; did you mean {meant!r}?"
    assert did_you_mean(given_name, KNOWN) == expected


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=5))
def test_any_text_gives_one_harmless_line(name: str, known: list[str]) -> None:
    said = did_you_mean(name, known)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["infoo", "STORE"], "info"),
        (["anlyze"], "analyze"),
        (["dif", "STORE", "STORE"], "diff"),
        (["analyze", "spatialcv", "STORE"], "spatial-cv"),
        (["analyze", "al", "STORE"], "all"),
        (["analyze", "spatial-cv", "STORE", "--feature", "frictoin"], "friction"),
        (["analyze", "spatial-cv", "STORE", "--feature", "log_frictoin"], "log_friction"),
        (["analyze", "all", "STORE", "--only", "spatial_cv"], "spatial-cv"),
        (["analyze", "class-distance", "STORE", "--classes", "class1,clas2"], "class2"),
        (["extract", "--recipe", "digits-speckel"], "digits-speckle"),
        (["extract", "--dataset", "digit", *SPECKLE, "--out", "OUT"], "digits"),
        (["extract", "--dataset", "cifar-10", *SPECKLE, "--out", "OUT"], "cifar10"),
        (["extract", "--recipe", "noise-speckle", "--maps", "S,frct", "--out", "OUT"], "friction"),
        (["extract", "--dataset", "digits", "--encoder", "spekle", "--out", "OUT"], "speckle"),
        (["extract", "--dataset", "digits", "--engine", "geolib", "--out", "OUT"], "geolip"),
        (["extract", "--dataset", "digits", "--device", "gpu", *SPECKLE, "--out", "OUT"], "cuda"),
        (["extract", "--dataset", "digits", "--precision", "float23", "--out", "OUT"], "float32"),
        (["subset", "STORE", "--out", "OUT", "--classes", "clas1"], "class1"),
        (["subset", "STORE", "--out", "OUT", "--maps", "setle"], "settle"),
    ],
)  # fmt: skip
def test_the_command_line_names_what_was_meant(
    make_store: MakeStore, tmp_path: Path, arguments: list[str], meant: str
) -> None:
    places = {"STORE": make_store().location, "OUT": str(tmp_path / "out.zarr")}
    run = CliRunner().invoke(cli, [places.get(word, word) for word in arguments])
    assert run.exit_code == 2, run.output
    assert f"did you mean {meant!r}?" in " ".join(run.output.split())
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("word", ["xyzzy", "\x1b[2J"])
@pytest.mark.parametrize("group", [[], ["analyze"]])
def test_what_is_like_nothing_gets_no_suggestion(group: list[str], word: str) -> None:
    run = CliRunner().invoke(cli, [*group, word])
    assert run.exit_code == 2
    assert "No such command" in run.output
    assert "did you mean" not in run.output
    assert "\x1b" not in run.output


def test_items_of_a_store(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="it has S, friction, settle; did you mean 'friction'"):
        make_store()["frictoin"]


# ---- options in Python and on the command line ---------------------------------------------------


def test_an_option_is_a_keyword_or_a_flag() -> None:
    error = StoreError("a.zarr is taken: replace it with", option="overwrite=True")
    assert str(error) == "a.zarr is taken: replace it with overwrite=True"
    assert error.on_command_line() == "a.zarr is taken: replace it with --overwrite"
    named = FrictionstoreError("give", option="shard_images=8")
    assert (str(named), named.on_command_line()) == ("give shard_images=8", "give --shard-images 8")
    plain = FrictionstoreError("100% wrong {here}")
    assert str(plain) == plain.on_command_line() == "100% wrong {here}"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (StoreError, str(error))
    assert again.on_command_line() == error.on_command_line()


def _from_arrays(store: fs.Store, target: Path) -> None:
    fs.from_arrays(target, random_maps(seed=1))


def _from_arrays_after_another(store: fs.Store, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.mkdir()
    owned.mark(partial, target, "unfinished store")
    (partial / "plan.json").write_text("{")
    (partial / "MANIFEST.sha256").write_text("")
    target.rename(target.with_name("away"))
    fs.from_arrays(target, random_maps(seed=1))


def _pull(store: fs.Store, target: Path) -> None:
    from frictionstore.share.push_pull import pull

    target.rename(target.with_name("elsewhere.zarr"))
    fs.from_arrays(target.parent / "into" / "small.zarr", random_maps(seed=2))
    pull(target.with_name("elsewhere.zarr").rename(target), target.parent / "into")


def _subset(store: fs.Store, target: Path) -> None:
    from frictionstore.store.combine import subset

    fs.from_arrays(target.with_name("other.zarr"), random_maps(seed=3))
    subset(store.location, target.with_name("other.zarr"), limit=3)


def _pack(store: fs.Store, target: Path) -> None:
    from frictionstore.share.pack import pack

    target.with_name("a.zip").write_bytes(b"somebody's")
    pack(store.location, target.with_name("a.zip"))


@pytest.mark.parametrize("call", [_from_arrays, _from_arrays_after_another, _pull, _subset, _pack])
def test_python_is_advised_in_python(
    make_store: MakeStore, call: Callable[[fs.Store, Path], Any]
) -> None:
    store = make_store()
    with pytest.raises(StoreError) as caught:
        call(store, Path(store.location))
    assert str(caught.value).endswith("with overwrite=True")
    assert " --" not in str(caught.value)
    assert caught.value.on_command_line().endswith("with --overwrite")


def test_merging_is_advised_in_python(make_store: MakeStore, tmp_path: Path) -> None:
    from frictionstore.store.combine import merge

    a, b = make_store("a"), make_store("b", seed=1)
    away = tmp_path / "away"
    away.mkdir()
    Path(b.location).rename(away / "a.zarr")
    with pytest.raises(FrictionstoreError, match=r"name them with names=\.\.\.$"):
        merge([a.location, away / "a.zarr"], tmp_path / "m.zarr")


def test_the_command_line_is_advised_in_flags(make_store: MakeStore, tmp_path: Path) -> None:
    a, b = make_store("a"), make_store("b", seed=1)
    run = CliRunner().invoke(cli, ["subset", a.location, "--limit", "3", "--out", b.location])
    assert run.exit_code == 2
    assert run.output.rstrip().endswith("or replace it with --overwrite")


def test_the_analyses_name_no_flags(make_store: MakeStore) -> None:
    from frictionstore import analyses

    store = make_store(n=30)
    with pytest.raises(analyses.AnalysisError, match="a border from 1 to 1") as caught:
        analyses.center_edge(store, border=7)
    assert "--" not in str(caught.value)
