"""How typical each image is: the distance of its map from its class's mean map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from frictionstore import Store


def squared_deviation(
    maps: NDArray[np.floating], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over patches of the squared deviation from a mean map.

    Parameters
    ----------
    maps : array of shape (image, row, col, mode)
    means : float64 array of the same shape
        The mean map that belongs to each image.

    Returns
    -------
    float64 array of shape (image, mode)
    """
    return np.square(maps.astype(np.float64) - means).mean(axis=(1, 2))


def typicality(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each image from its mean map, every mode on its own scale.

    ``d_i = sqrt(mean_m (v_im / mean_i v_im))``, where ``v_im`` is `squared_deviation` and the
    mean over modes leaves out those that never deviate. 1 is as far as an image is on average.

    Parameters
    ----------
    deviation : float64 array of shape (image, mode)

    Returns
    -------
    float64 array of shape (image,), 0 where no mode varies
    """
    scale = deviation.mean(axis=0)
    varying = scale > 0
    if not varying.any():
        return np.zeros(len(deviation))
    return np.sqrt((deviation[:, varying] / scale[varying]).mean(axis=1))


def image_typicality(
    store: Store, feature: str, class_means: NDArray[np.float64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Typicality of every image of a store that has a mean map, in one pass.

    Parameters
    ----------
    store : Store
    feature : str
        A map with a mode axis.
    class_means : float64 array of shape (class, row, col, mode)
    classes : int array of shape (image,)
        Position in `class_means` of each image, -1 where it has none.

    Returns
    -------
    float64 array of shape (image,), NaN where an image has no mean map
    """
    known = classes >= 0
    deviation = np.full((store.n_images, class_means.shape[-1]), np.nan)
    for rows, arrays in store.iter_chunks((feature,)):
        own = known[rows]
        maps = arrays[feature][own]
        deviation[rows][own] = squared_deviation(maps, class_means[classes[rows][own]])
    out = np.full(store.n_images, np.nan)
    out[known] = typicality(deviation[known])
    return out
