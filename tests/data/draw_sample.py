"""Draws and writes the sample's posts, which ship in the package as pipelines/sample.

Nothing is downloaded, and nobody's posts are in it. The same versions of Pillow and pyarrow make
the same bytes.

    python -m tests.data.draw_sample
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.sample.command import MARK, NIGHTS
from tests.data.sample_images import draw, photograph

_ROW_GROUP_ROWS = 16
_SCHEMA = pa.schema(
    [
        ("post_id", pa.string()),
        ("created_at", pa.timestamp("s", tz="UTC")),
        ("lang", pa.string()),
        ("text", pa.string()),
        ("image", pa.binary()),
    ]
)

Encode = Callable[[Image.Image], bytes]


def _save(picture: Image.Image, format: str, **options: object) -> bytes:
    written = io.BytesIO()
    picture.save(written, format=format, **options)
    return written.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    return _save(picture, "JPEG", quality=75)


def _truncated(picture: Image.Image) -> bytes:
    whole = _jpeg(picture)
    return whole[: len(whole) * 2 // 5]


def _turned(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _save(picture.rotate(90, expand=True), "JPEG", quality=75, exif=exif)


def _web_page(_: Image.Image) -> bytes:
    return b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>"


@dataclass(frozen=True)
class _Post:
    """text, scene: None where the post has none. encode: how the picture became bytes.

    post_id: "" for the next number.
    """

    text: str | None
    scene: str | None
    encode: Encode = _jpeg
    lang: str = "en"
    post_id: str | None = ""


_LONG = (
    "So this is the long version of the trip, since people asked. We left at five in the "
    "morning, missed the first train, found the second one closed, and ended up walking along "
    "the coast. By noon the rain had stopped and a fisherman gave us half of his sandwiches, "
    "just like that. Then the dog found a crab, the crab found the dog, and nobody has been the"
    " same since. We slept in a lighthouse. An actual lighthouse, with stairs that never end "
    "and a view of two countries. My brother sang, badly, and the keeper's wife joined him, "
    "much better than he did. On the second day the bus came an hour late, so we learned eleven"
    " words of the language, nine of them about buses. The market had pears, radios and a goat "
    "that was not for sale, I asked. I lost my hat to the wind on the pier and a boy ran after "
    "it for a mile to bring it back. Last night there was music on the square, everybody "
    "danced, even my brother, even the goat. And every single hour of it was better than the "
    "one before. What I would pack next time: one jumper less, two pairs of socks more, a real "
    "map, since telephones do not know that coast, and something for seasick brothers. What I "
    "would leave at home: the tent. We carried it for four days and opened it once, to dry it. "
    "If you go, take the early boat and sit on the left, that is where the dolphins were on "
    "both mornings, five of them, as if somebody had ordered them. The soup in the harbour is "
    "better than the soup on the hill, whatever the hill says about it. The museum is three "
    "rooms and a whale, and the woman who sells the tickets knew the whale. Ask her about it, "
    "but only if you have an hour. The path over the cliffs is closed until May, there is a "
    "sign, and then a second sign for those who did not believe the first. We believed the "
    "second. The night train home had one light and eleven sleepers, and the conductor knew all"
    " their stations by heart and woke each of us with a large cup of tea. Pictures will follow"
    " when I have found the cable. Thank you all for coming along ❤️"
)

_NIGHTS = {
    "2026-11-20": (
        _Post("What a beautiful morning, I love this place so much! ☀️", "sun"),
        _Post("Happy birthday to my wonderful sister 🎂🎉 best party ever", "cake"),
        _Post("This storm ruined everything, worst night of the year", "storm"),
        _Post("The 7:42 to the harbour leaves from platform 3", "train"),
        _Post("So proud and so happy today, thank you all!", "happy face"),
        _Post("I miss you. Nothing feels right any more 😢", "sad face"),
        _Post("Absolutely furious about how they treated us", "angry face"),
        _Post(
            "Figures for October are online now: https://stats.example/october #opendata", "chart"
        ),
        _Post("Perfect sunset by the sea with perfect company ❤️", "sea"),
        _Post("Our home burned down last night. We lost everything.", "fire"),
        _Post(
            "Notes from Tuesday's meeting are up: budget, schedule, next steps #localnews", "cup"
        ),
        _Post("Spring flowers from the garden, they make me smile 🌷", "flowers"),
        _Post("View from the office, 22:10", "city"),
        _Post("يوم جميل جدا، شكرا لكم جميعا", "sea", lang="ar"),
        _Post("🎉🎉🎉😍😍😍 #party", "cake", lang="und"),
        # From here on, something is unusual or broken.
        _Post(None, "sun", lang="und"),
        _Post("Finally some good news, feeling great!", None),
        _Post("Terrible service, never again", "storm", _truncated),
        _Post(
            "Look at these! My tulips are out at last 🌷 #spring",
            "flowers",
            lambda picture: _save(picture, "WEBP", quality=75),
        ),
        _Post("Best coffee in town, thanks @harbourcafe ☕", "cup", _turned),
        _Post("Perfect sunset by the sea with perfect company ❤️", "sea", post_id="n1-09"),
        _Post(None, None, lang="und"),
    ),
    "2026-11-21": (
        _Post("We won!!! What a game, I am so happy", "happy face"),
        _Post("Cancelled again. I hate this train line, three hours wasted", "train"),
        _Post("Line 4 runs every ten minutes on weekdays", "train"),
        _Post("Such a sweet surprise from my friends, love you all", "flowers"),
        _Post("Sad news today. Rest in peace, old friend.", "sad face"),
        _Post("Stop lying to us! This is a disgrace", "angry face"),
        _Post("A cup of coffee, two sugars, then the 8:15 to work #monday", "cup"),
        _Post("Hundreds without power after the storm, people are desperate", "storm"),
        _Post("Holiday mood: sun, hills and not a single worry 😎", "sun"),
        _Post("Sales by quarter, see the chart in our new report https://shop.example/q3", "chart"),
        _Post("Good night, city of lights ✨", "city"),
        _Post("Ein wunderbarer Tag am Meer!", "sea", lang="de"),
        _Post("איזה יום נורא", "storm", lang="he"),
        _Post(_LONG, "sea"),
        _Post("ok", "chart"),
        # From here on, something is unusual or broken.
        _Post(" \n\t ", "fire", lang="und"),
        _Post("This made my whole week, thank you!", "cake", _web_page),
        _Post(
            "Delicious, the whole cake is gone already",
            "cake",
            lambda picture: _save(picture.convert("CMYK"), "JPEG", quality=75),
        ),
        _Post("Tiny update", "sun", lambda picture: _save(picture.resize((1, 1)), "PNG")),
        _Post(
            "Old photo of the bridge, taken in 1962 #throwbackthursday",
            "city",
            lambda picture: _jpeg(picture.convert("L")),
        ),
        _Post(
            "Screenshot of the new timetable for line 4",
            "chart",
            lambda picture: _save(picture.convert("RGBA"), "PNG"),
        ),
        _Post("Lovely walk, but who am I?", "flowers", post_id=None),
    ),
}


def _picture(post: _Post, seed: int) -> bytes | None:
    if post.scene is None:
        return None
    drawn = draw(post.scene, seed)
    # A chart comes out of a program, the rest out of a telephone.
    return post.encode(drawn if post.scene == "chart" else photograph(drawn, seed))


def night_bytes(night: str) -> bytes:
    """The Parquet file of one night (2026-11-20)."""
    number, posts = list(_NIGHTS).index(night) + 1, _NIGHTS[night]
    midnight = datetime.datetime.fromisoformat(f"{night}T00:00:00+00:00")
    rows = [
        {
            "post_id": f"n{number}-{index:02d}" if post.post_id == "" else post.post_id,
            "created_at": midnight + datetime.timedelta(minutes=61 * index),
            "lang": post.lang,
            "text": post.text,
            "image": _picture(post, 100 * number + index),
        }
        for index, post in enumerate(posts, start=1)
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata({MARK: "1"}))
    written = io.BytesIO()
    pq.write_table(table, written, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    return written.getvalue()


if __name__ == "__main__":
    for file in NIGHTS:
        file.write_bytes(night_bytes(file.stem))
