"""What rounding may do to the values of a map: a bound for one value and a rule for all.

Every map has a `Rule`: a bound for one value, and the share of values that may be beyond
it. Rounding has outliers (a root finder that takes another path, eigenvalues that all but meet), so
no rule says "none":

- at least 99 % of a map's values are within the bound, and nine tenths of every mode's;
- at most one in ten thousand is beyond 100 times the bound;
- no image is beyond 100 times the bound in a tenth of its patches (three at least): outliers are
  scattered, a wrong image is wrong all over, however many sound ones stand around it.

The bounds are those of the measurement's definition (docs/measurement.md) where they do not need
what a store does not have:

- ``S``, ``S_orig``: `singular_value_bound`, on the squares, so that it holds for values near 0.
- ``friction`` and its repeats: `friction_bound`.
- ``friction_exact`` and its repeats: `exact_bound`, a fiftieth of it for large values.
- ``gram_diag``: entries of a matrix of norm sqrt(n) agree as its eigenvalues do.
- ``friction_donor``: as friction.
- ``recon_error``: `recon_error_bound`, derived there.
- ``refinement_residual``: `residual_bound`. What is far beyond it comes from eigenvalues that meet,
  where the residual is noise up to 1 and clusters in images; the 99 % alone decide.
- ``settle``, ``settle_exact`` and repeats: a threshold on a number near rounding; a tenth of a
  mode's values may differ.
- ``slot``: eigenvalues that all but meet change places; a hundredth of a mode's values may differ.
- ``image``: computed without the encoder; no value may differ.

Measured (speckle on digits, photos and noise images; the native engine, plain float32 torch and
a float64 encoder against each other): ``S`` differs by 0.04 of its bound at most, ``recon_error``
by 0.53 of it, friction is beyond its bound in 0.13 % of a mode's values and beyond 100 times it in
0.0012 % of all, in 2 of an image's 256 patches at most; ``settle`` differs in 2.9 % of a mode,
``slot`` in 0.04 %, ``refinement_residual`` by more than 1e-5 in 0.03 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frictionstore.format import schema

Floats = NDArray[np.float64]

EPS = 2.0**-23
FRICTION_RELATIVE = 1e-5
FRICTION_FACTOR = 200.0
EXACT_RELATIVE = 2e-6
EXACT_FACTOR = 4.0
EIGENVALUE_RELATIVE = 1e-5
RECON_ROUNDINGS = 16
RESIDUAL_ABSOLUTE = 1e-5
FAR_BEYOND = 100.0
FAR_SHARE = 1e-4
IMAGE_SHARE = 0.1
IMAGE_PATCHES = 3


def friction_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of friction values `a` and `b`, any shape: ``1e-5 f + 200 eps f**2``.

    A sum of ``1/|p'|`` amplifies a rounding error of ``p'`` with its square. The factor is the 99th
    percentile of ``noise / (eps f**2)`` for encoder Gram matrices with four modes under changes of
    one unit in the last place of the input.
    """
    value = np.maximum(np.abs(a), np.abs(b))
    return FRICTION_RELATIVE * value + FRICTION_FACTOR * EPS * value**2


def exact_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of values without a polynomial's: ``2e-6 f + 4 eps f**2``.

    What is left is what the last bit of the matrix does, which grows with the square as roots
    meet. The 99th percentile of what exceeds ``2e-6 f`` is 0.4 ``eps f**2`` for the digits
    and 1.1 at most for spectra of ratio 1.5 to 30 with 4, 8 and 16 modes (`tools/rounding.py`),
    under changes of one unit in the last place; the factor leaves room for a few units.
    """
    value = np.maximum(np.abs(a), np.abs(b))
    return EXACT_RELATIVE * value + EXACT_FACTOR * EPS * value**2


def singular_value_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of singular values, shape (..., modes).

    Eigenvalues, the squares, agree within ``1e-5 * ||A||_F`` of their patch. That bounds
    ``|a**2 - b**2|``, and divided by ``a + b`` it bounds ``|a - b|``: where both are near 0 the
    square root has no derivative, and a bound on the values themselves would be wrong.
    """
    norm = np.sqrt(np.maximum((a**4).sum(axis=-1), (b**4).sum(axis=-1)))[..., None]
    total = np.abs(a) + np.abs(b)
    with np.errstate(divide="ignore"):
        bound = np.where(total > 0, EIGENVALUE_RELATIVE * norm / total, np.inf)
    return np.asarray(bound, dtype=np.float64)


def recon_error_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of mean squared errors `a` and `b`, any shape.

    With ``m = mean(e**2)`` over the values of a patch, and a reconstruction that moves by ``d`` of
    root mean square ``delta``, m changes by ``2 mean(e d) + mean(d**2)``: by Cauchy and Schwarz at
    most ``2 sqrt(m) delta + delta**2``. An absolute rounding error of the reconstruction does not
    shrink with the error that is left, so relative to m it is of the order ``delta / sqrt(m)``.
    Reconstruction and layers are of the order of 1 and round in units of eps; ``delta`` is 16 eps
    (1.9e-6), twice the largest that was measured (1.0e-6). Squares and their mean round by at most
    as many units of m.
    """
    m = np.maximum(np.abs(a), np.abs(b))
    delta = RECON_ROUNDINGS * EPS
    return delta * (2.0 * np.sqrt(m) + m) + delta**2


def residual_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of refinement residuals, which are near eps where refinement converged."""
    return np.full(a.shape, RESIDUAL_ABSOLUTE)


def diagonal_bound(a: Floats, b: Floats) -> Floats:
    """Rounding noise of the diagonal of matrices over their scale, shape (..., modes)."""
    return np.full(a.shape, EIGENVALUE_RELATIVE * np.sqrt(a.shape[-1]))


@dataclass(frozen=True)
class Rule:
    """What rounding may do to a map.

    Attributes
    ----------
    bound : callable or None
        Of two values; None where equal is the only agreement.
    share, mode_share : float in [0, 1]
        Of all values and of one mode's that may be beyond it.
    far : bool
        Whether values beyond 100 times the bound count, by their share and by image.
    """

    bound: Callable[[Floats, Floats], Floats] | None = None
    share: float = 0.01
    mode_share: float = 0.1
    far: bool = True


RULES: dict[str, Rule] = {
    "S": Rule(singular_value_bound),
    "S_orig": Rule(singular_value_bound),
    "friction": Rule(friction_bound),
    "friction_donor": Rule(friction_bound),
    "gram_diag": Rule(diagonal_bound),
    "recon_error": Rule(recon_error_bound),
    "refinement_residual": Rule(residual_bound, far=False),
    "settle": Rule(share=0.1, mode_share=0.1, far=False),
    "slot": Rule(share=0.01, mode_share=0.01, far=False),
    "image": Rule(share=0.0, far=False),
}
RULES["friction_exact"] = Rule(exact_bound)
RULES["settle_exact"] = RULES["settle"]
RULES |= {f"{name}_repeats": RULES[name] for name in schema.REPEATS.values()}
