"""What the documentation site needs beside `docs/`: a hook of MkDocs, used by `make docs`.

Pages are the files that the repository has, as they are. The README, the changes and the guide to
working on it become pages; a link to a source file leads to a page that shows the file; notebooks
are executed on a small store and shown with what came out; the API page names what is public. When
the site is written, every address in it is checked: pages, anchors, and that nothing is loaded
from elsewhere.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files outside docs/ that are pages, and the pages' names."""
IMAGES = 240
LINK = re.compile(r"(\]\()([^()\s]+)(\))")
FENCED = re.compile(r"^(?:```|~~~~).*?^(?:```|~~~~)$", re.M | re.S)

log = logging.getLogger("mkdocs.hooks.site")


def prose(text: str, change: Callable[[str], str]) -> str:
    """`text` with what is outside of code blocks changed."""
    parts, end = [], 0
    for block in FENCED.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def led_to(source: str, link: str) -> tuple[str, str] | None:
    """The file of the repository that a link in `source` leads to, and the page that shows it.

    None where the link leads elsewhere, or nowhere: MkDocs warns of the latter.
    """
    address = urlsplit(link)
    if address.scheme or address.netloc or not address.path:
        return None
    name = os.path.normpath(os.path.join(os.path.dirname(source), unquote(address.path)))
    if name.startswith("..") or not (ROOT / name).is_file():
        return None
    if name in OUTSIDE:
        return name, OUTSIDE[name]
    if name.startswith("docs/"):
        return name, re.sub(r"\.ipynb$", ".md", name.removeprefix("docs/"))
    return name, f"source/{name}.md"


def linked(text: str, source: str, page: str) -> str:
    """The text of `source` with the links that it needs as the page `page` of the site."""

    def led(match: re.Match[str]) -> str:
        found = led_to(source, match[2])
        if found is None:
            return match[0]
        anchor = urlsplit(match[2]).fragment
        target = os.path.relpath(found[1], os.path.dirname(page) or ".")
        return match[1] + target + (f"#{anchor}" if anchor else "") + match[3]

    return prose(text, lambda part: LINK.sub(led, part))


def sources_linked(text: str, source: str) -> Iterator[str]:
    """Source files that a page's links lead to."""
    for match in LINK.finditer(FENCED.sub("", text)):
        found = led_to(source, match[2])
        if found is not None and found[1].startswith("source/"):
            yield found[0]


def shown(name: str) -> str:
    """A page that shows a source file, not found by the site's search."""
    language = {".py": "python", ".json": "json", ".cff": "yaml", ".toml": "toml"}
    text = (ROOT / name).read_text(encoding="utf-8")
    kind = language.get(Path(name).suffix, "text")
    head = f"---\ntitle: {name}\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {name}\n\n"
    return f"{head}~~~~{kind}\n{text}\n~~~~\n"


def small_store(path: Path) -> None:
    """Measure the first digits, as ``make extract`` measures all of them."""
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job
    from frictionstore.format.schema import DEFAULT_MAPS

    maps = (*DEFAULT_MAPS, "image")
    run_job(Job("digits", "speckle", path, maps=maps, limit=IMAGES, device="cpu"))


def executed(notebook: Path, folder: Path) -> Any:
    """The notebook, run in `folder`; the first error ends it."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    NotebookClient(
        content, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute()  # fmt: skip
    return content


def public_names() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Headings of the API page, each with names as users write them and where they are defined."""
    import frictionstore
    from frictionstore import analyses

    def where(package: ModuleType, prefix: str) -> list[tuple[str, str]]:
        found = []
        for name in package.__all__:
            value, place = getattr(package, name), f"{package.__name__}.{name}"
            if isinstance(value, ModuleType) and hasattr(value, name):
                value, place = getattr(value, name), f"{place}.{name}"  # an analysis
            if callable(value) and not isinstance(value, ModuleType):
                found.append((f"{prefix}.{name}", place))
        return found

    yield "Stores: `import frictionstore as fs`", where(frictionstore, "fs")
    yield "Analyses: `from frictionstore import analyses`", where(analyses, "analyses")


