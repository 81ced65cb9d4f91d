"""A session, served until somebody ends it."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn

from scan_tf import signals
from scan_tf.errors import ConfigError
from scan_tf.explorer import web
from scan_tf.explorer.guard import Keys, is_loopback
from scan_tf.explorer.session import Session
from scan_tf.pipeline.run_dir import Run

# Requests that are being answered when the server is to end get so many seconds.
_GRACE_S = 1
_POLL_S = 0.2


def serve(run: Run, *, host: str = "127.0.0.1", port: int = 0, browser: bool = True) -> None:
    """Serve the explorer of a run until SIGINT or SIGTERM, which is raised again.

    Args:
        run: an evaluated run.
        host: the name or address to bind to; others than loopback can be reached from outside.
        port: the port; 0: a free one.
        browser: open it in a browser, where there is one.

    Raises:
        ConfigError: the host or port cannot be bound.
        StageError: the run was not evaluated, or another process is at work in it.
        Interrupted: the signal came, and the server has ended.
    """
    with bound(host, port) as listening, closing(Session(run)) as session:
        keys = Keys(host, listening.getsockname()[1])
        for note in session.notes:
            print(f"note: {note}", file=sys.stderr)
        if not is_loopback(host):
            print(
                f"warning: {host} can be reached from other machines: whoever has the address with "
                "its token can see the images and change the run, and it is not encrypted.",
                file=sys.stderr,
            )
        with running(session, keys, listening) as thread:
            print(f"explorer: {keys.address}")
            print("Ctrl-C ends it; every correction is saved at once.", flush=True)
            if browser and _has_browser():
                webbrowser.open(keys.address)
            while thread.is_alive():
                thread.join(_POLL_S)


@contextmanager
def running(session: Session, keys: Keys, listening: socket.socket) -> Iterator[threading.Thread]:
    """The server in a thread of its own, where it takes no signals; it ends with the context."""
    config = uvicorn.Config(
        web.application(session, keys),
        log_config=None,  # its own would close the handlers of the whole program
        log_level="warning",
        access_log=False,
        lifespan="off",
        loop="asyncio",
        http="h11",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        with signals.Deferred():  # the signal that ended it comes again after two seconds
            server.should_exit = True
            thread.join(_GRACE_S + 2)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError where that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host}: no address of this machine ({error}).") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port}: another program has it. Give another one, or none for a free one."
            ) from error
        raise ConfigError(f"--host {host}, --port {port}: {error.strerror}.") from error
    return listening


def _has_browser() -> bool:
    """Whether there is a screen for one; a browser of the terminal would cover the address."""
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return screen or sys.platform == "darwin"
