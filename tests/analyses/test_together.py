"""Results of several maps and classes in one folder, and what `all` does with what is not there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.core import saved as folders
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.saved import read_saved, save_all
from frictionstore.analyses.core.source import SelectedClasses
from frictionstore.cli.main import cli
from frictionstore.io import aside
from tests.analyses.material import ALONE, noise_store
from tests.support import random_maps

QUICK = ["--permutations", "20", "--probe-permutations", "0", "--no-figures"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["analyze", *map(str, arguments)])


def made(path: Path, seed: int = 0, **options: object) -> str:
    options = {"label": np.arange(24) % 3, "class_names": ["ant", "bee", "cow"], **options}
    maps = random_maps(24, seed=seed) if "maps" not in options else options.pop("maps")
    return fs.from_arrays(path, maps, **options).location


# ---- several maps ---------------------------------------------------------------------------


def test_all_does_every_map_that_is_named(tmp_path):
    store = made(tmp_path / "made.zarr")
    out = tmp_path / "out"
    both = run("all", store, "--feature", "S", "--feature", "log_friction", "--json", "--out", out,
               *QUICK)  # fmt: skip
    assert both.exit_code == 0, both.output
    found = json.loads(both.stdout)
    for feature in ("S", "log_friction"):
        alone = json.loads(run("all", store, "--feature", feature, "--json", *QUICK).stdout)
        here = [one for one in found if one in alone or one["feature"] == feature]
        for one, other in zip(here, alone, strict=True):
            one, other = ({**x, "provenance": {}} for x in (one, other))
            assert one == other, (feature, one["analysis"])
        closing = analyses.summary(fs.open(store), feature=feature, results=out)
        assert closing.feature == feature
    probes = [one for one in found if one["analysis"] == "ridge-probe"]
    assert any("log_friction" in one["parameters"]["features"] for one in probes)
    printed = run("all", store, "--feature", "S", "--feature", "log_friction", *QUICK).stdout
    assert "summary: S\n" in printed
    assert "summary: log_friction\n" in printed


def test_maps_share_the_passes():
    store = noise_store(n=60)
    passes = []
    read = store.iter_chunks

    def counted(names, **options):
        if options.get("threads") is None:  # with one thread it is the first chunk alone
            passes.append(tuple(names))
        return read(names, **options)

    store.iter_chunks = counted
    analyses.analyze_all(store, feature=["friction", "S"], permutations=9, probe_permutations=0)
    assert len(passes) == 2  # distances from class means need these first


# ---- one folder -----------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_in_the_folder_is_lost(tmp_path):
    store, out = made(tmp_path / "made.zarr"), tmp_path / "out"
    assert run("all", store, "--out", out, *QUICK).exit_code == 0
    (out / "index.html").write_text("the report")
    (out / "mine").mkdir()
    (out / "mine" / "thesis.tex").write_text("years of work")
    (out / "f-statistic-friction" / "remarks.txt").write_text("odd")
    (out / "f-statistic-friction" / "own").mkdir()
    (out / "f-statistic-friction" / "own" / "a.csv").write_text("1")
    # The probe of the same maps is the same result, whichever of them the others are about.
    before = {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "results.json" and "ridge-probe" not in str(path)
    }
    for more, said in (
        (["--feature", "S"], " instead of 1 earlier of the same analysis and map"),
        (["--classes", "ant,cow"], ""),
        (["--classes", "ant,bee"], ""),
    ):
        done = run("all", store, "--out", out, *QUICK, *more)
        assert done.exit_code == 0, done.output
        assert f"saved in {out}{said}\n" in done.stdout
    assert {p: p.read_bytes() for p in before} == before
    # Again: the same files are written again, what is not of the tool stays.
    done = run("all", store, "--out", out, *QUICK, "--seed", "3")
    assert f"saved in {out} instead of 8 earlier of the same analysis and map" in done.stdout
    kept = [p for p in before if p.name in ("index.html", "thesis.tex", "remarks.txt", "a.csv")]
    assert len(kept) == 4
    assert all(p.read_bytes() == before[p] for p in kept)
    changed = out / "f-statistic-friction" / "result.json"
    assert json.loads(changed.read_text())["seed"] == 3
    saved = read_saved(out)
    assert len(saved) == 4 * 8 - 1
    assert len({str(folders.identity(one)) for one in saved}) == len(saved)
    assert not list(tmp_path.glob(".*")) and not list(out.rglob("*partial*"))  # noqa: PT018
    for classes in (None, ["ant", "cow"], ["ant", "bee"]):
        view = fs.open(store) if classes is None else SelectedClasses(fs.open(store), classes)
        closing = analyses.summary(view, results=out)
        assert closing.parameters.get("classes") == classes
        assert {tuple(one["parameters"].get("classes") or ())
                for one in read_saved(out, feature="friction", classes=classes)
                } == {tuple(classes or ())}  # fmt: skip


def test_single_analyses_and_protocols_lie_side_by_side(tmp_path):
    store, out = made(tmp_path / "made.zarr"), tmp_path / "out"
    for arguments in (
        ["mode-variance", store],
        ["mode-variance", store, "--feature", "S"],
        ["ridge-probe", store, "--permutations", "0"],
        ["ridge-probe", store, "--permutations", "0", "--features", "S,log_friction"],
        ["ridge-probe", store, "--protocol", "notebook", "--features", "S,log_friction"],
    ):
        done = run(*arguments, "--out", out, "--no-figures")
        assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == [
        "mode-variance-S", "mode-variance-friction", "results.json",
        "ridge-probe-S-friction-settle-S+friction+settle", "ridge-probe-S-log_friction",
        "ridge-probe-S-log_friction-notebook",
    ]  # fmt: skip


def test_labels_tell_apart_what_file_names_cannot():
    def label(feature="x", **parameters):
        return folders.label(folders.identity_of("mode-variance", feature, parameters))

    assert label() == "mode-variance-x"
    names = [
        label(), label("a/b"), label("a:b"), label("a_b"), label("../.."), label("y" * 300),
        label("y" * 301), label(classes=["a", "b"]), label(classes=["a-b"]), label(classes=["b"]),
        label("x-of-a-b"), label(protocol="notebook"), label("x-notebook"),
    ]  # fmt: skip
    assert len({name.lower() for name in names[:-2]}) == len(names) - 2
    assert all("/" not in name and not name.startswith(".") and len(name) < 100 for name in names)


@pytest.mark.parametrize("at_once", [True, False])
def test_names_that_only_differ_in_what_joins_them(tmp_path, at_once):
    """'x' by the notebook's protocol and a map 'x-notebook' would have one name: both are kept."""
    folder = tmp_path / "out"
    first, second = (analyses.mode_variance(noise_store()) for _ in range(2))
    first.parameters["protocol"] = "notebook"
    second.feature = "friction-notebook"
    assert first.label == second.label
    for results in [[first, second]] if at_once else [[first], [second], [second, first]]:
        save_all(results, folder, figures=False)
    found = {
        path.name: (one["feature"], one["parameters"].get("protocol"))
        for path, one in folders.read_folders(folder)
    }
    name = "mode-variance-friction-notebook"
    assert found == {
        name: ("friction", "notebook"), f"{name}-2": ("friction-notebook", None),
    }  # fmt: skip


