"""Where what schema and pipeline files name may lie: anywhere, or where ``ISOHOP_ALLOWED`` says.

Who runs files that others write, as a scheduler does, says in the environment which folders and
URLs these may name, with ``;`` between them: ``/warehouse;s3://bucket/isohop``. The files
themselves may lie anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from isohop.engines.object_store import StoredFolder, is_url
from isohop.errors import IsohopError

VARIABLE = "ISOHOP_ALLOWED"


def forbidden(where: str | Path) -> str | None:
    """What is wrong with naming a path or a URL, or None. Paths are taken to where links lead."""
    try:
        stored = StoredFolder.of(str(where)) if is_url(where) else None
    except IsohopError as error:
        return str(error)
    allowed = [home for one in os.environ.get(VARIABLE, "").split(";") if (home := one.strip())]
    if stored is None:
        path = Path(where).resolve()
        homes = [Path(home).expanduser().resolve() for home in allowed if not is_url(home)]
        inside = any(path.is_relative_to(home) for home in homes)
    else:
        urls = [StoredFolder.of(home) for home in allowed if is_url(home)]
        inside = any(f"{stored}/".startswith(f"{url}/") for url in urls)
    if inside or not allowed:
        return None
    return f"{where} lies outside of what {VARIABLE} allows: {', '.join(allowed)}."
