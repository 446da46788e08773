"""What a store contains: the maps, their dimensions, dtypes, units, codecs, chunks and shards.

This table is used to write stores, to validate them and to document them (`docs/format.md`).
Nothing here touches a file, and nothing here imports zarr.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from frictionstore.errors import RequestError
from frictionstore.io.base import TOKEN
from frictionstore.text import did_you_mean

FORMAT = 1
ATTRIBUTES_KEY = "frictionstore"
MANIFEST = "MANIFEST.sha256"
PROVENANCE = "provenance.json"
MODE_ORDER = "descending"

CHUNK_BYTES = 1 << 20  # inner chunks hold at most this much raw data
SHARD_BYTES = 32 << 20  # shards hold at most this much raw data ...
LARGEST_SHARD_BYTES = 64 << 20  # ... or this, where the smaller one would make too many files
MANY_FILES = 900

NO_LABEL = -1
THUMBNAIL_SIDE = 128  # a thumbnail has at most this many pixels a side


CARD = "README.md"
APART = frozenset({MANIFEST, PROVENANCE, CARD, TOKEN})  # beside the content, in no manifest


@dataclass(frozen=True)
class MapSpec:
    """One array of the store.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Dimension names; the first is always ``image``.
    dtype : str
        Zarr data type name.
    unit, description : str
        Stored in the array's attributes.
    fill : float, int or str
        A value that cannot be data, where the type has one: what an unwritten chunk reads as.
    fill_is_data : bool
        True where every value of the type can be data, so that a fill value proves nothing.
    optional : bool
        An array beside the maps that a store may lack.
    modes : bool
        There is a mode axis, largest singular value first; of S and S_orig of a linear readout
        (`mode_order`) it is in the order of the columns.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    unit: str
    description: str
    fill: float | int | str
    fill_is_data: bool = False
    optional: bool = False

    @property
    def modes(self) -> bool:
        return "mode" in self.dims

    @property
    def mode_axis(self) -> int:
        """Which axis that is; it may be followed by the repeats."""
        return self.dims.index("mode")

    @property
    def itemsize(self) -> int:
        return {"float32": 4, "int32": 4, "uint8": 1, "string": 8}[self.dtype]

    @property
    def zarr_fill(self) -> float | int | str:
        """The fill value as zarr metadata writes it."""
        return "NaN" if self.dtype == "float32" else self.fill


_GRID = ("image", "row", "col")
_MODES = (*_GRID, "mode")
_REPEATS = (*_MODES, "repeat")
_NAN = float("nan")

MAPS: dict[str, MapSpec] = {
    spec.name: spec
    for spec in (
        MapSpec(
            "S", _MODES, "float32", "1",
            "singular values of each patch's matrix after spectral cross-attention, "
            "in descending order of the values before it", _NAN,
        ),
        MapSpec(
            "friction", _MODES, "float32", "1",
            "sum over root-finding iterations of 1/(|p'|+delta) for each eigenvalue, "
            "largest eigenvalue first", _NAN,
        ),
        MapSpec(
            "settle", _MODES, "uint8", "iteration",
            "first root-finding iteration with |p| below the threshold (the number of "
            "iterations where there is none), largest eigenvalue first", 255,
        ),
        MapSpec(
            "friction_exact", _MODES, "float32", "1",
            "friction as defined, computed without the rounding of a characteristic polynomial; "
            "in the order of the roots that its slots extracted, largest first", _NAN,
        ),
        MapSpec(
            "settle_exact", _MODES, "uint8", "iteration",
            "settle as defined, computed without the rounding of a characteristic polynomial; "
            "in the mode order of friction_exact", 255,
        ),
        MapSpec(
            "friction_repeats", _REPEATS, "float32", "1",
            "friction of the same matrices after random symmetric changes of at most one unit in "
            "the last place of each entry; each repeat in the order of its own eigenvalues, "
            "largest first", _NAN,
        ),
        MapSpec(
            "settle_repeats", _REPEATS, "uint8", "iteration",
            "settle of the changed matrices of friction_repeats, in its mode order", 255,
        ),
        MapSpec(
            "friction_exact_repeats", _REPEATS, "float32", "1",
            "friction_exact of the changed matrices of friction_repeats, in the order of the roots "
            "that its slots extracted, largest first", _NAN,
        ),
        MapSpec(
            "settle_exact_repeats", _REPEATS, "uint8", "iteration",
            "settle_exact of the changed matrices of friction_repeats, in the mode order of "
            "friction_exact_repeats", 255,
        ),
        MapSpec(
            "gram_diag", _MODES, "float32", "1",
            "diagonal of the matrix that friction is measured of, over its scale (its Frobenius "
            "norm over the square root of its order), sorted, largest first", _NAN,
        ),
        MapSpec(
            "friction_donor", _MODES, "float32", "1",
            "friction of the patch's singular values with the singular vectors of another image of "
            "the store at the same patch, largest eigenvalue first", _NAN,
        ),
        MapSpec(
            "S_orig", _MODES, "float32", "1",
            "singular values of each patch's matrix before spectral cross-attention, "
            "descending", _NAN,
        ),
        MapSpec(
            "recon_error", _GRID, "float32", "squared pixel value",
            "mean squared difference of reconstruction and input over the patch", _NAN,
        ),
        MapSpec(
            "refinement_residual", _GRID, "float32", "1",
            "Frobenius norm of V'V - I for the eigenvectors after Newton-Schulz refinement", _NAN,
        ),
        MapSpec(
            "slot", _MODES, "uint8", "1",
            "position in the order in which the root finder extracted the eigenvalues, "
            "largest eigenvalue first", 255,
        ),
        MapSpec(
            "image", ("image", "y", "x", "channel"), "uint8", "1",
            "thumbnail of the encoder's input, RGB, 0 to 255", 0, True,
        ),
    )
}  # fmt: skip
INDEX: dict[str, MapSpec] = {
    "label": MapSpec(
        "label", ("image",), "int32", "1",
        "class of each image as a position in class_names, -1 where there is none", -(1 << 31),
    ),
    "image_id": MapSpec(
        "image_id", ("image",), "string", "1",
        "the data set's own name for each image", "", True,
    ),
    "group": MapSpec(
        "group", ("image",), "int32", "1",
        "which images belong together (one photograph, one subject), as a position in group_names",
        -(1 << 31), optional=True,
    ),
}  # fmt: skip
ARRAYS: dict[str, MapSpec] = {**MAPS, **INDEX}
REQUIRED_INDEX = tuple(name for name, spec in INDEX.items() if not spec.optional)
GROUP_NAMES = "group_names"
"""The attribute that a store has together with its array `group`."""
DEFAULT_MAPS: tuple[str, ...] = ("S", "friction", "settle", "friction_exact", "settle_exact")
REPEATS = {name: name.removesuffix("_repeats") for name in MAPS if name.endswith("_repeats")}
"""Maps of repeated measurements, and what each of them repeats."""
REPEATED_BY_DEFAULT = ("friction", "settle")
MOST_REPEATS = 255


