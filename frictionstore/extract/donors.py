"""Which image lends another its singular vectors: `friction_donor`.

Row r of a store of n images has the donor

    d = (r + 1 + floor((n - 1) w / 2**32)) mod n

where w is the first word that Philox4x32-10 gives for the counter (0, 0, 0, r) under the key of
`repeats.SEED`; repeats count from 1, so no word is used twice. Each other image is as likely as any
other, none is its own donor, and what an image gets depends on its row and the number of images
alone: not on batches, units, workers or what was interrupted. The donor is loaded and encoded again
beside the image, which doubles the encoder's work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.extract.conduit.repeats import SEED, key_of, philox
from frictionstore.extract.data.base import Dataset, Part

DONATED = "friction_donor"


def donor_rows(n: int) -> NDArray[np.int64]:
    """The donor of each of n images.

    Raises
    ------
    RequestError
        There is no other image.
    """
    if n < 2:
        raise RequestError(
            f"the map {DONATED} needs another image to take singular vectors of and there is 1 "
            "image: extract two or more, or leave it out"
        )
    rows = np.arange(n, dtype=np.int64)
    zero = np.zeros_like(rows)
    word = philox((zero, zero, zero, rows), key_of(SEED))[0]
    return np.asarray((rows + 1 + (word * (n - 1) >> 32)) % n)


def donors_of(dataset: Dataset) -> Part:
    """The donors of a data set's images, in their order."""
    return Part(dataset, donor_rows(len(dataset.ids)).tolist())
