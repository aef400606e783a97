"""MVSA and TumEmo folders as they are distributed, made small on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.data.corpora import image_bytes


def make_mvsa(
    folder: Path, labels: Mapping[str, str], texts: Mapping[str, bytes] | None = None
) -> Path:
    """Write labelResultAll.txt and data/ID.txt, data/ID.jpg.

    labels: per id, its pairs as the label file has them, "positive,neutral" or three of them
    with tabs in between. texts: bytes of those text files that shall not be the usual ones.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    pairs = next(iter(labels.values())).count("\t") + 1
    lines = ["\t".join(["ID"] + ["text,image"] * pairs)]
    for number, (post_id, found) in enumerate(labels.items()):
        lines.append(f"{post_id}\t{found}")
        write_post(data, post_id, number, (texts or {}).get(post_id))
    (folder / "labelResultAll.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_tumemo(folder: Path, labels: Mapping[str, str], data: str = "all_data") -> Path:
    """Write all_data_id_and_label.txt and the data folder; labels: per id, "Happy" and so on."""
    (folder / data).mkdir(parents=True)
    lines = ["ID Label", *(f"{post_id} {label}" for post_id, label in labels.items())]
    (folder / "all_data_id_and_label.txt").write_text("\n".join(lines) + "\n")
    for number, post_id in enumerate(labels):
        write_post(folder / data, post_id, number)
    return folder


def write_post(data: Path, post_id: str, number: int, text: bytes | None = None) -> None:
    """Write the files of one post; no two numbers share a text or an image."""
    usual = f"The story of number {number} is one of its own \n".encode()
    (data / f"{post_id}.txt").write_bytes(usual if text is None else text)
    # Bytes after an image's end change neither picture nor size of its few pixels' file.
    (data / f"{post_id}.jpg").write_bytes(image_bytes(number) + str(number).encode())
