"""What the Hub's data set viewer and a card show of a store: a table, a picture, findings.

They lie beside the store in its repository, and are no part of it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError, StoreError
from frictionstore.format.fingerprint import read_json
from frictionstore.share.export import about, arrow
from frictionstore.store.reader import Store
from frictionstore.store.table import blocks, index_columns, map_columns
from frictionstore.text import printable

INDEX, RESULT = "results.json", "result.json"  # of a folder of saved results, and of one
FINDINGS = 3
FIRST = ("spatial-cv", "f-statistic", "ridge-probe")  # what a reader asks first
PICTURED = 6  # images in the picture


def write_table(store: Store, path: Path) -> None:
    """One Parquet file: a row an image, with means of its maps and its thumbnail.

    The Hub shows the column ``image`` as pictures: PNG files, each of one thumbnail.
    """
    pa = arrow()
    thumbnails = "image" in store.maps
    maps = [name for name in store.maps if name != "image" and not name.endswith("_repeats")]
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    writer = None
    try:
        for rows, arrays in blocks(store, [*maps, *(["image"] if thumbnails else [])]):
            columns: dict[str, Any] = {}
            for name, values in index_columns(store, rows).items():
                kind = pa.int32() if name == "label" else pa.string()
                columns[name] = pa.array(values.tolist(), kind)
            if thumbnails:
                shown = [{"bytes": png(one), "path": None} for one in arrays.pop("image")]
                columns["image"] = pa.array(shown, picture)
            figures = map_columns(store, arrays)
            columns |= {name: pa.array(values) for name, values in figures.items()}
            table = pa.table(columns)
            if writer is None:
                said = {"frictionstore": about(store)}
                if thumbnails:
                    features = {"image": {"_type": "Image"}}
                    said["huggingface"] = json.dumps({"info": {"features": features}})
                layout = table.schema.with_metadata(said)
                writer = pa.parquet.ParquetWriter(str(path), layout, compression="zstd")
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An RGB image of shape (y, x, 3) as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def picture(store: Store) -> bytes:
    """Images from all over the store, a column each: the thumbnail if there is one, and a map.

    The map is friction's mode 1, or of the first map where there is no friction.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawable = [name for name in store.maps if name != "image"]
    shown = "friction" if "friction" in drawable else drawable[0]
    down = ["image", shown] if "image" in store.maps else [shown]
    count = min(PICTURED, store.n_images)
    figure = Figure(figsize=(2.6 * count, 2.6 * len(down)), layout="constrained")
    grid = figure.subplots(len(down), count, squeeze=False)
    modes = store.header.arrays[shown].spec.modes
    mode = min(1, store.n_modes - 1) if modes else 0
    for column, row in enumerate(np.linspace(0, store.n_images - 1, count).astype(int)):
        for line, name in enumerate(down):
            axes = store.plot(int(row), name, mode, grid[line, column])
            what = f", mode {mode}" if modes else ""
            said = f"image {row}" if line == 0 else ""  # ids need fonts, rows do not
            if name == shown:
                said += f"\n{shown}{what}"
            axes.set(title=said.strip(), xlabel="", ylabel="", xticks=[], yticks=[])
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def findings(folder: Path, digest: str) -> list[tuple[str, str, list[str]]]:
    """Three saved results of a store: what was asked, the answer, what to know before using it.

    Raises
    ------
    RequestError
        The folder has none, or they are of another store.
    """
    shown = printable(folder)
    files = [folder / RESULT, *sorted(folder.glob(f"*/{RESULT}"))] if folder.is_dir() else []
    found = []
    for file in files:
        try:
            content = read_json(file.parent, file.name)
            of = content["provenance"]["digest"]
            name, feature, answer = (content[k] for k in ("analysis", "feature", "answer"))
            caveats = content["caveats"]
            texts = [of, name, feature, answer, *caveats]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError
        except FileNotFoundError:
            continue
        except (OSError, StoreError, ValueError, KeyError, TypeError, RecursionError):
            raise RequestError(f"{printable(file)} is not a saved result") from None
        if of != digest:
            raise RequestError(
                f"{printable(file)} is of another store (digest {printable(of, 12)}, not "
                f"{digest[:12]}): give results of the store that is pushed"
            )
        rank = FIRST.index(name) if name in FIRST else len(FIRST)
        asked = f"{name}, {feature}" if feature else name
        found.append((rank, feature != "friction", asked, answer, caveats))
    if not found:
        raise RequestError(f"{shown} holds no saved results: make some with frictionstore analyze")
    found.sort(key=lambda one: one[:3])
    best: list[tuple[str, str, list[str]]] = []
    asked_before: set[str] = set()
    for _, _, asked, answer, caveats in found:  # three questions rather than one of three maps
        question = asked.split(",")[0]
        if question not in asked_before and len(best) < FINDINGS:
            asked_before.add(question)
            best.append((asked, answer, caveats))
    return best
