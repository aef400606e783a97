"""TumEmo (Yang et al., "Image-text Multimodal Emotion Classification via Multi-view Attentional
Network", 2020) as its authors distribute it in the repository YangXiaocui1215/MVAN.

Two downloads: `all_data_id_and_label.txt` (the README also writes "all data id_and_label.txt"),
a header and then a line `ID LABEL` per post, ids 0, 1, 2 …, labels with a capital; and
`all_data.zip`, which holds ID.txt and ID.jpg. Other repositories read the unpacked posts from
all_data/ or data/ beside the label file; both are looked for. The split of the authors' later
MGNNS (data/all_anno_json/*_all_anno.json, one JSON object with an `id` per line) can be given
with --splits.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.importing.corpus import (
    Corpus,
    RawPost,
    check_label,
    check_new,
    data_folder,
    label_lines,
)
from schemas.errors import DRFError

LABELS = ("angry", "bored", "calm", "fear", "happy", "love", "sad")
LABEL_FILES = ("all_data_id_and_label.txt", "all data id_and_label.txt")


def read_tumemo(folder: Path) -> Corpus:
    """Return the labelled posts of a TumEmo folder.

    Raises UsageError for a missing label file or data folder, DRFError for a line that does
    not fit, an unknown label, or a post labelled twice.
    """
    name = next((name for name in LABEL_FILES if (folder / name).exists()), LABEL_FILES[0])
    corpus = Corpus(name, LABELS)
    lines = label_lines(folder / name)
    data = data_folder(folder, "all_data", "data")
    seen: dict[str, str] = {}
    for number, (where, line) in enumerate(lines):
        fields = line.split()
        if number == 0 and not fields[0].isdigit():
            continue
        if len(fields) != 2:
            raise DRFError(f"{where}: found {len(fields)} words, expected ID LABEL")
        post_id, label = fields
        check_new(post_id, seen, where)
        label = check_label(label, LABELS, where)
        files = data / f"{post_id}.txt", data / f"{post_id}.jpg"
        corpus.posts.append(RawPost(post_id, label, *files, where))
    return corpus
