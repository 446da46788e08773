"""The report holds what the results hold, escaped, in one file of bounded size."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import frictionstore as fs
from frictionstore.analyses.core.results import Result
from frictionstore.analyses.core.saved import read_saved, save_all
from frictionstore.analyses.everything import analyze_all
from frictionstore.analyses.report.html import Budget, table
from frictionstore.analyses.report.page import LIMIT, write_report
from frictionstore.analyses.report.pictures import _outline, f_maps, paint, png
from frictionstore.analyses.report.saved import read_results
from frictionstore.analyses.report.typical import image_typicality, squared_deviation, typicality
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError
from frictionstore.text import printable
from tests.analyses.report.conftest import HOSTILE, Made, maps_with_classes


class Page(HTMLParser):
    """Elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_every_answer_caveat_and_table_is_there(made: Made):
    page = Page(made.html)
    whole = squeezed(page.text)
    saved = read_saved(made.results)
    assert {one["analysis"] for one in saved} >= {"f-statistic", "ridge-probe", "summary"}
    for one in saved:
        for sentence in [*one["sentences"], *one["caveats"]]:
            assert squeezed(printable(sentence, 2000)) in whole, (one["analysis"], sentence)
        for name in one["tables"]:
            assert f'aria-label="Table {name.replace("_", " ")}"' in made.html
    assert made.store.digest in whole
    assert made.store.fingerprint in whole
    verdicts = {one["analysis"]: one["notebook"].get("verdict") for one in saved}
    assert f'<span class="chip">{verdicts["class-distance"]} (' in made.html


def test_numbers_in_the_tables_are_the_results(made: Made):
    html = made.html
    one = next(r for r in read_saved(made.results) if r["analysis"] == "center-edge")
    for row in one["tables"]["classes"]:
        assert f'data-value="{row["ratio"]!r}"' in html


def test_csv_links_hold_the_whole_files(made: Made):
    links = [a for a in Page(made.html).all("a") if (a.get("href") or "").startswith("data:")]
    held = {base64.b64decode(str(a["href"]).split(",", 1)[1]) for a in links}
    files = {path.read_bytes() for path in made.results.glob("*/*.csv")}
    assert held == files


def test_nothing_hostile_becomes_an_element(made: Made):
    page = Page(made.html)
    assert len(page.all("script")) == 1
    assert all(str(image["src"]).startswith("data:image/png") for image in page.all("img"))
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert HOSTILE[0] in page.text
    assert "\u202e" not in made.html


def test_asks_nobody_for_anything(made: Made):
    page = Page(made.html)
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert str(policy).startswith("default-src 'none'")


def test_every_picture_has_a_text_and_every_link_a_target(made: Made):
    page = Page(made.html)
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    for a in page.all("a"):
        if str(a["href"]).startswith("#"):
            assert str(a["href"])[1:] in ids
    for image in page.all("img"):
        assert image["class"] == "strip" or image["alt"]
    for tag, attributes in page.elements:
        if attributes.get("role") == "img":
            assert attributes.get("aria-label"), tag


def test_stays_below_the_limit(made: Made):
    assert made.path.stat().st_size < LIMIT


def test_large_tables_are_cut_and_named(tmp_path: Path):
    rows = [{"image": k, "mean": k / 7, "mean_low": k / 8, "mean_high": k / 6} for k in range(900)]
    csv = b"x" * 1000
    small = Budget(100, 50)
    html = table("images", rows, csv, "one/images.csv", small)
    assert html.count("<tr>") == 51
    assert "the first 50 of 900 rows" in html
    assert "all of it is in <code>one/images.csv</code>" in html
    assert "data:text/csv" in table("images", rows, csv, "one/images.csv", Budget(5000))
    assert "mean low" not in html


def test_a_p_that_underflowed_is_not_zero():
    rows = [{"p": 0.0, "mcnemar_p": 0.0, "p_family_wise": 0.0, "share_q_below": 0.0, "f": 0.0}]
    html = table("modes", rows, b"", "x/modes.csv", Budget(100))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert cells == ["&lt; 1e-300"] * 3 + ["0.0000"] * 2


def test_results_of_another_store_are_refused(made: Made, tmp_path: Path):
    label = np.arange(12) % 3
    other = fs.from_arrays(tmp_path / "b.zarr", maps_with_classes(label, seed=5), label=label)
    with pytest.raises(RequestError, match="are of a store with digest"):
        write_report(other, tmp_path / "x.html", made.results)
    assert not (tmp_path / "x.html").exists()


