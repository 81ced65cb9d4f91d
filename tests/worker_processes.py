"""Processes that find each other by TF_CONFIG, on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environments(count: int) -> list[dict[str, str]]:
    """The environment of each of so many processes, the first of them first.

    All find this checkout; each has a port of its own.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    base = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    cluster = {"worker": workers}
    return [base | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": t})} for t in tasks]


@contextlib.contextmanager
def ended_by_the_end(
    processes: Sequence[subprocess.Popen[bytes]],
) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """Whatever happens, no process is left over."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)  # comes before it is waited for
        yield processes
