"""Posts that share a text or an image with others are found, and no others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from pipelines.posts.duplicates import Fingerprint, fingerprint, look, near_duplicates


def picture(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A drawn scene with a few large shapes, as photographs have."""
    rng = np.random.default_rng(seed)
    made = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(made)
    for _ in range(12):
        corner = rng.integers(0, size[0], 2)
        box = [*corner.tolist(), *(corner + rng.integers(20, 120, 2)).tolist()]
        draw.ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return made.filter(ImageFilter.GaussianBlur(2))


def encoded(image: Image.Image, format: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def share(one: Fingerprint, other: Fingerprint) -> tuple[bool, bool]:
    text, image = near_duplicates([one], [other])
    return bool(text[0]), bool(image[0])


@pytest.mark.parametrize(
    "other",
    [
        "what a LOVELY morning, at the lake!",
        "RT @somebody: What a lovely morning at the lake https://t.co/abc",
        "What a #lovely morning at the lake… @friend",
    ],
)
def test_a_text_is_recognised_whatever_was_added(other: str) -> None:
    text = fingerprint("What a lovely morning at the lake http://t.co/xyz", None)
    assert share(text, fingerprint(other, None)) == (True, False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("good morning", "Good morning!"),
        ("http://t.co/abc", "http://t.co/xyz"),
        ("@a @b @c @d", "@e @f @g @h"),
        ("", ""),
        ("😀😀😀😀", "😀😀😀😀"),
        ("What a lovely morning at the lake", "What a lovely evening at the lake"),
    ],
)
def test_short_and_different_texts_do_not_match(one: str, other: str) -> None:
    assert share(fingerprint(one, None), fingerprint(other, None)) == (False, False)


def test_a_script_without_spaces_has_words_too() -> None:
    one, other = "今日はとても良い天気ですね", "今日はとても悪い天気ですね"
    assert share(fingerprint(one, None), fingerprint(one + "！", None))[0]
    assert not share(fingerprint(one, None), fingerprint(other, None))[0]


def copies() -> dict[str, bytes]:
    original = picture(1)
    return {
        "smaller": encoded(original.resize((120, 90))),
        "compressed": encoded(original, quality=25),
        "another format": encoded(original, "PNG"),
        "brighter": encoded(ImageEnhance.Brightness(original).enhance(1.15)),
    }


@pytest.mark.parametrize("how", copies())
def test_a_copy_of_an_image_is_recognised(how: str) -> None:
    original = fingerprint(None, encoded(picture(1), quality=95))
    copy = fingerprint(None, copies()[how])
    assert original.image != copy.image
    assert share(original, copy) == (False, True)


def test_different_images_do_not_match() -> None:
    made = [fingerprint(None, encoded(picture(seed))) for seed in range(60)]
    _, alike = near_duplicates(made[:30], made[30:])
    assert not alike.any()


@pytest.mark.parametrize("seed", [1, 2, 3, 5, 6])
def test_an_image_of_the_same_make_up_does_not_match(seed: int) -> None:
    changed = picture(seed)
    ImageDraw.Draw(changed).rectangle((60, 40, 180, 140), fill=(250, 250, 10))
    one, other = (fingerprint(None, encoded(image)) for image in (picture(seed), changed))
    assert share(one, other) == (False, False)


def test_flat_images_match_only_byte_by_byte() -> None:
    black, grey = (encoded(Image.new("RGB", (64, 64), c)) for c in ("black", "grey"))
    assert look(black) is None
    assert share(fingerprint(None, black), fingerprint(None, grey)) == (False, False)
    assert share(fingerprint(None, black), fingerprint(None, black)) == (False, True)


def test_broken_and_missing_images_match_nothing_but_themselves() -> None:
    broken = fingerprint(None, b"<html>")
    assert share(broken, fingerprint(None, b"<html>!")) == (False, False)
    assert share(fingerprint(None, None), fingerprint(None, None)) == (False, False)
    assert share(fingerprint("", b""), fingerprint("", b"")) == (False, False)


def test_nothing_to_compare_with_leaves_every_post() -> None:
    text, image = near_duplicates([fingerprint("a b c d", encoded(picture(1)))], [])
    assert not text.any() and not image.any()


def test_real_posts_known_to_be_shared_are_found(shared: Path) -> None:
    corpus = shared / "corpora" / "mvsa_single"
    dev, train = (
        pq.read_table(corpus / f"{name}.parquet", columns=["text", "image"]).to_pydict()
        for name in ("dev", "train")
    )
    prints = [
        [fingerprint(*post) for post in zip(table["text"], table["image"], strict=True)]
        for table in (dev, train)
    ]
    text, image = near_duplicates(*prints)
    same_bytes = np.isin(dev["image"], train["image"])
    assert (image | ~same_bytes).all()
    assert (text.sum(), image.sum(), (text | image).sum()) == (45, 28, 48)
