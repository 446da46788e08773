"""Reading a store: refuse what is not complete and valid, then give its arrays.

Metadata and manifest are read and validated in `format/header.py`; arrays are read here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.documents import LARGEST_CHUNK_BYTES
from frictionstore.format.fingerprint import parse_json
from frictionstore.format.header import Header, read_header
from frictionstore.text import byte_count, did_you_mean, printable

WIDE_IDS_BYTES = 64 << 20

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr
    import zarr
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from frictionstore.store.rows import RowReader


def open_store(location: str | os.PathLike[str]) -> Store:
    """Open a complete store for reading.

    Parameters
    ----------
    location : str or path

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        It does not exist, is not complete, is damaged or has another format.
    """
    return Store(read_header(location), os.fspath(location))


def _opened_again(location: str, digest: str) -> Store:
    store = open_store(location)
    if store.digest != digest:
        raise StoreError(
            f"{printable(location)} is another store by now (digest {store.digest[:12]}, not "
            f"{digest[:12]}): open it anew"
        )
    return store


class Store:
    """A complete store, read-only.

    Maps are attributes (``store.friction``) and items (``store["friction"]``): zarr arrays of
    shape (image, row, col, mode), mode 0 the largest singular value. As in a table of columns,
    ``in``, iteration and ``keys()`` are about the names of its arrays (maps, then label and
    image_id), and ``len`` is the number of images.
    """

    def __init__(self, header: Header, location: str) -> None:
        self.header = header
        self.location = location

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its address: opened again where it is needed, and the same one or an error."""
        here = self.location if "://" in self.location else os.path.abspath(self.location)
        return _opened_again, (here, self.digest)

    # ---- what it says about itself ----------------------------------------------------------

    @property
    def name(self) -> str:
        """Last part of the location, without its ending."""
        last = self.header.location.text.rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"(\.zarr)?(\.zip)?$", "", last) or "store"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest: what results quote."""
        return self.header.digest

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the request."""
        return self.header.fingerprint

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for."""
        return self.header.request

    @property
    def attributes(self) -> dict[str, Any]:
        """All of the store's own attributes."""
        return self.header.attributes

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How it was made; empty where that was not passed on."""
        data = self.header.location.read(schema.PROVENANCE)
        if data is None:
            return {}
        try:
            value = parse_json(data)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("runs", []), list):
            raise StoreError(
                f"{printable(self.location)}: {schema.PROVENANCE} is not what was written; it is "
                "no part of the content and can be removed"
            )
        return value

    @property
    def class_names(self) -> list[str]:
        return self.header.class_names

    @cached_property
    def splits(self) -> dict[str, slice]:
        """Rows of each split of a merged store, in order; empty for other stores."""
        return {
            entry["name"]: slice(entry["first"], entry["first"] + entry["count"])
            for entry in self.attributes.get("splits", [])
        }

    @property
    def n_images(self) -> int:
        return self.header.n_images

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps it holds."""
        return self.header.maps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        for plan in self.header.arrays.values():
            if plan.spec.dims[1:3] == ("row", "col"):
                return plan.shape[1], plan.shape[2]
        raise StoreError(f"{printable(self.location)} has no map on the patch grid")

    @property
    def n_modes(self) -> int:
        for plan in self.header.arrays.values():
            if plan.spec.modes:
                return plan.shape[plan.spec.mode_axis]
        raise StoreError(f"{printable(self.location)} has no map with a mode axis")

    # ---- arrays -----------------------------------------------------------------------------

    @cached_property
    def zarr_store(self) -> Any:
        """The zarr store under the arrays; a file the manifest names and that is not there
        is an error, not a fill value."""
        from frictionstore.store.checked import CheckedStore

        return CheckedStore.of(self._rows.shards)

    @cached_property
    def _rows(self) -> RowReader:
        from frictionstore.store.rows import RowReader, Shards

        return RowReader(Shards(self.header))

    @cached_property
    def group(self) -> zarr.Group:
        """The store as zarr sees it."""
        import zarr

        try:
            return zarr.open_group(self.zarr_store, mode="r", use_consolidated=True, zarr_format=3)
        except FrictionstoreError:
            raise
        except Exception as error:
            raise StoreError(
                f"{printable(self.location)}: zarr cannot read its metadata ({printable(error)})"
            ) from error

    def _check_name(self, name: str) -> None:
        if name not in self.header.arrays:
            self.refuse_name(name)

    def refuse_name(self, name: str) -> NoReturn:
        """Raise the error for a map that it does not have."""
        raise StoreError(
            f"{printable(self.location)} has no map {printable(name)!r}: "
            f"it has {', '.join(self.maps)}" + did_you_mean(name, self.header.arrays)
        )

    def __getitem__(self, name: str) -> zarr.Array:
        from frictionstore.store.checked import RowArray

        self._check_name(name)
        return RowArray.of(self.group[name], self._rows)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> zarr.Array:
        if name in schema.ARRAYS or ("header" in self.__dict__ and name in self.header.arrays):
            return self[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
        )

    def __contains__(self, name: object) -> bool:
        return name in self.header.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.arrays)

    def keys(self) -> tuple[str, ...]:
        """Names of its arrays: the maps, then label, image_id and, if it has groups, group."""
        return tuple(self.header.arrays)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.header.arrays]

    def __len__(self) -> int:
        return self.n_images

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class of each image, int32 of shape (n_images,); -1 where there is none."""
        labels = self.read("label", slice(0, self.n_images))
        wrong = (labels < schema.NO_LABEL) | (labels >= max(len(self.class_names), 1))
        if self.class_names and wrong.any():
            row = int(wrong.argmax())
            raise StoreError(
                f"{printable(self.location)}: label of image {row} is {labels[row]}, expected -1 "
                f"to {len(self.class_names) - 1}"
            )
        return labels

    @property
    def group_names(self) -> list[str]:
        """Names of the groups; empty where the store has none."""
        return self.header.group_names

    @cached_property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each image, a position in `group_names`; None where there are none."""
        if "group" not in self:  # as an attribute that is the Zarr group of all arrays
            return None
        groups = self.read("group", slice(0, self.n_images))
        wrong = (groups < 0) | (groups >= len(self.group_names))
        if wrong.any():
            row = int(wrong.argmax())
            raise StoreError(
                f"{printable(self.location)}: group of image {row} is {groups[row]}, expected 0 "
                f"to {len(self.group_names) - 1}"
            )
        return groups

    @cached_property
    def image_ids(self) -> NDArray[np.str_ | np.object_]:
        """The data set's own name of each image, shape (n_images,).

        Text of one width, or Python strings where one long id would widen all the others (more
        than `WIDE_IDS_BYTES` and four times what they need).
        """
        import numpy as np

        ids = self.read("image_id", slice(0, self.n_images))
        texts = [str(text) for text in ids]
        lengths = [len(text) for text in texts]
        wide = 4 * max(lengths) * len(texts)
        explodes = wide > WIDE_IDS_BYTES and wide > 16 * sum(lengths)
        # text of one width drops a NUL at its end
        if explodes or any(text.endswith("\0") for text in texts):
            return np.array(texts, dtype=object)
        return np.array(texts, dtype=np.str_)

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        """One range of images of one array.

        Raises
        ------
        StoreError
            A chunk is missing or damaged; the message names the array, the images and the file.
        """
        self._check_name(name)
        start, stop, _ = rows.indices(self.n_images)
        return self._rows.read(name, start, stop, self._rows.threads)

    def iter_chunks(
        self, maps: Iterable[str] | str, batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
        """All images in order, a batch at a time, decoded ahead in threads.

        Parameters
        ----------
        maps : names of arrays
        batch : int, optional
            Images per step; by default whole chunks. The last one may be shorter.
        threads : int, optional
            Blocks read at once; by default one per core, at most 8, and 8 from an address; fewer
            where they would hold more than 256 MiB. Memory is that of ``threads + 2`` blocks, of
            2 MiB or one chunk, whatever the number of images.
        part : slice, optional
            Only these images.

        Yields
        ------
        rows : slice
        arrays : dict of name to ndarray with the images `rows` along the first axis
        """
        from frictionstore.store.rows import BLOCK_BYTES, regrouped

        names = [maps] if isinstance(maps, str) else list(dict.fromkeys(maps))
        for name in names:
            self._check_name(name)
        if batch is not None and batch < 1:
            raise RequestError(f"batch is {batch}: it must be 1 or more")
        threads = self._rows.threads if threads is None else threads
        if threads < 1:
            raise RequestError(f"threads is {threads}: it must be 1 or more")
        start, stop = (part.start, part.stop) if part else (0, self.n_images)
        plans = [self.header.arrays[name] for name in names]
        chunk = max((plan.chunk_images for plan in plans), default=stop)
        each = sum(schema.row_bytes(plan.spec, (1, *plan.shape[1:])) for plan in plans)
        threads = min(threads, max(1, LARGEST_CHUNK_BYTES // max(each * chunk, 1)))
        blocks = self._rows.blocks(names, chunk, BLOCK_BYTES // max(each, 1), threads, start, stop)
        yield from regrouped(blocks, names, chunk if batch is None else batch, start, stop)

    def to_xarray(self) -> xr.Dataset:
        """The store as a labelled Dataset, read lazily.

        ``label``, ``image_id`` and ``group`` are coordinates, maps and thumbnails are data
        variables, and what the store says about itself is JSON text, which every format can hold.
        """
        import xarray as xr

        data = xr.open_zarr(self.zarr_store, consolidated=True, chunks=None)
        data = data.reset_coords(list({"image"} & set(data.coords)))  # named as its dimension
        for variable in data.data_vars.values():
            if str(variable.dtype) == "uint8":  # netCDF 3 has no unsigned bytes
                variable.encoding = {"dtype": "int16"}
        if data["image_id"].dtype.kind == "O":  # older xarray keeps a type that few formats have
            data["image_id"].encoding.pop("dtype", None)
        data.attrs = {
            key: json.dumps(value) if isinstance(value, dict) else value
            for key, value in data.attrs.items()
        }
        return data.set_coords([name for name in schema.INDEX if name in data])

    def to_pandas(self, maps: Iterable[str] | str = ()) -> pd.DataFrame:
        """One row an image.

        Parameters
        ----------
        maps : names of maps, optional
            Add each one's mean over the patches (and repeats), float64, a column a mode:
            ``friction_0_mean`` is the largest singular value's. Read in bounded memory.

        Returns
        -------
        DataFrame
            ``image_id``, ``label``, ``class``, ``split`` and ``group`` if any, then the means.
        """
        from frictionstore.store.table import to_pandas

        return to_pandas(self, maps)

    # ---- showing itself ---------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """What `frictionstore info` shows, as plain JSON."""
        request = self.request
        return {
            "name": self.name,
            "location": self.header.location.text,
            "format": self.attributes["format"],
            "images": self.n_images,
            "grid": list(self.grid),
            "modes": self.n_modes,
            "mode_order": self.header.mode_order,
            "maps": {
                name: {
                    "shape": list(plan.shape),
                    "dtype": plan.spec.dtype,
                    "unit": plan.spec.unit,
                    "description": plan.spec.description,
                    "chunk_images": plan.chunk_images,
                    "shard_images": plan.shard_images,
                    "stored_bytes": sum(
                        size
                        for key, size in self.header.shard_bytes.items()
                        if key.startswith(name + "/")
                    ),
                }
                for name, plan in self.header.arrays.items()
            },
            "classes": self.class_names,
            **({"groups": len(self.group_names)} if self.group_names else {}),
            "skipped": self.attributes.get("skipped", []),
            "stored_bytes": sum(self.header.shard_bytes.values()),
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "request": request,
            "provenance": self.provenance,
        }

    def plot(
        self, image: int | str, map: str = "friction", mode: int | None = None,
        ax: Axes | None = None,
    ) -> Axes:  # fmt: skip
        """Draw one map of one image with matplotlib.

        Parameters
        ----------
        image : int or str
            Its row, or its id.
        map : str
            Friction has logarithmic colours (blank where not positive), repeats their mean.
        mode : int
            0 is the largest singular value. By default 1, or 0 where there is no other.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new pyplot figure.
        """
        from frictionstore.store.picture import draw

        self._check_name(map)
        return draw(self, image, map, mode, ax)

    def __repr__(self) -> str:
        rows, columns = self.grid
        return (
            f"<frictionstore.Store {printable(self.name)}: {self.n_images:,} images, grid "
            f"{rows} x {columns}, {self.n_modes} modes, {len(self.class_names)} classes, "
            f"maps {', '.join(self.maps)}, {byte_count(sum(self.header.shard_bytes.values()))}, "
            f"digest {self.digest[:12]}>"
        )

    def _repr_html_(self) -> str:
        from frictionstore.store.html import store_html

        return store_html(self.summary(), self.maps)
