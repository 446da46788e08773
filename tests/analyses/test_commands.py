"""The command line and the package's face: lazy, torch-free, callable in any order."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from tests.analyses.material import ALONE, noise_store, with_repeats
from tests.support import random_images, random_maps

ROOT = Path(__file__).parents[2]
NAMES = list(analyses.REGISTRY)


def python(code: str, *arguments: str) -> str:
    """Run code in a new interpreter in which torch cannot be imported."""
    blocked = f"import sys; sys.modules['torch'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", blocked, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("stores") / "made.zarr"
    fs.from_arrays(
        path,
        {**with_repeats(random_maps(30)), "image": random_images(30)},
        label=np.arange(30) % 3,
        class_names=["ant", "bee", "cow"],
    )
    return str(path)


def test_what_the_registry_holds():
    assert NAMES == ["spatial-cv", "class-distance", "center-edge", "f-statistic", "mode-variance",
                     "image-summary", "ridge-probe", "information", "conv-probe", "reliability",
                     "content", "compare", "summary"]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_every_command_has_help_and_is_documented(name):
    run = CliRunner().invoke(analyze, [name, "--help"])
    assert run.exit_code == 0
    command = analyze.get_command(click.Context(analyze), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    documentation = (ROOT / "docs" / "analyses.md").read_text()
    assert f"`{name}`" in documentation
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in documentation, (name, parameter.opts)


def test_listing_commands_imports_no_analysis():
    listed = python(
        "import sys, frictionstore.analyses.cli as analyses_cli\n"
        "from click.testing import CliRunner\n"
        "print(CliRunner().invoke(analyses_cli.analyze, ['--help']).output)\n"
        "heavy = {'numpy', 'scipy', 'pandas', 'matplotlib', 'zarr'}\n"
        "heavy |= {'frictionstore.analyses.f_statistic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert listed.strip().endswith("[]")
    for name in NAMES:
        assert name in listed


@pytest.mark.parametrize("name", NAMES)
def test_json_and_nothing_else_without_torch(name, made):
    code = "import sys; from frictionstore.analyses.cli import analyze; analyze(sys.argv[1:])"
    undrawn = ("center-edge", "mode-variance", "image-summary", "reliability", "information",
               "conv-probe", "content")  # fmt: skip
    drawn = name not in undrawn
    out = python(code, name, made, "--json", *(["--permutations", "20"] if drawn else []))
    assert json.loads(out)["analysis"] == name


def test_no_figures_means_no_matplotlib(made):
    out = python(
        "import sys, frictionstore as fs\nfrom frictionstore import analyses\n"
        "str(analyses.f_statistic(fs.open(sys.argv[1])))\n"
        "print(sorted({'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)))",
        made,
    )
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "from frictionstore import analyses",
        "from frictionstore import analyses; import frictionstore.analyses.f_statistic",
        "import frictionstore.analyses.f_statistic as mod; from frictionstore import analyses",
        "from frictionstore import analyses; import frictionstore.analyses.cli",
        "import frictionstore; analyses = frictionstore.analyses",
        "import frictionstore.analyses as analyses; from frictionstore.analyses import f_statistic",
        "from frictionstore import analyses; from frictionstore.analyses.f_statistic import anova",
        "from frictionstore import analyses as a; a.f_statistic; import frictionstore.analyses; "
        "analyses = frictionstore.analyses",
    ],
)
def test_the_function_is_there_in_whatever_order_things_are_imported(imports, made):
    out = python(
        f"import sys\n{imports}\n"
        "import inspect, frictionstore as fs\n"
        "r = analyses.f_statistic(fs.open(sys.argv[1]), feature='friction', permutations=9)\n"
        "print(r.f.shape, callable(analyses.f_statistic.anova))\n"
        "print(list(inspect.signature(analyses.f_statistic).parameters)[:2])",
        made,
    )
    assert out == "(4, 4, 4) True\n['store', 'feature']\n"


def test_every_name_of_the_package_is_there():
    for name in analyses.__all__:
        assert getattr(analyses, name) is not None
        assert name in dir(analyses)
    with pytest.raises(AttributeError, match="no attribute 'tea_leaves'"):
        _ = analyses.tea_leaves


def test_several_features_share_the_passes(made, tmp_path):
    run = CliRunner().invoke(
        analyze,
        ["mode-variance", made, "--feature", "S", "--feature", "settle", "--json",
         "--out", str(tmp_path / "out"), "--no-figures"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert [one["feature"] for one in json.loads(run.stdout)] == ["S", "settle"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "mode-variance-S", "mode-variance-settle", "results.json",
    ]  # fmt: skip
    assert "saved in" in run.stderr


@pytest.mark.parametrize("held", [1 << 30, 0])
def test_all_reads_the_store_as_few_times_as_it_can(held, monkeypatch):
    """Once for everything, and once more for what needs means first: distances, predictions."""
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)
    store = noise_store(n=300)
    passes = []
    read = store.iter_chunks

    def counted(names, **options):
        if options.get("threads") is None:  # with one thread it is the first chunk alone
            passes.append(tuple(names))
        return read(names, **options)

    store.iter_chunks = counted
    analyses.analyze_all(store, permutations=20, probe_permutations=5)
    assert len(passes) == 2
    assert set(passes[0]) == {"friction", "S", "settle"}


def test_all_prints_answers_and_saves(made, tmp_path):
    out = tmp_path / "results"
    arguments = ["all", made, "--permutations", "50", "--probe-permutations", "5"]
    run = CliRunner().invoke(analyze, [*arguments, "--out", str(out)])
    assert run.exit_code == 0, run.output
    names = [name for name in NAMES if name not in ALONE]
    for name in names:
        assert f"{name}:" in run.stdout
    assert f"saved in {out}" in run.stdout
    index = json.loads((out / "results.json").read_text())
    # Friction without its rounding leads; what is measured of it is of friction.
    leading = [name for name in names if name != "reliability"]
    assert [one["analysis"] for one in index["results"]] == [*leading, *names]
    of = [one["feature"] for one in index["results"] if one["feature"]]
    assert of == ["friction_exact"] * 7 + ["friction"] * 8
    again = CliRunner().invoke(analyze, ["summary", made, "--results", str(out), "--json"])
    assert json.loads(again.stdout)["tables"]["summary"]


def test_a_bad_target_is_refused_before_the_work(made, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("frictionstore.analyses.core.passes.run", None)
    run = CliRunner().invoke(analyze, ["mode-variance", made, "--out", str(tmp_path)])
    assert run.exit_code == 2
    assert "holds files that are not results" in run.stderr


def test_unknown_names_and_stores():
    assert CliRunner().invoke(analyze, ["tea-leaves", "x"]).exit_code == 2
    run = CliRunner().invoke(analyze, ["f-statistic", "no-such.zarr"])
    assert run.exit_code == 2
    assert "Traceback" not in run.output


def test_analyses_of_other_packages(monkeypatch):
    point = importlib.metadata.EntryPoint(
        "tea-leaves", "tests.analyses.third_party:command", analyses.ENTRY_POINTS
    )
    monkeypatch.setattr(analyses, "entry_points", lambda group: [point])
    analyses._registered.cache_clear()
    try:
        assert list(analyses.REGISTRY)[-1] == "tea-leaves"
        assert "tea-leaves" in CliRunner().invoke(analyze, ["--help"]).output
        run = CliRunner().invoke(analyze, ["tea-leaves"])
        assert run.output == "a tall dark stranger\n"
    finally:
        analyses._registered.cache_clear()


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    analyses.f_statistic(noise_store(), permutations=5, show_progress=True)
    assert capsys.readouterr().err == ""
