"""Files of results: cells that no spreadsheet computes, documents that are what results write."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.saved_files import (
    is_plain,
    load_json,
    read_csv,
    read_result,
    write_csv,
)
from frictionstore.text import guarded, unguarded

FORMULAS = ['=HYPERLINK("http://example.org",1)', "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "'",
            "''=", "＝1"]  # noqa: RUF001  # fmt: skip


def written(header: list[str], rows: list[list[object]]) -> str:
    file = io.StringIO(newline="")
    write_csv(file, header, rows)
    return file.getvalue()


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_text_begins_as_a_formula_and_all_of_it_reads_back(cell: str) -> None:
    text = written([cell], [[cell], [-1.5], [None], ["plain"], [-3]])
    raw = [row[0] if row else "" for row in csv.reader(io.StringIO(text, newline=""))]
    assert raw == ["'" + cell, "'" + cell, "-1.5", "", "plain", "-3"]
    assert unguarded(raw[0]) == cell
    read = [row[0] for row in read_csv(io.StringIO(text, newline="")) if row]
    assert read[:3] == [cell, cell, -1.5]
    assert read[-2:] == ["plain", -3]


@given(st.lists(st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1),
), min_size=2, max_size=4))  # fmt: skip
def test_tables_read_back_and_are_written_as_before(row: list[object]) -> None:
    text = written(["a"] * len(row), [row])
    (_, *again) = list(read_csv(io.StringIO(text, newline="")))
    # Text that is a number's own spelling is one, as in every CSV file.
    expected = [v if not isinstance(v, str) or v != str(again[0][k]) else again[0][k]
                for k, v in enumerate(row)]  # fmt: skip
    assert again == [expected]
    assert written(["a"] * len(row), again) == text


def test_numbers_are_those_that_python_writes() -> None:
    cells = ["3", "0.5", "007", "1.50", "nan", "inf", "1e999", "1_0", "", "cat", "1e-300", "-2"]
    read = next(read_csv([",".join(cells) + "\n"]))
    assert read == [3, 0.5, "007", "1.50", "nan", "inf", "1e999", "1_0", None, "cat", 1e-300, -2]


def test_every_table_that_is_saved_is_guarded(tmp_path: Path) -> None:
    """Classes and images of a stranger's store, and the way back that the docs give."""
    names = ["=cmd|'/c calc'!A0", "@x", "'y", "z"]
    rng = np.random.default_rng(0)
    store = fs.from_arrays(
        tmp_path / "a.zarr", {"friction": rng.lognormal(size=(24, 4, 4, 3)).astype(np.float32)},
        label=np.arange(24) % 4, class_names=names, image_id=[f"={k}" for k in range(24)],
    )  # fmt: skip
    result = fs.analyses.class_distance(store, permutations=9)
    folder = result.save(tmp_path / "out", figures=False)
    held = 0
    for file in folder.glob("*.csv"):
        for row in csv.reader(io.StringIO(file.read_bytes().decode(), newline="")):
            for cell in row:
                held += cell.startswith("'")
                assert cell[:1] not in ("=", "@", "+")
    assert held > 0
    back = pd.read_csv(folder / "classes.csv").map(
        lambda cell: cell.removeprefix("'") if isinstance(cell, str) else cell
    )
    assert list(back["class"]) == names


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0"])
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not is_plain(name)
    assert is_plain(f"a{len(name)}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN is no finite number"),
        ("-Infinity", "no finite number"),
        ("1e400", "no finite number"),
        ("9" * 5000, "does not fit in 64 bits"),
        (str(2**63), "does not fit in 64 bits"),
        ('"\\ud800"', "surrogates not allowed"),
        ("[" * 20 + "]" * 20, "more than 12 levels deep"),
    ],
)
def test_json_that_no_result_writes(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_json(f'{{"a": {text}}}'.encode())
    assert load_json(b'{"a": [1, 0.5, "\\ud83d\\ude00"]}') == {"a": [1, 0.5, "\U0001f600"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sentences": []}, "the result.sentences is empty"),
        ({"sentences": "x"}, 'the result.sentences is "x", not a list'),
        ({"caveats": ["a", 3]}, r"the result.caveats\[1\] is 3, not text"),
        ({"values": {"p_min": 17}}, "the result.values.p_min is 17, not between 0 and 1"),
        ({"values": {"accuracy S": {"p": -1}}}, "values.accuracy S.p is -1"),
        ({"tables": {"../x": []}}, "no name of a file in this folder"),
        ({"tables": {"a": [{"x": 1}, {"y": 1}]}}, r"tables.a\[1\] has other columns"),
        ({"tables": {"a": [{"x": [1]}]}}, r"tables.a\[0\].x is \[1\], not one number or text"),
        ({"tables": {"a": {"file": "b.csv", "rows": 1, "columns": []}}}, "in b.csv, not a.csv"),
        ({"files": ["thesis.tex"]}, r"files\[0\] is thesis.tex, which no result writes"),
        ({"parameters": {"alpha": 5}}, "parameters.alpha is 5, not between 0 and 1"),
        ({"provenance": {"store": "a"}}, "the result.provenance has no digest"),
        ({"seed": True}, "seed is true, not a whole number"),
    ],
)
def test_a_result_is_of_the_shape_that_results_have(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    content: dict[str, object] = {
        "analysis": "a", "feature": "f", "question": "q", "answer": "s", "sentences": ["s"],
        "caveats": [], "notebook": {}, "values": {}, "parameters": {}, "seed": None, "tables": {},
        "arrays": {}, "provenance": {"digest": "d", "store": "s"},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert read_result(tmp_path, "result.json") == content
    (tmp_path / "result.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(AnalysisError, match=said) as caught:
        read_result(tmp_path, "result.json")
    assert "cannot be read" in str(caught.value)
    for name in content:
        (tmp_path / "result.json").write_text(
            json.dumps({k: v for k, v in content.items() if k != name})
        )
        with pytest.raises(AnalysisError, match=f"the result has no {name}"):
            read_result(tmp_path, "result.json")


@pytest.mark.parametrize("cell", ["a\r=1", "a\n=1", "a;=1", "a\t=1", 'a"=1', "a,=1"])
def test_what_a_spreadsheet_could_split_is_quoted(cell: str) -> None:
    text = written(["x", "y"], [[cell, "z"]])
    assert list(read_csv(io.StringIO(text, newline=""))) == [["x", "y"], [cell, "z"]]
    assert text.splitlines(keepends=True)[1].startswith('"a')


def test_numbers_are_not_guarded() -> None:
    assert [guarded(v) for v in (-1, -0.5, None, True, "", "a-b")] == [
        -1,
        -0.5,
        None,
        True,
        "",
        "a-b",
    ]
