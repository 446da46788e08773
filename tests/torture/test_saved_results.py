"""Saved results of a stranger: one sentence, or a page that holds nothing of his making.

A result is changed in one place, by every kind of change; then the report is written of it, it is
summarised, and another run saves into its folder.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.analyses.core import results
from frictionstore.analyses.core.saved import save_all
from frictionstore.analyses.everything import analyze_all
from frictionstore.analyses.report.page import write_report
from frictionstore.cli.main import cli
from frictionstore.errors import FrictionstoreError

OTHER = [
    None, True, False, 0, -1, 17, 10**18, 0.5, 1e308, -1e308, "", "x", "../../x", "=1+1",
    "<script>document.title='owned'</script>", "\u202e", "\x1b[31m", [], {}, [[]], [None], ["x"],
    {"x": 1}, {"file": "../secret.csv", "rows": 1, "columns": ["x"]}, "a" * 5000,
]  # fmt: skip
RAW = [  # instead of the whole file
    "", "{", "null", "[]", "3", '"x"', "[" * 100_000, '{"a": NaN}', '{"a": 1e999}',
    '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "\ufeff{}",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fs.Store, Path]:
    """A store and its results; long tables and arrays lie in files, as those of many images do."""
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    maps: dict[str, Any] = {
        "friction": rng.lognormal(2, 0.3, (24, 4, 4, 3)).astype(np.float32),
        "S": np.sort(rng.uniform(1, 6, (24, 4, 4, 3)), -1)[..., ::-1].astype(np.float32),
    }
    label = np.arange(24) % 3
    store = fs.from_arrays(
        folder / "a.zarr", maps, label=label, class_names=["=x", "b", "c"],
        image_id=[f"-{k}" for k in range(24)],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "INLINE_ROWS", 20)
        patch.setattr(results, "INLINE_NUMBERS", 60)
        save_all(analyze_all(store, permutations=19, probe_permutations=0, folds=2), folder / "r")
    return store, folder / "r"


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of a list the first and the last."""
    if path:
        yield path
    if isinstance(content, dict):
        for key in content:
            yield from places(content[key], (*path, key))
    elif isinstance(content, list) and content:
        for k in {0, len(content) - 1}:
            yield from places(content[k], (*path, k))


