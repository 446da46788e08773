from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frictionstore.format.fingerprint import canonical_json, differences, fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=5)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


@given(OBJECTS)
def test_order_of_keys_does_not_matter(request: dict) -> None:
    assert fingerprint(request) == fingerprint(shuffled(request))  # type: ignore[arg-type]


@given(OBJECTS)
def test_survives_a_trip_through_json(request: dict) -> None:
    assert fingerprint(json.loads(json.dumps(request))) == fingerprint(request)


@given(OBJECTS, OBJECTS)
def test_differs_exactly_when_the_canonical_form_does(one: dict, two: dict) -> None:
    same = canonical_json(one) == canonical_json(two)
    assert (fingerprint(one) == fingerprint(two)) == same
    if differences(one, two):
        assert not same


def test_is_the_sha256_of_the_canonical_form() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    expected = hashlib.sha256('{"a":"é","b":[1,2.5]}'.encode()).hexdigest()
    assert fingerprint({"b": [1, 2.5], "a": "é"}) == expected


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError):
        canonical_json({"x": float("nan")})


def test_differences_name_the_leaf() -> None:
    there = {"dataset": {"name": "digits", "count": 100}, "format": 1, "old": 0}
    asked = {"dataset": {"name": "digits", "count": 200}, "format": 1, "new": None}
    assert differences(there, asked) == [
        "dataset.count is 100 there, 200 was asked for",
        "new is absent there, null was asked for",
        "old is 0 there, and was not asked for",
    ]
    assert differences({"x": 1}, {"x": True}) == ["x is 1 there, true was asked for"]