def api(text: str) -> str:
    """The API page: its text, then every public name."""
    parts = [text]
    for heading, names in public_names():
        parts.append(f"## {heading}\n")
        for name, place in names:
            options = f"    options:\n      heading: {name}\n      toc_label: {name}\n"
            parts.append(f"::: {place}\n{options}")
    return "\n".join(parts)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages of files outside docs/, of notebooks, and of the sources that are linked."""
    from mkdocs.structure.files import File, InclusionLevel

    for name, page in OUTSIDE.items():
        text = linked((ROOT / name).read_text(encoding="utf-8"), name, page)
        files.append(File.generated(config, page, content=text))
    own = (file.src_uri for file in files if not file.generated_by)
    pages = [*OUTSIDE, *(f"docs/{name}" for name in own if name.endswith((".md", ".ipynb")))]
    wanted = {
        found
        for name in pages
        for found in sources_linked((ROOT / name).read_text(encoding="utf-8"), name)
    }
    for name in sorted(wanted):
        files.append(
            File.generated(
                config, f"source/{name}.md", content=shown(name),
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        small_store(Path(folder, "data", "digits-speckle.zarr"))
        for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
            for name, made in as_pages(notebook, Path(folder)):
                files.append(File.generated(config, name, content=made))
    return files


def as_pages(notebook: Path, folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """The page of an executed notebook, and its pictures."""
    page = f"notebooks/{notebook.stem}.md"
    parts = []
    for cell in executed(notebook, folder).cells:
        if cell.cell_type == "markdown":
            parts.append(linked(cell.source, f"docs/notebooks/{notebook.name}", page))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "text/html" in data:
                parts.append(data["text/html"])
            elif "image/png" in data:
                picture = f"{notebook.stem}-{len(parts)}.png"
                yield f"notebooks/{picture}", b64decode(data["image/png"])
                parts.append(f"![What this cell draws.]({picture})")
            else:
                parts.append(f"```text\n{data['text/plain'].rstrip()}\n```")
    parts.append(
        f"Run on the first {IMAGES} digits for this site: [the notebook]({notebook.name})."
    )
    yield page, "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page of docs/ lead to pages."""
    name = page.file.src_uri
    if page.file.generated_by:
        return markdown
    text = linked(markdown, f"docs/{name}", name)
    return api(text) if name == "api.md" else text


class Addresses(HTMLParser):
    """What a page has anchors for, links to, and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note the addresses of one element."""
        has = {name: value for name, value in attributes if value is not None}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        if "href" in has:
            (self.links if tag == "a" else self.loads).add(has["href"])
        if "src" in has:
            self.loads.add(has["src"])
        self.loads |= {part.split()[0] for part in has.get("srcset", "").split(",") if part.split()}


def wrong_addresses(site: Path) -> list[str]:
    """Links that lead nowhere, and what is loaded from elsewhere, in the pages of a built site."""
    pages = {
        path: Addresses(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))
    }
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for link in sorted(page.links | page.loads):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.loads and address.scheme != "data":
                    wrong.append(f"{name} loads {link} from elsewhere")
                continue
            start = site if address.path.startswith("/") else path.parent
            target = path
            if address.path:
                target = Path(os.path.normpath(start / unquote(address.path).lstrip("/")))
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{name}: {link} leads nowhere")
            elif (
                address.fragment
                and target in pages
                and unquote(address.fragment) not in pages[target].anchors
            ):
                wrong.append(f"{name}: {link} has no such anchor")
    for path in sorted(site.rglob("*.css")):
        for found in re.findall(r"(?:url\(|@import)\s*[\"']?(https?:[^\"')\s]+)", path.read_text()):
            wrong.append(f"{path.relative_to(site).as_posix()} loads {found} from elsewhere")
    return wrong


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of every address that is wrong; `--strict` makes errors of warnings."""
    for wrong in wrong_addresses(Path(config.site_dir)):
        log.warning(wrong)
