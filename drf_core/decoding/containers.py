"""An image file less all that is no pixel: what its container says, read by ourselves and bounded.

Metadata is where decoders are slow, large or strict beyond need: a comment that is joined to
itself for ever, tags that all point at one slice, a text that unpacks to gigabytes, a wrong
checksum of a colour profile. None of it changes a pixel but the orientation, which is read here.
What this module does not understand it hands on as it is: the decoder says what it is.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Of a file: a picture of the largest size has a few thousand, however small its writer cuts them.
_MOST_PARTS = 1 << 16
# Of an EXIF directory: cameras write some fifty entries.
_MOST_TAGS = 512
_ORIENTATION = 0x0112

_BRANDS = tuple(b"ftyp" + brand for brand in (b"avif", b"avis", b"heic", b"heix", b"mif1"))
_PNG = b"\x89PNG\r\n\x1a\n"
# Bits of a sample by IHDR's colour type, for tRNS: 0 grey, 2 colour.
_TRANSPARENCY_BYTES = {0: 2, 2: 6}


@dataclass(frozen=True)
class Container:
    """An image file, taken apart.

    data: the file with its pixels alone, of animations the first frame. format: as Pillow calls it,
    None for what is none of those known here. size: width and height as the header has them, None
    where it has none. orientation: EXIF's, 1 to 8, 1 where there is none. bits: of a PNG's sample.
    in_rows: whether it is decoded row by row, at a smaller scale, too. cut: whether it is made of
    boxes, AVIF or JPEG 2000, and ends before the last of them does.
    """

    data: bytes | memoryview
    format: str | None = None
    size: tuple[int, int] | None = None
    orientation: int = 1
    bits: int = 8
    in_rows: bool = False
    cut: bool = False

    @property
    def memory(self) -> int:
        """Bytes that decoding may take, with what libraries hold beside the picture itself."""
        width, height = self.size or (0, 0)
        return 0 if self.in_rows else 16 * width * height


def open_container(data: bytes | memoryview) -> Container:
    """Take an image file apart; raises nothing, whatever the bytes."""
    view = memoryview(data)
    head = bytes(view[:32])
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(view)
        if head.startswith(_PNG):
            return _png(view)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(view)
        if head[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(view)
        if head[4:8] == b"jP  " or head[4:12] in _BRANDS:
            return Container(data, cut=_ends_in_a_box(view))
        if head.startswith(b"\xff\x4f\xff\x51"):
            return Container(data, cut=not _ends_as_a_codestream(view))
    except _NoPictureError:
        return Container(b"")
    except (struct.error, IndexError, ValueError):
        pass
    return Container(data)


class _NoPictureError(Exception):
    """A file is cut into so many parts that going through them is all it is for."""


def _parts() -> Iterator[None]:
    """A turn for each part that a file may have; then raises _NoPictureError."""
    yield from itertools.repeat(None, _MOST_PARTS)
    raise _NoPictureError


def orientation_of(exif: bytes | memoryview) -> int:
    """Orientation in an EXIF block (a TIFF header, perhaps behind "Exif"), 1 to 8; 1 if none."""
    exif = exif[6:] if bytes(exif[:5]) == b"Exif\0" else exif
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]))
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (tags,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * min(tags, _MOST_TAGS), 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                form = {3: "H", 4: "I"}.get(kind)
                (value,) = struct.unpack_from(f"{order}{form}", exif, place + 8) if form else (1,)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def covers_all_rows(jpeg: bytes | memoryview) -> bool:
    """Whether a progressive JPEG that is cut short has a first scan of every component.

    Each scan but the last is whole; those of the lowest frequencies show the whole picture,
    however coarse.
    """
    seen: set[int] = set()
    components = 0
    scans = []
    for marker, segment in _segments_and_scans(memoryview(jpeg)):
        if marker == 0xC2:
            components = segment[5]
        elif marker == 0xDA:
            scans.append(segment)
    for segment in scans[:-1]:
        count = segment[0]
        lowest, high = segment[1 + 2 * count], segment[3 + 2 * count] >> 4
        if lowest == 0 and high == 0:
            seen.update(segment[1 + 2 * i] for i in range(count))
    return components > 0 and len(seen) >= components


def _segments_and_scans(view: memoryview) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    whole = bytes(view)
    for match in re.finditer(rb"\xff[\xc2\xda]", whole):
        place = match.end()
        length = int.from_bytes(whole[place : place + 2], "big")
        segment = whole[place + 2 : place + length]
        if len(segment) >= 6:
            found.append((whole[place - 1], segment))
    return found


def _jpeg(view: memoryview) -> Container:
    kept = [view[:2]]
    size, orientation, in_rows = None, None, False
    place = 2
    for _ in _parts():
        if place + 4 > len(view) or view[place] != 0xFF:
            break
        marker = view[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in (0x01, *range(0xD0, 0xD9)):
            place += 2
            continue
        length = int.from_bytes(view[place + 2 : place + 4], "big")
        segment = view[place + 4 : place + 2 + length]
        if marker == 0xDA or length < 2 or place + 2 + length > len(view):
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) >= 5:
            height, width = struct.unpack_from(">HH", segment, 1)
            size, in_rows = (width, height), marker in (0xC0, 0xC1)
        if marker == 0xE1 and orientation is None and bytes(segment[:5]) == b"Exif\0":
            orientation = orientation_of(segment)
        # Of the segments for applications, two say which colours the numbers mean.
        jfif = marker == 0xE0 and bytes(segment[:5]) == b"JFIF\0" and len(segment) >= 14
        if jfif or marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(view[place : place + 2 + length])
        place += 2 + length
    return Container(
        b"".join([*kept, view[place:]]), "JPEG", size, orientation or 1, in_rows=in_rows
    )


def _png(view: memoryview) -> Container:
    kept = [view[:8]]
    if bytes(view[12:16]) != b"IHDR":
        raise ValueError
    width, height, bits, colour = struct.unpack_from(">IIBB", view, 16)
    palette, orientation = 0, 1
    place = 8
    for _ in _parts():
        if place + 8 > len(view):
            break
        (length,) = struct.unpack_from(">I", view, place)
        kind = bytes(view[place + 4 : place + 8])
        end = place + 12 + length
        content = view[place + 8 : place + 8 + length]
        sound = end <= len(view) and _checksum_fits(view, place, length)
        if kind == b"eXIf" and end <= len(view):
            orientation = orientation_of(content)
        if kind == b"PLTE":
            palette = length // 3
        needed = kind in (b"IHDR", b"PLTE", b"IDAT")
        if kind == b"tRNS" and sound:
            needed = length == _TRANSPARENCY_BYTES.get(colour, 0) or (
                colour == 3 and 0 < length <= palette
            )
        if needed:
            kept.append(view[place:end])
        if kind == b"IEND":
            break
        place = end
    kept.append(memoryview(b"\0\0\0\0IEND\xaeB`\x82") if place < len(view) else memoryview(b""))
    return Container(b"".join(kept), "PNG", (width, height), orientation, bits)


def without_sum(png: bytes | memoryview) -> bytes:
    """A PNG as `open_container` leaves it, without the sum of its pixels at their end.

    So a wrong one costs none of them; the checksum of the chunk itself no decoder looks at.
    """
    whole = bytes(png)
    place, last = 8, 0
    while place + 8 <= len(whole):
        if whole[place + 4 : place + 8] == b"IDAT":
            last = place
        place += 12 + int.from_bytes(whole[place : place + 4], "big")
    length = int.from_bytes(whole[last : last + 4], "big") - 4
    if not last or length < 0:
        return whole
    end = last + 8 + length
    return whole[:last] + length.to_bytes(4, "big") + whole[last + 4 : end] + whole[end + 4 :]


def _checksum_fits(view: memoryview, place: int, length: int) -> bool:
    end = place + 8 + length
    (expected,) = struct.unpack_from(">I", view, end)
    # Only what is small is asked for: pixels have their own sum, which the decoder looks at.
    return length > 1024 or zlib.crc32(view[place + 4 : end]) == expected


def _ends_in_a_box(view: memoryview) -> bool:
    """Whether a file ends before its last box: each its length, its name and what it holds."""
    place = 0
    for _ in _parts():
        if place + 8 > len(view):
            break
        length, name = struct.unpack_from(">I4s", view, place)
        if length == 1:
            (length,) = struct.unpack_from(">Q", view, place + 8)
        if length == 0:
            return name == b"jp2c" and not _ends_as_a_codestream(view)
        if length < 8:
            return False
        # A picture's header is boxes, too, and may have as many.
        place += 8 if name == b"jp2h" else length
    return place != len(view)


def _ends_as_a_codestream(view: memoryview) -> bool:
    return bytes(view[-2:]) == b"\xff\xd9"


def _webp(view: memoryview) -> Container:
    """The first picture, without what it says of itself: how long the file is, colours, texts."""
    size = None
    orientation = 1
    kept: list[bytes | memoryview] = []
    data: bytes | memoryview = view
    place = 12
    for _ in _parts():
        if place + 8 > len(view):
            break
        (length,) = struct.unpack_from("<I", view, place + 4)
        name, end = bytes(view[place : place + 4]), place + 8 + length + length % 2
        content = view[place + 8 : place + 8 + length]
        if name == b"EXIF":
            orientation = orientation_of(content)
            break
        if data is not view:
            # Of a picture that is whole, only how to turn it may follow.
            pass
        elif name == b"VP8X":
            size = tuple(1 + int.from_bytes(content[p : p + 3], "little") for p in (4, 7))
            # Of what it says will come: that some of it is transparent, and that frames do.
            kept = [view[place : place + 8], bytes([content[0] & 0x12]), view[place + 9 : end]]
        elif name in (b"ANIM", b"ANMF", b"ALPH") and kept:
            kept.append(view[place:end])
            if name == b"ANMF" and end <= len(view):
                data = _as_webp(kept)
        elif name in (b"VP8 ", b"VP8L"):
            if not any(bytes(part[:4]) == b"ALPH" for part in kept):
                # Its own size is the one that counts then.
                kept, size = [], _frame_size(name, content)
            if len(content) == length:
                data = _as_webp([*kept, view[place : place + 8], content, bytes(length % 2)])
        place = end
    return Container(data, "WEBP", size, orientation)  # type: ignore[arg-type]


def _frame_size(name: bytes, content: memoryview) -> tuple[int, int]:
    if name == b"VP8L":
        both = int.from_bytes(content[1:5], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", content, 6)
    return width & 0x3FFF, height & 0x3FFF


def _as_webp(parts: Sequence[bytes | memoryview]) -> bytes:
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _gif(view: memoryview) -> Container:
    """The screen, its colours, and the first frame with the extension that controls it."""
    size = struct.unpack_from("<HH", view, 6)
    place = 13 + (3 << (view[10] & 7) + 1 if view[10] & 128 else 0)
    kept = [view[:place]]
    for _ in _parts():
        if place >= len(view) or view[place] != 0x21:
            break
        end = _after_blocks(view, place + 2)
        if view[place + 1] == 0xF9:
            kept = [kept[0], view[place:end]]
        place = end
    if place < len(view) and view[place] == 0x2C:
        flags = view[place + 9]
        pixels = place + 10 + (3 << (flags & 7) + 1 if flags & 128 else 0)
        kept.append(view[place : _after_blocks(view, pixels + 1)])
        kept.append(memoryview(b";"))
    return Container(b"".join(kept), "GIF", size)


def _after_blocks(view: memoryview, place: int) -> int:
    """Where a chain of sub-blocks ends: each its length and so many bytes, the last empty."""
    while place < len(view) and view[place]:
        place += 1 + view[place]
    return min(place + 1, len(view))
