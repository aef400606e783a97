"""How a post is written for an encoder that knows tweets."""

from __future__ import annotations

import pytest

from drf_core.decoding.plain_tweet import plain_tweet


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("I love this", "I love this"),
        ("  two \n lines\t here ", "two lines here"),
        # Entities are the characters that they stand for.
        ("fish &amp; chips &lt;3", "fish & chips <3"),
        ("&#128514;", "face with tears of joy"),
        # Names and addresses.
        ("thanks @anna_b, great", "thanks @user, great"),
        (".@anna hi", ".@anna hi"),
        ("write to me@example.org", "write to me@example.org"),
        ("see https://t.co/abc?d=1 now", "see http now"),
        ("WWW.example.org/x and pic.twitter.com/xyz", "http and http"),
        # Emoji are their names, without what says how they are drawn.
        ("sad 😭", "sad loudly crying face"),
        ("😭😭😭😭", "loudly crying face loudly crying face"),
        ("👍🏽", "thumbs up"),
        ("❤️", "heart"),
        ("top 1️⃣0️⃣ #️⃣", "top 10 #"),
        ("😡ok", "pouting face ok"),
        # Letters are drawn out, digits are not.
        ("sooooooo good", "sooo good"),
        ("sooo good", "sooo good"),
        ("10000 people, 1111 more", "10000 people, 1111 more"),
        # What nobody sees goes.
        ("go\u200bod\ufeff da\u00ady", "good day"),
        ("\u202eright\u202c", "right"),
        # Other languages stay as they are.
        ("Сегодня плохо", "Сегодня плохо"),
        ("这家餐厅", "这家餐厅"),
        ("", ""),
    ],
)
def test_a_post_is_written_plainly(text: str, plain: str) -> None:
    assert plain_tweet(text) == plain


@pytest.mark.parametrize(
    "text", ["I love this", "sad 😭😭😭", "fish &amp; chips", "@a http://b.c x"]
)
def test_what_is_plain_stays_so(text: str) -> None:
    assert plain_tweet(plain_tweet(text)) == plain_tweet(text)


def test_flags_and_joined_emoji_leave_no_invisible_character() -> None:
    plain = plain_tweet("👨\u200d👩\u200d👧 🇫🇮")
    assert "man" in plain and "woman" in plain and "girl" in plain
    assert plain.isascii() and "  " not in plain
