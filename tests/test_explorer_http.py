"""The explorer over HTTP: who is answered, what is saved, and what a kill leaves."""

from __future__ import annotations

import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import explorer_run
import numpy as np
import pytest
from explorer_run import Client, made, served, token_of
from PIL import Image
from tiny_runs import scan_tf

from scan_tf.evaluation.colours import as_hex, of_clusters
from scan_tf.explorer.guard import Keys
from scan_tf.explorer.journal import Journal


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def looked_at(root):
    """A session whose state no test changes."""
    with served(root) as found:
        yield found


@pytest.fixture
def fresh(tmp_path):
    return made(tmp_path)


def test_the_page_and_its_files(looked_at):
    _, client = looked_at
    for path, kind in {
        "/": "text/html",
        "/static/app.js": "text/javascript",
        "/static/page.css": "text/css",
        "/static/icon.svg": "image/svg+xml",
    }.items():
        status, headers, body = client.ask("GET", path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert body
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    page = client.ask("GET", "/")[2].decode()
    assert not re.findall(r"(?:src|href)=[\"'](?!/static/)", page)
    assert not re.findall(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=", page)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web.py",
        "/static/..%2fweb.py",
        "/static/web.py",
        "/static/",
        "/thumb/../../etc/passwd",
        "/thumb/..%2f..%2fetc%2fpasswd",
        "/thumb/images/000000.png",
        "/thumb/-1",
        "/thumb/60",
        "/thumb/1e3",
        "/thumb/99999999999999999999",
        "/image/60",
        "/api/image/60",
        "//etc/passwd",
        "/config.yaml",
    ],
)
def test_nothing_is_reached_by_a_path(looked_at, path):
    assert looked_at[1].ask("GET", path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/api/state", "/thumb/0", "/static/app.js", "/nothing"])
def test_nothing_is_answered_without_the_cookie(looked_at, path):
    _, client = looked_at
    name = client.cookie.partition("=")[0]
    for cookie in ("", f"{name}=", f"{name}=guess", f"other={client.keys.token}", "\xe9=;;"):
        status, headers, body = client.ask("GET", path, cookie=cookie)
        assert status == 403
        assert b"token" in body
        assert "Set-Cookie" not in headers
    assert client.ask("GET", f"/?token={'x' * 43}", cookie="")[0] == 403
    assert client.ask("GET", f"/api/state?token={client.keys.token}", cookie="")[0] == 403
    assert client.ask("POST", f"/?token={client.keys.token}", b"{}", cookie="")[0] == 403


def test_the_cookie_is_kept_from_scripts_and_other_sites(looked_at):
    _, client = looked_at
    cookie = client.ask("GET", f"/?token={client.keys.token}", cookie="")[1]["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.keys.token not in cookie
    assert str(client.keys.port) in cookie.partition("=")[0]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.evil:{port}",
        "[::1",
        "1.2.3.4:{port}",
    ],
)
def test_another_name_of_this_server_is_refused(looked_at, host):
    _, client = looked_at
    shown = host.format(port=client.keys.port)
    assert client.ask("GET", "/api/state", Host=shown)[0] == 403
    assert client.ask("GET", f"/?token={client.keys.token}", cookie="", Host=shown)[0] == 403
    assert client.ask("GET", "/api/state", Host=f"localhost:{client.keys.port}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_change_from_elsewhere_is_refused(looked_at, headers):
    session, client = looked_at
    body = {"seq": 0, "action": {"do": "move", "rows": [0], "to": 1}}
    assert client.post("/api/act", body, **headers)[0] == 403
    assert session.journal.seq == 0
    if "Sec_Fetch_Site" in headers:
        assert client.ask("GET", "/api/state", **headers)[0] == 403
        token = f"/?token={client.keys.token}"
        assert client.ask("GET", token, cookie="", Sec_Fetch_Mode="navigate", **headers)[0] == 200
        assert client.ask("GET", token, cookie="", Sec_Fetch_Mode="no-cors", **headers)[0] == 403


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"seq": true, "action": {}}', "application/json", 400),
        (b'{"seq": 0}', "application/json", 400),
        (b'{"seq": 0, "action": {"do": "fly"}}', "application/json", 422),
        (b'{"seq": 0, "action": {"do": "accept", "digest": ""}}', "application/json", 422),
        (b'{"seq": 1, "action": {"do": "undo"}}', "application/json", 409),
        (b'{"a": "' + b"a" * (4 * 2**20) + b'"}', "application/json", 400),
    ],
)
def test_bad_requests_are_answered_in_words(looked_at, content, kind, status):
    session, client = looked_at
    sent = {"Origin": f"http://{client.host}", "Content_Type": kind}
    found, _, body = client.ask("POST", "/api/act", content, **sent)
    assert found == status
    assert len(body) > 20
    assert session.journal.seq == 0


