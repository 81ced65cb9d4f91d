from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from scan_tf.data import images, listing
from scan_tf.errors import DataError, MissingDataError

PACKS = Path(__file__).parents[2] / "shared" / "data"
RED = (255, 0, 0)


@pytest.fixture(scope="module")
def oddfiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pack = PACKS / "oddfiles.tar.xz"
    if not pack.exists():
        pytest.skip("needs the optional folder ../shared/data")
    folder = tmp_path_factory.mktemp("odd")
    with tarfile.open(pack) as tar:
        tar.extractall(folder, filter="data")
    return folder / "oddfiles"


def halves(mode: str, left: object, right: object) -> Image.Image:
    """8x4 pixels, the left half of one colour and the right half of another."""
    image = Image.new(mode, (8, 4), left)
    image.paste(right, (4, 0, 8, 4))
    return image


@pytest.mark.parametrize(("count", "ahead"), [(0, 256), (1, 256), (5, 256), (300, 256), (300, 3)])
@pytest.mark.parametrize("side", [2, 3])
def test_files_are_read_in_their_order_however_many_there_are(tmp_path, count, ahead, side) -> None:
    files = [tmp_path / f"{number}.bmp" for number in range(count)]
    for number, file in enumerate(files):
        Image.new("RGB", (side, side), (number % 256,) * 3).save(file)
    for file in files[4::100]:
        file.write_bytes(b"broken")
    found = [*images.read_fitted(files, 2, ahead=ahead)]
    assert len(found) == count
    for number, image in enumerate(found):
        if number % 100 == 4:
            assert isinstance(image, DataError)
            assert str(files[number]) in str(image)
        else:
            np.testing.assert_array_equal(image, np.full((2, 2, 3), number % 256))


@pytest.mark.parametrize(
    ("name", "image", "options", "left", "right"),
    [
        ("rgb.png", halves("RGB", RED, (0, 0, 255)), {}, RED, (0, 0, 255)),
        ("rgb.bmp", halves("RGB", RED, (0, 0, 255)), {}, RED, (0, 0, 255)),
        ("rgb.webp", halves("RGB", RED, (0, 0, 255)), {"lossless": True}, RED, (0, 0, 255)),
        ("gray.png", halves("L", 10, 200), {}, (10, 10, 10), (200, 200, 200)),
        ("one_bit.png", halves("1", 0, 1), {}, (0, 0, 0), (255, 255, 255)),
        ("rgba.png", halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0)), {}, RED, (255, 255, 255)),
        ("half.png", halves("RGBA", (0, 0, 0, 128), RED), {}, (127, 127, 127), RED),
        ("la.png", halves("LA", (10, 255), (10, 0)), {}, (10, 10, 10), (255, 255, 255)),
        ("key.png", halves("RGB", RED, (1, 2, 3)), {"transparency": (1, 2, 3)}, RED, (255,) * 3),
        ("palette.png", halves("RGB", RED, (0, 255, 0)).quantize(4), {}, RED, (0, 255, 0)),
        ("palette.gif", halves("RGB", RED, (0, 255, 0)).quantize(4), {}, RED, (0, 255, 0)),
        ("cmyk.jpg", halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), {}, (254, 0, 0), (0, 0, 0)),
    ],
)
def test_read_image_gives_rgb_on_white(tmp_path, name, image, options, left, right) -> None:
    image.save(tmp_path / name, **options)
    pixels = images.read_image(tmp_path / name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 8, 3)
    assert tuple(pixels[1, 1]) == left
    assert tuple(pixels[1, 6]) == right


def test_a_transparent_palette_entry_becomes_white(tmp_path) -> None:
    image = halves("RGB", RED, (0, 255, 0)).quantize(4)
    image.save(tmp_path / "p.png", transparency=image.getpixel((7, 0)))
    pixels = images.read_image(tmp_path / "p.png")
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[0, 7]) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = images.read_image(tmp_path / "deep.png")
    np.testing.assert_array_equal(pixels, np.array([[0, 1, 128, 255]])[..., None].repeat(3, -1))


