"""From a text to token ids, with the tokenizers library alone."""

from __future__ import annotations

from tokenizers import Tokenizer

from drf_core.decoding.plain_tweet import plain_tweet

# Longer texts are cut before tokenising: megabytes would stall a batch.
_CHARACTERS_PER_TOKEN = 32
# Windows of a long text that are read; what lies behind them is not.
TEXT_WINDOWS = 8
# Stands for a masked word until tokenising; of no script, so that no post means it.
MASKED = "\ue000"


class TextReader:
    """A tokenizer, cut at max_tokens; may be used from any thread.

    described: the tokenizers library's own JSON. mask: the token that MASKED is read as.
    """

    def __init__(self, described: str, max_tokens: int, mask: str = "") -> None:
        self._max_tokens = max_tokens
        self._mask = mask
        self._literal, self._special = (Tokenizer.from_str(described) for _ in range(2))
        for tokenizer in (self._literal, self._special):
            tokenizer.no_padding()
            tokenizer.enable_truncation(max_tokens)
        self._literal.encode_special_tokens = True

    def read(self, text: str, windows: int, masked: bool = False) -> tuple[list[int], float]:
        """Token ids of one text in windows of max_tokens, and the share of the text they hold.

        Each window has its special tokens, and all but the last have max_tokens: every max_tokens
        ids are one. What stands in a text for a special token ("[MASK]") is read as it stands.
        masked: whether MASKED in it is a masked word, and no letter that somebody wrote.
        """
        whole = len(text)
        text = text[: _CHARACTERS_PER_TOKEN * self._max_tokens * windows]
        cut = len(text) / whole if whole else 1.0
        text = plain_tweet(text if masked else text.replace(MASKED, " "))
        if MASKED in text:
            encoding = self._special.encode(text.replace(MASKED, self._mask))
        else:
            encoding = self._literal.encode(text)
        parts = [encoding, *encoding.overflowing]
        ids = [token for part in parts[:windows] for token in part.ids]
        if len(parts) <= windows:
            return ids, cut
        end = max((stop for _, stop in parts[windows - 1].offsets), default=0)
        return ids, cut * end / len(text)