def test_the_names_a_server_goes_by():
    everywhere = Keys("0.0.0.0", 80)
    assert everywhere.goes_by("192.168.1.5:80")
    assert everywhere.goes_by("[fe80::1]:80")
    assert not everywhere.goes_by("evil.example:80")
    assert Keys("images.lan", 80).goes_by("Images.lan:80")
    assert not Keys("images.lan", 80).goes_by("localhost:80")
    assert not Keys("127.0.0.1", 80).goes_by("192.168.1.5:80")


def test_thumbnails_are_square_kept_and_those_of_the_image(looked_at):
    session, client = looked_at
    status, headers, body = client.ask("GET", "/thumb/7?of=x")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    assert "immutable" in headers["Cache-Control"]
    made_so_far = session.images.pictures.made
    assert client.ask("GET", "/thumb/7")[2] == body
    assert session.images.pictures.made == made_so_far
    path = Path(session.run.config.data.path) / session.facts(7)["path"]
    with Image.open(io.BytesIO(body)) as small, Image.open(path) as image:
        assert small.size == (24, 24)
        difference = np.asarray(small, int) - np.asarray(image.convert("RGB"), int)
    assert np.abs(difference).mean() < 30
    assert client.ask("GET", "/image/7")[0] == 200


def test_a_file_that_is_gone_is_told(fresh):
    with served(fresh) as (session, client):
        path = Path(session.run.config.data.path) / session.facts(3)["path"]
        path.unlink()
        assert client.ask("GET", "/thumb/3")[0] == 404
        assert client.ask("GET", "/thumb/4")[0] == 200


def test_search_is_exact(looked_at):
    session, client = looked_at
    _, found = client.post("/api/near", {"rows": [5], "count": 10})
    cosine = session.images.directions @ session.images.directions[5]
    assert found["rows"] == np.argsort(-cosine, kind="stable")[:10].tolist()
    assert found["rows"][0] == 5
    _, several = client.post("/api/near", {"rows": [5, 6, 9], "count": 1000})
    assert sorted(several["rows"]) == list(range(60))
    for bad in ({"rows": [60], "count": 1}, {"rows": [], "count": 1}, {"rows": [1], "count": 0}):
        assert client.post("/api/near", bad)[0] == 400


def test_clusters_have_the_colours_of_the_report(looked_at):
    session, client = looked_at
    found = session.images.found
    clusters, count = found.probs.argmax(axis=1), found.probs.shape[1]
    shown = of_clusters(clusters, count, found.labels, len(found.class_names))
    assert client.get("/api/state")["colours"] == [as_hex(colour) for colour in shown]


def test_corrections_are_saved_and_there_again(fresh):
    with served(fresh) as (session, client):
        before = client.group()
        client.act(do="name", group=1, name="zwei & <b>")
        client.act(do="merge", groups=[3], into=0)
        state = client.act(do="split", group=1)
        new = max(group["id"] for group in state["groups"])
        half = np.flatnonzero(client.group() == new)
        assert 0 < len(half) <= (before == 1).sum() / 2
        assert set(before[half]) == {1}
        client.act(do="move", rows=[0, 1], to=2)
        client.act(do="mark", rows=[2], **{"as": "none"})
        state = client.act(do="undo")
        assert state["redo"] == "1 image marked as none of these"
        assert state["seq"] == 6
        shown = client.group()
        lines = session.journal.path.read_text().splitlines()
        assert [json.loads(line)["seq"] for line in lines] == list(range(7))
    with served(fresh) as (_, client):
        assert (client.group() == shown).all()
        assert client.get("/api/state") | {"session": ""} == state | {"session": ""}
    assert "zwei & <b>" in (fresh / "names.yaml").read_text("utf-8")


def test_two_windows_do_not_overwrite_each_other(fresh):
    with served(fresh) as (session, client):
        other = Client(client.keys)
        seq = client.get("/api/state")["seq"]
        move = {"seq": seq, "action": {"do": "move", "rows": [0], "to": 1}}
        assert client.post("/api/act", move)[0] == 200
        status, why = other.post("/api/act", move)
        assert (status, why["seq"]) == (409, 1)
        results: list[int] = []
        ask = lambda: results.append(client.post("/api/act", move | {"seq": 1})[0])  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [200] + [409] * 7
        assert session.journal.seq == 2


def test_names_given_elsewhere_come_in(fresh):
    from scan_tf.pipeline import names
    from scan_tf.pipeline.run_dir import Run

    with served(fresh) as (_, client):
        client.act(do="name", group=0, name="ant")
    names.write(Run.open(fresh), {0: "bee", 2: "cat"})
    with served(fresh) as (session, client):
        state = client.get("/api/state")
        found = {group["id"]: group["name"] for group in state["groups"]}
        assert found == {0: "bee", 1: "", 2: "cat", 3: ""}
        assert state["pending"] == 1  # the ant: the others are in report and tables already
        assert session.journal.seq == 3


def test_corrections_of_other_weights_are_set_aside(fresh, tmp_path):
    with served(fresh) as (_, client):
        client.act(do="move", rows=[0, 1, 2], to=2)
    again = made(tmp_path / "again", seed=1)
    (again / "scan" / "weights.npz").replace(fresh / "scan" / "weights.npz")
    (again / "status" / "scan.json").replace(fresh / "status" / "scan.json")
    with served(fresh) as (session, client):
        state = client.get("/api/state")
        assert state["seq"] == 0
        assert "1 corrections were made to another clustering" in state["notes"][0]
    assert (fresh / "explore" / "journal-1.jsonl").exists()


