"""What every importer returns: labelled posts whose texts and images are still in their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipelines.importing.text_encoding import decode_text
from schemas.errors import DRFError, UsageError


@dataclass(frozen=True, slots=True)
class RawPost:
    """A post, labelled or not.

    text: the text itself, or the file that holds it. image: the image's file. None where the
    corpus names none. where: where the post was read, as messages name it ("FILE: line 12").
    """

    post_id: str
    label: str | None
    text: str | Path | None
    image: Path | None
    where: str


@dataclass
class Corpus:
    """The posts of a corpus in its own order, and what was left out.

    name: the source as messages name it. dropped: reason of every post that got no label.
    labels: those that the corpus can have, in the order in which they are shown.
    """

    name: str
    labels: tuple[str, ...]
    posts: list[RawPost] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    def ids(self) -> set[str]:
        """The ids of all posts that the corpus names, kept or dropped."""
        return {post.post_id for post in self.posts} | self.dropped.keys()


@dataclass(frozen=True, slots=True)
class Content:
    """What a post's files hold, None where there is none. encoding: of a text file."""

    text: str | None
    image: bytes | None
    encoding: str | None = None

    @property
    def nothing(self) -> bool:
        """Whether there is neither a text nor an image."""
        return self.text is None and self.image is None


def read_content(post: RawPost) -> Content:
    """Read a post's files; an absent or empty file, or a blank text, is None.

    Raises DRFError for a file that is there and cannot be read.
    """
    image = _read(post.image, post, "image") if post.image else None
    if not isinstance(post.text, Path):
        return Content(post.text, image or None)
    raw = _read(post.text, post, "text")
    if raw is None:
        return Content(None, image or None)
    text, encoding = decode_text(raw)
    return Content(text.strip() or None, image or None, encoding)


def _read(path: Path, post: RawPost, column: str) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DRFError(
            f"{post.where}: column '{column}': {path} cannot be read ({reason}); "
            "mend it, or take the post out"
        ) from error


def label_lines(path: Path) -> list[tuple[str, str]]:
    """Return (where, line) of the lines of a label file that are not blank.

    Raises UsageError where there is no such file, DRFError where it cannot be read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: no such file; SOURCE is the folder that holds it as the corpus is distributed"
        ) from error
    except OSError as error:
        raise DRFError(f"{path}: cannot be read ({error.strerror})") from error
    lines = raw.decode("utf-8-sig", "replace").splitlines()
    return [
        (f"{path}: line {number}", line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def data_folder(folder: Path, *names: str) -> Path:
    """The first of the folders that is there; raises UsageError where none is."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise UsageError(
        f"{folder}: has no folder {' or '.join(names)} with the posts' ID.txt and ID.jpg"
    )


def check_label(label: str, known: tuple[str, ...], where: str) -> str:
    """Return a label in lower case; raises DRFError for one that the corpus does not have."""
    lowered = label.strip().lower()
    if lowered not in known:
        raise DRFError(f"{where}: unknown label {label.strip()!r}; known are {', '.join(known)}")
    return lowered


def check_new(post_id: str, seen: dict[str, str], where: str) -> None:
    """Remember where an id was read; raises DRFError for one that was read before."""
    if not post_id:
        raise DRFError(f"{where}: has no post id")
    if post_id in seen:
        raise DRFError(f"{where}: post id {post_id!r} was labelled before, at {seen[post_id]}")
    seen[post_id] = where
