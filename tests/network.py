"""Who opens a connection: every attempt is noted, wherever in Python's process it is made.

Run as a program, it imports all modules of the package, and fails where one of them tries.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

# Raised by the interpreter before it does these things; a name that is looked up is a connection.
_EVENTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
_watchers: list[list[str]] = []


def _note(event: str, given: tuple[Any, ...]) -> None:
    if event in _EVENTS and not (event == "socket.connect" and isinstance(given[1], (str, bytes))):
        for seen in _watchers:
            seen.append(f"{event} {given[-1] if event != 'socket.getaddrinfo' else given[0]}")


# A hook cannot be taken back; without a watcher it does nothing.
sys.addaudithook(_note)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """A list that grows by every attempt; those at a socket of this machine's own are none."""
    seen: list[str] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers.remove(seen)


def _main() -> int:
    import importlib
    import pkgutil

    import scan_tf

    with watched() as seen:
        names = [m.name for m in pkgutil.walk_packages(scan_tf.__path__, "scan_tf.")]
        for name in names:
            if not name.endswith(".__main__"):
                importlib.import_module(name)
    print(f"{len(names)} modules; connections: {seen}")
    return int(bool(seen))


if __name__ == "__main__":
    sys.exit(_main())
