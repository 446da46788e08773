"""A result's figures in somebody's axes, and how a result is quoted."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.results import Result
from tests.support import MakeStore


def drawn_data(axes: Any) -> list[Any]:
    """Everything that axes show, as arrays."""
    return [
        *(np.asarray(image.get_array()) for image in axes.images),
        *(line.get_xydata() for line in axes.lines),
        *(np.array(patch.get_path().vertices) for patch in axes.patches),
    ]


@pytest.fixture
def store(make_store: MakeStore) -> fs.Store:
    return make_store(n=24)


def results(store: fs.Store) -> list[Result]:
    return [
        fs.analyses.f_statistic(store, feature="friction"),
        fs.analyses.mode_variance(store, feature="friction"),
        fs.analyses.class_distance(store, feature="S"),
        fs.analyses.image_summary(store, feature="friction"),
        fs.analyses.spatial_cv(store, feature="friction"),
        fs.analyses.center_edge(store, feature="friction"),
    ]


def test_axes_in_are_axes_out_and_show_the_same(store: fs.Store) -> None:
    from matplotlib import pyplot

    kinds = set()
    for result in results(store):
        for name, draw in result.figures.items():
            alone = [a for a in draw().axes if a.get_label() != "<colorbar>"]
            kinds.add(len(alone))
            figure, given = pyplot.subplots(1, len(alone), squeeze=False)
            ax = given[0, 0] if len(alone) == 1 else given
            assert result.plot(name, ax=ax) is ax
            for mine, theirs in zip(given.ravel(), alone, strict=True):
                for a, b in zip(drawn_data(mine), drawn_data(theirs), strict=True):
                    np.testing.assert_array_equal(a, b)
                assert mine.get_xlabel() == theirs.get_xlabel() != ""
            figure.canvas.draw()
            pyplot.close(figure)
    assert kinds == {1, 3}  # one mode of the store is constant and has no panel


def test_without_axes_it_is_a_figure_of_pyplots(store: fs.Store) -> None:
    from matplotlib import pyplot

    result = fs.analyses.class_distance(store, feature="S")
    axes = result.plot()
    assert pyplot.gcf() is axes.figure
    assert axes.get_title() != ""
    pyplot.close(axes.figure)
    maps = fs.analyses.f_statistic(store, feature="friction").plot("f_map")
    assert maps.shape == (3,)
    pyplot.close(maps[0].figure)


def test_what_cannot_be_drawn_is_said(store: fs.Store) -> None:
    from matplotlib import pyplot

    result = fs.analyses.f_statistic(store, feature="friction")
    with pytest.raises(AnalysisError, match="no figure 'nosuch': it has f_map"):
        result.plot("nosuch")
    figure, ax = pyplot.subplots()
    with pytest.raises(AnalysisError, match="has 3 panels, and 1 axes were given"):
        result.plot(ax=ax)
    pyplot.close(figure)
    result.figures = {}
    with pytest.raises(AnalysisError, match="has no figure: it has none"):
        result.plot()


def test_a_citation_has_what_makes_the_figures_again(
    store: fs.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/where/frictionstore", "analyze", "f-statistic", "a_b.zarr"])
    result = fs.analyses.f_statistic(store, feature="friction", permutations=99, seed=7)
    said = result.cite()
    assert said.startswith("frictionstore, f-statistic of friction\n")
    assert f"SHA-256 digest {store.digest}" in said
    assert "24 images" in said
    assert "command: frictionstore analyze f-statistic a_b.zarr" in said
    assert f"frictionstore {fs.__version__}" in said
    assert f"numpy {np.__version__}" in said
    found = re.search("parameters: (.*)", said)
    assert found is not None
    parameters = json.loads(found[1])
    assert parameters["seed"] == 7
    assert parameters["permutations"] == 99


def test_a_citation_in_bibtex_is_balanced_and_escaped(
    store: fs.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["frictionstore", "{$a_b%} & \\x~#^\x1b[31m"])
    result = fs.analyses.f_statistic(store, feature="friction")
    said = result.cite("bibtex")
    first = said.splitlines()[0]
    assert re.fullmatch(r"@misc\{[A-Za-z0-9-]+,", first)
    assert store.digest[:12] in first
    depth = 0
    for mark in said:
        depth += (mark == "{") - (mark == "}")
        assert depth >= 0
    assert depth == 0
    assert "\x1b" not in said
    assert not re.search(r"(?<!\\)[$%&#_]", said)
    with pytest.raises(AnalysisError, match="style is 'apa'"):
        result.cite("apa")
