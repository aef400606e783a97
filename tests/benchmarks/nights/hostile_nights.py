"""Mutated posts and files through `drf annotate`: does any end, empty or bend a run?

    python -m tests.benchmarks.nights.hostile_nights --nights DIR [--posts 20000] [--files 3000] \
        [--seed 1]

Posts are those of DIR with bytes of their images and characters of their texts changed; files are
small ones with bytes of their footers or pages changed. Prints what must be 0: runs that ended with
an error, rows that are nowhere or twice, posts lost though one of their modalities decodes. Each
post is prepared once more by itself to say how long the slowest takes; each file is read once more
by pyarrow alone, in a process that may die of it, to say how many rows it has.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from drf_core.annotator import Annotator
from pipelines.storage.checkpoints import resolve_model
from tests.data.corpora import write_posts
from tests.support.hostile_files import mutated_parquet

_STRANGE = "\x00\x07\x1b\u200b\u202e\u2800\ufffd\ufdfd\U0001f3f4\U000e0067\ud7ff\u0000"


# Reads the files named on its standard input, and says each one's rows, or null.
_READ = """
import json, resource, signal, sys
import pyarrow.parquet as pq
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for line in sys.stdin:
    signal.alarm(60)
    try:
        rows = pq.read_table(line.strip(), page_checksum_verification=True).num_rows
    except BaseException:
        rows = None
    print(json.dumps(rows), flush=True)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make both nights, run them, print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=Path, required=True)
    parser.add_argument("--posts", type=int, default=20_000)
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        posts, files = Path(folder, "posts"), Path(folder, "files")
        _write_posts(arguments.nights, posts, arguments.posts, arguments.seed)
        files.mkdir()
        for number, content in enumerate(islice(mutated_parquet(arguments.seed), arguments.files)):
            (files / f"{number:05d}.parquet").write_bytes(content)
        for night in (posts, files):
            if any(night.iterdir()):
                _run(night, Path(folder, f"out-{night.name}"), arguments.model)
        if arguments.files:
            _account(files, Path(folder, "out-files"))
        if arguments.posts:
            _judge(posts, Path(folder, "out-posts"), arguments.model)


def _write_posts(nights: Path, out: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    plain = [
        {**row, "image": row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]}
        for path in sorted(nights.rglob("*.parquet"))
        for row in pq.ParquetFile(path).read(["text", "image"]).to_pylist()
    ]
    out.mkdir()
    for start in range(0, count, 1000):
        some = range(start, min(start + 1000, count))
        posts = [_mutated(chance.choice(plain), f"m{number}", chance) for number in some]
        write_posts(out / f"{start:06d}.parquet", posts)


def _mutated(post: dict[str, Any], name: str, chance: random.Random) -> dict[str, Any]:
    image, text = bytearray(post["image"] or b""), list(post["text"] or "")
    if image and chance.random() < 0.9:
        # Where sizes, counts and offsets are, mostly.
        reach = min(len(image), chance.choice([40, 700, len(image)]))
        for _ in range(chance.choice([1, 2, 8, 64])):
            image[chance.randrange(reach)] = chance.randrange(256)
        if chance.random() < 0.2:
            del image[chance.randrange(len(image)) :]
    if text and chance.random() < 0.5:
        for _ in range(chance.choice([1, 3, 30])):
            text[chance.randrange(len(text))] = chance.choice(_STRANGE)
        text *= chance.choice([1, 1, 1, 500])
    return {"post_id": name, "text": "".join(text) or None, "image": bytes(image) or None}


def _rows(tree: Path) -> list[dict[str, Any]]:
    # A tree without rows has no files, and no schema to ask for columns of.
    found = sorted(tree.rglob("*.parquet"))
    return ds.dataset(found).to_table().to_pylist() if found else []