AS_STORED = "as stored"
ORDER_IN_WORDS = {
    MODE_ORDER: "mode 0 has the largest singular value",
    AS_STORED: "modes of S are a linear readout's columns in their order, those of friction and "
    "settle, their repeats and the exact maps have the largest eigenvalue first",
}
_AS_STORED_MEANING = {
    "S": "norms of the columns of each patch's linear readout after spectral cross-attention, in "
    "the order of the columns",
    "S_orig": "norms of the columns of each patch's linear readout, in their order",
}


def mode_order(request: Mapping[str, Any]) -> str:
    """The store's attribute `mode_order`: `MODE_ORDER`, or `AS_STORED` for a linear readout.

    A readout's columns have no order of size: mode k of S is column k. Friction, settle and slot
    are largest eigenvalue first in every store.
    """
    encoder = request.get("encoder")
    config = encoder.get("config") if isinstance(encoder, Mapping) else None
    readout = isinstance(config, Mapping) and config.get("linear_readout") is True
    return AS_STORED if readout else MODE_ORDER


def check_maps(names: Iterable[str]) -> tuple[str, ...]:
    """`names` in the registry's order, without repeats.

    Raises
    ------
    RequestError
        A name is not in the registry, or there are none.
    """
    asked = set(names)
    unknown = sorted(asked - set(MAPS))
    if unknown:
        raise RequestError(
            f"unknown map {unknown[0]!r}: the maps are {', '.join(MAPS)}"
            + did_you_mean(unknown[0], MAPS)
        )
    if not asked:
        raise RequestError(f"no map was named: choose among {', '.join(MAPS)}")
    return tuple(name for name in MAPS if name in asked)


def with_repeats(names: Iterable[str], count: int) -> tuple[str, ...]:
    """`names` with the repeats that an extraction stores beside them, in the registry's order.

    Raises
    ------
    RequestError
        The number is out of range, or it is 0 and repeats are among `names`.
    """
    asked = set(names)
    if not 0 <= count <= MOST_REPEATS:
        raise RequestError(f"repeats is {count}: it must lie in 0..{MOST_REPEATS}")
    found = [name for name in REPEATS if name in asked]
    if found and not count:
        raise RequestError(
            f"the map {found[0]} needs repeats and their number is 0: leave it out, or ask for "
            "--repeats 2"
        )
    if count:
        asked |= {f"{name}_repeats" for name in REPEATED_BY_DEFAULT if name in asked}
    return tuple(name for name in MAPS if name in asked)


def power_of_two(limit: int) -> int:
    """The largest power of two not above `limit` (at least 1)."""
    return 1 << (max(limit, 1).bit_length() - 1)


