"""What an analysis is asked for: each parameter's default, range and words, written once.

A class of parameters checks its values, whoever gives them, and gives the command its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import click

from frictionstore.analyses.core.errors import AnalysisError

MAX_PERMUTATIONS = 100_000
"""More would take gigabytes for p-values that nobody reads that closely."""

T = TypeVar("T")


def parameter(
    default: T,
    words: str = "",
    *,
    least: int | None = None,
    most: int | None = None,
    fraction: bool = False,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    several: bool = False,
) -> T:
    """Return a field of a parameter class.

    `words` is the help of the command's option; without there is none. `flags` are the option's
    names, where they are not the parameter's; it may be given several times (`several`). An integer
    lies from `least` to `most`, a `fraction` between 0 and 1.
    """
    metadata = {
        "words": words, "least": least, "most": most, "fraction": fraction, "choices": choices,
        "flags": flags, "several": several,
    }  # fmt: skip
    made: T = field(default=default, metadata=metadata)
    return made


def feature() -> str:
    """Return the map, of which a command takes several."""
    words = (
        "Map to analyse, or log_NAME for its decimal logarithm, rank_NAME for its rank; may be "
        "given several times."
    )
    return parameter("friction", words, several=True)


def permutations(default: int, what: str) -> int:
    """Return the number of permutations of `what`."""
    words = f"Permutations {what}; 0 for none."
    return parameter(default, words, least=0, most=MAX_PERMUTATIONS)


def folds(words: str) -> int:
    """Return the number of folds."""
    return parameter(5, words, least=2)


def seed() -> int:
    """Return the seed."""
    words = "Seed of everything random; the same seed gives the same numbers."
    return parameter(0, words, least=0)


def alpha() -> float:
    """Return the level."""
    return parameter(0.05, "Level at which results are counted as significant.", fraction=True)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What all parameter classes do.

    Raises
    ------
    AnalysisError
        Naming the parameter that is out of range, its value and what would work.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            value, limits = getattr(self, one.name), one.metadata
            wrong = None if value is None or not limits else _wrong(value, **limits)
            if wrong:
                raise AnalysisError(f"{one.name} is {wrong}")


def _wrong(
    value: Any, least: int | None, most: int | None, fraction: bool, choices: Any, **_: Any
) -> str | None:
    """Return what is wrong with a value; None if it is in range."""
    if choices and value not in choices:
        return f"{value!r}: it must be {' or '.join(map(repr, choices))}"
    if fraction and not 0 < value < 1:
        return f"{value}: it must lie between 0 and 1"
    if least is not None and not least <= value <= (value if most is None else most):
        allowed = f"{least} or more" if most is None else f"from {least} to {most}"
        return f"{value}: it must be {allowed}"
    return None


def asks(parameters: type[Parameters]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option for each parameter that has words, with its range and default."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(fields(parameters)):
            if one.metadata and one.metadata["words"]:
                function = _option(one.name, one.default, one.metadata)(function)
        return function

    return decorate


def _option(name: str, default: Any, of: Mapping[str, Any]) -> Callable[..., Any]:
    kind: Any = click.Choice(of["choices"]) if of["choices"] else None
    if of["fraction"]:
        kind = click.FloatRange(0, 1, min_open=True, max_open=True)
    elif of["least"] is not None:
        kind = click.IntRange(of["least"], of["most"])
    several = of["several"]
    values = (default,) if several and isinstance(default, str) else default
    return click.option(
        *(of["flags"] or (f"--{name.replace('_', '-')}",)),
        name,
        type=kind,
        default=values,
        multiple=several,
        show_default=",".join(values) if several and values else default is not None,
        help=of["words"],
    )
