"""What the report of a run costs, how often it errs, and whether it calls a night that drifted.

    python -m tests.benchmarks.nights.bench_report size  # 10^6 posts in 1,000 parts
    python -m tests.benchmarks.nights.bench_report alarms --output OUT  # 200 nights, OUT's posts
    python -m tests.benchmarks.nights.bench_report drift --posts NIGHT --output OUT
    python -m tests.benchmarks.nights.bench_report speed --posts NIGHT  # with and without a report

`alarms` draws references and nights from the qualities of an output of `drf annotate`: whatever
the page calls then, it calls without reason. `drift` spoils a night (texts lower-cased and cut,
images blurred, every tenth text Finnish), annotates it into OUT and prints what its page says.
`speed` compares processor time, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from pipelines.annotate.output.histograms import BINS, count_histograms
from pipelines.annotate.output.ledger import Counts, Ledger, LedgerFile, Part, ShardEntry
from pipelines.annotate.output.partition_state import add_ledger
from pipelines.annotate.report.build import build_report
from pipelines.annotate.report.compare import compare_nights, compare_with_reference
from pipelines.annotate.report.gather import gather_nights
from pipelines.annotate.report.model_facts import ModelFacts
from pipelines.annotate.report.nights import Night
from pipelines.annotate.report.write import save_report
from pipelines.cli import main as drf
from pipelines.storage.files import open_store
from schemas.manifest import FileCounts, Manifest

_LABELS = ("negative", "neutral", "positive")
_FINNISH = "tämä on aivan toista kieltä kuin muut, eikä kukaan ole opettanut sitä"


def made_up_rows(rows: int, seed: int) -> pa.Table:
    """Annotations as far as histograms look at them."""
    rng = np.random.default_rng(seed)
    states = np.array(["present", "low_quality", "recovered"])
    columns = {
        "label": np.array(_LABELS)[rng.integers(3, size=rows)],
        "confidence": rng.uniform(0.34, 1, rows).astype(np.float32),
        "lang": np.array([f"l{n}" for n in range(40)])[rng.integers(40, size=rows)],
    }
    for m in ("text", "image"):
        columns[f"{m}_state"] = states[rng.choice(3, rows, p=(0.85, 0.05, 0.1))]
        columns[f"{m}_quality"] = rng.random(rows).astype(np.float32)
        columns[f"{m}_damage"] = np.array(["blur", "noise"])[rng.integers(2, size=rows)]
    return pa.table(columns)


def measure_size(parts: int = 1_000, rows: int = 1_000) -> None:
    """Print seconds and memory of the report of a night of many parts."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        shards = []
        for number in range(parts):
            table = made_up_rows(rows, number % 20)
            counts = Counts(
                labels={label: table["label"].to_pylist().count(label) for label in _LABELS},
                histograms=count_histograms(table),
            )
            shards.append(
                ShardEntry(
                    key=f"{number:032x}",
                    base_key=f"{number:032x}",
                    generation=0,
                    first_row=number * rows,
                    rows=rows,
                    annotations=rows,
                    dead_letters=0,
                    counts=counts,
                    part="part",
                )
            )
        name = "dt=2026-11-19/posts.parquet"
        file = LedgerFile(f"/posts/{name}", "identity", parts * rows, tuple(shards))
        parts_of = {"annotations": {"part": Part(rows * parts, 10**8, "")}}
        add_ledger(store, "dt=2026-11-19", 1, Ledger(_LABELS, {name: file}, parts_of))
        moment = datetime.now(timezone.utc).isoformat()
        published = FileCounts(name, "dt=2026-11-19", file.rows, file.rows, 0, [], "published")
        manifest = Manifest(
            **dict(run_id="run", status="done", exit_code=0, model_id="m", model_revision="r"),
            **dict(started_at=moment, finished_at=moment, package_version="0"),
            files=[published],
            partitions={"dt=2026-11-19": "published"},
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began, spent = time.perf_counter(), time.process_time()
        report = build_report(manifest, gather_nights(store, manifest), [], ModelFacts(), folder)
        save_report(store, report)
        seconds, used = time.perf_counter() - began, time.process_time() - spent
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = (Path(folder) / "_runs" / "run" / "report.html").stat().st_size
        print(
            f"{report['night']['annotations']:,} posts in {parts:,} parts: {seconds:.1f} s "
            f"({used:.1f} s of processor), {most:,.0f} MB at most ({before:,.0f} MB before), "
            f"page of {size / 1000:,.0f} KB"
        )


def measure_alarms(output: str, nights: int = 200, repeats: int = 20) -> None:
    """Print how often nights drawn from one corpus are called."""
    columns = [
        *("label", "confidence", "text_state", "text_quality"),
        *("image_state", "image_quality", "text_reason", "image_reason"),
    ]
    rows = ds.dataset(f"{output}/annotations", exclude_invalid_files=True).to_table(columns=columns)
    rng = np.random.default_rng(0)
    counted = dict.fromkeys(("outside of the 95 % band", "stranger", "changed", "drifts"), 0)
    size = min(200, rows.num_rows // 4)
    for _ in range(repeats):
        series = []
        for night in range(nights):
            # Disjoint, so that the corpus's being finite does not make nights more alike.
            order = rng.permutation(rows.num_rows)
            reference = rows.take(pa.array(order[2 * size :]))
            least = min(int(_usable(reference, m).sum()) for m in ("text", "image"))
            drawn, before = (
                dataclasses.replace(_ranked(rows, chosen, reference), name=name, key=name)
                for chosen, name in (
                    (order[:size], f"{night:04d}"),
                    (order[size : 2 * size], f"{night:04d}-before"),
                )
            )
            said = compare_with_reference(drawn, before, [], least)
            outside = sum(not one["in_band"] for one in said.values())
            counted["outside of the 95 % band"] += outside
            counted["stranger"] += any(one["stranger"] or one["lower"] for one in said.values())
            changes = compare_nights(drawn, before, [])
            counted["changed"] += any(change["more_than_chance"] for change in changes)
            series.append(drawn)
        charts = compare_with_reference(series[-1], None, series[:-1], least)
        counted["drifts"] += sum(one["alarm"] for m in charts.values() for one in m["nights"])
    for name, number in counted.items():
        # Each modality has a band of its own.
        chances = nights * repeats * (2 if "band" in name else 1)
        print(f"{name}: {number} of {chances:,} nights ({number / chances:.2%})")


def _usable(rows: pa.Table, m: str) -> np.ndarray:
    return np.array([state != "recovered" for state in rows[f"{m}_state"].to_pylist()])


def _ranked(rows: pa.Table, chosen: np.ndarray, reference: pa.Table) -> Night:
    """A night of chosen rows, whose qualities are ranks among a reference of other rows."""
    table = rows.take(pa.array(chosen))
    quality = {}
    for m in ("text", "image"):
        scores = np.sort(reference[f"{m}_quality"].to_numpy()[_usable(reference, m)])
        own = table[f"{m}_quality"].to_numpy()[_usable(table, m)]
        # The table of ranks holds few values: a tie is broken by chance, as a score would.
        jitter = np.random.default_rng(int(chosen.sum())).uniform(-1, 1, len(own)) * 1e-3
        rank = (np.searchsorted(scores, own + jitter, side="right") + 1) / (len(scores) + 1)
        bins = np.minimum((rank * BINS).astype(int), BINS - 1)
        quality[m] = np.bincount(bins, minlength=BINS).tolist()
    confidence = table["confidence"].to_numpy().astype(float)

    def counts(column: str) -> dict[str, int]:
        values = [value for value in table[column].to_pylist() if value]
        return {value: values.count(value) for value in set(values)}

    return Night(
        **dict(name="", key="", run_id="", model_revision="r"),
        rows=len(chosen),
        annotations=len(chosen),
        labels=counts("label"),
        states={m: counts(f"{m}_state") for m in ("text", "image")},
        reasons={m: counts(f"{m}_reason") for m in ("text", "image")},
        quality=quality,
        confidence=[confidence.sum(), np.square(confidence).sum()],
    )


def spoil(source: Path, target: Path) -> None:
    """Write a night like another one, but drifted."""
    for path in sorted(source.glob("*.parquet")):
        posts = pq.read_table(path)
        fields = posts.to_pylist()
        for number, post in enumerate(fields):
            if post["text"]:
                words = post["text"].lower().split()
                post["text"] = _FINNISH if number % 10 == 0 else " ".join(words[:4])
            held = post["image"]
            data = held["bytes"] if isinstance(held, dict) else held
            try:
                picture = Image.open(io.BytesIO(data or b"")).convert("RGB")
            except Exception:
                continue
            buffer = io.BytesIO()
            picture.filter(ImageFilter.GaussianBlur(6)).save(buffer, "JPEG", quality=85)
            post["image"] = (
                buffer.getvalue() if data is held else {**held, "bytes": buffer.getvalue()}
            )
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(fields, posts.schema), target / path.name)


def measure_drift(posts: Path, output: str) -> None:
    """Annotate a spoiled night into an output that holds nights before it; print its verdict."""
    with tempfile.TemporaryDirectory() as folder:
        night = Path(folder) / "dt=2026-12-31"
        spoil(posts, night)
        drf(["annotate", "--input", str(night), "--output", output, "--run-id", "drifted"])
    report = json.loads((Path(output) / "_runs" / "drifted" / "report.json").read_text())
    print(report["verdict"]["word"], "-", report["verdict"]["sentence"])
    for finding in report["verdict"]["findings"]:
        print("  ", finding)


def measure_speed(posts: Path, rounds: int = 3) -> None:
    """Print the processor time of annotating with a report over that without, a round each."""
    kinds: dict[str, tuple[str, ...]] = {"with": (), "without": ("--no-report",)}
    ratios = []
    for number in range(rounds):
        spent = {}
        # In turns first and second, so that neither has the warmer machine.
        for kind in sorted(kinds, reverse=bool(number % 2)):
            with tempfile.TemporaryDirectory() as output:
                words = ["annotate", "--input", str(posts), "--output", output, *kinds[kind]]
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                command = [sys.executable, "-m", "pipelines.cli", *words, "--threads", "1"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent[kind] = sum(
                    getattr(after, field) - getattr(before, field)
                    for field in ("ru_utime", "ru_stime")
                )
        ratios.append(spent["without"] / spent["with"])
        print(f"processor seconds: {spent['with']:.2f} with, {spent['without']:.2f} without")
    rows = made_up_rows(100_000, 0)
    began = time.process_time()
    count_histograms(rows)
    each = (time.process_time() - began) / rows.num_rows
    print(f"speed with a report, of that without: {statistics.median(ratios):.3f} (whole runs)")
    print(f"counting histograms: {1e6 * each:.1f} microseconds of processor a post")


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("size", "alarms", "drift", "speed"))
    parser.add_argument("--posts", type=Path)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    if arguments.what == "size":
        measure_size()
    elif arguments.what == "alarms":
        measure_alarms(arguments.output)
    elif arguments.what == "speed":
        measure_speed(arguments.posts)
    else:
        measure_drift(arguments.posts, arguments.output)


if __name__ == "__main__":
    main()
