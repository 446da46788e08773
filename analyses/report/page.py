"""The report: one HTML file from a store and the saved results of its analyses.

It needs no network and no other file. What is in it comes from the results themselves, so an
analysis of another package appears as ours do; pictures of maps are drawn in `report_pictures`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore import Store
from frictionstore.analyses.report.html import Budget, facts, svg_figure, table, text, with_interval
from frictionstore.analyses.report.methods import CAPTIONS, LINE_ANALYSIS, METHODS
from frictionstore.analyses.report.pictures import (
    INSIDE,
    class_mean_maps,
    f_maps,
    image_cards,
    spans,
)
from frictionstore.analyses.report.saved import Saved, holds_results, read_results, summarised
from frictionstore.analyses.report.typical import image_typicality
from frictionstore.errors import RequestError
from frictionstore.format.fingerprint import leaves
from frictionstore.format.schema import ORDER_IN_WORDS
from frictionstore.io.durable import explain_os_errors, write_atomic
from frictionstore.text import printable
from frictionstore.version import __version__

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
        The maps asked for; none takes what is in the folder, or friction, or the first map of the
        store.

    Raises
    ------
    frictionstore.errors.FrictionstoreError
        The folder holds something else, or results of another store.
    """
    from frictionstore.analyses.core.saved import check_folder
    from frictionstore.analyses.everything import default_feature

    check_folder(folder, store.digest)
    if features:
        there = summarised(folder)
        return [name for name in features if name not in there]
    return [] if holds_results(folder) else [default_feature(store)]


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
    with explain_os_errors(str(out), "choose a file that can be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page)
    return out


def _page(store: Store, saved: list[Saved], budget: Budget) -> str:
    summary = [one for one in saved if one.analysis == "summary"]
    others = [one for one in saved if one.analysis != "summary"]
    sections: list[tuple[str, str, str]] = [
        ("summary", "Summary", _summary(summary, others, budget))
    ]
    for number, one in enumerate(others):
        sections.append((one.key, one.heading, _section(one, f"f{number}", others, budget)))
    typical = _typical(store, others)
    if typical:
        sections.append(("typical", "Most and least typical images", typical))
    left_out = [
        one for closing in summary for one in closing.content["parameters"].get("left_out") or ()
    ]
    if left_out:
        several = len({one["feature"] for one in left_out}) > 1
        lines = "".join(
            f"<li>{text(one['analysis'])}{text(' of ' + one['feature']) if several else ''}: "
            f"{text(one['reason'])}</li>"
            for one in left_out
        )
        sections.append(("left-out", "What could not be done", f"<ul>{lines}</ul>"))
    sections.append(("source", "What this is of", _source(store, saved)))
    contents = "".join(f'<li><a href="#{key}">{text(name)}</a></li>' for key, name, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{text(name)}</h2>'
        f"{html}</section>"
        for key, name, html in sections
    )
    assets = files(__package__) / "assets"
    style = (assets / "style.css").read_text(encoding="utf-8")
    script = (assets / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    rows, columns = store.grid
    labelled = f", {len(store.class_names)} classes" if store.class_names else ", no labels"
    intro = (
        f"{store.n_images:,} images{labelled}, {rows} x {columns} patches, {store.n_modes} modes "
        f"({ORDER_IN_WORDS[store.header.mode_order]})"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True)}">'
        f'<meta name="generator" content="frictionstore {escape(__version__)}">'
        f"<title>{text(store.name)}: friction report</title>"
        '<link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body>"
        '<a class="skip" href="#summary">Skip to the summary</a><div class="page">'
        f'<nav aria-label="Sections"><ul>{contents}</ul></nav><main>'
        f'<h1>{text(store.name)}</h1><p class="soft">{text(intro)}<br>'
        f'digest <span class="hex">{escape(store.digest[:16])}</span></p>{body}'
        f'<footer class="soft"><p>Made by frictionstore {escape(__version__)} with '
        f"<code>frictionstore report</code>.</p></footer></main></div>"
        f'<script type="module">{script}</script></body></html>\n'
    )


# ---- summary ------------------------------------------------------------------------------------


