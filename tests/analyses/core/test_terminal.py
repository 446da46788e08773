"""What is printed: p and intervals in words, tables that fit the terminal they are printed on."""

from __future__ import annotations

import csv
import math
import os
import sys

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.core.terminal import excluded, interval_text, p_text, text_table
from tests.analyses.material import noise_store

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.63, 0.81, "0.6300 to 0.8100"),
        (0.0, 0.0, "0.0000 to 0.0000"),
        (-INF, INF, "unbounded"),
        (-INF, 0.81, "0.8100 or less"),
        (0.0, INF, "0.0000 or more"),
        (0.63, NAN, "0.6300 or more"),
        (None, 0.0, "0.0000 or less"),
        (NAN, INF, "unbounded"),
        (NAN, NAN, "not defined"),
        (None, None, "not defined"),
    ],
)
def test_intervals_in_words(low, high, expected):
    assert interval_text(low, high) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 1.24, "1.3"),  # the nearest of two digits, 1.2, lies inside the interval
        (-1.24, 0.5, "1.3"),  # the farther end counts, whichever it is
        (0.0, 1.2, "1.2"),
        (-1.1, 1.1, "1.1"),  # as it is written: in binary it is a little more
        (-2e-5, 1.01e-5, "2.0e-5"),
        (-99.5, 3.0, "100"),
        (0.0, 1234.0, "1300"),
        (0.0, 12_340_000.0, "1.3e+7"),
    ],
)
def test_what_an_interval_rules_out_is_rounded_away_from_it(low, high, expected):
    said = excluded(low, high, " points")
    assert said == f", and one larger than {expected} points is excluded"
    assert float(expected) >= max(abs(low), abs(high))


@pytest.mark.parametrize(
    ("low", "high"), [(NAN, 1.0), (None, 1.0), (-INF, 1.0), (0.0, INF), (NAN, NAN), (0.0, 0.0)]
)
def test_an_interval_without_two_ends_rules_nothing_out(low, high):
    assert excluded(low, high) == ""


def test_an_interval_without_an_end_in_a_table():
    columns = {"x": [1.0, 2.0, 3.0], "x_low": [0.5, -INF, NAN], "x_high": [INF, INF, NAN]}
    lines = text_table(columns, width=80).splitlines()[2:]
    assert [line.strip() for line in lines] == [
        "1.000 (0.5000 or more)",
        "2.000 (unbounded)",
        "3.000",
    ]


def test_no_p_is_printed_as_nought():
    columns = {
        "line": ["a", "b", "c", "d"],
        "p": [0.0, 5e-324, 0.00099900, 1.0],
        "max_q": [0.0, 0.04999, 0.123, NAN],
        "share_q_below": [0.0, 0.5, 1.0, 1.0],
    }
    rows = [line.split() for line in text_table(columns, width=80).splitlines()[-4:]]
    assert [row[1] for row in rows] == ["<1e-300", "<1e-300", "0.001", "1.00"]
    assert [row[2] for row in rows] == ["<1e-300", "0.05", "0.12", "-"]
    assert rows[0][3] == "0.0000"  # a share may be 0
    assert p_text(0.0) == "p < 1e-300"
    assert p_text(0.012) == "p = 0.012"
    assert p_text(NAN) == "p not defined"


WIDE = {
    "name": ["a long name of many words", "b"],
    **{f"figure_{k}": [1.0 + k, 2.0] for k in range(20)},
    "mean": [1.0, 2.0],
    "mean_low": [0.5, 1.5],
    "mean_high": [1.5, 2.5],
}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 400])
def test_a_table_is_as_wide_as_it_may_be_and_names_what_is_left_out(width):
    text = text_table(WIDE, width=width, name="modes")
    assert max(len(line) for line in text.splitlines()) <= width
    shown = text.split("...", maxsplit=1)[0]
    for column in [*(f"figure {k}" for k in range(20)), "mean (95%)"]:
        head = column.replace("figure ", "").split()[0]
        assert head in shown.split() or column.replace(" ", "_").replace("_(95%)", "") in text
    left = "more column" in text
    assert left == (width < 120 * 2)
    if left:
        assert "--out FOLDER writes all to modes.csv" in " ".join(text.split())


def test_intervals_are_folded_before_columns_go():
    columns = {"name": ["a"], "x": [1.0], "x_low": [0.5], "x_high": [1.5], "p": [0.5]}
    wide = text_table(columns, width=80).splitlines()
    assert wide[-1].split() == ["a", "1.000", "(0.5000..1.500)", "0.50"]
    narrow = text_table(columns, width=31).splitlines()
    assert narrow[-2].split() == ["a", "1.000", "0.50"]
    assert narrow[-1].split() == ["(0.5000..1.500)"]
    assert "more column" not in "".join(narrow)


def test_one_column_is_always_there():
    text = text_table({"name": ["x" * 30], "y": [1.0]}, width=10)
    assert "".join(line for line in text.splitlines() if set(line) == {"x"}) == "x" * 30
    assert "1 more column" in " ".join(text.split())


def test_a_table_without_columns_is_nothing():
    assert text_table({}) == ""


@pytest.mark.parametrize("function", ["spatial_cv", "f_statistic", "image_summary", "summary",
                                      "center_edge", "mode_variance", "ridge_probe"])  # fmt: skip
def test_every_analysis_fits_in_80_columns_where_there_is_no_terminal(function, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    result = getattr(analyses, function)(noise_store(modes=4))
    tables = [line for line in str(result).splitlines() if "  " in line.strip()]
    assert tables
    assert max(map(len, tables)) <= 80


def test_a_terminal_gives_its_own_width_and_the_file_holds_the_rest(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda _: os.terminal_size((60, 24)))
    result = analyses.spatial_cv(noise_store(modes=12), permutations=20)
    text = str(result)
    assert max(map(len, text.splitlines())) <= 60
    said = " ".join(text.split())
    left = said.split("characters: ")[1].split("; --out")[0].split(", ")
    assert "--out FOLDER writes all to modes.csv" in said
    with open(result.save(tmp_path / "out", figures=False) / "modes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in left:
        np.testing.assert_allclose(
            [float(row[column]) for row in rows], result.table[column], rtol=1e-12
        )