def explore(root, *arguments):
    """The program in a process of its own, and the address that it prints."""
    command = [
        sys.executable,
        "-m",
        "scan_tf.cli",
        "explore",
        str(root),
        "--no-browser",
        *arguments,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    line = process.stdout.readline()
    assert line.startswith("explorer: http://127.0.0.1:"), line + process.stderr.read()
    return process, line.split()[1]


def end(process, number):
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out + err


def test_killed_in_the_middle_of_writes_it_loses_nothing_that_it_answered(fresh):
    process, address = explore(fresh)
    keys = Keys("127.0.0.1", int(re.search(r":(\d+)/", address)[1]))
    keys.token = token_of(address)
    client, answered = Client(keys), 0
    rng = np.random.default_rng(0)
    timer = threading.Timer(0.7, os.kill, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        while True:
            rows = sorted({*rng.integers(0, 60, 30).tolist()})
            action = {"do": "move", "rows": rows, "to": answered % 4}
            status, state = client.post("/api/act", {"seq": answered, "action": action})
            assert status == 200
            answered = state["seq"]
    except (OSError, http.client.HTTPException):  # between two requests, or in an answer
        pass
    finally:
        timer.join()
        end(process, 0)
    assert answered > 5
    with served(fresh) as (session, client):
        assert answered <= session.journal.seq <= answered + 1
        assert session.corrections.undoes is not None
        client.act(do="undo")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_ends_it_and_frees_the_run(fresh, number, code):
    process, address = explore(fresh)
    assert len(token_of(address)) >= 40
    found, said = end(process, number)
    assert found == code, said
    assert "Traceback" not in said
    assert not (fresh / "status" / ".lock").exists()


def test_refusals_end_with_2(fresh, root, capsys, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert scan_tf("explore", fresh, "--port", port, "--no-browser") == 2
    assert f"--port {port}: another program has it" in capsys.readouterr().err
    assert scan_tf("explore", fresh, "--host", "no.such.host.invalid", "--no-browser") == 2
    assert "no.such.host.invalid" in capsys.readouterr().err
    (fresh / "eval" / "embeddings.npz").unlink()
    assert scan_tf("explore", fresh, "--no-browser") == 2
    assert "--redo evaluate" in capsys.readouterr().err
    (fresh / "status" / "evaluate.json").unlink()
    assert scan_tf("explore", fresh, "--no-browser") == 2
    assert "has not finished" in capsys.readouterr().err
    assert scan_tf("explore", tmp_path / "none", "--no-browser") == 3
    with pytest.raises(SystemExit, match="2"):
        scan_tf("explore", fresh, "--port", "70000")


def test_the_logging_of_the_program_stays_as_it_is(fresh):
    stream = io.StringIO()

    class Handler(logging.StreamHandler):
        """As absl's, which TensorFlow brings: what it writes to is closed with it."""

        def close(self):
            self.stream.close()
            super().close()

    handler = Handler(stream)
    with served(fresh) as (_, client):
        client.get("/api/state")
    assert not stream.closed
    handler.close()


def test_a_damaged_journal_is_refused(fresh, capsys):
    with served(fresh) as (_, client):
        for row in range(3):
            client.act(do="move", rows=[row], to=1)
    path = fresh / "explore" / "journal.jsonl"
    path.write_text(path.read_text().replace('"to":1', '"to":77', 1))
    assert scan_tf("explore", fresh, "--no-browser") == 2
    assert "holds what cannot be (to: there is no cluster 77)" in capsys.readouterr().err


@pytest.mark.slow
def test_one_explorer_at_a_time(fresh):
    process, _ = explore(fresh)
    try:
        command = [sys.executable, "-m", "scan_tf.cli", "explore", str(fresh), "--no-browser"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 2
        assert "another program is at work" in second.stderr
    finally:
        end(process, signal.SIGTERM)


def test_help_loads_nothing_large():
    program = (
        "import sys; from scan_tf import cli\n"
        "try: cli.main(['explore', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'starlette', 'uvicorn', 'numpy'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--no-browser" in done.stdout
    assert done.stderr.strip() == "set()"


@pytest.mark.slow
def test_looking_loads_no_tensorflow(fresh):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); import explorer_run\n"
        "from pathlib import Path\n"
        "with explorer_run.served(Path(sys.argv[1])) as (_, client):\n"
        "    client.act(do='split', group=0); client.ask('GET', '/thumb/0')\n"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(fresh), str(Path(explorer_run.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_journal_is_read_by_its_own_class(fresh):
    with served(fresh) as (session, client):
        client.act(do="mark", rows=[1], **{"as": "unsure"})
        of = session.journal.of
    assert Journal(fresh / "explore" / "journal.jsonl", of).entries[0]["as"] == "unsure"