def test_another_package_s_analysis_appears(made: Made, tmp_path: Path):
    from matplotlib.figure import Figure

    def draw() -> Figure:
        figure = Figure()
        figure.add_subplot().plot([1, 2], [3, 4])
        return figure

    provenance = read_saved(made.results)[0]["provenance"]
    result = Result(
        analysis="phase-of-the-moon", feature="friction", question="Is it full?",
        columns={"nights": {"night": [1, 2], "light": [0.25, float("nan")]}}, arrays={},
        values={}, notebook={}, parameters={"lag": 3}, seed=7, sentences=["It is <b>half</b>."],
        caveats=["seen from one side only"], provenance=provenance, figures={"curve": draw},
    )  # fmt: skip
    save_all([result], tmp_path / "results")
    page = Page(write_report(made.store, tmp_path / "r.html", tmp_path / "results").read_text())
    for text in ("phase-of-the-moon", "Is it full?", "It is <b>half</b>.", "seen from one side"):
        assert text in page.text
    labels = [str(a.get("aria-label")) for _, a in page.elements if a.get("role") == "img"]
    assert labels == ["curve. It is <b>half</b>."]


@pytest.mark.slow
def test_command_analyses_what_is_not_there(tmp_path: Path):
    label = np.arange(18) % 2
    store = fs.from_arrays(tmp_path / "c.zarr", maps_with_classes(label, grid=4), label=label)
    arguments = ["report", store.location, "--results", str(tmp_path / "results")]
    first = CliRunner().invoke(cli, arguments)
    assert first.exit_code == 0, first.output
    path = tmp_path / "results" / "index.html"
    assert first.stdout.strip() == str(path)
    assert "analysing c" in first.stderr
    # A second one takes the results as they are, and gives the same page.
    page = path.read_bytes()
    second = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "again.html")])
    assert second.exit_code == 0
    assert second.stderr == ""
    assert (tmp_path / "again.html").read_bytes() == page


def test_verify_refuses_a_store_that_somebody_changed(made: Made, tmp_path: Path):
    import shutil

    store = shutil.copytree(made.store.location, tmp_path / Path(made.store.location).name)
    (store / "S" / "more").write_text("what somebody added")
    out = tmp_path / "x.html"
    arguments = ["report", str(store), "--results", str(made.results), "--out", str(out)]
    run = CliRunner().invoke(cli, [*arguments, "--verify"])
    assert run.exit_code == 2
    assert "S/more does not belong to the store" in run.stderr
    assert not out.exists()
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert out.exists()


def test_without_labels_the_rest_is_done_and_said(tmp_path: Path):
    maps = maps_with_classes(np.zeros(20, int), grid=4)
    store = fs.from_arrays(tmp_path / "d.zarr", maps)
    outcome = CliRunner().invoke(
        cli, ["report", store.location, "--results", str(tmp_path / "results")]
    )
    assert outcome.exit_code == 0, outcome.output
    page = Page((tmp_path / "results" / "index.html").read_text())
    assert "What could not be done" in page.text
    assert "ridge-probe:" in page.text
    assert "Spatial structure within images" in page.text
    assert "Most and least typical images" in page.text


def test_no_results_and_no_map_is_one_sentence(tmp_path: Path):
    store = fs.from_arrays(tmp_path / "e.zarr", {"recon_error": np.ones((5, 4, 4))})
    outcome = CliRunner().invoke(
        cli, ["report", store.location, "--results", str(tmp_path / "results")]
    )
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "results").exists()


def test_damaged_results_are_one_sentence(made: Made, tmp_path: Path):
    import shutil

    shutil.copytree(made.results, tmp_path / "results")
    broken = next((tmp_path / "results").glob("f-statistic*/result.json"))
    broken.write_text("{")
    outcome = CliRunner().invoke(
        cli, ["report", made.store.location, "--results", str(tmp_path / "results")]
    )
    assert outcome.exit_code == 2
    assert "cannot be read" in outcome.output


# ---- pictures ----------------------------------------------------------------------------------


def test_png_is_what_another_reader_sees():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(pixels))).convert("RGB"))
    assert (read == pixels).all()


def test_paint_maps_the_ends_and_marks_what_is_not_finite():
    from matplotlib import colormaps

    values = np.array([[0.0, 1.0, 5.0], [-3.0, np.nan, 0.5]])
    painted = paint(values, 0.0, 1.0, "viridis")
    ends = [np.round(255 * np.array(colormaps["viridis"](x)[:3])) for x in (0.0, 1.0)]
    assert (painted[0, 0] == ends[0]).all()
    assert (painted[0, 1] == ends[1]).all()
    assert (painted[0, 2] == ends[1]).all()
    assert (painted[1, 0] == ends[0]).all()
    assert (painted[1, 1] == 128).all()


def test_outline_is_the_border_between_inside_and_outside():
    inside = np.random.default_rng(1).random((6, 5)) < 0.5
    steps = set(re.findall(r"M(\d+) (\d+)([hv])1", _outline(inside)))
    padded = np.pad(inside, 1)
    horizontal = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    vertical = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    expected = {(str(c), str(r), "h") for r, c in horizontal}
    expected |= {(str(c), str(r), "v") for r, c in vertical}
    assert steps == expected


