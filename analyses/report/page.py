"""The report: one HTML file from a store and the saved results of its analyses.

It needs no network and no other file. What is in it comes from the results themselves, so an
analysis of another package appears as ours do; pictures of maps are drawn in `pictures`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from frictionstore import Store
from frictionstore.analyses.core.null_verdicts import beside
from frictionstore.analyses.core.saved import RELIABILITY
from frictionstore.analyses.core.terminal import number
from frictionstore.analyses.report.html import (
    Budget,
    label,
    piece,
    render,
    svg_figure,
    table,
    with_interval,
)
from frictionstore.analyses.report.methods import CAPTIONS, METHODS
from frictionstore.analyses.report.pictures import (
    INSIDE,
    SEQUENTIAL,
    bar,
    class_mean_maps,
    f_maps,
    image_card,
    spans,
)
from frictionstore.analyses.report.saved import Saved, holds_results, read_results, summarised
from frictionstore.analyses.report.typical import image_typicality
from frictionstore.errors import RequestError
from frictionstore.format.fingerprint import leaves
from frictionstore.format.schema import ORDER_IN_WORDS
from frictionstore.io.aside import check_page
from frictionstore.io.durable import explain_os_errors, write_atomic
from frictionstore.version import __version__

SECTIONS = "sections.html"
MARK = b'<meta name="generator" content="frictionstore '
Section = tuple[str, str, Markup]  # its id, heading and content
LIMIT = 10_000_000  # bytes of a report, so that a mail takes it
CARDS = 6  # most typical images shown, and as many of the least


def to_analyse(store: Store, folder: Path, features: Sequence[str] = ()) -> list[str]:
    """The maps that a report needs and whose results a folder does not hold yet.

    Parameters
    ----------
    store : Store
    folder : Path
        Where results are, and go.
    features : sequence of str, optional
        The maps asked for; none takes what is in the folder, or what `summary` leads with and
        friction as it was measured, or the first map of the store.

    Raises
    ------
    frictionstore.errors.FrictionstoreError
        The folder holds something else, or results of another store.
    """
    from frictionstore.analyses.core.leading import FRICTION, default_features
    from frictionstore.analyses.core.saved import check_folder

    check_folder(folder, store.digest)
    if features:
        there = summarised(folder)
        return [name for name in features if name not in there]
    return [] if holds_results(folder) else default_features(store) or [FRICTION]


def analyse(
    store: Store,
    folder: Path,
    features: Sequence[str],
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> list[dict[str, str]]:
    """Do every analysis of some maps that the store allows and save the results in a folder.

    Returns
    -------
    list of dict
        `analysis`, `feature` and `reason` of each that could not be done.

    Raises
    ------
    frictionstore.errors.FrictionstoreError
        None of the analyses could be done, or the folder cannot be written.
    """
    from frictionstore.analyses.core.saved import save_all
    from frictionstore.analyses.everything import analyze_all

    results = analyze_all(store, feature=features, seed=seed, show_progress=show_progress)
    save_all(results, folder)
    return [one for result in results for one in result.parameters.get("left_out") or ()]


def write_report(
    store: Store,
    out: Path,
    results: Path,
    *,
    features: Sequence[str] = (),
) -> Path:
    """Write the report of a store from its saved results.

    Parameters
    ----------
    store : Store
    out : Path
        The HTML file; its folder is made where it is missing.
    results : Path
        A folder that ``frictionstore analyze all`` saved.
    features : sequence of str, optional
        Only results about these maps; none takes all that are there.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    RequestError
        The results are of another store, or the report would be too large to send.
    frictionstore.errors.StoreError
        `out` is a file that is no report, or lies in a store.
    """
    saved = read_results(results, store, features)
    page = b""
    # Whole tables as CSV where they fit; a store of many images has them beside the report.
    for csv_bytes, rows in ((5_000_000, 500), (1_000_000, 100), (0, 25)):
        page = _page(store, saved, Budget(csv_bytes, rows)).encode()
        if len(page) <= LIMIT:
            break
    else:
        raise RequestError(
            f"the report would have {len(page):,} bytes, more than {LIMIT:,}: its figures are too "
            "large for one file"
        )
    check_page(out, MARK)
    with explain_os_errors(str(out), "choose a file that can be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page)
    return out


def _page(store: Store, saved: list[Saved], budget: Budget) -> str:
    summary = [one for one in saved if one.analysis == "summary"]
    others = [one for one in saved if one.analysis != "summary"]
    sections: list[Section] = [("summary", "Summary", _summary(summary, others, budget))]
    sections += [
        (one.key, one.heading, _section(store, one, f"f{k}", others, budget))
        for k, one in enumerate(others)
    ]
    typical = _typical(store, others)
    if typical:
        sections.append(("typical", "Most and least typical images", typical))
    left_out = [
        one for closing in summary for one in closing.content["parameters"].get("left_out") or ()
    ]
    if left_out:
        several = len({one["feature"] for one in left_out}) > 1
        items = piece("left_out", left_out, several, template=SECTIONS)
        sections.append(("left-out", "What could not be done", items))
    sections.append(("source", "What this is of", _source(store, saved)))
    assets = files(__package__) / "assets"
    script = (assets / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    rows, columns = store.grid
    labelled = f", {len(store.class_names)} classes" if store.class_names else ", no labels"
    return render(
        "page.html",
        name=store.name,
        digest=store.digest[:16],
        intro=f"{store.n_images:,} images{labelled}, {rows} x {columns} patches, "
        f"{store.n_modes} modes ({ORDER_IN_WORDS[store.header.mode_order]})",
        sections=sections,
        version=__version__,
        style=Markup((assets / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
    )


# ---- summary ------------------------------------------------------------------------------------


def _summary(summary: list[Saved], others: list[Saved], budget: Budget) -> Markup:
    shown = []
    for one in summary:
        rows, data = one.table("summary")
        shown.append({
            "heading": one.heading,
            "content": one.content,
            "lines": _lines(rows, one, one.beside(others)),
            "table": table("summary", rows, data, f"{one.folder.name}/summary.csv", budget),
        })  # fmt: skip
    # First of all how much of what follows would be the same, measured again.
    reliability = [one for one in others if one.analysis == RELIABILITY]
    return piece("summary", reliability, shown, others, template=SECTIONS)


def _lines(rows: list[dict[str, Any]], summary: Saved, others: list[Saved]) -> list[dict[str, str]]:
    """One sentence a line, the notebook's figure and verdict beside it."""
    by_name = {one.analysis: one for one in others}
    # Analysis and verdict of each line; results of earlier versions do not say them.
    of = [tuple(one) for one in summary.content["parameters"].get("lines") or ()]
    of += [()] * (len(rows) - len(of))
    items = []
    for row, ids in zip(rows, of, strict=False):
        analysis, verdict = ids if len(ids) == 2 else ("", "")
        one = by_name.get(analysis)
        line, measure = str(row["line"] or ""), str(row["measure"])
        given = one.content["notebook"].get(verdict) if one else None
        items.append({
            "line": line[:1].upper() + line[1:],
            "measure": measure if line else measure[:1].upper() + measure[1:],
            "value": with_interval(row["value"], row["value_low"], row["value_high"], row["p"]),
            "key": one.key if one and line else "",
            "notebook": "" if row["notebook"] is None else number(row["notebook"]),
            "verdict": "" if given is None else f"{given}{beside(analysis, verdict)}",
        })  # fmt: skip
    return items