def _summary(summary: list[Saved], others: list[Saved], budget: Budget) -> str:
    parts = []
    for one in summary:
        if len(summary) > 1:
            parts.append(f"<h3>{text(one.heading)}</h3>")
        parts.append(f'<p class="lead">{text(one.content["answer"])}</p>')
        rows, total, data = one.table("summary")
        parts.append(f'<ul class="lines">{_lines(rows, one.beside(others))}</ul>')
        parts.extend(_caveats(one))
        where = f"{one.folder.name}/summary.csv"
        whole = table("summary", rows, total, data, where, budget)
        parts.append(f"<details><summary>These lines as a table</summary>{whole}</details>")
    if not summary:
        parts.extend(
            f'<p><a href="#{one.key}">{text(one.heading)}</a>: {text(one.content["answer"])}</p>'
            for one in others
        )
    return "".join(parts)


def _lines(rows: list[dict[str, Any]], others: list[Saved]) -> str:
    """One sentence a line, the notebook's figure and verdict beside it."""
    from frictionstore.analyses.core.terminal import number

    notebooks = {one.analysis: one.content["notebook"] for one in others}
    links = {one.analysis: one.key for one in others}
    items = []
    for row in rows:
        value = with_interval(row["value"], row["value_low"], row["value_high"], row["p"])
        line = row["line"]
        sentence = f"{text(row['measure'])} is <b>{value}</b>."
        theirs = ""
        if line:
            analysis, key = LINE_ANALYSIS.get(line, ("", ""))
            sentence = f"{text(line[0].upper() + line[1:])}: {sentence}"
            if row["notebook"] is not None:
                theirs = f"notebook: {escape(number(row['notebook']))}"
            verdict = notebooks.get(analysis, {}).get(key)
            if verdict:
                theirs += f' <span class="chip">{text(str(verdict))}</span>'
            if analysis in links:
                sentence += f' <a href="#{links[analysis]}">more</a>'
        else:
            sentence = sentence[0].upper() + sentence[1:]
        items.append(f'<li><p>{sentence}</p><p class="theirs">{theirs}</p></li>')
    return "".join(items)


# ---- one analysis -------------------------------------------------------------------------------


def _section(one: Saved, prefix: str, all_results: list[Saved], budget: Budget) -> str:
    content = one.content
    sentences = [text(sentence) for sentence in content["sentences"]]
    parts = [
        f'<p class="question">{text(content["question"])}</p>',
        f'<p class="answer">{sentences[0]}</p>',
        *(f"<p>{sentence}</p>" for sentence in sentences[1:]),
    ]
    draw = _PICTURES.get(one.analysis)
    if draw is not None:
        parts.append(draw(one, all_results))
    drawn_here = {("f-statistic", "f_map")}
    for path in sorted(one.folder.glob("*.svg")):
        if (one.analysis, path.stem) in drawn_here:
            continue
        name = path.stem.replace("_", " ")
        caption = CAPTIONS.get((one.analysis, path.stem), name)
        alt = f"{caption}. {content['answer']}"
        svg = path.read_text(encoding="utf-8")
        parts.append(svg_figure(svg, f"{prefix}-{path.stem}", text(caption), printable(alt, 600)))
    names = list(content["tables"])
    tables = [
        table(name, *one.table(name), f"{one.folder.name}/{name}.csv", budget) for name in names
    ]
    parts.extend(tables[:1])
    if tables[1:]:
        listed = ", ".join(text(name.replace("_", " ")) for name in names[1:])
        parts.append(
            f"<details><summary>More tables: {listed}</summary>{''.join(tables[1:])}</details>"
        )
    method = METHODS.get(one.analysis)
    if method:
        parts.append(f'<p class="method"><b>Method.</b> {text(method)}</p>')
    parts.extend(_caveats(one))
    parts.append(_asked(one))
    return "".join(parts)


def _caveats(one: Saved) -> list[str]:
    caveats = one.content["caveats"]
    if not caveats:
        return []
    items = "".join(f"<li>{text(caveat)}</li>" for caveat in caveats)
    return [f'<ul class="caveats" aria-label="Caveats">{items}</ul>']


def _asked(one: Saved) -> str:
    """Parameters and the notebook's single figures, folded away."""
    parameters = {k: v for k, v in one.content["parameters"].items() if k != "left_out"}
    if one.content["seed"] is not None:
        parameters["seed"] = one.content["seed"]
    notebook = {
        name: value
        for name, value in one.content["notebook"].items()
        if not isinstance(value, list | dict)
    }
    parts = facts([(name.replace("_", " "), value) for name, value in parameters.items()])
    if notebook:
        parts += "<h3>The notebook's figures</h3>" + facts(
            [(name.replace("_", " "), value) for name, value in notebook.items()]
        )
    return f"<details><summary>Parameters and the notebook's figures</summary>{parts}</details>"


