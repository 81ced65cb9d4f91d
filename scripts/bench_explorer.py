"""The explorer with many images in headless Chromium: first paint, search, a correction, apply.

Example:
    python scripts/bench_explorer.py --images 50000 --json found.json

It makes a run of so many images with random features, and looks at it several times, each time in
a new browser. Needs the development tools, chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What is measured, and in which unit.
UNITS = {
    "start": "s, until the run is read, and a browser there",
    "first paint": "ms, first contentful paint of the page",
    "list": "ms, until the list of the images and the clusters are there",
    "map there": "ms, until the map is there too",
    "thumbnails": "ms, until all pictures in sight are there",
    "scroll": "ms, from a jump to the end of the list until its pictures are there",
    "map": "ms, to draw all points",
    "search": "ms, 300 images like one, by all",
    "move": "ms, one correction, saved, and the page renewed",
    "apply": "ms, until it is shown what ten corrections change",
}


def measured(browser: Any, session: Any, client: Any) -> dict[str, float]:
    """One look at the page."""

    def until(expression: str) -> float:
        script = (
            "const end = performance.now() + 60000; while (!(" + expression + ")) {"
            "if (performance.now() > end) throw Error('never'); "
            "await new Promise((r) => setTimeout(r, 5)) } return performance.now()"
        )
        return float(browser.run(f"return (async () => {{ {script} }})()"))

    def timed(action: str) -> float:
        script = f"const s = performance.now(); {action}; return performance.now() - s"
        return float(browser.run(f"return (async () => {{ {script} }})()"))

    browser.visit(client.keys.address, width=1440, height=900)
    until("document.documentElement.dataset.ready")
    marked = "performance.getEntriesByName('{}', 'mark')[0].startTime"
    found = {"list": float(browser.run(f"return {marked.format('list')}"))}
    found["map there"] = float(browser.run(f"return {marked.format('map')}"))
    seen = "[...document.querySelectorAll('.tile img')]"
    found["thumbnails"] = until(f"{seen}.length && {seen}.every((i) => i.complete)")
    paints = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    found["first paint"] = float(browser.run(f"return {paints}"))
    start = float(browser.run("explorer.grid.goTo(1e9); return performance.now()"))
    found["scroll"] = until(f"{seen}.every((i) => i.complete && i.naturalWidth)") - start
    found["map"] = timed("explorer.map.changed(); await new Promise(requestAnimationFrame)")
    row = session.journal.seq
    post = "(path, body) => fetch(path, {method: 'POST', body: JSON.stringify(body), headers: "
    post += "{'Content-Type': 'application/json'}}).then((r) => r.json())"
    found["search"] = timed(f"await ({post})('/api/near', {{rows: [{row}], count: 300}})")
    start = time.perf_counter()
    browser.press("u")
    until(f"explorer.state.seq > {row}")
    found["move"] = 1000 * (time.perf_counter() - start)
    client.act(do="move", rows=list(range(10 * row, 10 * row + 10)), to=1)
    seq = session.journal.seq
    found["apply"] = timed(f"await ({post})('/api/apply', {{seq: {seq}}})")
    return found


def looks(
    folder: Path, count: int, features: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every figure of all looks; the run is made in the folder, or is there already."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser
    import explorer_run

    found: dict[str, list[float]] = {name: [] for name in UNITS}
    root = folder / "made" / "run"
    if not root.exists():
        say(f"making a run of {count:,} images ...")
        explorer_run.made(root.parent, count, clusters=20, dim=features, side=64)
    for number in range(repeats):
        say(f"look {number + 1} of {repeats} ...")
        start = time.perf_counter()
        with explorer_run.served(root) as (session, client), browser.started() as window:
            found["start"].append(time.perf_counter() - start)
            for name, value in measured(window, session, client).items():
                found[name].append(value)
    return found


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep the run there")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sizes = arguments.images, arguments.features, arguments.repeats
    with tempfile.TemporaryDirectory() as temporary:
        found = looks(arguments.folder or Path(temporary), *sizes, print)
    print(f"\n{arguments.images:,} images, medians of {arguments.repeats} (smallest, largest)")
    for name, unit in UNITS.items():
        values = found[name]
        shown = f"{statistics.median(values):8.2f} ({min(values):.2f}, {max(values):.2f})"
        print(f"{name:12}{shown:32}{unit}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
