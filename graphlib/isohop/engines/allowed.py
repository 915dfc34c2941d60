"""Where what schema and pipeline files name may lie: anywhere, or where ``ISOHOP_ALLOWED`` says.

Who runs files that others write, as a scheduler does, says in the environment which folders and
URLs these may name, with ``;`` between them: ``/warehouse;s3://bucket/isohop``. The files
themselves may lie anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from isohop.engines.object_store import StoredFolder, is_url

VARIABLE = "ISOHOP_ALLOWED"


def forbidden(where: str | Path) -> str | None:
    """What is wrong with naming a path or a URL, or None. Paths are taken to where links lead.
    Raises `IsohopError` for a URL that is none."""
    allowed = [one.strip() for one in os.environ.get(VARIABLE, "").split(";")]
    if not any(allowed):
        return None
    if is_url(where):
        stored = StoredFolder.of(str(where))
        inside = any(_holds(StoredFolder.of(one), stored) for one in allowed if is_url(one))
    else:
        path = Path(where).resolve()
        homes = [Path(one).expanduser() for one in allowed if one and not is_url(one)]
        inside = any(path.is_relative_to(home.resolve()) for home in homes)
    if inside:
        return None
    return f"{where} lies outside of what {VARIABLE} allows: {', '.join(filter(None, allowed))}."


def _holds(home: StoredFolder, stored: StoredFolder) -> bool:
    return f"{stored}/".startswith(f"{home}/")