def _class_means(one: Saved, all_results: list[Saved]) -> str:
    arrays = one.arrays()
    if "class_means" not in arrays:
        return ""
    rows, _, _ = one.table("classes")
    names = [str(row["class"]) for row in rows]
    return class_mean_maps(arrays["class_means"], names, one.feature, _main_mode(all_results, one))


def _f_statistic(one: Saved, all_results: list[Saved]) -> str:
    arrays = one.arrays()
    if "f" not in arrays:
        return ""
    alpha = float(one.content["parameters"].get("alpha", 0.05))
    return "<h3>F at every position</h3>" + f_maps(arrays["f"], arrays.get("p_family_wise"), alpha)


_PICTURES: dict[str, Callable[[Saved, list[Saved]], str]] = {
    "class-distance": _class_means,
    "f-statistic": _f_statistic,
}


def _main_mode(all_results: list[Saved], beside: Saved) -> int | None:
    """The mode with the largest F of the same map, else the one whose mean map varies most."""
    for analysis, key in (
        ("f-statistic", "max_f_mode"),
        ("mode-variance", "largest_variance_mode"),
    ):
        for one in all_results:
            if one.analysis == analysis and one.feature == beside.feature:
                mode = one.content["values"].get(key)
                if mode is not None:
                    return int(mode)
    return None


# ---- images -------------------------------------------------------------------------------------


def _typical(store: Store, others: list[Saved]) -> str:
    """The images nearest to and farthest from their class's mean map."""
    means, classes, feature, of = None, None, "", ""
    for one in others:
        arrays = one.arrays()
        if one.feature not in store.maps:
            continue
        if one.analysis == "class-distance" and "class_means" in arrays:
            rows, _, _ = one.table("classes")
            place = {str(row["class"]): k for k, row in enumerate(rows)}
            by_label = np.array([place.get(name, -1) for name in store.class_names] + [-1])
            means, classes = arrays["class_means"], by_label[store.labels]
            feature, of = one.feature, "its class's mean map"
            break
        if one.analysis == "mode-variance" and "mean_map" in arrays:
            means, classes = arrays["mean_map"][None], np.zeros(store.n_images, np.int64)
            feature, of = one.feature, "the mean map of all images"
    if means is None or classes is None or store[feature].ndim != 4:
        return ""
    scores = image_typicality(store, feature, np.asarray(means, np.float64), classes)
    known = np.flatnonzero(np.isfinite(scores))
    if known.size < 2:
        return ""
    order = known[np.argsort(scores[known], kind="stable")]
    count = min(CARDS, known.size // 2)
    beside = next(one for one in others if one.feature == feature)
    mode = _main_mode(others, beside)
    mode = 0 if mode is None else mode
    chosen = [int(row) for row in (*order[:count], *order[::-1][:count])]
    maps = {row: store.read(feature, slice(row, row + 1))[0, ..., mode] for row in chosen}
    low, high = spans(np.stack([maps[row].astype(np.float64) for row in chosen]), INSIDE)

    def card(row: int) -> tuple[str, str, np.ndarray | None, np.ndarray]:
        label = int(store.labels[row])
        name = f"class {store.class_names[label]}, " if 0 <= label < len(store.class_names) else ""
        picture = store.read("image", slice(row, row + 1))[0] if "image" in store.maps else None
        note = f"{name}distance {scores[row]:.2f}"
        return str(store.image_ids[row]), note, picture, maps[row].astype(np.float64)

    what = f"{feature}, mode {mode}"
    return (
        f"<p>Distance of each image's {text(feature)} from {of}, every mode on its own scale; 1 is "
        f"as far as an image is on average. The maps are of mode {mode}, on one colour range.</p>"
        f"<h3>most typical</h3>{image_cards([card(r) for r in chosen[:count]], low, high, what)}"
        f"<h3>least typical</h3>{image_cards([card(r) for r in chosen[count:]], low, high, what)}"
    )


# ---- source -------------------------------------------------------------------------------------


def _source(store: Store, saved: list[Saved]) -> str:
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
    asked = facts([(key, value) for key, value in leaves(request)])
    made = facts(
        [(key, value) for key, value in leaves(store.provenance) if not key.startswith("runs")]
    )
    return (
        facts(pairs)
        + f"<details><summary>What was asked for</summary>{asked}</details>"
        + (f"<details><summary>How it was made</summary>{made}</details>" if made else "")
    )
