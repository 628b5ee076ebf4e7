"""One picture: every mode, orientation and depth reads right, and a hostile file costs one line."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from cnn.data import load_dataset, read_image
from cnn.data.folder import folder_shape
from cnn.data.image_file import MAX_PIXELS
from cnn.errors import ConfigError, DataError

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def exif(orientation):
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


def in_mode(mode):
    if mode.startswith("I"):
        return Image.fromarray(PIXELS.astype(np.uint16) * 256)
    image = Image.fromarray(PIXELS)
    return image.convert("RGB").convert("CMYK") if mode == "CMYK" else image.convert(mode)


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_tiff_of_any_mode_and_orientation_is_turned_upright(tmp_path, mode, orientation, compression):
    path = tmp_path / "a.tif"
    in_mode(mode).save(path, exif=exif(orientation), compression=compression)
    plain = tmp_path / "plain.tif"
    in_mode(mode).save(plain)
    upright = Image.fromarray(read_image(plain, mode="L")[0])
    upright.getexif()[0x112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    np.testing.assert_array_equal(read_image(path, mode="L")[0], expected)


def odd_exif(rng):
    """Return an EXIF block with orientation 6 and one more entry of any tag, type, count and value."""
    entries = [(0x112, 3, 1, struct.pack("<HH", 6, 0))]
    tag, kind, count = int(rng.integers(0x100, 0xFFFF)), int(rng.integers(0, 16)), int(rng.integers(0, 2**32))
    count = count if rng.random() < 0.3 else int(rng.integers(0, 9))
    entries.append((tag, kind, count, rng.bytes(4)))
    body = struct.pack("<H", 2) + b"".join(struct.pack("<HHI", t, k, c) + v for t, k, c, v in sorted(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + body + rng.bytes(int(rng.integers(0, 40)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # the decoders' own remarks, which commands drop
def test_an_odd_tag_of_a_camera_never_stops_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    for trial in range(150):
        path = tmp_path / f"a{('.jpg', '.png', '.webp')[trial % 3]}"
        Image.fromarray(PIXELS).convert("RGB").save(path, exif=odd_exif(rng))
        assert read_image(path, mode="L").shape in ((1, 6, 4), (1, 4, 6))


def test_values_of_twelve_bits_keep_256_levels(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, mode="L")[0], values >> 4)


def twelve_bit_tiff(values):
    """A TIFF of one row with BitsPerSample 12."""
    bits = "".join(f"{v:012b}" for v in values)
    bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    tags = [(256, 3, len(values)), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 122), (277, 3, 1), (278, 3, 1), (279, 4, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + directory + bytes(4) + data


def test_a_tiff_says_how_many_bits_it_has(tmp_path):
    (tmp_path / "a.tif").write_bytes(twelve_bit_tiff([0, 16, 100, 255]))
    assert read_image(tmp_path / "a.tif", mode="L").tolist() == [[[0, 1, 6, 15]]]
    values = np.full((2, 2), 1000, np.uint16)
    Image.fromarray(values).save(tmp_path / "b.tif", tiffinfo={281: 1023})
    assert read_image(tmp_path / "b.tif", mode="L").max() == 1000 >> 2


def test_a_dark_picture_in_a_folder_of_sixteen_bits_stays_dark(tmp_path):
    for part in ("train", "test"):
        for name, value in (("a", 300), ("b", 60000)):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.full((2, 2), value, np.uint16)).save(tmp_path / part / name / "0.png")
    assert load_dataset("folder", tmp_path).train.images[:, 0, 0, 0].tolist() == [300 >> 8, 60000 >> 8]


def test_values_that_no_image_of_16_bits_has_are_refused(tmp_path):
    Image.fromarray(np.array([[70000, -1]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(
        DataError, match=r"a.tif: expected an image of 8 or 16 bits .* found values from -1 to"
    ):
        read_image(tmp_path / "a.tif", mode="L")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cielab_gives_its_lightness(tmp_path, mode):
    Image.new("LAB", (2, 2), (200, 128, 128)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", mode=mode)[:, 0, 0].tolist() == [194] * (3 if mode == "RGB" else 1)


def test_a_file_is_only_given_to_decoders_that_start_no_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: started.append("gs"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(eps)
    with pytest.raises(DataError, match=r"a.png: expected an image, found a file that cannot be read"):
        read_image(tmp_path / "a.png")
    assert not started


def black_png(width, height):
    """The bytes of a black grey PNG, which a few kB can make huge."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * min(height, 8)))  # the size is what counts
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_000, 13_000), (30_000, 30_000), (MAX_PIXELS + 1, 1)])
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path, recwarn, size):
    (tmp_path / "a.png").write_bytes(black_png(*size))
    with pytest.raises(DataError, match=r"a.png: expected an image of at most 67,108,864 pixels") as error:
        read_image(tmp_path / "a.png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), os.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: expected an image file, found a (pipe or a device|folder)"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("path", ["a\0.png", "\ud800.png"])
def test_what_can_be_no_name_is_refused(path):
    with pytest.raises(DataError, match="expected an image file, found none that can be opened"):
        read_image(path)


# -- folders -----------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes of grey 4 x 6 pictures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(PIXELS + number).save(tmp_path / "set" / part / name / f"{number}.png")
    return tmp_path / "set"


def hidden_thumbnail(folder):
    Image.new("RGB", (2, 2)).save(folder / ".thumb.png")


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / "._0.png").write_bytes(bytes.fromhex("0005160700020000") + bytes(100)),
        hidden_thumbnail,
        lambda folder: (folder / "0-old.png").mkdir(),
        lambda folder: os.mkfifo(folder / "0-pipe.png"),
        lambda folder: (folder / "0-zero.png").symlink_to("/dev/zero"),
        lambda folder: (folder.parent / ".hidden").mkdir(),
    ],
    ids=["AppleDouble", "hidden", "folder", "pipe", "device", "hidden class"],
)
def test_what_training_passes_over_every_other_command_passes_over(root, make):
    make(root / "train" / "a")
    assert len(load_dataset("folder", root).train) == 6
    assert folder_shape(root) == ((1, 4, 6), 2)


