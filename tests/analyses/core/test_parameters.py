"""Parameters are written once: function, class and command have the same defaults and ranges."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields
from importlib import import_module
from typing import Any

import click
import pytest

from frictionstore.analyses.core import parameters
from frictionstore.analyses.core.errors import AnalysisError

CLASSES = {
    "spatial_cv": "SpatialCVParameters",
    "class_distance": "ClassDistanceParameters",
    "center_edge": "CenterEdgeParameters",
    "f_statistic": "FStatisticParameters",
    "mode_variance": "ModeVarianceParameters",
    "image_summary": "ImageSummaryParameters",
    "ridge_probe": "RidgeProbeParameters",
    "summary": "SummaryParameters",
    "everything": "EverythingParameters",
}


@pytest.mark.parametrize("name", CLASSES)
def test_function_and_command_have_the_defaults_of_the_class(name: str) -> None:
    module = import_module(f"frictionstore.analyses.{name}")
    kind = getattr(module, CLASSES[name])
    function = module.analyze_all if name == "everything" else getattr(module, name)
    defaults = {one.name: one.default for one in fields(kind)}
    given = {
        key: one.default
        for key, one in inspect.signature(function).parameters.items()
        if key in defaults
    }
    assert given == {key: defaults[key] for key in given}
    assert {"feature", "features"} & given.keys()
    options = {one.name: one for one in module.command.params if isinstance(one, click.Option)}
    asked = [one for one in fields(kind) if one.metadata and one.metadata["words"]]
    assert asked
    context = click.Context(module.command)
    for one in asked:
        found: Any = options[one.name].get_default(context)
        several = one.metadata["several"] and isinstance(one.default, str)
        assert found == ((one.default,) if several else one.default), one.name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"permutations": -1}, "permutations is -1: it must be from 0 to 100000"),
        ({"permutations": 100_001}, "permutations is 100001: it must be from 0 to 100000"),
        ({"seed": -1}, "seed is -1: it must be 0 or more"),
        ({"alpha": 0.0}, "alpha is 0.0: it must lie between 0 and 1"),
        ({"alpha": 1.0}, "alpha is 1.0: it must lie between 0 and 1"),
        ({"weights": "none"}, "weights is 'none': it must be 'row' or 'binary'"),
    ],
)
def test_a_value_out_of_range_is_refused_whoever_gives_it(
    wrong: dict[str, Any], message: str
) -> None:
    module = import_module("frictionstore.analyses.spatial_cv")
    with pytest.raises(AnalysisError) as error:
        module.SpatialCVParameters(**wrong)
    assert str(error.value) == message


def test_the_ends_of_a_range_are_in_it() -> None:
    module = import_module("frictionstore.analyses.spatial_cv")
    asked = module.SpatialCVParameters(permutations=parameters.MAX_PERMUTATIONS, seed=0)
    module.SpatialCVParameters(permutations=0)
    with pytest.raises(FrozenInstanceError):
        asked.seed = 1