@dataclass(frozen=True)
class ArrayPlan:
    """Shape and storage of one array of one store."""

    spec: MapSpec
    shape: tuple[int, ...]
    chunk_images: int
    shard_images: int

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return (self.chunk_images, *self.shape[1:])

    @property
    def shard_shape(self) -> tuple[int, ...]:
        return (self.shard_images, *self.shape[1:])

    @property
    def shard_chunks(self) -> int:
        """Chunks in every shard's index."""
        return self.shard_images // self.chunk_images

    def unit_chunks(self, unit: int) -> int:
        """Chunks of unit `unit` that hold images."""
        images = min(self.shard_images, self.shape[0] - unit * self.shard_images)
        return -(-images // self.chunk_images)

    def shard_key(self, unit: int) -> str:
        """Path of the file that holds unit `unit`, relative to the store."""
        return "/".join([self.spec.name, "c", str(unit), *["0"] * (len(self.shape) - 1)])


def thumbnail_side(size: int) -> int:
    """Side of the thumbnail of a `size` x `size` image: `size` over the smallest whole divisor
    of it that gives at most `THUMBNAIL_SIDE`."""
    return next(
        size // divisor
        for divisor in range(1, size + 1)
        if size % divisor == 0 and size // divisor <= THUMBNAIL_SIDE
    )


def map_row_shapes(
    maps: Sequence[str], image_size: int, patch_size: int, modes: int, repeats: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shape of one image in each map.

    Raises
    ------
    RequestError
        The patch size does not divide the image size.
    """
    if image_size % patch_size:
        below = image_size - image_size % patch_size
        suggestion = f"{below} or {below + patch_size}" if below else f"{patch_size}"
        raise RequestError(
            f"image size {image_size} is not divisible by the encoder's patch size {patch_size}: "
            f"choose {suggestion}"
        )
    grid, side = image_size // patch_size, thumbnail_side(image_size)
    sizes = {"row": grid, "col": grid, "mode": modes, "repeat": repeats}
    sizes |= {"y": side, "x": side, "channel": 3}
    return {name: tuple(sizes[dim] for dim in MAPS[name].dims[1:]) for name in maps}


def row_bytes(spec: MapSpec, row_shape: tuple[int, ...]) -> int:
    size = spec.itemsize
    for extent in row_shape:
        size *= extent
    return size


def default_shard_images(rows: Mapping[str, tuple[int, ...]], n_images: int) -> int:
    """Images per shard for maps whose single image has the shapes `rows`.

    A power of two such that the largest map's shard holds at most `SHARD_BYTES` raw, doubled
    (once) while the store would have more than `MANY_FILES` files; no more than the store needs.
    """
    largest = max(row_bytes(MAPS[name], shape) for name, shape in rows.items())
    images = power_of_two(SHARD_BYTES // largest)
    files = len(rows) + len(REQUIRED_INDEX)  # groups or not: the shards stay the same
    while (
        files * -(-n_images // images) > MANY_FILES and 2 * images * largest <= LARGEST_SHARD_BYTES
    ):
        images *= 2
    while images // 2 >= n_images:
        images //= 2
    return images


def plan_arrays(
    rows: Mapping[str, tuple[int, ...]], n_images: int, shard_images: int, grouped: bool = False
) -> dict[str, ArrayPlan]:
    """The arrays of a store of `n_images`, in the registry's order; index arrays last.

    Parameters
    ----------
    rows : mapping of map name to the shape of one image in it
    shard_images : int
        Images per shard, a power of two, the same for every array.
    grouped : bool
        There is an array `group`.
    """
    if shard_images < 1 or shard_images & (shard_images - 1):
        raise RequestError(f"images per shard is {shard_images}: it must be a power of two")
    plans = {}
    for name, spec in ARRAYS.items():
        if (name in MAPS and name not in rows) or (spec.optional and not grouped):
            continue
        shape = rows[name] if name in MAPS else ()
        chunk = min(power_of_two(CHUNK_BYTES // row_bytes(spec, shape)), shard_images)
        plans[name] = ArrayPlan(spec, (n_images, *shape), chunk, shard_images)
    return plans


def described(arrays: Mapping[str, ArrayPlan], order: str) -> dict[str, ArrayPlan]:
    """`arrays` with the descriptions they have in a store of that mode order."""
    meanings = _AS_STORED_MEANING if order == AS_STORED else {}
    return {
        name: replace(plan, spec=replace(plan.spec, description=meanings[name]))
        if name in meanings
        else plan
        for name, plan in arrays.items()
    }


def codec_names(spec: MapSpec) -> list[dict[str, Any]]:
    """The inner codecs in zarr metadata form: what compresses a chunk and what guards it."""
    if spec.dtype == "string":
        return [
            {"name": "vlen-utf8", "configuration": {}},
            {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
            {"name": "crc32c"},
        ]
    shuffle = "bitshuffle" if spec.itemsize == 1 else "shuffle"
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if spec.itemsize > 1:
        to_bytes["configuration"] = {"endian": "little"}
    return [
        to_bytes,
        {
            "name": "blosc",
            "configuration": {
                "typesize": spec.itemsize, "cname": "zstd", "clevel": 5,
                "shuffle": shuffle, "blocksize": 0,
            },
        },
        {"name": "crc32c"},
    ]  # fmt: skip