def test_the_same_result_twice_is_saved_once_and_two_of_one_name_are_two(tmp_path):
    folder = tmp_path / "out"
    few, more = (analyses.f_statistic(noise_store(), permutations=n) for n in (9, 19))
    again = analyses.f_statistic(noise_store(), permutations=9)
    for results in [few, more, again], [few, again, more]:
        save_all(results, folder, figures=False)
        kept = {
            p.name: one["parameters"]["permutations"] for p, one in folders.read_folders(folder)
        }
        assert kept == {"f-statistic-friction": 9, "f-statistic-friction-2": 19}
    save_all([again], folder, figures=False)
    assert len(read_saved(folder)) == 2
    assert not list(tmp_path.glob(".*"))


def test_maps_that_share_a_probe_are_saved_together(tmp_path):
    store, folder = noise_store(), tmp_path / "out"
    made = analyses.analyze_all(
        store, feature=["friction", "log_friction", "S"], permutations=9, probe_permutations=0
    )
    probes = [one for one in made if one.analysis == "ridge-probe"]
    assert len({one.identity for one in probes}) == len(probes) - 1
    for _ in range(2):
        save_all(made, folder, figures=False)
        assert len(read_saved(folder)) == len(made) - 1


def test_a_file_of_the_users_under_a_result_s_name_is_refused(tmp_path):
    folder = tmp_path / "out"
    save_all([analyses.image_summary(noise_store())], folder, figures=False)
    (folder / "mode-variance-friction").mkdir()
    (folder / "mode-variance-friction" / "mine.txt").write_text("1")
    with pytest.raises(AnalysisError, match="files that are not results"):
        save_all([analyses.mode_variance(noise_store())], folder)
    own = folder / "image-summary-friction" / "entropy.svg"
    own.write_text("drawn by hand")
    with pytest.raises(AnalysisError, match=r"entropy.svg is no file of the earlier result"):
        save_all([analyses.image_summary(noise_store())], folder)
    assert own.read_text() == "drawn by hand"
    assert [one["analysis"] for one in read_saved(folder)] == ["image-summary"]
    assert not list(tmp_path.glob(".*"))


