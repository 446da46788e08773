"""The tables of docs/friction-and-rounding.md: what a matrix's last bit does to friction.

    python tools/rounding.py            # synthetic spectra, a minute or two
    python tools/rounding.py --count 2000

Symmetric matrices with geometric spectra of a given ratio of largest to smallest eigenvalue, 3%
jitter and random eigenvectors, in float32. Each is measured as it is and with every entry of its
upper triangle moved by -1, 0 or 1 unit in the last place, twice.
"""

from __future__ import annotations

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.extract.conduit import conduit_maps

Array = NDArray[np.float32]
RATIOS = (1.5, 2.0, 5.0, 30.0, 1000.0)  # of eigenvalues; singular values have the square root
ORDERS = (4, 8, 16)
COLUMNS = (
    "n", "ratio", "friction moved > 10%", "settle changed", "friction: median error",
    "correlation of logarithms with exact", "reliability, raw", "reliability, log",
    "exact moved > 10%", "exact: reliability, raw", "exact: reliability, log",
)  # fmt: skip


def spectra(n: int, ratio: float, count: int, rng: np.random.Generator) -> Array:
    """Matrices of shape (count, n, n)."""
    values = np.geomspace(1.0, ratio, n) * (1 + 0.03 * rng.standard_normal((count, n)))
    Q = np.linalg.qr(rng.standard_normal((count, n, n)))[0]
    A = np.einsum("bij,bj,bkj->bik", Q, values, Q).astype(np.float32)
    return np.tril(A) + np.tril(A, -1).swapaxes(1, 2)


def moved(A: Array, rng: np.random.Generator) -> Array:
    """`A` with each entry of its upper triangle moved by at most one unit in the last place."""
    step = np.triu(rng.integers(-1, 2, A.shape))
    step = step + np.triu(step, 1).swapaxes(1, 2)
    return (A + step * np.spacing(np.abs(A))).astype(np.float32)


def reliability(measured: NDArray[np.float64]) -> float:
    """Of the mode with the least; `measured` has shape (measurement, matrix, mode)."""
    noise = measured.var(axis=0, ddof=1).mean(axis=0)
    total = measured.reshape(-1, measured.shape[-1]).var(axis=0, ddof=1)
    varies = total > 0
    return float((1 - noise[varies] / total[varies]).min())


def row(n: int, ratio: float, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng([seed, n, round(10 * ratio)])
    A = spectra(n, ratio, count, rng)
    names = ("friction", "settle", "friction_exact")
    made = [conduit_maps(x, names) for x in (A, moved(A, rng), moved(A, rng))]
    values = {
        name: np.stack([one[name].astype(np.float64) for one in made])[..., 1:] for name in names
    }  # the mode extracted last is constant, and nearly always the largest
    with np.errstate(divide="ignore"):
        logs = {name: np.log10(values[name]) for name in ("friction", "friction_exact")}
    share = {
        name: np.mean(np.abs(values[name][1:] - values[name][0]) > 0.1 * values[name][0])
        for name in logs
    }
    exact = values["friction_exact"][0]
    finite = np.isfinite(logs["friction"][0])
    together = np.corrcoef(logs["friction"][0][finite], logs["friction_exact"][0][finite])[0, 1]
    return [
        str(n), f"{ratio:g}",
        f"{share['friction']:.1%}",
        f"{np.mean(values['settle'][1:] != values['settle'][0]):.1%}",
        f"{np.median(np.abs(values['friction'][0] - exact) / exact):.2g}",
        f"{together:.3f}",
        f"{reliability(values['friction']):.3f}",
        f"{reliability(logs['friction']):.3f}" if np.isfinite(logs["friction"]).all() else "-",
        f"{share['friction_exact']:.1%}",
        f"{reliability(values['friction_exact']):.3f}",
        f"{reliability(logs['friction_exact']):.3f}",
    ]  # fmt: skip


@click.command(help=__doc__)
@click.option("--count", default=600, show_default=True, help="Matrices of each kind.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, seed: int) -> None:
    click.echo("| " + " | ".join(COLUMNS) + " |")
    click.echo("|" + "---|" * len(COLUMNS))
    for n in ORDERS:
        for ratio in RATIOS:
            click.echo("| " + " | ".join(row(n, ratio, count, seed)) + " |")


if __name__ == "__main__":
    main()