# ---- one analysis -------------------------------------------------------------------------------


def _section(
    store: Store, one: Saved, prefix: str, all_results: list[Saved], budget: Budget
) -> Markup:
    content = one.content
    draw = _PICTURES.get(one.analysis)
    drawings = []
    for k, (name, data) in enumerate(one.drawings(but={("f-statistic", "f_map")})):
        caption = CAPTIONS.get((one.analysis, name), label(name))
        alt = f"{caption}. {content['answer']}"
        drawings.append(svg_figure(data, f"{prefix}-{k}", caption, alt))
    names = list(content["tables"])
    tables = [table(n, *one.table(n), f"{one.folder.name}/{n}.csv", budget) for n in names]
    parameters = {
        name: value
        for name, value in {**content["parameters"], "seed": content["seed"]}.items()
        if name not in ("left_out", "lines") and (name, value) != ("seed", None)
    }
    notebook = [
        (label(name), f"{value}{beside(one.analysis, name)}" if isinstance(value, str) else value)
        for name, value in content["notebook"].items()
        if not isinstance(value, list | dict)
    ]
    return piece(
        "section",
        content,
        draw(store, one, all_results) if draw else "",
        drawings,
        tables,
        [label(name) for name in names],
        METHODS.get(one.analysis),
        [(label(name), value) for name, value in parameters.items()],
        notebook,
    )


def _means(store: Store, one: Saved) -> tuple[NDArray[np.float64], list[str]] | None:
    """The class means of a result and the names of the classes."""
    if "class_means" not in one.content["arrays"]:
        return None
    names = [str(row["class"]) for row in one.table("classes")[0]]
    means = one.array("class_means", (len(names), *store.grid, store.n_modes))
    return None if means is None or not names else (means, names)


