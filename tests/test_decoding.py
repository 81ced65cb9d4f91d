"""Files from anywhere: none hangs, starts a program, or takes the machine's memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scan_tf.data import decoding
from scan_tf.data.decoding import Budget, Limits, decode
from scan_tf.errors import DataError
from scan_tf.models import torch_tensors

FREE = Budget(2**40)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as end:
        decode(path, budget=FREE, **options)
    assert str(end.value).startswith(f"{path}: cannot be read as an image (")
    return str(end.value)


# Kinds of files


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert "no regular file" in refusal(tmp_path / "x.jpg")
    assert "no regular file" in refusal(Path("/dev/zero"))
    (tmp_path / "y.jpg").mkdir()
    refusal(tmp_path / "y.jpg")
    with pytest.raises(OSError, match="no regular file"):
        decoding.size_of(tmp_path / "x.jpg")


def test_a_pipe_is_no_pytorch_file_either(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(DataError, match="weights.pth: cannot be opened .*no regular file"):
        torch_tensors.load(tmp_path / "weights.pth")


def test_no_other_program_is_started(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **_: started.append(a))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **_: started.append(a))
    for suffix in ("jpg", "eps", "png"):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(EPS)
        assert "(of no format that is known)" in refusal(path)
    assert not started


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "PDF"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, kind):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (16, 16), "red").save(path, kind)
    refusal(path)


def test_a_format_is_told_by_content_not_by_name(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "x.jpg", "PNG")
    assert decode(tmp_path / "x.jpg", budget=FREE).shape == (4, 4, 3)


def test_names_that_are_no_utf8_are_read_and_named(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    Image.new("RGB", (4, 4)).save(path)
    assert decode(path, budget=FREE).shape == (4, 4, 3)
    path.write_bytes(b"")
    assert "caf\udce9.png" in refusal(path)


# Size


def test_more_megapixels_than_the_limit_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("L", (2000, 1000)).save(tmp_path / "x.png")
    monkeypatch.setattr(decoding, "_decoded", lambda *_: pytest.fail("it was decoded"))
    said = refusal(tmp_path / "x.png", limits=Limits(megapixels=1.9))
    assert "2000 x 1000 are 2 megapixels, more than data.max_megapixels = 1.9" in said


def squares(side: int) -> np.ndarray:
    """A smooth picture with an edge, uint8 [side, 2 * side, 3]."""
    y, x = np.mgrid[:side, : 2 * side] / side
    return np.stack([255 * y, 127 * x, np.where(x > 1, 200, 20)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"format": "PNG"}),
        ("RGB", {"format": "JPEG", "quality": 95}),
        ("RGBA", {"format": "PNG"}),
        ("L", {"format": "PNG"}),
        ("P", {"format": "PNG"}),
        ("CMYK", {"format": "JPEG", "quality": 95}),
        ("1", {"format": "PNG"}),
    ],
)
def test_large_images_become_small_ones_of_the_same_picture(tmp_path, monkeypatch, mode, options):
    path = tmp_path / "x"
    Image.fromarray(squares(240)).convert(mode).save(path, **options)
    whole = decode(path, 16, budget=FREE)
    assert whole.shape == (240, 480, 3)
    monkeypatch.setattr(decoding, "_LARGE", 60 * 60)
    small = decode(path, 16, budget=FREE)
    assert small.shape[0] == small.shape[1] <= 60
    assert small.shape[0] >= 16
    reduced = [
        np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX)).astype(int)
        for pixels in (whole[:, 120:360], small)
    ]
    assert np.abs(reduced[0] - reduced[1]).max() <= 12


def test_what_is_long_and_thin_is_not_averaged_away(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_LARGE", 100)
    Image.fromarray(squares(16)[:, :16].repeat(20, axis=1)).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", 16, budget=FREE).shape == (16, 16, 3)


def test_the_orientation_of_large_images_is_honoured(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "x.png", exif=exif)
    monkeypatch.setattr(decoding, "_LARGE", 32 * 32)
    found = decode(tmp_path / "x.png", 8, budget=FREE)
    assert found.shape == (32, 32, 3)
    assert found[0, 0, 0] > 250
    assert found[-1, -1, 0] < 5


@pytest.mark.parametrize("white", [65535, 4095])
def test_sixteen_bits_are_rounded_exactly(tmp_path, white):
    values = np.arange(white + 1, dtype=np.uint16)[None]
    Image.fromarray(values).save(tmp_path / "x.png")
    found = decode(tmp_path / "x.png", budget=FREE)[0, :, 0]
    np.testing.assert_array_equal(found, (values[0] * (255 / white)).round())


def test_the_memory_of_one_image_is_bounded(tmp_path):
    """A file of some KiB that takes 4 GiB where 60 megapixels become float64 in RGB."""
    Image.fromarray(np.zeros((6000, 10000), np.uint16)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 200_000
    program = (
        "import re, sys\nfrom scan_tf.data.decoding import Budget, decode\n"
        "def peak():\n"  # of this program alone, which rusage mixes with the one it came from
        "    status = open('/proc/self/status').read()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024\n"
        "before = peak()\nassert decode(sys.argv[1], 64, budget=Budget(2**40)).any() == 0\n"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.png")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    budget = (decoding._DECODED * 60e6 + decoding._CONVERTED * decoding._LARGE) / 2**20
    assert 0 < float(done.stdout) < budget


def test_threads_share_the_memory_and_the_greatest_runs_alone():
    budget, running, seen = Budget(100), [], []

    def work(count: int) -> None:
        with budget.taking(count):
            running.append(count)
            seen.append(sorted(running))
            time.sleep(0.005)
            running.remove(count)

    threads = [threading.Thread(target=work, args=(n,)) for n in (40, 60, 500, 40, 60, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6
    assert all(sum(counts) <= 100 or counts == [500] for counts in seen)


def test_without_a_setting_a_quarter_of_the_memory_is_used():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert Limits().bytes == memory // 4
    assert Limits(mib=3).bytes == 3 * 2**20
