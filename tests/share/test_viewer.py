"""What a push adds for the Hub's viewer and card: read back by pyarrow, pandas and Pillow."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError
from frictionstore.share.card import plain
from frictionstore.share.push_pull import push
from tests.servers.http import serve
from tests.servers.hub import FakeHub
from tests.support import MakeStore, random_images

parquet = pytest.importorskip("pyarrow.parquet")
TO = "hf://datasets/me/friction"


@pytest.fixture
def at_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    root = tmp_path / "hub"
    root.mkdir()
    with serve(root) as (url, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        yield FakeHub(root)


@pytest.fixture
def store(make_store: MakeStore) -> fs.Store:
    return make_store(n=13, shard_images=4, label=np.arange(13) % 4 - 1,
                      maps={"image": random_images(13)})  # fmt: skip


def sent(hub: FakeHub) -> Path:
    return hub.folder("me/friction", "dataset")


def test_the_table_is_the_stores(store: fs.Store, at_hub: FakeHub) -> None:
    push(store.location, TO, viewer=True, hub_api=at_hub)
    file = sent(at_hub) / "viewer/small.parquet"
    table = parquet.read_table(file)
    frame = table.to_pandas()
    wanted = store.to_pandas(["S", "friction", "settle"])
    wanted["class"] = wanted["class"].astype(object)
    shared = list(wanted.columns)
    pd.testing.assert_frame_equal(
        frame[shared].replace({None: np.nan}), wanted.replace({None: np.nan}), check_dtype=False
    )
    for row in range(13):
        pixels = np.asarray(Image.open(io.BytesIO(frame["image"][row]["bytes"])))
        np.testing.assert_array_equal(pixels, store["image"][row])
    said = json.loads(table.schema.metadata[b"huggingface"])
    assert said == {"info": {"features": {"image": {"_type": "Image"}}}}
    assert json.loads(table.schema.metadata[b"frictionstore"])["digest"] == store.digest


def test_a_store_without_thumbnails_has_figures_alone(
    make_store: MakeStore, at_hub: FakeHub
) -> None:
    push(make_store().location, TO, viewer=True, hub_api=at_hub)
    table = parquet.read_table(sent(at_hub) / "viewer/small.parquet")
    assert "image" not in table.column_names
    assert b"huggingface" not in table.schema.metadata
    with Image.open(sent(at_hub) / "viewer/small.png") as picture:
        assert picture.size[0] > 3 * picture.size[1]  # a line of maps


def test_the_cards_lead_to_table_and_picture(store: fs.Store, at_hub: FakeHub) -> None:
    from huggingface_hub import metadata_load

    push(store.location, TO, viewer=True, hub_api=at_hub)
    root = sent(at_hub)
    top, inner = ((root / name).read_text() for name in ("README.md", "small.zarr/README.md"))
    head = metadata_load(root / "README.md")
    assert head is not None
    assert head["configs"] == [{"config_name": "default", "data_files": "viewer/small.parquet"}]
    assert (root / head["configs"][0]["data_files"]).is_file()
    assert "configs" not in inner
    for card, folder in ((top, root), (inner, root / "small.zarr")):
        path = card.split("![Maps of some of its images](")[1].split(")")[0]
        assert (folder / path).resolve() == (root / "viewer/small.png").resolve()
    with Image.open(root / "viewer/small.png") as picture:
        picture.verify()
    assert fs.open(f"{TO}/small.zarr").digest == store.digest


def test_a_store_that_is_there_gets_its_viewer_and_stays(store: fs.Store, at_hub: FakeHub) -> None:
    push(store.location, TO, hub_api=at_hub)
    before = len(at_hub.commits)
    push(store.location, TO, viewer=True, hub_api=at_hub)
    (commit,) = at_hub.commits[before:]
    assert sorted(commit[1]) == ["README.md", "small.zarr/README.md", "viewer/small.parquet",
                                 "viewer/small.png"]  # fmt: skip
    assert commit[2] == []
    assert "viewer/small.parquet" in (sent(at_hub) / "README.md").read_text()
    assert fs.verify(f"{TO}/small.zarr").ok
    push(store.location, TO, hub_api=at_hub)  # and nothing more
    assert len(at_hub.commits) == before + 1


def test_a_card_of_others_is_left_alone(store: fs.Store, at_hub: FakeHub) -> None:
    root = sent(at_hub)
    root.mkdir(parents=True)
    (root / "README.md").write_text("# Mine\n")
    push(store.location, TO, viewer=True, hub_api=at_hub)
    assert (root / "README.md").read_text() == "# Mine\n"
    assert (root / "viewer/small.parquet").is_file()


def test_a_pull_brings_the_store_and_nothing_beside_it(
    store: fs.Store, at_hub: FakeHub, tmp_path: Path
) -> None:
    push(store.location, TO, viewer=True, hub_api=at_hub)
    fs.pull(f"{TO}/small.zarr", tmp_path / "back")
    assert fs.verify(tmp_path / "back/small.zarr").ok
    assert not list((tmp_path / "back").rglob("*.parquet"))


def saved(store: fs.Store, folder: Path) -> list[fs.analyses.Result]:  # type: ignore[name-defined]
    results = [
        fs.analyses.mode_variance(store, feature="S"),
        fs.analyses.f_statistic(store, feature="S", permutations=20),
        fs.analyses.f_statistic(store, feature="friction", permutations=20),
        fs.analyses.image_summary(store, feature="friction"),
        fs.analyses.spatial_cv(store, feature="friction", permutations=20),
    ]
    for result in results:
        result.save(folder / result.label, figures=False)
    return results


def test_the_card_says_three_findings_with_their_caveats(
    store: fs.Store, at_hub: FakeHub, tmp_path: Path
) -> None:
    results = saved(store, tmp_path / "results")
    push(store.location, TO, viewer=True, results=tmp_path / "results", hub_api=at_hub)
    for name in ("README.md", "small.zarr/README.md"):
        lines = (sent(at_hub) / name).read_text().splitlines()
        asked = [line.split(":")[0] for line in lines if line.startswith("- `") and ", " in line]
        assert asked[:2] == ["- `spatial-cv, friction`", "- `f-statistic, friction`"]
        assert asked[2] in ("- `image-summary, friction`",)
        assert len(asked) == 3
        for result in (results[4], results[2], results[3]):
            (at,) = [k for k, line in enumerate(lines) if plain(result.sentence) in line]
            told = lines[at + 1 : at + 1 + len(result.caveats)]
            assert told == [f"  - {plain(caveat)}" for caveat in result.caveats]


def test_what_a_stranger_saved_is_text_in_the_card(
    store: fs.Store, at_hub: FakeHub, tmp_path: Path
) -> None:
    saved(store, tmp_path / "results")
    file = next((tmp_path / "results").glob("spatial-cv*/result.json"))
    content = json.loads(file.read_text())
    content["answer"] = "<img src=x onerror=alert(1)> [a](http://evil) \x1b[31m\n# Title **b**"
    file.write_text(json.dumps(content))
    push(store.location, TO, results=tmp_path / "results", hub_api=at_hub)
    text = (sent(at_hub) / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if "onerror" in line]
    assert r"\<img src=x onerror=alert\(1\)\> \[a\]\(http\://evil\)" in line
    assert r"\# Title \*\*b\*\*" in line
    assert "\x1b" not in text
    assert "viewer" not in text


def test_bad_input_is_one_sentence_and_status_2(
    store: fs.Store, make_store: MakeStore, at_hub: FakeHub, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    saved(make_store("other", n=13, seed=8), tmp_path / "others")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/result.json").write_text('{"provenance": []}')
    for more, said in (
        (["--results", tmp_path / "others"], "is of another store"),
        (["--results", tmp_path / "empty"], "holds no saved results"),
        (["--results", tmp_path / "nosuch"], "holds no saved results"),
        (["--results", tmp_path / "broken"], "is not a saved result"),
    ):
        done = CliRunner().invoke(cli, ["push", store.location, TO, *map(str, more)])
        assert (done.exit_code, said in done.output) == (2, True), done.output
    for target in (str(tmp_path / "folder"), "s3://bucket/x"):
        done = CliRunner().invoke(cli, ["push", store.location, target, "--viewer"])
        assert (done.exit_code, "has no viewer" in done.output) == (2, True), done.output
    assert not (tmp_path / "folder").exists()
    monkeypatch.setattr("frictionstore.share.export.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"needs pyarrow.*\[export\]"):
        push(store.location, TO, viewer=True, hub_api=at_hub)
    assert at_hub.commits == []
