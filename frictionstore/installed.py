"""What is installed here and from where, and the command that installs more of it.

No package index has frictionstore: more of it comes from where this one came from.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parent.parent


def checkout() -> Path | None:
    """The checkout that this package runs from, or None where it is installed."""
    return ROOT if (ROOT / "hatch_build.py").is_file() else None


def install_command(*extras: str) -> str:
    """The command that adds extras to this installation.

    Parameters
    ----------
    *extras : str
        Names from pyproject.toml: ``extract``, ``remote``, ``geolip``.
    """
    names = f"[{','.join(extras)}]"
    pip = f"{_python()} -m pip install"
    root = checkout()
    if root is not None:
        place = "." if root == Path.cwd() else str(root)
        return f"{pip} -e {shlex.quote(place + names)}"
    origin = _origin()
    if origin is not None:
        return f"{pip} {shlex.quote(f'frictionstore{names} @ {origin}')}"
    return f"{pip} {shlex.quote('.' + names)} in a checkout of frictionstore"


def _python() -> str:
    """This interpreter, as it is called from the current folder."""
    path = Path(sys.executable)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def _origin() -> str | None:
    """The URL that pip recorded when it installed this package, if it can be used again."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution("frictionstore").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    if text is None:
        return None
    origin = json.loads(text)
    url = str(origin["url"])
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    parts = urlsplit(url)
    if parts.scheme == "file" and not Path(url2pathname(parts.path)).exists():
        return None
    return url
