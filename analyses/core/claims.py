"""What a result claims, and whether it claims the same when the same images are measured again.

An interval over images answers what other images would have given. Repeats of the measurement
answer what the same images would have: an analysis is done on each, and its claims are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frictionstore.analyses.core.terminal import Columns, number, p_text

RELIABLE = 0.9
"""Reliability of a map from which on its means, variances and distances are taken for measured."""
REPRODUCIBLE = "reproducible"
NOT_REPRODUCIBLE = "not reproducible"


@dataclass(frozen=True)
class Claim:
    """One headline figure of a result, and what is concluded from it.

    Attributes
    ----------
    figure
        The figure's name in the result's values.
    says
        What it is about, to be put after "no evidence of": "a difference between class mean maps".
        Repeats in which this reads differently conclude differently.
    value, low, high
        The figure and its interval over images; NaN where it has none.
    p, level, holds
        Its p-value, the level and whether the answer at that level is yes; None where it is no
        question of yes or no.
    maps
        The maps whose means, variances or distances the figure is made of: what is noise in these
        is noise in the figure, whatever the repeats say. None are those that the result is about.
    values, p_values, answers
        Of the measurement and every repeat; empty in a claim that was not compared.
    reliability
        The smallest of the maps' modes that vary, on the scale that was analysed; NaN if none.
    """

    figure: str
    says: str
    value: float
    low: float = np.nan
    high: float = np.nan
    p: float | None = None
    level: float | None = None
    holds: bool | None = None
    maps: tuple[str, ...] | None = None
    values: tuple[float, ...] = ()
    p_values: tuple[float | None, ...] = ()
    answers: tuple[tuple[str, bool | None], ...] = ()
    reliability: float = np.nan

    def __post_init__(self) -> None:
        if self.p is not None and not np.isfinite(self.p):
            object.__setattr__(self, "p", None)
        if self.holds is None and self.p is not None and self.level is not None:
            object.__setattr__(self, "holds", bool(self.p <= self.level))

    @property
    def spread(self) -> float:
        """Range of the figure over the measurement and its repeats."""
        values = np.array(self.values)
        return float(np.ptp(values)) if np.isfinite(values).all() else np.inf

    @property
    def reproducible(self) -> bool | None:
        """Whether the repeats leave the claim as it is; None if it was not compared."""
        if not self.values:
            return None
        if len(set(self.answers)) > 1 or self.reliability < RELIABLE:
            return False
        if np.isnan(self.values).all():
            return True
        width = self.high - self.low
        # Values that are equal are within any interval, one of no width included.
        return self.spread == 0 or np.isnan(width) or self.spread < width

    @property
    def word(self) -> str:
        """The answer in a word; empty if the claim was not compared."""
        found = self.reproducible
        return "" if found is None else REPRODUCIBLE if found else NOT_REPRODUCIBLE

    def compared(self, repeats: Sequence[Claim], reliability: float) -> Claim:
        """Return the claim with what the repeats gave."""
        every = (self, *repeats)
        return replace(
            self,
            values=tuple(float(one.value) for one in every),
            p_values=tuple(one.p for one in every),
            answers=tuple((one.says, one.holds) for one in every),
            reliability=reliability,
        )

    def text(self) -> str:
        """Return what can be said of a claim that was compared."""
        if not self.reproducible:
            return f"{self.says}: {NOT_REPRODUCIBLE} under rounding ({self._every()})"
        figure = number(self.value) if self.p is None else p_text(self.p)
        said = "no evidence of " if self.holds is False else ""
        return f"{said}{self.says} ({figure}, {REPRODUCIBLE})"

    def _every(self) -> str:
        """Return the figures of all measurements, and the reliability where that is the reason."""
        p = [one for one in self.p_values if one is not None]
        if len(p) == len(self.values):
            said = "p = " + ", ".join(
                p_text(one).removeprefix("p ").removeprefix("= ") for one in p
            )
        else:
            said = ", ".join(number(one) for one in self.values)
        if self.reliability < RELIABLE:
            said += f"; reliability of the map {number(self.reliability)}"
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return the claim as plain values."""
        found: dict[str, Any] = {
            "figure": self.figure, "says": self.says, "value": self.value, "low": self.low,
            "high": self.high, "p": self.p, "level": self.level, "holds": self.holds,
        }  # fmt: skip
        if self.values:
            found |= {
                "repeats": [
                    {"value": value, "p": p, "says": says, "holds": holds}
                    for value, p, (says, holds) in zip(
                        self.values[1:], self.p_values[1:], self.answers[1:], strict=True
                    )
                ],
                "lowest": float(np.min(self.values)), "highest": float(np.max(self.values)),
                "reliability": self.reliability, "word": self.word,
                "text": self.text(),
            }  # fmt: skip
        return found


def compared(
    claims: Sequence[Claim],
    repeats: Sequence[Sequence[Claim]],
    reliability: Mapping[str, float],
) -> list[Claim]:
    """Return claims with what repeats of the measurement gave.

    Parameters
    ----------
    claims
        Of the measurement.
    repeats
        The same of each repeat.
    reliability
        Of each map that the result is about, the smallest of its modes that vary.
    """
    found = []
    for claim in claims:
        maps = reliability if claim.maps is None else claim.maps
        least = np.fmin.reduce([reliability.get(name, np.nan) for name in maps], initial=np.nan)
        # A repeat that does not have the figure concludes nothing.
        none = Claim(claim.figure, "", np.nan)
        same = [
            next((one for one in of_repeat if one.figure == claim.figure), none)
            for of_repeat in repeats
        ]
        found.append(claim.compared(same, float(least)))
    return found


def answer(claims: Sequence[Claim]) -> str | None:
    """Return the sentence instead of claims of which some are not reproducible; None if all are."""
    shaky = [claim for claim in claims if claim.reproducible is False]
    if not shaky:
        return None
    firm = [claim for claim in claims if claim.reproducible]
    return "; ".join(claim.text() for claim in (*shaky, *firm))


def table(claims: Sequence[Claim]) -> Columns:
    """Return claims that were compared, a row each."""
    return {
        "claim": [claim.says for claim in claims],
        "under_rounding": [claim.word for claim in claims],
        "lowest": [float(np.min(claim.values)) for claim in claims],
        "highest": [float(np.max(claim.values)) for claim in claims],
        "p_lowest": [_extreme(claim, min) for claim in claims],
        "p_highest": [_extreme(claim, max) for claim in claims],
        "reliability": [claim.reliability for claim in claims],
        "figure": [claim.figure for claim in claims],
    }


def _extreme(claim: Claim, which: Any) -> float:
    given = [p for p in claim.p_values if p is not None]
    return float(which(given)) if given else np.nan
