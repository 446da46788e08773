"""Figures of other packages that the tests of the analyses are held against: no test dependency.

    pip install scikit-bio mne esda statsmodels
    python tests/data/analyses/make_statistics.py > tests/data/analyses/statistics.json

Written with scikit-bio 0.7, mne 1.13, esda 2.9, statsmodels 0.15.
"""

from __future__ import annotations

import json
import warnings

import numpy as np


def wave(*shape: int, phase: float = 0.0) -> np.ndarray:
    """Numbers that any machine makes the same: no two alike, of no order."""
    k = np.arange(np.prod(shape))
    return np.round(10 * np.sin(phase + 1.7 * k + 0.01 * k * k), 6).reshape(shape)


def main() -> None:
    """Print the figures as JSON."""
    warnings.simplefilter("ignore")
    from esda.moran import Moran, Moran_Local
    from libpysal.weights import higher_order, lat2W
    from mne.stats.cluster_level import _find_clusters
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import norm  # noqa: F401
    from skbio.stats.distance import DistanceMatrix, permdisp
    from statsmodels.stats.oneway import anova_oneway

    x = wave(24, 3, 4, 2)
    x[::3] *= 2.5
    labels = np.arange(24) % 3
    found = {}
    welch = [
        anova_oneway([x[labels == c, i, j, m] for c in range(3)], use_var="unequal")
        for i in range(3) for j in range(4) for m in range(2)
    ]  # fmt: skip
    found["welch_f"] = [float(one.statistic) for one in welch]
    found["welch_p"] = [float(one.pvalue) for one in welch]
    matrix = DistanceMatrix(squareform(pdist(x.reshape(24, -1))))
    found["permdisp_f"] = float(
        permdisp(matrix, labels.tolist(), test="centroid", permutations=0, dimensions=23)[
            "test statistic"
        ]
    )
    field = np.abs(wave(6, 7))
    field[2:5, 1:4] += 9
    levels = 30
    step = field.max() / levels
    tfce = _find_clusters(
        field.ravel(), {"start": step * (1 - 1e-9), "step": step, "e_power": 0.5, "h_power": 2},
        tail=1, adjacency=_rook(6, 7),
    )  # fmt: skip
    found["tfce"] = np.asarray(tfce[1]).tolist()
    clusters, sums = _find_clusters(field.ravel(), 8.0, tail=1, adjacency=_rook(6, 7))
    mass = np.zeros(field.size)
    for members, total in zip(clusters, sums, strict=True):
        mass[members] = total
    found["cluster_mass"] = mass.tolist()
    grid = wave(5, 6, phase=1.0) + np.arange(6) * 3
    w = lat2W(5, 6, rook=False)
    w.transform = "r"
    local = Moran_Local(grid.ravel(), w, permutations=0)
    found["local_moran"] = local.Is.tolist()
    found["correlogram"] = []
    for k in (1, 2, 3):
        lag = lat2W(5, 6, rook=False) if k == 1 else higher_order(lat2W(5, 6, rook=False), k)
        lag.transform = "b"
        found["correlogram"].append(float(Moran(grid.ravel(), lag, "B", permutations=0).I))
    print(json.dumps(found))


def _rook(rows: int, cols: int):
    from mne.stats import combine_adjacency

    return combine_adjacency(rows, cols)


if __name__ == "__main__":
    main()
