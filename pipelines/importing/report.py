"""What an import ends with: who went where, and what was left out, for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# One group of this share of all posts is more likely a placeholder than a repeated post.
_LARGE_GROUP = 0.05

# More are hardly sentiments, and do not fit on a line.
_MOST_LABELS = 20


@dataclass
class ImportReport:
    """Counts of an import.

    splits: posts by split and label. dropped: posts by reason. texts, images: faults by kind.
    sharing: posts that share a text or an image with another, in how many groups, the largest.
    missing_image: the first image file that is not there.
    With published splits: named_but_dropped, how many posts that they name were dropped;
    leaking, posts of dev and test that share a text or an image with train.
    """

    labels: tuple[str, ...]
    splits: dict[str, Counter[str | None]]
    dropped: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    missing_image: str | None = None
    sharing: tuple[int, int, int] = (0, 0, 0)
    named_but_dropped: int = 0
    leaking: Counter[str] = field(default_factory=Counter)

    @property
    def posts(self) -> int:
        """Posts written."""
        return sum(counts.total() for counts in self.splits.values())


def summarise(report: ImportReport, source: str, output: str) -> str:
    """The closing summary: a headline, then a line per split and per kind of fault."""
    lines = [f"{report.posts:,} posts of {source} imported into {output}"]
    labels = report.labels if len(report.labels) <= _MOST_LABELS else ()
    lines.append(_row("", "   ".join(["  posts", *(f"{label:>8}" for label in labels)])))
    for name, counts in report.splits.items():
        cells = (f"{counts[label]:>{max(8, len(label))},}" for label in labels)
        lines.append(_row(name, "   ".join([f"{counts.total():>7,}", *cells])))
    if report.dropped:
        lines.append(_row("dropped", f"{report.dropped.total():,}  ({counted(report.dropped)})"))
    if report.texts:
        lines.append(_row("texts", counted(report.texts)))
    if report.images:
        first = f"; the first is {report.missing_image}" if report.missing_image else ""
        lines.append(_row("images", counted(report.images) + first))
    posts, groups, largest = report.sharing
    if posts:
        lines.append(
            _row(
                "shared",
                f"{posts:,} posts share a text or an image with another "
                f"({groups:,} groups, the largest of {largest:,})",
            )
        )
    lines += [_row("warning", line) for line in _warnings(report)]
    return "\n".join(lines)


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name on one line, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered)


def count_sharing(groups: Sequence[int]) -> tuple[int, int, int]:
    """Posts in groups of more than one, such groups, and the largest's size."""
    sizes = [size for size in Counter(groups).values() if size > 1]
    return sum(sizes), len(sizes), max(sizes, default=0)


def count_leaking(groups: Sequence[int], splits: Sequence[str]) -> Counter[str]:
    """Posts of other splits that share a text or an image with train, if only over others."""
    pairs = list(zip(groups, splits, strict=True))
    trained = {group for group, split in pairs if split == "train"}
    return Counter(split for group, split in pairs if split != "train" and group in trained)


def _warnings(report: ImportReport) -> list[str]:
    lines = [f"{name} has no posts" for name, counts in report.splits.items() if not counts]
    if len(report.labels) > _MOST_LABELS:
        lines.append(f"{len(report.labels):,} different labels; is --label-column the right one?")
    for name, counts in report.splits.items():
        absent = [label for label in report.labels if counts and not counts[label]]
        if absent and len(report.labels) <= _MOST_LABELS:
            lines.append(f"{name} has no post with the label {' or '.join(absent)}")
    if report.named_but_dropped:
        lines.append(
            f"{report.named_but_dropped:,} posts that the split files name are among the dropped"
        )
    lines += [
        f"{count:,} posts of {name} share a text or an image with train; "
        "report a score without them, too"
        for name, count in sorted(report.leaking.items())
    ]
    if report.sharing[2] > max(20, _LARGE_GROUP * report.posts):
        lines.append(
            f"{report.sharing[2]:,} posts hang together by shared texts and images; "
            "is there a placeholder among them?"
        )
    return lines


def _row(name: str, text: str) -> str:
    return f"  {name:<9}{text}"
