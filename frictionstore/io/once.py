"""A file that is made once, whole from its first moment, by whoever of many comes first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from frictionstore.io.durable import new_file
from frictionstore.io.owned import rename_new


def place_new(path: Path, data: bytes) -> bool:
    """Write a file of these bytes; False where there is one already."""
    if os.path.lexists(path):
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with new_file(temporary) as file:
        file.write(data)
    try:
        rename_new(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