@pytest.mark.parametrize("target", ["/gone/0.png", "0.png"])
def test_links_to_nowhere_are_counted_and_one_is_named(root, target):
    for number in range(2):
        (root / "train" / "b" / f"{number}.png").unlink()
        (root / "train" / "b" / f"{number}.png").symlink_to(target if number == 0 else "/gone/1.png")
    with pytest.raises(DataError, match=r"b/0.png: found a link to .*, which is not there \(2 such links"):
        load_dataset("folder", root)


def test_a_class_that_is_a_link_to_nowhere_is_named(root):
    for part in ("train", "test"):
        (root / part / "c").symlink_to("/gone/c")
    for read in (folder_shape, lambda root: load_dataset("folder", root)):
        with pytest.raises(DataError, match=r"train/c: found a link to /gone/c, which is not there"):
            read(root)


def test_a_class_name_that_is_not_utf8_is_spelled_with_its_byte(root):
    for part in ("train", "test"):
        os.rename(root / part / "b", os.fsencode(root / part) + b"/caf\xe9\x1b[31m")
    data = load_dataset("folder", root)
    assert data.classes == ("a", r"caf\xe9\x1b[31m")
    assert load_dataset("folder", root).classes == data.classes  # from the cache


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b", "\ud800"])
def test_a_root_that_can_be_no_folder_is_a_mistake_of_the_config(path):
    with pytest.raises(ConfigError, match="expected a path, found a path"):
        load_dataset("folder", path)


def test_a_file_object_is_never_named_in_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(io.BytesIO(b"text").getvalue())
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "a.png")
    assert "BufferedReader" not in str(error.value)


def test_heic_is_read_with_its_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.heic")
    np.testing.assert_allclose(read_image(tmp_path / "a.heic").transpose(1, 2, 0).astype(int), pixels, atol=4)


def large_photo(path, orientation=None):
    """A JPEG file of 1600 x 1200 pixels, smooth as photos are, with detail at every scale."""
    rng, photo = np.random.default_rng(0), np.zeros((1200, 1600, 3))
    for scale in (4, 16, 64, 256):
        coarse = rng.integers(0, 256, (1200 // scale + 2, 1600 // scale + 2, 3), dtype=np.uint8)
        photo += np.asarray(Image.fromarray(coarse).resize((1600, 1200), Image.BICUBIC)) * scale**0.5
    photo = (255 * (photo - photo.min()) / np.ptp(photo)).astype(np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(photo).save(path, quality=90, exif=exif)
    return path


def thin_lines(path):
    """The hardest case: lines of three pixels, of which some frequencies are all."""
    image = Image.new("RGB", (1600, 1200), "white")
    pen = ImageDraw.Draw(image)
    for i in range(0, 1600, 40):
        pen.line([(i, 0), (1600 - i, 1200)], fill=(i % 256, 0, 255 - i % 256), width=3)
    image.save(path, quality=90)
    return path


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(("draw", "mean", "most"), [(large_photo, 0.3, 4), (thin_lines, 2.5, 40)])
@pytest.mark.parametrize("side", [64, 100, 224])
def test_photos_decoded_at_reduced_size_are_nearly_those_of_full_size(tmp_path, fit, draw, mean, most, side):
    path = draw(tmp_path / "a.jpg")
    full, reduced = (
        read_image(path, (side, side), fit=fit, decode=decode).astype(int) for decode in ("full", "reduced")
    )
    difference = np.abs(full - reduced)
    assert 0 < difference.mean() < mean
    assert difference.max() <= most


def test_a_turned_photo_is_decoded_at_reduced_size_as_well(tmp_path):
    path = large_photo(tmp_path / "a.jpg", orientation=6)
    full, reduced = (read_image(path, (160, 120), decode=d).astype(int) for d in ("full", "reduced"))
    assert 0 < np.abs(full - reduced).mean() < 0.3


def test_what_is_no_large_jpeg_is_decoded_whole(tmp_path):
    small, png = tmp_path / "a.jpg", tmp_path / "b.png"
    with Image.open(large_photo(tmp_path / "large.jpg")) as photo:
        photo.crop((0, 0, 200, 200)).save(small)
        photo.crop((0, 0, 800, 800)).save(png)
    for path, side in ((small, 64), (png, 64), (tmp_path / "large.jpg", 1200)):
        whole, asked = (read_image(path, (side, side), decode=d) for d in ("full", "reduced"))
        np.testing.assert_array_equal(whole, asked)


def test_reduced_decoding_takes_less_time(tmp_path):
    path, times = large_photo(tmp_path / "a.jpg"), {"full": [], "reduced": []}
    for _ in range(5):
        for decode, taken in times.items():
            begin = time.thread_time()
            read_image(path, (64, 64), decode=decode)
            taken.append(time.thread_time() - begin)
    assert 2 * min(times["reduced"]) < min(times["full"])