def test_f_maps_name_the_threshold(made: Made):
    one = next(s for s in read_results(made.results, made.store) if s.analysis == "f-statistic")
    shape = one.array("f", (*made.store.grid, 4)).shape
    arrays = {name: one.array(name, shape) for name in ("f", "p_family_wise")}
    arrays["null_maximum_f"] = one.array("null_maximum_f", (99,))
    alpha = one.content["parameters"]["alpha"]
    significant = arrays["f"][np.nan_to_num(arrays["p_family_wise"], nan=1.0) <= alpha]
    from frictionstore.analyses.core.terminal import number

    assert f"here F of {number(float(significant.min()))} or more" in made.html
    # By the definition: above the threshold are exactly those beyond 95% of the null maxima.
    null = np.sort(arrays["null_maximum_f"])
    p = (1 + (null[None] >= significant[:, None]).sum(1)) / (1 + null.size)
    assert (p <= alpha).all()
    assert "no permutations were done" in f_maps(arrays["f"], None, 0.05)


# ---- typical images ----------------------------------------------------------------------------


def test_typicality_by_loops():
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(7, 3, 2, 4))
    maps[..., 1] = 2.0
    means = np.broadcast_to(maps.mean(0), maps.shape)
    deviation = squared_deviation(maps, means)
    for i in range(7):
        for m in range(4):
            by_hand = sum(
                (maps[i, r, c, m] - means[i, r, c, m]) ** 2 for r in range(3) for c in range(2)
            )
            assert deviation[i, m] == pytest.approx(by_hand / 6)
    scale = [sum(deviation[i, m] for i in range(7)) / 7 for m in (0, 2, 3)]
    for i, found in enumerate(typicality(deviation)):
        parts = [deviation[i, m] / s for m, s in zip((0, 2, 3), scale, strict=True)]
        assert found == pytest.approx((sum(parts) / 3) ** 0.5)
    assert np.mean(np.square(typicality(deviation))) == pytest.approx(1.0)
    assert (typicality(np.zeros((3, 2))) == 0).all()


def test_image_typicality_in_batches_leaves_the_unlabelled_out(make_store: Any):
    label = np.array([0, 1, -1, 0, 1, 1, 0, -1, 0, 1, 0, 1])
    store = make_store(n=12, shard_images=4, label=label, class_names=["a", "b"])
    friction = np.asarray(store.friction[:]).astype(np.float64)
    means = np.stack([friction[label == k].mean(0) for k in (0, 1)])
    found = image_typicality(store, "friction", means, label.astype(np.int64))
    assert np.isnan(found[label < 0]).all()
    known = label >= 0
    expected = typicality(squared_deviation(friction[known], means[label[known]]))
    assert found[known] == pytest.approx(expected)


# ---- notebooks ---------------------------------------------------------------------------------


def test_store_in_a_notebook_is_escaped(made: Made):
    html = made.store._repr_html_()
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= {
        "div", "b", "table", "tbody", "tr", "th", "td", "details", "summary",
    }  # fmt: skip
    assert HOSTILE[0] in page.text
    assert "45" in page.text
    assert made.store.digest[:16] in page.text
    assert json.dumps(HOSTILE[1])[1:10] not in re.sub(r"&lt;", "", html)


# ---- lines of the summary ----------------------------------------------------------------------


@pytest.mark.slow
def test_every_line_of_a_summary_leads_to_its_analysis_and_verdict(tmp_path: Path):
    """Also that of a logarithm, whose name no list of labels has."""
    label = np.arange(24) % 2
    store = fs.from_arrays(tmp_path / "a.zarr", maps_with_classes(label, grid=4), label=label)
    found = analyze_all(
        store, feature="log_friction", permutations=19, probe_permutations=0, folds=2
    )
    save_all(found, tmp_path / "r")
    html = write_report(store, tmp_path / "a.html", tmp_path / "r").read_text(encoding="utf-8")
    items = html[html.index('<table class="lines">') :].split("</table>")[0].split("<tr>")[2:]
    named = {re.split("[<>]", text)[4]: text for text in items if 'href="#' in text}
    probe = next(one for one in found if one.analysis == "ridge-probe")
    line = named["Log_friction map linear probe"]
    keys = {one.analysis: one.key for one in read_results(tmp_path / "r", store)}
    assert f'href="#{keys["ridge-probe"]}"' in line
    assert f'<span class="chip">{probe.notebook["log_friction verdict"]}' in line
    assert len(named) == sum(bool(name) for name in found[-1].table["line"])


def test_the_summary_says_in_how_many_modes_edge_and_centre_differ(made: Made):
    saved = {one["analysis"]: one for one in read_saved(made.results)}
    values = saved["center-edge"]["values"]
    rows = saved["summary"]["tables"]["summary"]
    row = next(r for r in rows if r["measure"].endswith("whose edge and centre differ"))
    assert (row["value"], row["p"]) == (values["modes_different"], values["p_modes"])
    assert f"of {values['modes_tested']}," in row["measure"]


def test_the_method_of_moran_s_i_says_what_decides(made: Made):
    text = Page(made.html).text
    assert "What decides is its mean over images" in text
    assert "joint shuffles" in text
