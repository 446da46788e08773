"""How far an extraction's friction is from what it was meant to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAR = 0.1  # of friction_exact
NOISE = 0.05  # share of values that far off from which on it is said


class Rounding:
    """Counts the friction values that are more than a tenth away from friction_exact."""

    def __init__(self) -> None:
        self.values = 0
        self.far = 0

    def add(self, maps: Mapping[str, NDArray[Any]]) -> None:
        if "friction" in maps and "friction_exact" in maps:
            friction, exact = maps["friction"], maps["friction_exact"]
            self.values += friction.size
            self.far += int(np.count_nonzero(np.abs(friction - exact) > FAR * np.abs(exact)))

    @property
    def share(self) -> float:
        return self.far / self.values if self.values else 0.0

    @property
    def is_noise(self) -> bool:
        return self.share > NOISE

    @property
    def sentence(self) -> str:
        return (
            f"rounding of friction: {self.share:.1%} of its {self.values:,} measured values are "
            f"more than {FAR:.0%} away from friction_exact, which is the same without rounding; "
            "what that does to a map 'frictionstore analyze reliability' says"
        )

    def as_json(self) -> dict[str, Any] | None:
        """For the provenance; None where nothing was compared."""
        if not self.values:
            return None
        return {"values": self.values, "more_than_10_percent_away": self.far, "share": self.share}
