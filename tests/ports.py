"""Ports for servers that must be told one."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def free_port() -> int:
    """One of loopback that nobody has, and that nobody is given by chance before the server that is
    to listen there has started, which takes seconds."""
    for port in _ports():
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port of this machine is free")


@cache
def _ports() -> Iterator[int]:
    """Each once, in an order of this process's own; but those that the system gives to who asks for
    any."""
    told = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("utf-8")
    low, high = map(int, told.split())
    ports = [*range(20_000, low), *range(high + 1, 1 << 16)] or [*range(20_000, 1 << 16)]
    random.SystemRandom().shuffle(ports)
    return iter(ports)
