"""What a report opens with: one picture, and three findings, each with its warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from frictionstore import Store
from frictionstore.analyses.closing_table import closing_lines
from frictionstore.analyses.core.terminal import number
from frictionstore.analyses.findings import findings, further_finding
from frictionstore.analyses.report.html import piece
from frictionstore.analyses.report.means import class_means, main_mode
from frictionstore.analyses.report.pictures import ClassMeans
from frictionstore.analyses.report.robust import log_means
from frictionstore.analyses.report.saved import Saved

MOST = 3
FURTHER = ("f-statistic", "center-edge", "mode-variance", "image-summary")
"""What else is said, of stores that not every analysis could be done on."""
FORETOLD = ("measurement noise", "independent", "heavy-tailed", "groups")
"""Caveats with these words are a finding's warnings; all of them are in its section."""


def opening(store: Store, summary: Saved | None, others: list[Saved]) -> Markup:
    """The first section: of what the first summary is about, or of the first results there are."""
    leads = summary or others[0]
    about = leads.beside(others) or others
    said = _findings(about) if summary else []
    told = {one.key for one, _ in said}
    for one in about if len(said) < MOST else ():
        text = further_finding(one.content) if one.analysis in FURTHER else ""
        if text and one.key not in told and len(said) < MOST:
            said.append((one, f"{one.feature}: {text}" if one.feature not in text else text))
    if not said:
        said = [(one, str(one.content["answer"]).rstrip(".")) for one in about[:MOST]]
    items = [
        {"text": f"{_begun(text, one.feature)}.", "key": one.key, "warnings": _warnings(one)}
        for one, text in said
    ]
    return piece("findings", _picture(store, about), items, template="sections.html")


def _begun(text: str, feature: str) -> str:
    """A sentence's beginning; a map's name stays as it is."""
    return text if feature and text.startswith(feature) else text[:1].upper() + text[1:]


def _findings(about: Sequence[Saved]) -> list[tuple[Saved, str]]:
    by_name = {one.analysis: one for one in about}
    facts: Mapping[str, Any] = {name: one.content for name, one in by_name.items()}
    found = findings(facts, closing_lines(list(facts.values())))
    return [
        (
            by_name[name],
            # What was compared between repeats names its map itself.
            text if not by_name[name].feature or by_name[name].feature in text
            else f"{by_name[name].feature}: {text}",
        )
        for name, text in found
    ]  # fmt: skip


def _warnings(one: Saved) -> list[str]:
    """What a finding may not be quoted without: noise of the measurement, independence, tails."""
    claims = [claim for claim in one.content.get("claims") or () if "word" in claim]
    warnings = []
    if claims:
        known = [c["reliability"] for c in claims if isinstance(c["reliability"], int | float)]
        count = len(claims[0]["repeats"])
        shaky = sum(claim["word"] == "not reproducible" for claim in claims)
        least = f"; reliability of the map {number(float(min(known)))}" if known else ""
        some = f"{shaky} of {len(claims)} claims of this analysis are not" if shaky else "it is"
        warnings.append(f"measured {count + 1} times: {some} reproducible under rounding{least}")
    said = [str(line) for line in one.content["caveats"]]
    warnings += [line for line in said if any(word in line for word in FORETOLD)]
    if not any("independent" in line or "groups" in line for line in said):
        warnings.append("images are taken as independent of each other")
    return warnings


def _picture(store: Store, about: list[Saved]) -> dict[str, object] | None:
    """The classes' mean maps of the main mode: how they differ, where there is evidence that they
    do; without classes the mean map of all images."""
    for one in about:
        if one.analysis == "class-distance" and (means := class_means(store, one)):
            mode = main_mode(store, about, one) or 0
            claim: Mapping[str, Any] = next(iter(one.content.get("claims") or ()), {})
            differ = claim.get("holds") is True and claim.get("word") != "not reproducible"
            return means.strips(mode)[differ]
    for one in about:
        if one.analysis == "mode-variance":
            mean = one.array("mean_map", (*store.grid, store.n_modes))
            if mean is not None:
                everything = np.zeros(store.n_images, np.int64)
                stored = one.feature in store.maps and store[one.feature].ndim == 4
                logs = log_means(store, one.feature, everything, 1) if stored else None
                of = ClassMeans(mean[None], ["all images"], one.feature, logs)
                return of.strips(main_mode(store, about, one) or 0)[0]
    return None
