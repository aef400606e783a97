"""Texts become token ids: in windows, with the share that was read, and with words as words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from drf_core.decoding.tokens import MASKED, TextReader
from drf_core.training.building import train_tokenizer

WORDS = ["the", "lake", "was", "lovely", "and", "calm", "in", "the", "morning"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([" ".join(WORDS)] * 4, 330, 512)


@pytest.fixture(scope="module")
def reader(tokenizer: Any) -> TextReader:
    return TextReader(tokenizer.backend_tokenizer.to_str(), 12, tokenizer.mask_token)


def test_a_short_text_is_read_whole(reader: TextReader, tokenizer: Any) -> None:
    ids, share = reader.read("the lake was lovely", 8)
    assert ids == tokenizer("the lake was lovely")["input_ids"] and share == 1


@pytest.mark.parametrize("windows", [1, 2, 5])
def test_a_long_text_is_read_in_windows_each_with_its_special_tokens(
    reader: TextReader, tokenizer: Any, windows: int
) -> None:
    text = " ".join(WORDS * 6)
    ids, share = reader.read(text, windows)
    parts = [ids[i : i + 12] for i in range(0, len(ids), 12)]
    assert len(parts) <= windows
    for part in parts:
        assert (part[0], part[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert all(len(part) == 12 for part in parts[:-1])
    inner = [token for part in parts for token in part[1:-1]]
    whole = tokenizer(text, return_offsets_mapping=True)
    assert inner == whole["input_ids"][1:-1][: len(inner)]
    _, end = whole["offset_mapping"][len(inner)]
    assert share == pytest.approx(end / len(text)) and 0 < share < 1


def test_one_window_more_than_there_is_reads_everything(reader: TextReader) -> None:
    assert reader.read(" ".join(WORDS * 2), 8)[1] == 1


def test_what_is_cut_before_tokenising_counts_as_not_read(reader: TextReader) -> None:
    ids, share = reader.read("lake " * 200_000, 4)
    assert len(ids) == 48 and 0 < share < 0.001


def test_white_space_does_not_eat_the_budget(reader: TextReader) -> None:
    spread = ("\n" * 9 + "\u200b ").join(WORDS[:6])
    assert reader.read(spread, 1) == reader.read(" ".join(WORDS[:6]), 1)


@pytest.mark.parametrize("text", ["[MASK]", "a [SEP] b", "[PAD][CLS] [UNK]"])
def test_what_stands_in_a_text_for_a_special_token_is_read_as_it_stands(
    tokenizer: Any, text: str
) -> None:
    reader = TextReader(tokenizer.backend_tokenizer.to_str(), 64, tokenizer.mask_token)
    ids, share = reader.read(text, 1)
    assert not set(ids[1:-1]) & set(tokenizer.all_special_ids) and share == 1


def test_a_masked_word_is_read_as_the_mask(reader: TextReader, tokenizer: Any) -> None:
    ids, _ = reader.read(f"the {MASKED} was {MASKED}", 4, masked=True)
    assert ids.count(tokenizer.mask_token_id) == 2


def test_a_text_of_nothing_but_what_goes_is_still_a_text(
    reader: TextReader, tokenizer: Any
) -> None:
    assert reader.read("\U0001f3fb", 4) == ([tokenizer.cls_token_id, tokenizer.sep_token_id], 1)


def test_one_reader_serves_many_threads(reader: TextReader) -> None:
    texts = [
        " ".join(WORDS[n % 7 :] * (1 + n % 5)) + (" [MASK]" if n % 2 else "") for n in range(80)
    ]
    texts[::9] = [f"{text} {MASKED}" for text in texts[::9]]
    expected = [reader.read(text, 3) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: reader.read(text, 3), texts * 5)) == expected * 5