def changed(content: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with one place replaced, taken out (`del`) or renamed (`key`)."""
    made = copy.deepcopy(content)
    inside = made
    for key in path[:-1]:
        inside = inside[key]
    if change == "del":
        del inside[path[-1]]
    elif change == "key" and isinstance(inside, dict):
        inside["x\u202e<b>"] = inside.pop(path[-1])
    else:
        inside[path[-1]] = change
    return made


def survives(store: fs.Store, folder: Path, out: Path) -> str:
    """What becomes of a report and a summary: `page`, or `sentence`; anything else raises."""
    said = []
    for use in (
        lambda: write_report(store, out, folder),
        lambda: str(fs.analyses.summary(store, results=folder)),
    ):
        try:
            use()
        except FrictionstoreError as error:
            said.append(str(error))
    assert all(sentence.isprintable() and "\n" not in sentence for sentence in said), said
    if out.exists():
        page = out.read_text(encoding="utf-8")
        assert "<script>document" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page
        out.unlink()
    return "sentence" if said else "page"


def test_a_changed_result_is_a_sentence_or_a_harmless_page(
    made: tuple[fs.Store, Path], tmp_path: Path, full: bool, seed: int, counts: Counter[str]
) -> None:
    store, origin = made
    folder = tmp_path / "r"
    shutil.copytree(origin, folder)
    rng = random.Random(seed)
    files = [*sorted(folder.glob("*/result.json")), folder / "results.json"]
    contents = {file: json.loads(file.read_text()) for file in files}
    changes: list[tuple[Path, Any, Any]] = [
        (file, path, change)
        for file, content in contents.items()
        for path in places(content)
        for change in [*OTHER, "del", "key"]
    ]
    assert len(changes) > 20_000
    changes = rng.sample(changes, 3000 if full else 24)
    changes += [(file, None, raw) for file in files[:: 1 if full else 5] for raw in RAW]
    ends: Counter[str] = Counter()
    for file, path, change in changes:
        before = file.read_bytes()
        text = json.dumps(changed(contents[file], path, change)) if path else change
        file.write_text(text, encoding="utf-8")
        try:
            end = survives(store, folder, tmp_path / "x.html")
        except Exception as error:
            what = f"{file.parent.name}/{file.name}: {path} {change!r:.40}"
            raise AssertionError(what) from error
        finally:
            file.write_bytes(before)
        ends[end] += 1
    assert survives(store, folder, tmp_path / "x.html") == "page"
    assert set(ends) == {"page", "sentence"}
    counts.update({f"changed results: {end}": count for end, count in ends.items()})


def test_changed_bytes_of_tables_arrays_and_figures(
    made: tuple[fs.Store, Path], tmp_path: Path, full: bool, seed: int, counts: Counter[str]
) -> None:
    store, origin = made
    folder = tmp_path / "r"
    shutil.copytree(origin, folder)
    rng = random.Random(seed)
    files = sorted(p for p in folder.glob("*/*") if p.suffix in (".csv", ".npz", ".svg", ".json"))
    ends: Counter[str] = Counter()
    for _ in range(1500 if full else 16):
        file = rng.choice(files)
        before = file.read_bytes()
        data = bytearray(before)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data)
        try:
            ends[survives(store, folder, tmp_path / "x.html")] += 1
        except Exception as error:
            raise AssertionError(f"{file.relative_to(folder)}: {bytes(data)[:200]!r}") from error
        finally:
            file.write_bytes(before)
    counts.update({f"changed bytes of results: {end}": count for end, count in ends.items()})


KINDS = ["link", "link to a folder", "pipe", "folder", "gone"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["results.json", "f-statistic-friction", "*/result.json", "spatial*/images.csv",
             "class*/arrays.npz", "spatial*/moran.svg"]
)  # fmt: skip
def test_files_of_results_are_regular_and_inside(
    made: tuple[fs.Store, Path], tmp_path: Path, kind: str, name: str
) -> None:
    store, origin = made
    folder = tmp_path / "r"
    shutil.copytree(origin, folder)
    file = sorted(folder.glob(name))[0]
    outside = tmp_path / "outside"
    file.rename(outside)
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "link to a folder":
        file.symlink_to(tmp_path)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    outcome = CliRunner().invoke(
        cli, ["report", store.location, "--results", str(folder), "--quiet",
              "--out", str(tmp_path / "x.html")],
    )  # fmt: skip
    # A folder of a result that is gone is left out, and so is a figure.
    fine = kind == "gone" and ("svg" in name or name == "f-statistic-friction")
    assert outcome.exit_code == (0 if fine else 2), outcome.output
    assert isinstance(outcome.exception, SystemExit | None)
    assert (tmp_path / "x.html").exists() == fine
    if not fine:
        assert len(outcome.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["../thesis.tex", "thesis.tex", "/etc/hostname", "..", "a\0b", "remarks/../../x.csv"]
)
def test_a_result_cannot_name_files_of_others_as_its_own(
    made: tuple[fs.Store, Path], tmp_path: Path, name: str
) -> None:
    """What a result lists as its files is removed when it is made again."""
    store, origin = made
    one = next(origin.glob("mode-variance-friction"))
    folder = tmp_path / "r"
    shutil.copytree(one, folder)
    for place in (tmp_path, folder):
        (place / "thesis.tex").write_text("years of work")
    content = json.loads((folder / "result.json").read_text())
    content["files"].append(name)
    (folder / "result.json").write_text(json.dumps(content))
    with pytest.raises(FrictionstoreError, match="cannot be read"):
        save_all([fs.analyses.mode_variance(store)], folder)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (folder / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["9" * 256, "é" * 128, "\ud800", ""])
def test_an_index_names_folders_that_there_can_be(
    made: tuple[fs.Store, Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"results": [{"folder": name}]}))
    with pytest.raises(FrictionstoreError, match="cannot be read"):
        write_report(made[0], tmp_path / "x.html", tmp_path)


def test_an_array_that_claims_gigabytes_is_not_unpacked(
    made: tuple[fs.Store, Path], tmp_path: Path
) -> None:
    store, origin = made
    folder = tmp_path / "r"
    shutil.copytree(origin, folder)
    file = next(folder.glob("class-distance*")) / "arrays.npz"
    np.savez_compressed(file, class_means=np.zeros(5_000_000))
    assert file.stat().st_size < 100_000
    with pytest.raises(FrictionstoreError, match="array class_means has 40,000,128 bytes"):
        write_report(store, tmp_path / "x.html", folder)
