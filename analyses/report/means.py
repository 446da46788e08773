"""Mean maps that results hold, read for pictures."""

from __future__ import annotations

from frictionstore import Store
from frictionstore.analyses.report.pictures import ClassMeans
from frictionstore.analyses.report.robust import class_log_means
from frictionstore.analyses.report.saved import Saved


def class_means(store: Store, one: Saved) -> ClassMeans | None:
    """The class means of a result, and their geometric means where the store's map has them."""
    if "class_means" not in one.content["arrays"]:
        return None
    names = [str(row["class"]) for row in one.table("classes")[0]]
    plain = one.array("class_means", (len(names), *store.grid, store.n_modes))
    if plain is None or not names:
        return None
    stored = one.feature in store.maps and store[one.feature].ndim == 4
    logs = class_log_means(store, one.feature, tuple(names)) if stored else None
    return ClassMeans(plain, names, one.feature, logs)


def main_mode(store: Store, all_results: list[Saved], beside: Saved) -> int | None:
    """The mode with the largest F of the same map, else the one whose mean map varies most."""
    for analysis, key in (
        ("f-statistic", "max_f_mode"),
        ("mode-variance", "largest_variance_mode"),
    ):
        for one in all_results:
            if one.analysis == analysis and one.feature == beside.feature:
                mode = one.content["values"].get(key)
                if isinstance(mode, int) and 0 <= mode < store.n_modes:
                    return mode
    return None