def _class_means(store: Store, one: Saved, all_results: list[Saved]) -> Markup | str:
    found = _means(store, one)
    if found is None:
        return ""
    return class_mean_maps(*found, one.feature, _main_mode(store, all_results, one))


def _f_statistic(store: Store, one: Saved, all_results: list[Saved]) -> Markup | str:
    shape = (*store.grid, store.n_modes)
    f = one.array("f", shape)
    if f is None:
        return ""
    alpha = float(one.content["parameters"].get("alpha", 0.05))
    return f_maps(f, one.array("p_family_wise", shape), alpha)


_PICTURES: dict[str, Callable[[Store, Saved, list[Saved]], Markup | str]] = {
    "class-distance": _class_means,
    "f-statistic": _f_statistic,
}


def _main_mode(store: Store, all_results: list[Saved], beside: Saved) -> int | None:
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


# ---- images -------------------------------------------------------------------------------------


def _mean_maps(store: Store, others: list[Saved]) -> tuple[Saved, Any, Any, str] | None:
    """A result with mean maps, these, the mean map of each image (-1: none), and what they are."""
    for one in others:
        if one.feature not in store.maps or store[one.feature].ndim != 4:
            continue
        if one.analysis == "class-distance" and (found := _means(store, one)):
            place = {name: k for k, name in enumerate(found[1])}
            by_label = np.array([place.get(name, -1) for name in store.class_names] + [-1])
            return one, found[0], by_label[store.labels], "its class's mean map"
        if one.analysis == "mode-variance":
            mean = one.array("mean_map", (*store.grid, store.n_modes))
            if mean is not None:
                everything = np.zeros(store.n_images, np.int64)
                return one, mean[None], everything, "the mean map of all images"
    return None


def _typical(store: Store, others: list[Saved]) -> Markup | None:
    """The images nearest to and farthest from their class's mean map."""
    found = _mean_maps(store, others)
    if found is None:
        return None
    one, means, classes, of = found
    feature = one.feature
    scores = image_typicality(store, feature, means, classes)
    known = np.flatnonzero(np.isfinite(scores))
    if known.size < 2:
        return None
    order = known[np.argsort(scores[known], kind="stable")]
    count = min(CARDS, known.size // 2)
    mode = _main_mode(store, others, one) or 0
    chosen = [int(row) for row in (*order[:count], *order[::-1][:count])]
    maps = [store.read(feature, slice(k, k + 1))[0, ..., mode].astype(np.float64) for k in chosen]
    ends = spans(np.stack(maps), INSIDE)
    what = f"{feature}, mode {mode}"
    cards = []
    for row, values in zip(chosen, maps, strict=True):
        k = int(store.labels[row])
        name = f"class {store.class_names[k]}, " if 0 <= k < len(store.class_names) else ""
        picture = store.read("image", slice(row, row + 1))[0] if "image" in store.maps else None
        note = f"{name}distance {scores[row]:.2f}"
        cards.append(image_card(str(store.image_ids[row]), note, picture, values, ends, what))
    text = (
        f"Distance of each image's {feature} from {of}, every mode on its own scale; 1 is as far "
        f"as an image is on average. The maps are of mode {mode}, on one colour range."
    )
    legend = bar(*ends, SEQUENTIAL, "one range for all images, 99% of the values")
    return piece("typical", text, cards[:count], cards[count:], legend)


# ---- source -------------------------------------------------------------------------------------


def _source(store: Store, saved: list[Saved]) -> Markup:
    """What was measured, on which store, with which versions."""
    request = store.request
    dataset, encoder = request.get("dataset", {}), request.get("encoder", {})
    pairs: list[tuple[str, object]] = [("store", store.name)]
    if isinstance(dataset, dict) and "name" in dataset:
        pairs.append(("data set", dataset["name"]))
    recorded = store.provenance.get("encoder")
    if isinstance(recorded, dict) and "name" in recorded:
        pairs.append(("encoder", recorded["name"]))
    if isinstance(encoder, dict) and "weights_sha256" in encoder:
        pairs.append(("encoder's weights", encoder["weights_sha256"]))
    pairs += [
        ("images", f"{store.n_images:,}"),
        ("maps", ", ".join(store.maps)),
        ("digest", store.digest),
        ("fingerprint", store.fingerprint),
    ]
    provenance = saved[0].content["provenance"]
    pairs += [(f"version of {name}", v) for name, v in provenance.get("versions", {}).items()]
    if provenance.get("command"):
        pairs.append(("analysed with", provenance["command"]))
    made = [one for one in leaves(store.provenance) if not one[0].startswith("runs")]
    return piece("source", pairs, list(leaves(request)), made, template=SECTIONS)
