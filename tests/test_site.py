"""What the documentation site is made with: links, notebooks, the API page, checked addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore import analyses
from tests.support import DATA
from tools import site

NOTEBOOKS = sorted((site.ROOT / "docs" / "notebooks").glob("*.ipynb"))
ORACLE = json.loads((DATA / "analyses" / "digits240.json").read_text())


@pytest.mark.parametrize(
    ("source", "page", "text", "expected"),
    [
        ("README.md", "index.md", "[x](docs/format.md#arrays)", "[x](format.md#arrays)"),
        ("README.md", "index.md", "[x](CHANGELOG.md)", "[x](changes.md)"),
        ("docs/sharing.md", "sharing.md", "[x](../README.md)", "[x](index.md)"),
        ("docs/how-to/vit.md", "how-to/vit.md", "[x](../format.md)", "[x](../format.md)"),
        ("docs/tour.md", "tour.md", "![x](pictures/phone.png)", "![x](pictures/phone.png)"),
        ("docs/analyses.md", "analyses.md", "[x](../analyses/cli.py)",
         "[x](source/analyses/cli.py.md)"),
        ("docs/how-to/vit.md", "how-to/vit.md", "[x](../../analyses/cli.py)",
         "[x](../source/analyses/cli.py.md)"),
        ("docs/tour.md", "tour.md", "[x](notebooks/nine-sections.ipynb)",
         "[x](notebooks/nine-sections.md)"),
        ("docs/tour.md", "tour.md", "[x](https://example.org/a.py)", "[x](https://example.org/a.py)"),
        ("docs/tour.md", "tour.md", "[x](nosuch.md)", "[x](nosuch.md)"),
        ("docs/tour.md", "tour.md", "[x](../../outside.md)", "[x](../../outside.md)"),
        ("docs/tour.md", "tour.md", "[x](#look)", "[x](#look)"),
        ("README.md", "index.md", "```\n[x](docs/format.md)\n```\n[x](docs/format.md)",
         "```\n[x](docs/format.md)\n```\n[x](format.md)"),
    ],
)  # fmt: skip
def test_links_lead_to_pages(source: str, page: str, text: str, expected: str) -> None:
    assert site.linked(text, source, page) == expected


def test_a_linked_source_is_shown_whole() -> None:
    (name,) = site.sources_linked("[x](../analyses/cli.py) [y](format.md)", "docs/analyses.md")
    assert name == "analyses/cli.py"
    assert (site.ROOT / name).read_text(encoding="utf-8") in site.shown(name)


def test_the_api_page_has_every_public_name() -> None:
    named = re.findall(r"heading: (\S+)", site.api(""))
    values = {"fs.__version__", "fs.analyses", "analyses.REGISTRY"}
    public = {f"fs.{name}" for name in fs.__all__} | {f"analyses.{n}" for n in analyses.__all__}
    assert set(named) == public - values
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ('<h2 id="a"></h2><a href="#a"></a><a href="b/c.html#d"></a><a href="//x.y/"></a>', []),
        ('<img src="p.png"><script src="data:,1"></script>', []),
        ('<a href="#z"></a>', ["index.html: #z has no such anchor"]),
        ('<a href="b/c.html#z"></a>', ["index.html: b/c.html#z has no such anchor"]),
        ('<a href="nosuch.html"></a>', ["index.html: nosuch.html leads nowhere"]),
        ('<img src="nosuch.png">', ["index.html: nosuch.png leads nowhere"]),
        ('<script src="https://x.y/a.js"></script>',
         ["index.html loads https://x.y/a.js from elsewhere"]),
        ('<link href="//x.y/a.css">', ["index.html loads //x.y/a.css from elsewhere"]),
        ('<img srcset="//x.y/2.png 2x">', ["index.html loads //x.y/2.png from elsewhere"]),
    ],
)  # fmt: skip
def test_addresses_of_a_built_site_are_checked(page: str, wrong: list[str], tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.html").write_text('<p id="d"></p><a href="/index.html"></a>')
    (tmp_path / "p.png").touch()
    (tmp_path / "index.html").write_text(page)
    assert site.wrong_addresses(tmp_path) == wrong


def test_style_that_loads_from_elsewhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("p { background: url('https://x.y/p.png') }")
    assert site.wrong_addresses(tmp_path) == ["a.css loads https://x.y/p.png from elsewhere"]


def cells(notebook: Any) -> list[str]:
    """What each code cell of an executed notebook put out, as text on one line."""
    return [
        " ".join(
            " ".join((output.get("text") or output["data"]["text/plain"]).split())
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where notebooks run: the 240 digits whose figures the notebook's own code printed."""
    made = tmp_path_factory.mktemp("notebooks")
    with np.load(DATA / "analyses" / "digits240.npz") as file:
        maps = {name: file[name] for name in ("S", "friction", "settle")}
        fs.from_arrays(
            made / "data" / "digits-speckle.zarr", maps, label=file["label"].astype(int),
            class_names=[str(digit) for digit in range(10)],
        )  # fmt: skip
    return made


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the client; cells are asked about theirs below
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_shown(
    notebook: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbclient")
    made = site.executed(notebook, folder)
    monkeypatch.setattr(site, "executed", lambda *_: made)
    pages = dict(site.as_pages(notebook, folder))
    text = str(pages.pop(f"notebooks/{notebook.stem}.md"))
    assert {f"notebooks/{name}" for name in re.findall(r"!\[.*?\]\((.*?)\)", text)} == set(pages)
    assert {picture[:4] for picture in pages.values()} <= {b"\x89PNG"}
    assert "<table" in text
    errors = [
        output.text for cell in made.cells for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]  # fmt: skip
    assert errors == []
    if notebook.stem == "nine-sections":
        check_the_nine_sections(cells(made)[1:])
    else:
        assert len(pages) == 3


def check_the_nine_sections(sections: list[str]) -> None:
    """Against what the notebook's own code printed of the same maps."""
    assert len(sections) == 9
    overall = ORACLE["1_spatial_cv"]["overall"]
    assert f"mean CV {overall:.4g}" in sections[0]
    assert f"{ORACLE['2_class_distance']['mean_inter']:.3f}"[:6] in sections[1]
    assert f"{ORACLE['3_center_edge'][0]['ratio']:.6f}"[:6] in sections[2]
    assert f"{ORACLE['5_mode_variance'][2]['var']:.6f}"[:6] in sections[4]
    assert f"{ORACLE['6_samples'][0]['mean']:.4f}"[:6] in sections[5]
    for section, name in zip(sections[6:8], ("friction", "settle"), strict=True):
        assert f"{name} test_accuracy" in section