def test_only_the_first_frame_is_read(tmp_path) -> None:
    frames = [Image.new("RGB", (3, 2), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(images.read_image(tmp_path / "a.gif")[0, 0]) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation) -> None:
    upright = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    # What a camera stores, by the definition of the tag: where row 0 and column 0 really are.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "o.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(tmp_path / "o.png"), upright)


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_broken_file_is_named(tmp_path, content) -> None:
    if content == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG")
        content = buffer.getvalue()[:400]
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be read as an image \(.+\)"):
        images.read_image(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg.*No such file"):
        images.read_image(tmp_path / "none.jpg")


def test_odd_files_are_read_or_refused(oddfiles) -> None:
    broken = {
        "truncated_jpeg.jpg",
        "broken.png",
        "broken_data_stream.png",
        "truncated_end_chunk.png",
    }
    files = listing.list_images([oddfiles])
    assert len(files) == 28
    for path in files:
        if path.name in broken:
            with pytest.raises(DataError, match=path.name):
                images.read_image(path)
        else:
            pixels = images.read_image(path)
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            assert images.resize_and_crop(pixels, 16).shape == (16, 16, 3)


def test_odd_files_have_the_right_pixels(oddfiles) -> None:
    upright = images.read_image(oddfiles / "hopper.jpg").astype(int)
    for n in range(2, 9):
        turned = images.read_image(oddfiles / f"hopper_orientation_{n}.jpg").astype(int)
        # Stronger compression makes 4.9 of it; any wrong turn makes 59 or more.
        assert np.abs(turned - upright).mean() < 10, n
    cmyk = images.read_image(oddfiles / "pil_sample_cmyk.jpg").astype(int)
    assert cmyk[0, 0, 0] > 200  # red in one corner, black in the other
    assert cmyk[0, 0, 1:].max() < 50
    assert cmyk[-1, -1].max() < 20
    assert images.read_image(oddfiles / "orientation_rectangle.jpg").shape == (2, 1, 3)


def test_list_images_is_recursive_sorted_and_without_doubles(tmp_path) -> None:
    for name in (
        "b/2.JPG",
        "b/1.png",
        "a.jpeg",
        "notes.txt",
        ".hidden.png",
        ".git/x.png",
        "z.WebP",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = listing.list_images([tmp_path, tmp_path / "a.jpeg", tmp_path / "notes.txt"])
    names = [str(p.relative_to(tmp_path)) for p in found]
    assert names == ["a.jpeg", "b/1.png", "b/2.JPG", "notes.txt", "z.WebP"]
    with pytest.raises(MissingDataError, match="nowhere"):
        listing.list_images([tmp_path / "nowhere"])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(32, 32, 3), (5, 32, 32, 3)])
def test_resize_is_the_identity_at_its_own_size(shape, dtype) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    np.testing.assert_array_equal(images.resize_and_crop(pixels, 32), pixels)
    unknown = tf.TensorSpec([None] * (len(shape) - 1) + [3], dtype)
    graph = tf.function(lambda x: images.resize_and_crop(x, 32), input_signature=[unknown])
    np.testing.assert_array_equal(graph(pixels), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (33, 31), (400, 300)])
def test_resize_takes_any_shape_in_a_graph(shape) -> None:
    graph = tf.function(
        lambda x: images.resize_and_crop(x, 16),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
    )
    pixels = np.full((*shape, 3), 77, np.uint8)
    result = graph(pixels)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, np.full((16, 16, 3), 77))


def test_resize_keeps_the_centre_of_the_long_side() -> None:
    pixels = np.zeros((20, 60, 3), np.float32)
    pixels[:, 20:40] = 1
    np.testing.assert_array_equal(images.resize_and_crop(pixels, 20), np.ones((20, 20, 3)))
    turned = images.resize_and_crop(pixels.swapaxes(0, 1), 10)
    np.testing.assert_allclose(turned, np.ones((10, 10, 3)), atol=1e-6)


def test_halving_averages_neighbours() -> None:
    """Antialiased bilinear at 1/2: weights 1/8, 3/8, 3/8, 1/8 along each axis."""
    pixels = np.zeros((8, 8, 3), np.float32)
    pixels[3, 4] = 64.0
    result = images.resize_and_crop(pixels, 4).numpy()[..., 0]
    expected = np.zeros((4, 4))
    rows, columns = {1: 3, 2: 1}, {1: 1, 2: 3}
    for r, x in rows.items():
        for c, y in columns.items():
            expected[r, c] = x * y
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_large_arrays_are_mapped_from_a_file(monkeypatch) -> None:
    assert not isinstance(images.allocate(2, 4), np.memmap)
    monkeypatch.setattr(images, "MEMORY_LIMIT", 100)
    large = images.allocate(3, 8)
    assert isinstance(large, np.memmap)
    assert large.shape == (3, 8, 8, 3)
    large[2] = 7
    assert int(large.sum()) == 7 * 192


def test_too_little_room_for_a_large_array_is_said(monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images, "MEMORY_LIMIT", 10)
    monkeypatch.setattr(os, "posix_fallocate", full)
    said = rf"^{tempfile.gettempdir()}: 1 images of 1024 pixels take 3 MiB there \(No space left"
    with pytest.raises(DataError, match=said):
        images.allocate(1, 1024)
