"""A store in the formats of others: npz, CSV, Parquet, netCDF; one file, whole or not at all.

Shards stay where they are: what leaves here is for other programs, and is not read back.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.installed import install_command
from frictionstore.io.aside import file_aside
from frictionstore.io.durable import explain_os_errors
from frictionstore.progress import progress_bar
from frictionstore.store.reader import Store, open_store
from frictionstore.store.table import BLOCK_IMAGES, FIGURES, checked_maps, index_columns, summed_up
from frictionstore.text import csv_line, did_you_mean, printable

Advance = Callable[[int], object]
LARGEST_NETCDF3 = 4_000_000_000  # bytes of one variable that netCDF 3 can hold


def export(
    store: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    maps: Iterable[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Path:
    """Write a store as one file that other programs read.

    Parameters
    ----------
    store : str or path
    to : {"npz", "csv", "parquet", "netcdf"}
        ``npz``: every array whole, as `numpy.load` reads it. ``csv``: a line for each image, map
        and mode, with the mean, median, least and greatest value over its patches. ``parquet``: a
        row an image, each map as a list of its values. ``netcdf``: what `Store.to_xarray` is.
    out : path
    maps : names of maps, optional
        By default all; in a CSV all but thumbnails.
    overwrite : bool
        Replace another file at `out`.
    show_progress : bool

    Returns
    -------
    Path

    Raises
    ------
    RequestError
        There is no such format, or it cannot hold this store or be written here.
    StoreError
        `out` is there, or the store is damaged.

    Notes
    -----
    Memory is that of some chunks whatever the number of images, but for netCDF: as much as its
    largest map, or with scipy alone all of them.
    """
    if to not in WRITERS:
        raise RequestError(
            f"there is no format {printable(to)!r}: choose among {', '.join(WRITERS)}"
            + did_you_mean(to, WRITERS)
        )
    source = open_store(store)
    names = checked_maps(source, source.maps if maps is None else maps)
    if to == "csv" and maps is None:
        names = [name for name in names if "channel" not in source.header.arrays[name].spec.dims]
    if not names:
        raise RequestError(f"no map was named: choose among {', '.join(source.maps)}")
    target = Path(out)
    with explain_os_errors(str(target), "nothing was written; mend that and run it again"):
        with (
            progress_bar(source.n_images, "exporting", show=show_progress) as advance,
            file_aside(target, overwrite) as file,
        ):
            WRITERS[to](source, names, file, advance)
    return target


def about(store: Store) -> str:
    """What a file of another format says of where it is from."""
    return json.dumps({"store": store.name, "digest": store.digest, "attributes": store.attributes})


def _npz(store: Store, names: list[str], file: BinaryIO, advance: Advance) -> None:
    """Members as `numpy.savez` names them, written a block at a time."""
    index = index_columns(store, slice(0, store.n_images))
    texts: dict[str, Any] = {"class_names": store.class_names, "about": about(store)}
    texts |= {key: index[key].tolist() for key in ("image_id", "split", "group") if key in index}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("label.npy", "w") as member:
            np.lib.format.write_array(member, store.labels, allow_pickle=False)
        for name, value in texts.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _texts(member, value)
        archive.compression = zipfile.ZIP_STORED  # chunks of floats hardly shrink
        for name in names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                array = store[name]
                header = {"descr": np.dtype(array.dtype).str, "fortran_order": False}
                np.lib.format.write_array_header_1_0(member, {**header, "shape": array.shape})
                for rows, arrays in store.iter_chunks(name):
                    member.write(np.ascontiguousarray(arrays[name]).data.cast("B"))
                    advance((rows.stop - rows.start) if name == names[-1] else 0)


def _texts(member: IO[bytes], value: str | list[str]) -> None:
    """Text of one width, which can be many times its length: made a block at a time."""
    several = value if isinstance(value, list) else [value]
    kind = np.dtype((np.str_, max((len(text) for text in several), default=1) or 1))
    shape = (len(several),) if isinstance(value, list) else ()
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    for first in range(0, len(several), BLOCK_IMAGES):
        member.write(np.array(several[first : first + BLOCK_IMAGES], kind).tobytes())


def _csv(store: Store, names: list[str], file: BinaryIO, advance: Advance) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    head = [*index_columns(store, slice(0, 1)), "map", "mode", *FIGURES]
    text.write(csv_line(head) + "\r\n")
    for rows, arrays in store.iter_chunks(names):
        columns = [column.tolist() for column in index_columns(store, rows).values()]
        found = {
            name: np.stack(
                [summed_up(store.header.arrays[name].spec, values, one) for one in FIGURES], -1
            ).tolist()
            for name, values in arrays.items()
        }
        for k, image in enumerate(zip(*columns, strict=True)):
            known = csv_line(image)
            for name in names:
                modes = store.header.arrays[name].spec.modes
                for mode, figures in enumerate(found[name][k]):
                    told = ",".join(map(repr, figures))
                    text.write(f"{known},{name},{mode if modes else ''},{told}\r\n")
        advance(rows.stop - rows.start)
    text.flush()
    text.detach()


def arrow() -> Any:
    """pyarrow, or the advice to install it."""
    if find_spec("pyarrow") is None:
        raise RequestError(
            f"Parquet needs pyarrow, which is not installed: {install_command('export')}"
        )
    import pyarrow.parquet

    return pyarrow


def _parquet(store: Store, names: list[str], file: BinaryIO, advance: Advance) -> None:
    pa = arrow()
    specs = {name: store.header.arrays[name] for name in names}
    known = index_columns(store, slice(0, 1))
    fields = [pa.field(n, pa.int32() if n == "label" else pa.string()) for n in known]
    for name, plan in specs.items():
        kind = pa.from_numpy_dtype(np.dtype(plan.spec.dtype))
        size = int(np.prod(plan.shape[1:], dtype=np.int64))
        said = {"shape": json.dumps(plan.shape[1:]), "dims": json.dumps(plan.spec.dims[1:]),
                "units": plan.spec.unit, "description": plan.spec.description}  # fmt: skip
        fields.append(pa.field(name, pa.list_(kind, size), metadata=said))
    layout = pa.schema(fields, metadata={"frictionstore": about(store)})
    with pa.parquet.ParquetWriter(file, layout, compression="zstd") as writer:
        for rows, arrays in store.iter_chunks(names):
            columns = [
                pa.array(column.tolist(), field.type)
                for column, field in zip(index_columns(store, rows).values(), layout, strict=False)
            ]
            columns += [_lists(pa, arrays[name], layout.field(name).type) for name in names]
            writer.write_batch(pa.record_batch(columns, schema=layout))
            advance(rows.stop - rows.start)


def _lists(pa: Any, values: NDArray[Any], kind: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)


def _netcdf(store: Store, names: list[str], file: BinaryIO, advance: Advance) -> None:
    """As `xarray.Dataset.to_netcdf` writes it, with netCDF4 or h5netcdf where there is one."""
    engines = {"netCDF4": "netcdf4", "h5netcdf": "h5netcdf"}
    engine = next((engines[name] for name in engines if find_spec(name)), "scipy")
    if engine == "scipy":
        for name in names:
            plan = store.header.arrays[name]
            wide = 2 if plan.spec.dtype == "uint8" else 1  # as `to_xarray` says
            size = wide * schema.row_bytes(plan.spec, plan.shape)
            if size > LARGEST_NETCDF3:
                raise RequestError(
                    f"{name} has {size:,} bytes, and netCDF 3 holds up to {LARGEST_NETCDF3:,}: "
                    "install netCDF4, or leave it out with --maps"
                )
    data = store.to_xarray()
    data = data.drop_vars([name for name in store.maps if name not in names])
    data.attrs = {**data.attrs, "digest": store.digest}
    data.to_netcdf(file.name, engine=engine)  # type: ignore[call-overload]
    advance(store.n_images)


WRITERS: dict[str, Callable[[Store, list[str], BinaryIO, Advance], None]] = {
    "npz": _npz, "csv": _csv, "parquet": _parquet, "netcdf": _netcdf,
}  # fmt: skip
