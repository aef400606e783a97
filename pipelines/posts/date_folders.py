"""Date folders without a key: `exports/2026/11/20/…` is the partition dt=2026-11-20."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from schemas.errors import UsageError

_FORM = re.compile(r"(?P<key>[A-Za-z_]\w*)=\{:(?P<format>[^{}]*%[^{}]*)\}")
# Digits of what strftime writes, and how finely a partition's value must tell the time for it.
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "j": 3, "H": 2, "M": 2}


@dataclass(frozen=True)
class DateFolders:
    """Which folders stand for a date. key: of the partition. format: as strftime writes them."""

    key: str
    format: str

    def find(self, folders: str) -> tuple[str, str] | None:
        """Return (partition folder, what comes behind the date) of a path of folders.

        Of several dates the last counts: what lies around an export may be dated, too. None
        where there is no date.
        """
        for found in reversed([*self._pattern().finditer(folders)]):
            try:
                date = datetime.strptime(found[1], self.format)
            except ValueError:
                continue  # 2026/13/45
            return f"{self.key}={date.strftime(self._value())}", folders[found.end(1) :].lstrip("/")
        return None

    def _pattern(self) -> re.Pattern[str]:
        parts = re.split(r"%(.)", self.format.strip("/"))
        regex = "".join(
            rf"\d{{{_DIGITS[part]}}}" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )
        # Ahead: dates that touch, such as 2025/2026/11/20, are all looked at.
        return re.compile(rf"(?<![^/])(?=({regex})(?![^/]))")

    def _value(self) -> str:
        finest = "%Y-%m-%d" if re.search("%[dj]", self.format) else "%Y-%m"
        if "%H" in self.format:
            finest = "%Y-%m-%dT%H%M" if "%M" in self.format else "%Y-%m-%dT%H"
        return finest


def parse_partition(text: str) -> DateFolders:
    """Return what `--partition 'dt={:%Y/%m/%d}'` means; raises UsageError for another form."""
    form = _FORM.fullmatch(text)
    directives = re.findall(r"%(.)", form["format"]) if form else []
    if form is None or not set(directives) <= set(_DIGITS) or not {*"Yy"} & set(directives):
        raise UsageError(
            f"--partition {text}: write KEY={{:PATTERN}} with a date's pattern of "
            f"{', '.join(f'%{d}' for d in _DIGITS)}, such as 'dt={{:%Y/%m/%d}}'"
        )
    return DateFolders(form["key"], form["format"].strip("/"))
