"""Class mean maps that single patches do not decide: geometric means, where every value has one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frictionstore import Store


def log_means(
    store: Store, feature: str, classes: NDArray[np.int64], n_classes: int
) -> NDArray[np.float64] | None:
    """Mean of the natural logarithms of a map by class, in one pass.

    Friction's tail is so long that one patch of one image can be most of a class's plain mean; of
    logarithms it cannot.

    Parameters
    ----------
    store : Store
    feature : str
        A map of the store with a mode axis.
    classes : int array of shape (image,)
        Class of each image, -1 where it has none.
    n_classes : int

    Returns
    -------
    float64 array of shape (class, row, col, mode), NaN for a class without images
        None where the map is of whole numbers, which have no tail, or a value is not positive.
    """
    info = store[feature]
    if not np.issubdtype(info.dtype, np.floating):
        return None
    sums = np.zeros((n_classes, *info.shape[1:]))
    for rows, arrays in store.iter_chunks((feature,)):
        own = classes[rows]
        values = arrays[feature][own >= 0]
        if not (values > 0).all():
            return None
        logs = np.log(values, dtype=np.float64)
        own = own[own >= 0]
        for k in np.unique(own):
            sums[k] += logs[own == k].sum(axis=0)
    counts = np.bincount(classes[classes >= 0], minlength=n_classes).astype(np.float64)
    counts[counts == 0] = np.nan
    return sums / counts[:, None, None, None]


@lru_cache(maxsize=4)
def class_log_means(
    store: Store, feature: str, names: tuple[str, ...]
) -> NDArray[np.float64] | None:
    """`log_means` of the classes of these names; kept, since a report shows them twice."""
    place = {name: k for k, name in enumerate(names)}
    by_label = np.array([place.get(name, -1) for name in store.class_names] + [-1])
    return log_means(store, feature, by_label[store.labels], len(names))
