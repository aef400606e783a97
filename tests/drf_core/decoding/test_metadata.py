"""Trouble in what is no pixel never costs the pixels, nor time, nor memory."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from drf_core.decoding.containers import orientation_of
from drf_core.decoding.images import decode_image

LIMITS = {"max_pixels": 1_000_000, "max_bytes": 30_000_000}
MORE = ("avif", "jpeg2000", "tiff")


def picture(width: int = 64, height: int = 48) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, across], -1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes, **more: object) -> Image.Image:
    image, reason = decode_image(data, **{**LIMITS, **more})
    assert reason is None and image is not None
    return image


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    body = kind + data
    checksum = zlib.crc32(body) if checksum is None else checksum
    return struct.pack(">I", len(data)) + body + struct.pack(">I", checksum)


def png_with(extra: bytes) -> bytes:
    plain = encoded(picture(), "PNG")
    return plain[:33] + extra + plain[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"iCCP", b"x\0\7nothing"),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"zTXt", b"x\0\1"),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        chunk(b"pHYs", b"123"),
        chunk(b"gAMA", b""),
        chunk(b"sRGB", b""),
        chunk(b"cHRM", b"12345"),
        chunk(b"tEXt", b"a\0b", checksum=1),
        chunk(b"tRNS", b"1"),
        chunk(b"tRNS", b"1" * 6, checksum=1),
        chunk(b"acTL", b"12"),
        chunk(b"fcTL", b"12"),
        chunk(b"eXIf", b"II*\0" + b"\xff" * 40),
        chunk(b"eXIf", b"nonsense", checksum=1),
    ],
    ids=lambda extra: extra[4:8].decode(),
)
def test_broken_ancillary_chunks_cost_no_png(extra: bytes) -> None:
    assert np.array_equal(np.asarray(decoded(png_with(extra))), np.asarray(picture()))


def test_broken_exif_costs_no_jpeg() -> None:
    plain = encoded(picture(), "JPEG", quality=95)
    shuffle = random.Random(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x0100] = 6, 72.0, 64
    for turn in range(200):
        block = bytearray(exif.tobytes())
        for _ in range(1 + turn % 8):
            block[shuffle.randrange(6, len(block))] = shuffle.randrange(256)
        segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        assert decoded(plain[:2] + segment + plain[2:]).size in ((64, 48), (48, 64))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    expected = Image.open(io.BytesIO(data))
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(expected).convert("RGB"), int)
    assert np.abs(np.asarray(decoded(data), int) - upright).max() <= 1


def cost(call: Callable[[], object]) -> float:
    """Seconds of a processor, to be compared with those of another call: the least of three."""

    def once() -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return min(once() for _ in range(3))


def test_an_orientation_is_looked_for_in_few_tags_only() -> None:
    tags = struct.pack("<HHII", 0x8888, 3, 1, 1) * 65535
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 65535) + tags
    assert orientation_of(exif) == orientation_of(b"") == 1
    assert orientation_of(b"II*\0\xff\xff\xff\xff") == 1
    assert cost(lambda: orientation_of(exif)) < cost(lambda: [*struct.iter_unpack("<HHII", tags)])


def test_exif_tags_that_share_one_slice_take_neither_time_nor_memory() -> None:
    size = 60_000
    count = 1000
    entries = b"".join(struct.pack("<HHII", 0x9000 + i, 7, 40_000, 12_100) for i in range(count))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries
    exif = exif.ljust(size, b"x")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    plain = encoded(picture(), "JPEG")
    data = plain[:2] + segment * 40 + plain[2:]
    slices = cost(lambda: [exif[12_106:52_106] + b"" for _ in range(40 * count)])
    assert cost(lambda: decoded(data)) < slices / 2


def test_a_gif_of_comments_takes_no_longer_than_its_size() -> None:
    plain = encoded(picture().convert("P"), "GIF")
    flags = plain[10]
    start_of_blocks = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    comment = b"\x21\xfe" + (b"\xff" + b"c" * 255) * 40 + b"\0"

    def with_comments(count: int) -> float:
        data = plain[:start_of_blocks] + comment * count + plain[start_of_blocks:]
        return cost(lambda: decoded(data))

    assert with_comments(800) < 10 * with_comments(200)


@pytest.mark.parametrize(
    ("form", "place", "part"),
    [
        ("JPEG", 2, b"\xff"),
        ("JPEG", 2, b"\xff\xd0"),
        ("JPEG", 2, b"\xff\xfe\0\2"),
        ("JPEG", 2, b"\xff\xdb\0\2"),
        ("PNG", 33, chunk(b"tEXt", b"")),
        ("PNG", 33, chunk(b"IDAT", b"")),
        ("WEBP", 12, b"none" + bytes(4)),
        ("GIF", -1, b"\x21\xfe\0"),
        ("JPEG2000", 12, b"\0\0\0\x08none"),
    ],
)
def test_a_file_of_nothing_but_empty_parts_is_no_picture(
    form: str, place: int, part: bytes
) -> None:
    plain = encoded(picture().convert("P") if form == "GIF" else picture(), form)
    place = plain.index(b",\0\0\0\0@\0") if form == "GIF" else place

    def with_parts(size: int) -> float:
        data = plain[:place] + part * (size // len(part)) + plain[place:]
        assert decode_image(data, **LIMITS, more_formats=MORE) == (None, "undecodable")
        return cost(lambda: decode_image(data, **LIMITS, more_formats=MORE))

    # So many are looked at, however many there are.
    assert with_parts(10_000_000) < 3 * with_parts(2_500_000)


def test_a_wrong_sum_at_the_end_costs_no_png() -> None:
    whole = encoded(picture(), "PNG")
    changed = bytearray(whole)
    changed[-20:-16] = b"sum?"
    assert np.array_equal(np.asarray(decoded(bytes(changed))), np.asarray(picture()))
    assert decode_image(whole[: len(whole) // 2] + whole[-20:], **LIMITS)[1] == "truncated"


@pytest.mark.parametrize("lossless", [False, True])
def test_what_a_webp_says_of_its_length_or_canvas_costs_no_picture(lossless: bool) -> None:
    data = encoded(picture(), "WEBP", lossless=lossless)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(10)
    whole = np.asarray(decoded(data))
    for size in (0, len(data) - 30, len(data) + 1000, 0xFFFFFFFF):
        said = b"RIFF" + struct.pack("<I", size) + b"WEBP"
        assert np.array_equal(np.asarray(decoded(said + data[12:])), whole)
        assert np.array_equal(np.asarray(decoded(said + canvas + data[12:])), whole)
    # The frame's own size counts, whatever the canvas's is.
    assert decode_image(said + canvas + data[12:], max_pixels=99, max_bytes=10**6)[1] == "too_large"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_mark_is_whole(progressive: bool) -> None:
    data = encoded(picture(200, 150), "JPEG", progressive=progressive, quality=90)
    whole = np.asarray(decoded(data))
    for lacking in (1, 2):
        assert np.array_equal(whole, np.asarray(decoded(data[:-lacking])))
    assert decoded(data[:-2], target=40).size == decoded(data, target=40).size


def test_a_picture_is_truncated_when_rows_are_lacking() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for data in (encoded(noise, "JPEG"), encoded(noise, "PNG"), encoded(noise, "GIF")):
        for share in (0.3, 0.6, 0.9):
            assert decode_image(data[: int(len(data) * share)], **LIMITS)[1] == "truncated"
    # Some have their last row first, some say at the start how long they are.
    for data in (encoded(noise, "BMP"), encoded(noise, "WEBP")):
        assert decode_image(data[: len(data) // 2], **LIMITS)[1] == "truncated"
    # Some give no row, or tiles: of the last row of tiles all but one is there here.
    options = {"AVIF": {}, "JPEG2000": {"no_jp2": True}, "JPEG 2000": {"tile_size": (64, 64)}}
    for name, option in options.items():
        data = encoded(noise, name.replace(" ", ""), **option)
        for share in (0.3, 0.6, 0.97):
            cut = data[: int(len(data) * share)]
            assert decode_image(cut, **LIMITS, more_formats=MORE)[1] == "truncated", (name, share)
            # Nobody asked for what it is.
            assert decode_image(cut, **LIMITS)[1] == "undecodable"
        assert decode_image(data, **LIMITS, more_formats=MORE)[1] is None
    png = encoded(noise, "PNG")
    assert decode_image(png[:-14], **LIMITS)[1] is None
    # Of a progressive picture the first scan shows every row.
    scans = encoded(picture(200, 150), "JPEG", progressive=True)
    assert decode_image(scans[:-40], **LIMITS)[1] is None
    assert decode_image(scans[: len(scans) // 3], **LIMITS)[1] == "truncated"


@pytest.mark.parametrize("lossless", [False, True])
def test_of_an_animated_webp_the_first_frame_is_enough(lossless: bool) -> None:
    frames = [picture(120, 90).rotate(angle) for angle in (0, 40, 80)]
    data = encoded(
        frames[0],
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        lossless=lossless,
        exif=Image.Exif(),
        icc_profile=b"no profile",
    )
    with Image.open(io.BytesIO(data)) as plain:
        expected = np.asarray(plain.convert("RGB"))
    second = data.index(b"ANMF", data.index(b"ANMF") + 4)
    for cut in (data, data[: second + 20], data[:second]):
        assert np.array_equal(np.asarray(decoded(cut)), expected)
    for length in (second - 1, second // 2):
        assert decode_image(data[:length], **LIMITS)[1] == "truncated"


def test_what_no_decoder_understands_is_not_truncated() -> None:
    twelve_bits = bytearray(encoded(picture(), "JPEG"))
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    assert decode_image(bytes(twelve_bits), **LIMITS) == (None, "undecodable")
    # Whole, but of bytes that are no picture; and a film, cut short.
    boxes = struct.pack(">I", 16) + b"ftypavif" + bytes(4) + struct.pack(">I", 8) + b"mdat"
    for data in (boxes, b"\0\0\0\x20ftypisom" + bytes(9)):
        assert decode_image(data, **LIMITS, more_formats=MORE) == (None, "undecodable")
    # A chunk before the header: what stands in the header's place is no size.
    plain = encoded(picture(), "PNG")
    assert decoded(plain[:8] + chunk(b"CgBI", b"P\0 \6") + plain[8:]).size == (64, 48)


@pytest.mark.parametrize("form", ["TIFF", "ICO", "ICNS", "DDS", "PCX", "TGA", "PPM", "SGI"])
def test_only_listed_formats_are_opened(form: str) -> None:
    data = encoded(picture(64, 64), form)
    assert decode_image(data, **LIMITS) == (None, "undecodable")


@pytest.mark.parametrize(
    "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"SIMPLE  =   T".ljust(2880)]
)
def test_neither_postscript_nor_fits_is_opened(data: bytes) -> None:
    assert decode_image(data, **LIMITS) == (None, "undecodable")


@pytest.mark.parametrize(("form", "name"), [("TIFF", "tiff"), ("JPEG2000", "jpeg2000")])
def test_more_formats_are_opened_where_they_are_asked_for(form: str, name: str) -> None:
    assert decoded(encoded(picture(), form), more_formats=[name]).size == (64, 48)


def test_a_lossless_webp_of_46_bytes_is_not_unpacked() -> None:
    head = (16383 - 1) | (16383 - 1) << 14
    payload = b"\x2f" + struct.pack("<I", head) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    assert decode_image(data, **LIMITS) == (None, "too_large")


def test_sixteen_bits_are_scaled_by_what_they_can_hold() -> None:
    dark = Image.fromarray(np.full((8, 8), 257 * 40, np.uint16))
    assert decoded(encoded(dark, "PNG")).getpixel((0, 0)) == (40, 40, 40)


def test_numbers_that_are_none_are_black() -> None:
    levels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    levels[0, 3] = np.nan
    image = decoded(encoded(Image.fromarray(levels), "TIFF"), more_formats=["tiff"])
    assert image.getpixel((7, 7)) == (255, 255, 255)
    assert image.getpixel((3, 0)) == image.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("image", "transparent"),
    [
        (Image.new("RGB", (4, 4), (1, 2, 3)), struct.pack(">HHH", 1, 2, 3)),
        (Image.new("L", (4, 4), 9), struct.pack(">H", 9)),
        (Image.fromarray(np.full((4, 4), 700, np.uint16)), struct.pack(">H", 700)),
    ],
    ids=["rgb", "grey", "sixteen bits"],
)
def test_the_transparent_colour_becomes_white(image: Image.Image, transparent: bytes) -> None:
    plain = encoded(image, "PNG")
    data = plain[:33] + chunk(b"tRNS", transparent) + plain[33:]
    assert decoded(data).getpixel((0, 0)) == (255, 255, 255)