def old_layout(folder: Path, store: analyses.MemoryStore) -> None:
    """What the version before wrote: no list of files, no feature in the probe's name."""
    save_all(analyses.analyze_all(store, permutations=9, probe_permutations=0), folder)
    probe = next(folder.glob("ridge-probe*"))
    probe.rename(folder / "ridge-probe")
    index = (folder / "results.json").read_text().replace(probe.name, "ridge-probe")
    (folder / "results.json").write_text(index)
    for file in folder.glob("*/result.json"):
        content = json.loads(file.read_text())
        del content["files"]
        content["parameters"].pop("left_out", None)
        file.write_text(json.dumps(content))


@pytest.mark.slow
def test_folders_of_the_version_before_are_read_and_carried_on(tmp_path):
    store, folder = noise_store(), tmp_path / "out"
    old_layout(folder, store)
    (folder / "ridge-probe" / "remarks.txt").write_text("odd")
    assert analyses.summary(store, results=folder).table["value"].notna().all()
    again = analyses.analyze_all(store, permutations=9, probe_permutations=0, seed=1)
    save_all(again, folder, figures=False)
    assert [p.name for p in folder.glob("ridge-probe*")] == ["ridge-probe"]
    assert (folder / "ridge-probe" / "remarks.txt").read_text() == "odd"
    assert not list(folder.glob("ridge-probe/*.svg"))
    assert len(read_saved(folder)) == 8
    assert {one["seed"] for one in read_saved(folder)} == {1, None}


def test_a_result_alone_in_a_folder_is_read_and_carried_on(tmp_path):
    store, folder = noise_store(), tmp_path / "out"
    analyses.mode_variance(store).save(folder)
    (folder / "remarks.txt").write_text("odd")
    assert [one["analysis"] for one in read_saved(folder)] == ["mode-variance"]
    save_all([analyses.mode_variance(store, feature="S")], folder)
    assert [one["feature"] for one in read_saved(folder)] == ["friction", "S"]
    save_all([analyses.mode_variance(store)], folder)
    assert [one["feature"] for one in read_saved(folder)] == ["S", "friction"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "mode-variance-S", "mode-variance-friction", "remarks.txt", "results.json",
    ]  # fmt: skip


def test_results_of_another_store_are_refused_before_the_work(tmp_path, monkeypatch):
    store, out = made(tmp_path / "made.zarr"), tmp_path / "out"
    other = made(tmp_path / "other.zarr", seed=5)
    assert run("mode-variance", store, "--out", out, "--no-figures").exit_code == 0
    monkeypatch.setattr("frictionstore.analyses.core.passes.run", None)
    done = run("mode-variance", other, "--out", out)
    assert done.exit_code == 2
    assert "holds results of a store with digest" in done.stderr
    assert "name another folder" in " ".join(done.stderr.split())


def test_a_deleted_result_is_gone_and_the_rest_is_there(tmp_path):
    folder = tmp_path / "out"
    save_all([analyses.mode_variance(noise_store()), analyses.image_summary(noise_store())], folder)
    shutil.rmtree(folder / "mode-variance-friction")
    assert [one["analysis"] for one in read_saved(folder)] == ["image-summary"]


