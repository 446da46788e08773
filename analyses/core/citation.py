"""How a result is quoted: what it is of, what was asked, with what it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.saved import plain
from frictionstore.text import printable

STYLES = ("text", "bibtex")


def cited(what: str, parameters: Mapping[str, Any], of: Mapping[str, Any], style: str) -> str:
    """See `Result.cite`: the question, what was asked, the provenance."""
    if style not in STYLES:
        raise AnalysisError(f"style is {printable(style)!r}: it must be one of {', '.join(STYLES)}")
    store = printable(of.get("store", "a store"), 200)
    digest = printable(of.get("digest", "unknown"), 100)
    versions = of.get("versions", {})
    made = json.dumps(plain(parameters), allow_nan=False) if parameters else "none"
    lines = [
        f"store: {store}, {of.get('n_images', 0):,} images, SHA-256 digest {digest}",
        *([f"classes: {', '.join(map(printable, of['classes']))}"] if "classes" in of else []),
        f"parameters: {printable(made, 4000)}",
        f"command: {printable(of.get('command', 'unknown'), 4000)}",
        f"made with: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]
    if style == "text":
        return "\n".join([f"frictionstore, {printable(what)}", *(f"  {line}" for line in lines)])
    key = re.sub(r"[^A-Za-z0-9]+", "-", f"frictionstore {what} {digest[:12]}").strip("-")
    fields = {
        "title": f"{printable(what)}, store {store}",
        "howpublished": f"frictionstore {versions.get('frictionstore', '')}".strip(),
        "note": "; ".join(lines),
    }
    body = ",\n".join(f"  {name} = {{{_bibtex(text)}}}" for name, text in fields.items())
    return f"@misc{{{key},\n{body}\n}}"


def _bibtex(text: str) -> str:
    """Text in which BibTeX and LaTeX read nothing but text."""
    words = {
        "\\": r"\textbackslash ", "{": r"\textbraceleft ", "}": r"\textbraceright ",
        "~": r"\textasciitilde ", "^": r"\textasciicircum ",
    }  # fmt: skip
    return "".join(words.get(c, f"\\{c}" if c in "&%$#_" else c) for c in text)
