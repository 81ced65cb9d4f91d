"""A pack from anybody: nothing outside, nothing over, nothing under another name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scan_tf.errors import DataError, StageError
from scan_tf.evaluation.text import cell
from scan_tf.experiments import packs

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))


def member(
    name: str, content: bytes = b"seed: 1\n", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write(folder: Path, *members: tuple[tarfile.TarInfo, bytes], **changes: Any) -> Path:
    """A pack of the members whose manifest has the changes in its one part."""
    folder.mkdir()
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    digest = hashlib.sha256(text.getvalue()).hexdigest()
    part = {"name": f"000-{digest[:12]}.part", "bytes": len(text.getvalue()), "sha256": digest}
    (folder / part["name"]).write_bytes(text.getvalue())
    manifest = {"format": packs.FORMAT, "parts": [part | changes]}
    (folder / packs.MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_what_a_pack_holds_is_unpacked(tmp_path):
    packs.unpack([write(tmp_path / "pack", member("config.yaml"))], tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize(
    "bad",
    [
        member("../out"),
        member("/out"),
        member("scan/../../out"),
        member("scan/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("scan/link", type=tarfile.LNKTYPE, linkname="config.yaml"),
        member("scan/pipe", type=tarfile.FIFOTYPE),
        member("scan/device", type=tarfile.CHRTYPE),
        member("scan", type=tarfile.DIRTYPE),
        member("scan/sparse", type=tarfile.GNUTYPE_SPARSE),
        member(".bashrc"),
        member("status/.lock"),
        member("scan/a\nb"),
        member("config.yaml", b"seed: 2\n"),
    ],
    ids=lambda pair: f"{pair[0].name!r} {pair[0].type!r}",
)
def test_what_is_no_file_of_a_run_is_refused_and_leaves_nothing(tmp_path, bad):
    pack = write(tmp_path / "pack", member("config.yaml"), bad)
    with pytest.raises(DataError, match=r"manifest.json: damaged \("):
        packs.unpack([pack], tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]


def test_no_file_is_larger_than_the_pack(tmp_path):
    pack = write(tmp_path / "pack", member("config.yaml"))
    (part,) = pack.glob("*.part")
    text = bytearray(part.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(text)) as archive:
        info = archive.getmember("config.yaml")
    info.size = 2**40
    text[:512] = info.tobuf(tarfile.GNU_FORMAT)
    part.unlink()
    digest = hashlib.sha256(text).hexdigest()
    known = {"name": f"000-{digest[:12]}.part", "bytes": len(text), "sha256": digest}
    (pack / known["name"]).write_bytes(text)
    manifest = {"format": packs.FORMAT, "parts": [known]}
    (pack / packs.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its files are larger than all of it"):
        packs.unpack([pack], tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "../000-000000000000.part"}, "no part is called"),
        ({"name": "manifest.json"}, "no part is called"),
        ({"name": "000-000000000000.part"}, "is missing"),
        ({"bytes": 1}, "is damaged"),
        ({"bytes": 0}, "no part is called"),
        ({"bytes": "many"}, "damaged"),
        ({"sha256": "0" * 64}, "is damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path, changes, expected):
    pack = write(tmp_path / "pack", member("config.yaml"), **changes)
    with pytest.raises(DataError, match=expected):
        packs.unpack([pack], tmp_path / "run")


def test_links_in_place_of_files_are_refused(tmp_path):
    pack = write(tmp_path / "pack", member("config.yaml"))
    (part,) = pack.glob("*.part")
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="files alone, no links"):
        packs.unpack([pack], tmp_path / "run")


def packed(folder: Path) -> Path:
    (folder / "run" / "scan").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text("seed: 1\n")
    (folder / "run" / "scan" / "metrics.jsonl").write_text('{"step": 1}\n')
    packs.pack(folder / "run", folder / "pack")
    return folder / "pack"


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    pack, refused = packed(tmp_path), list[Path]()

    @settings(max_examples=4 * EXAMPLES, deadline=None)
    @given(st.data())
    def flipped(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(pack.iterdir())))
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        try:
            packs.unpack([pack], tmp_path / "again")
        except DataError:
            refused.append(path)
            assert not (tmp_path / "again").exists()
        else:
            for name in ("config.yaml", "scan/metrics.jsonl"):
                one, other = tmp_path / "run" / name, tmp_path / "again" / name
                assert one.read_bytes() == other.read_bytes()
            shutil.rmtree(tmp_path / "again")
        finally:
            path.write_bytes(whole)

    flipped()
    assert len(refused) > 2 * EXAMPLES


def test_a_run_at_work_is_not_packed(tmp_path, monkeypatch):
    packed(tmp_path)

    def refused(_: Path) -> None:
        raise StageError("another program is at work in it")

    monkeypatch.setattr(packs.writing.Writing, "of", refused)
    with pytest.raises(StageError, match="at work"):
        packs.pack(tmp_path / "run", tmp_path / "other")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_name_is_a_formula(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "a=1", "", "'", "1", None])
def test_other_names_stay(text):
    assert cell(text) == text
