"""One writer of a folder in an object store, which has no locks."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from isohop.engines.object_store import StoredFolder
from isohop.errors import IsohopError

if TYPE_CHECKING:
    from types import TracebackType

LEASE_SECONDS = 60
"""Time for which a lease is held without being renewed; it is renewed three times as often."""


class Lease:
    """The right to write a folder, for as long as its holder lives: an object that is renewed. One
    that was not renewed for `LEASE_SECONDS`, by the store's clock, is taken over.

    Raises `IsohopError` on entry where somebody holds it.
    """

    def __init__(self, folder: StoredFolder, name: str, holder: str):
        self._folder = folder
        self._name = name
        self._holder = holder
        self._tag: str | None = None
        self._written: list[bytes] = []
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._renewed = 0.0

    def __enter__(self) -> Lease:
        held = self._held()
        if held is None:
            self._tag = self._folder.put(self._name, self._content(), new=True)
        elif held[2] > timedelta(seconds=LEASE_SECONDS):
            self._tag = self._folder.put(self._name, self._content(), instead_of=held[1])
        if self._tag is None:
            holder = held[0] if held else "another process"
            raise IsohopError(
                f"{self._folder} is being written by {holder}. Wait for it to end; where it died, "
                f"this can go on {LEASE_SECONDS} s later."
            )
        self._renewed = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            held = self._held()
            if held is not None and held[1] == self._tag:
                self._folder.remove([self._name])
        except IsohopError:
            return  # it ends by itself

    def check(self) -> None:
        """Raises `IsohopError` where it may be somebody else's by now."""
        self._renew()
        if self._tag is None or time.monotonic() - self._renewed > LEASE_SECONDS:
            raise IsohopError(
                f"{self._folder}: the right to write it was lost, since the store could not be "
                f"reached for {LEASE_SECONDS} s. Run the same command again."
            )

    def _held(self) -> tuple[str, str, timedelta] | None:
        """Who holds it, its tag and its age."""
        found = self._folder.read_with_age(self._name)
        if found is None:
            return None
        holder, _, _ = found[0].decode("utf-8", "replace").partition("\n")
        return holder[:200], *found[1:]

    def _content(self) -> bytes:
        # Else two renewals would have one tag.
        content = f"{self._holder}\n{uuid.uuid4().hex}\n".encode()
        self._written = [*self._written[-3:], content]
        return content

    def _renew(self) -> None:
        with self._one:
            if self._tag is None:
                return
            began = time.monotonic()
            try:
                tag = self._folder.put(self._name, self._content(), instead_of=self._tag)
                if tag is None:
                    # An earlier renewal may have been done, and its answer lost.
                    found = self._folder.read(self._name)
                    tag = found[1] if found is not None and found[0] in self._written else None
            except IsohopError:
                return  # told by `check` once it has been too long
            self._tag, self._renewed = tag, began

    def _keep(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 3):
            self._renew()
