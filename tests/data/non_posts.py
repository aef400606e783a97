"""What is no post: texts in other languages or none at all, pictures that nobody took.

And plain English posts of our own beside them. None of it was used to choose or train anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Of a few words, as captions of pictures are.
SHORT_POSTS = (
    "I love this", "See you tomorrow", "Pizza for dinner", "meh", "so tired", "Happy birthday!",
    "what a day", "my dog", "Sunset at the beach", "New shoes", "This is awful", "not impressed",
    "Best day ever", "I hate Mondays", "Good morning", "Coffee time", "Family dinner tonight",
    "So proud of you", "Worst service ever", "Snow again", "Miss you", "First day of school",
    "Lunch", "Rainy afternoon in London", "She said yes!", "No words", "Can't wait",
    "Our garden in June", "Wow", "Thank you all",
)  # fmt: skip

PLAIN_POSTS: tuple[str, ...] = (
    "I love this",
    "Good morning everyone, have a great day!",
    "Stuck in traffic again on my way to work",
    "Can't wait for the concert tonight",
    "Just had lunch with my sister at the new place downtown",
    "RT @newsdesk: Fire crews on scene at the old mill http://t.co/abc123",
    "So tired today, need more coffee",
    "Watching the game with the boys",
    "My cat just knocked over the plant again",
    "Happy Friday! Any plans for the weekend?",
    "New blog post is up, link in bio #travel #photography",
    "This weather is awful",
    "Proud of our students at the science fair @CityCollege",
    "Anyone else having trouble with the wifi?",
    "Beautiful sunset over the harbour tonight",
    "I really don't get why people like that show",
    "Thanks for all the birthday wishes!",
    "Come and see us at stand 12 this weekend",
    "Throwback to last summer at the beach",
    "Feeling sick, staying home today",
    "The police closed the road after the accident",
    "Great win for the team last night!",
)

NOT_POSTS: tuple[str, ...] = (
    '{"error": {"code": 503, "message": "upstream timed out", "retry": null}}',
    '<div class="col-md-6"><span id="x12">&nbsp;</span></div>',
    "SELECT id, ts FROM events WHERE ts > NOW() - INTERVAL '1 day' GROUP BY 1;",
    "for i in range(len(xs)): ys[i] = xs[i] ** 2 + k * np.exp(-i)",
    "2024-03-01 12:00:01,233 WARN [pool-3-thread-7] c.a.b.Foo - retry 3/5",
    "0x7ffd9c3e 0x00401a2f 0xdeadbeef 0x0000000c 0x7f3a21b0",
    "4815162342 0031 55921 7781 100293 4 8 15 16 23 42 99810 3",
    "qwpoeiru zxmcnvb alskdjf ghtyru vbncm qpwoe rutyz mxncb",
    "dGhpcyBpcyBub3QgYSBwb3N0IGJ1dCBiYXNlNjQgdGV4dCBvZiBzb21lIGtpbmQ=",
    "a1b2c3d4-e5f6-7890-abcd-ef1234567890 f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "这家餐厅的服务太差了,我再也不会来了",
    "Сегодня очень плохая погода, мы остались дома",
    "Das Essen war kalt und die Bedienung leider sehr unfreundlich",
    "今日は電車が遅れて会社に遅刻しました",
    "الخدمة كانت سيئة جدا ولن أعود مرة أخرى",
    "La comida estaba fría y el camarero fue muy grosero con nosotros",
    "Ce film était vraiment trop long et nous nous sommes ennuyés",
    "Tänään satoi koko päivän emmekä päässeet ulos",
    "Bu sabah otobüs yine çok geç geldi",
    "오늘 지하철이 너무 붐벼서 힘들었어요",
    "η συναυλία ήταν υπέροχη αλλά πολύ μικρή",
    "ललित कल यहाँ से चला गया था और वापस नहीं आया",
)


def not_photographs(count: int, side: int = 320) -> Iterator[Image.Image]:
    """Noise, patterns, charts and screenshots of code, count of them in turn."""
    for number in range(count):
        rng = np.random.default_rng(number)
        yield _DRAWN[number % len(_DRAWN)](rng, side)


def _noise(rng: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def _stripes(rng: np.random.Generator, side: int) -> Image.Image:
    width = int(rng.integers(4, 40))
    lines = (np.arange(side) // width % 2)[:, None, None]
    colours = rng.integers(0, 256, (2, 3))
    picture = np.where(lines == 1, colours[0], colours[1]) * np.ones((side, side, 1))
    return Image.fromarray(picture.astype(np.uint8)).rotate(90 * int(rng.integers(2)))


def _checks(rng: np.random.Generator, side: int) -> Image.Image:
    width = int(rng.integers(8, 60))
    place = np.arange(side) // width
    board = ((place[:, None] + place[None, :]) % 2)[..., None]
    colours = rng.integers(0, 256, (2, 3))
    return Image.fromarray(np.where(board == 1, colours[0], colours[1]).astype(np.uint8))


def _ramp(rng: np.random.Generator, side: int) -> Image.Image:
    ends = rng.integers(0, 256, (2, 3))
    share = np.linspace(0, 1, side)[:, None, None] * np.ones((1, side, 1))
    return Image.fromarray((ends[0] * share + ends[1] * (1 - share)).astype(np.uint8))


def _code(rng: np.random.Generator, side: int) -> Image.Image:
    dark = bool(rng.integers(2))
    picture = Image.new("RGB", (side, side), (30, 30, 34) if dark else (252, 252, 252))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    words = ["def", "return", "self.x", "for i in", "range(n):", "if not", "value", "= None", "()"]
    for line in range(side // 13):
        text = "    " * int(rng.integers(3)) + " ".join(rng.choice(words, int(rng.integers(1, 7))))
        colour = tuple(int(c) for c in rng.integers(120, 256, 3)) if dark else (40, 40, 90)
        pen.text((6, 13 * line), text, fill=colour, font=font)
    return picture


def _chart(rng: np.random.Generator, side: int) -> Image.Image:
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    pen.line([(30, 10), (30, side - 30), (side - 10, side - 30)], fill="black", width=2)
    for bar in range(8):
        left, top = 45 + bar * (side - 60) // 8, int(rng.integers(30, side - 40))
        pen.rectangle([left, top, left + (side - 60) // 12, side - 31], fill=(66, 110, 180))
    return picture


_DRAWN = (_noise, _stripes, _code, _checks, _chart, _ramp)
