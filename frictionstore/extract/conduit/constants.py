"""The constants of the conduit measurement. No torch here: the fingerprint reads them.

What lives here is the numbers the definition fixes; the arithmetic is in `reference.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from frictionstore.errors import RequestError

ROUNDS_LIMIT = 255  # settle counts rounds in one byte
SINGLE_PRECISION_LIMIT = 6  # largest n whose roots are found in float32

FIELDS = (
    "eigenvalues",
    "eigenvectors",
    "friction",
    "settle",
    "slot",
    "char_coeffs",
    "refinement_residual",
)
EXACT_FIELDS = ("friction_exact", "settle_exact")
LARGEST_WRITTEN_OUT = 8  # largest n whose kernels hold a matrix in registers
FUSED_N = {"fused-cpu": (2, 16), "fused-gpu": (2, 16)}  # orders of the kernels
SPECTRUM_N = (2, LARGEST_WRITTEN_OUT)  # and those of the encoder's matrix to its spectrum
LARGEST_DEFINED_N = 16  # beyond, products of the reference are the library's
LARGEST_EXACT_N = 64  # beyond, values of the polynomial may leave the range of float64


@dataclass(frozen=True)
class ConduitConstants:
    """Everything besides the matrix that the measurement depends on.

    Parameters
    ----------
    iterations : int in [1, 255]
        Laguerre rounds per root, `T` in the definition; also the value of an unsettled `settle`.
    polish : int in [0, 255]
        Newton steps per root on the original polynomial.
    newton_schulz : int in [0, 255]
        Rounds that make the eigenvectors orthonormal.
    delta : float > 0
        Added to the derivative's magnitude before its reciprocal becomes friction.
    tau : float > 0
        A root has settled once the polynomial is smaller than this.

    Raises
    ------
    RequestError
        If a constant is outside its range.
    """

    iterations: int = 5
    polish: int = 3
    newton_schulz: int = 2
    delta: float = 1e-8
    tau: float = 1e-6

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("polish", 0), ("newton_schulz", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise RequestError(
                    f"conduit constant {name} must be an integer, got {type(value).__name__}"
                )
            if not least <= value <= ROUNDS_LIMIT:
                raise RequestError(
                    f"conduit constant {name} must lie in {least}..{ROUNDS_LIMIT}, got {value}"
                )
        for name in ("delta", "tau"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RequestError(
                    f"conduit constant {name} must be a positive number, got {value}"
                )

    def as_dict(self) -> dict[str, int | float]:
        """The constants by name, as plain numbers that JSON can hold."""
        return asdict(self)


DEFAULTS = ConduitConstants()


def guess_offsets(n: int) -> list[float]:
    """The `n` equally spaced offsets from -1e-4 to 1e-4 that keep equal guesses apart."""
    if n == 1:
        return [-1e-4]
    return [-1e-4 + 2e-4 * i / (n - 1) for i in range(n)]


def check_want(want: Sequence[str], threads: int | None) -> None:
    """Refuse unknown fields and a number of threads below 1."""
    known = (*FIELDS, *EXACT_FIELDS)
    unknown = [name for name in want if name not in known]
    if unknown:
        raise RequestError(f"the conduit has no field {unknown[0]!r}; it has {', '.join(known)}")
    if threads is not None and threads < 1:
        raise RequestError(f"threads must be at least 1, got {threads}")