def test_interrupted_between_two_results(tmp_path, monkeypatch):
    """What was there is whole, nothing of a user's is gone, and the next run works."""
    folder = tmp_path / "out"
    both = [analyses.mode_variance(noise_store()), analyses.image_summary(noise_store())]
    save_all(both, folder, figures=False)
    (folder / "image-summary-friction" / "remarks.txt").write_text("odd")
    put = folders.put_instead

    def stop(new, place, known):
        if place.name.startswith("image"):
            raise KeyboardInterrupt
        put(new, place, known)

    monkeypatch.setattr(folders, "put_instead", stop)
    with pytest.raises(KeyboardInterrupt):
        save_all(both, folder, figures=False)
    monkeypatch.undo()
    assert len(read_saved(folder)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    save_all(both, folder, figures=False)
    assert (folder / "image-summary-friction" / "remarks.txt").read_text() == "odd"


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_rename_that_fails_puts_back_what_was_there(tmp_path, monkeypatch, failing):
    """Without swapping in one step: what is there is renamed, then what is new."""
    folder = tmp_path / "out"
    result = analyses.mode_variance(noise_store())
    save_all([result], folder, figures=False)
    (folder / "mode-variance-friction" / "remarks.txt").write_text("odd")
    rename, calls = aside.rename_new, []

    def refuse(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        rename(path, target)

    monkeypatch.setattr(aside, "exchange", lambda a, b: False)
    monkeypatch.setattr(aside, "rename_new", refuse)
    if failing < 3:
        with pytest.raises(AnalysisError, match="No space left"):
            save_all([result], folder, figures=False)
    else:
        save_all([result], folder, figures=False)
        assert len(calls) == 2
    assert (folder / "mode-variance-friction" / "remarks.txt").read_text() == "odd"
    assert len(read_saved(folder)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("swaps", [True, False])
def test_what_arrives_while_a_result_is_replaced_is_kept(tmp_path, monkeypatch, caplog, swaps):
    result = analyses.mode_variance(noise_store())
    folder = result.save(tmp_path / "out", figures=False)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("before")
    (folder / "notes" / "link").symlink_to("a.txt")
    put = folders.put_instead

    def late(new, place, known):
        (folder / "late.txt").write_text("years of work")
        (folder / "notes" / "a.txt").write_text("written over meanwhile")
        put(new, place, known)

    monkeypatch.setattr(folders, "put_instead", late)
    if not swaps:
        monkeypatch.setattr(aside, "exchange", lambda a, b: False)
    result.save(folder, figures=False)
    (left,) = tmp_path.glob("out.before-*")
    assert sorted(p.relative_to(left).as_posix() for p in left.rglob("*")) == [
        "late.txt", "notes", "notes/a.txt",
    ]  # fmt: skip
    assert (left / "late.txt").read_text() == "years of work"
    assert (folder / "notes" / "a.txt").read_text() == "before"
    assert (folder / "notes" / "link").readlink() == Path("a.txt")
    assert "what was put into" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", left.name]


# ---- what cannot be done --------------------------------------------------------------------


def test_a_store_of_s_alone(tmp_path):
    store = made(tmp_path / "s.zarr", maps={"S": random_maps(24)["S"]})
    for more in (["--feature", "S"], []):
        done = run("all", store, *QUICK, "--json", *more)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        alone = ("reliability", *ALONE)  # S has no repeats
        expected = [name for name in analyses.REGISTRY if name not in alone]
        assert [one["analysis"] for one in found] == expected
        assert {one["feature"] for one in found} == {"S"}
        assert found[-1]["parameters"]["left_out"] == []
    refused = run("all", store, "--feature", "friction")
    assert refused.exit_code == 2
    assert "there is no map 'friction' over patches in s: its maps are S" in refused.stderr


def test_the_probe_compares_the_maps_that_are_there():
    from frictionstore.analyses.core.leading import probe_sets

    maps = {name: np.ones((4, 2, 2, 1)) for name in ("S", "friction", "settle", "other")}
    for kept, feature, expected in (
        (["S", "friction", "settle"], "friction", ("S", "friction", "settle", "S+friction+settle")),
        (["S", "friction", "settle"], "S", ("S", "friction", "settle", "S+friction+settle")),
        (["S", "friction", "settle"], "log_friction",
         ("S", "log_friction", "settle", "S+log_friction+settle")),
        (["S"], "S", ("S",)),
        (["S", "settle"], "settle", ("S", "settle", "S+settle")),
        (["friction", "other"], "other", ("friction", "other", "friction+other")),
    ):  # fmt: skip
        store = analyses.MemoryStore({name: maps[name] for name in kept})
        assert probe_sets(store, feature) == expected


@pytest.mark.parametrize(
    ("label", "names"),
    [(None, ()), (np.zeros(24, int), ("cat",)), (np.arange(24), tuple("abcdefghijklmnopqrstuvwx"))],
)
def test_all_does_what_needs_no_classes_and_says_the_rest(tmp_path, label, names):
    store = made(tmp_path / "made.zarr", label=label, class_names=list(names))
    done = run("all", store, *QUICK, "--json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    need_none = ["spatial-cv", "mode-variance", "image-summary"]
    assert [one["analysis"] for one in found] == [*need_none, "summary"]
    left_out = found[-1]["parameters"]["left_out"]
    assert [one["analysis"] for one in left_out] == [
        "class-distance", "center-edge", "f-statistic", "ridge-probe",
    ]  # fmt: skip
    assert all(one["analysis"] in one["reason"] for one in left_out)
    for one in left_out:
        assert f"not done: {one['reason']}" in found[-1]["caveats"]
    alone = analyses.spatial_cv(fs.open(store), permutations=20)
    assert found[0]["values"] == json.loads(alone.to_json())["values"]


def test_a_class_with_one_image_is_left_out_and_named(tmp_path):
    label = np.arange(24) % 2
    label[5] = 2
    store = made(tmp_path / "made.zarr", label=label)
    done = run("all", store, *QUICK, "--json")
    assert done.exit_code == 0, done.output
    found = {one["analysis"]: one for one in json.loads(done.stdout)}
    assert found["summary"]["parameters"]["left_out"] == []
    for one in found.values():
        sentence = "classes with fewer than 2 images are left out, their images unlabelled: cow (1)"
        assert sentence in one["caveats"]
    # The comparison is that of the two other classes; what compares nothing has all images.
    label[5] = -1
    without = made(tmp_path / "without.zarr", label=label, class_names=["ant", "bee"])
    expected = analyses.f_statistic(fs.open(without), permutations=20)
    assert found["f-statistic"]["values"] == json.loads(expected.to_json())["values"]
    assert len(found["image-summary"]["tables"]["images"]) == 24
    # By itself, an analysis refuses and names what would work.
    assert run("f-statistic", store).exit_code == 2


def test_values_that_stop_one_analysis_do_not_stop_the_others(tmp_path):
    """A zero in friction has no logarithm; the map S is analysed all the same."""
    maps = random_maps(24)
    maps["friction"] = maps["friction"].copy()
    maps["friction"][3, 1, 1, 2] = 0
    store = made(tmp_path / "made.zarr", maps=maps)
    done = run("all", store, *QUICK, "--json", "--feature", "S", "--feature", "log_friction")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["feature"] or "probe" for one in found] == [*["S"] * 6, "probe", "S"]
    alone = run("all", store, "--feature", "log_friction", *QUICK)
    assert alone.exit_code == 2
    assert "has no logarithm: image '3'" in alone.stderr


# ---- the report -----------------------------------------------------------------------------


@pytest.mark.slow
def test_report_on_maps_by_name(tmp_path):
    store, out = made(tmp_path / "made.zarr"), tmp_path / "out"
    assert run("all", store, "--out", out, *QUICK).exit_code == 0
    report = ["report", store, "--results", str(out)]
    first = CliRunner().invoke(cli, report)
    assert first.stderr == ""
    more = CliRunner().invoke(cli, [*report, "--feature", "S", "--feature", "friction"])
    assert more.exit_code == 0, more.output
    assert "analysing made (S)" in more.stderr
    page = (out / "index.html").read_text()
    for heading in ("Summary: S", "Summary: friction", "Where classes differ: S",
                    "Where classes differ: friction"):  # fmt: skip
        assert f">{heading}</h" in page
    only = CliRunner().invoke(cli, [*report, "--feature", "S", "--out", str(tmp_path / "s.html")])
    assert only.stderr == ""
    page = (tmp_path / "s.html").read_text()
    assert ">Where classes differ: S</h" in page
    assert "Where classes differ: friction" not in page
    assert len(re.findall(r' id="[^"]*"', page)) == len(set(re.findall(r' id="[^"]*"', page)))


@pytest.mark.slow
def test_report_of_a_store_of_s_alone(tmp_path):
    store = made(tmp_path / "s.zarr", maps={"S": random_maps(24)["S"]})
    done = CliRunner().invoke(cli, ["report", store, "--results", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "Where classes differ: S" in (tmp_path / "out" / "index.html").read_text()