def _run(night: Path, out: Path, model: str) -> None:
    command = ["annotate", "--input", str(night), "--output", str(out), "--model", model]
    command += ["--max-dead-letter-share", "1", "--no-report"]
    peaks: Counter[int] = Counter()
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watching = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watching.start()
    _, errors = process.communicate()
    told = {tree: _rows(out / tree) for tree in ("annotations", "dead_letters")}
    rows = [(row["source_file"], row["source_row"]) for tree in told.values() for row in tree]
    lost = Counter(row["message"] for row in told["dead_letters"])
    by_file = Counter(file for file, _ in rows)
    print(f"{night.name}: exit {process.returncode}, {time.monotonic() - start:.0f} s")
    twice = len(rows) - len(set(rows))
    print(f"  rows out {len(rows)}, twice {twice}, files with rows {len(by_file)}")
    print(f"  peak of the job {peaks[0] >> 20} MB, of it and its children {peaks[1] >> 20} MB")
    print(f"  dead letters {dict(lost.most_common(6))}")
    print(f"  last line {(errors.strip().splitlines() or [''])[-1][:160]}")


def _account(night: Path, out: Path) -> None:
    """Count the files whose rows are neither all in the output nor, as a failed file's, none."""
    (manifest,) = out.glob("_runs/*/manifest.json")
    files = {one["source_file"]: one for one in json.loads(manifest.read_text())["files"]}
    written = Counter[str]()
    for tree in ("annotations", "dead_letters"):
        written.update(row["source_file"] for row in _rows(out / tree))
    alone = _rows_alone(sorted(night.glob("*.parquet")))
    failed = {name for name, one in files.items() if one["status"] == "failed"}
    unaccounted = [
        name
        for name, rows in alone.items()
        if written[name] != (0 if name in failed else rows) or name not in files
    ]
    refused = Counter(
        str(files[name]["error"]).rpartition(".parquet: ")[2]
        for name in failed
        if alone[name] is not None
    )
    print(
        f"  files failed {len(failed)}, with rows unaccounted {len(unaccounted)} {unaccounted[:5]}"
    )
    print(f"  failed though pyarrow reads them {refused.total()}")
    for error, count in refused.most_common(20):
        print(f"    {count} {error[:200]}")


def _rows_alone(paths: Sequence[Path]) -> dict[str, int | None]:
    """Rows of each file, None where pyarrow cannot read it or dies of it."""
    found: dict[str, int | None] = {}
    while len(found) < len(paths):
        names = "".join(f"{path}\n" for path in paths[len(found) :])
        reader = subprocess.run(
            [sys.executable, "-c", _READ], input=names, capture_output=True, text=True, check=False
        )
        answers = [json.loads(line) for line in reader.stdout.splitlines()]
        if reader.returncode != 0:
            answers.append(None)
        found |= zip((path.name for path in paths[len(found) :]), answers, strict=False)
    return found


def _judge(night: Path, out: Path, model: str) -> None:
    """Count the posts lost though a modality of theirs can be used, and time each alone."""
    annotator = Annotator.from_pretrained(resolve_model(model), "cpu", decode_seconds=10.0)
    letters = {row["post_id"] for row in _rows(out / "dead_letters")}
    lost, seconds = 0, [0.0]
    for path in sorted(night.glob("*.parquet")):
        for post in pq.read_table(path).to_pylist():
            began = time.monotonic()
            prepared = annotator.prepare(post["text"], post["image"])
            seconds.append(time.monotonic() - began)
            lost += prepared.usable and post["post_id"] in letters
    print(f"  posts lost though a modality is good {lost}, slowest {max(seconds):.2f} s")


def _watch(process: subprocess.Popen[str], peaks: Counter[int]) -> None:
    while process.poll() is None:
        own, others = _resident(process.pid), 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(path.read_text().rsplit(")", 1)[1].split()[1]) == process.pid:
                    others += _resident(int(path.parent.name))
            except (OSError, ValueError, IndexError):
                continue
        peaks[0], peaks[1] = max(peaks[0], own), max(peaks[1], own + others)
        time.sleep(0.2)


def _resident(pid: int) -> int:
    """Bytes in memory, of what processes share its share."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line[:4] == "Pss:")


if __name__ == "__main__":
    main()
