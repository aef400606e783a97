"""Writing a run's report: report.json, report.html, and the run's line of the index."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import sum_counts
from pipelines.annotate.report.build import build_report, run_line
from pipelines.annotate.report.gather import gather_nights, held_back_letters, staged_records
from pipelines.annotate.report.model_facts import ModelFacts
from pipelines.annotate.report.pages.render import render_index, render_report
from pipelines.annotate.report.run_index import RunLine, append_to_index, read_index
from pipelines.storage.files import Store, open_store
from schemas.manifest import Manifest

_INDEX_PAGE = "_runs/index.html"

# The page of an output that runs every night for longer lists the latest.
_LISTED_RUNS = 400

# What publish.gates says of the limit that a partition passed.
_LIMIT = re.compile(
    r"held back: (?:([\d,]+) of ([\d,]+) posts|([\d.]+)%) .*more than (--max-[a-z-]+)"
)


def report_name(run_id: str, kind: str = "html") -> str:
    """Return the name of a run's report in an output. kind: html or json."""
    return f"_runs/{run_id}/report.{kind}"


def write_report(plan: Plan, manifest: Manifest, facts: ModelFacts) -> str:
    """Write the report of a run that ends, and its line of the index; return where it lies."""
    store = open_store(plan.options.output)
    runs = read_index(store)
    nights = gather_nights(store, manifest, plan, facts.reference_files)
    report = build_report(
        manifest,
        nights,
        [run for run in runs if run.run_id != manifest.run_id],
        facts,
        store.url,
        _held_back(store, plan, manifest),
    )
    save_report(store, report)
    line = run_line(manifest, report, nights)
    append_to_index(store, line)
    write_index_page(store, [run for run in runs if run.run_id != line.run_id] + [line])
    return f"{store.url}/{report_name(manifest.run_id)}"


def save_report(store: Store, report: Mapping[str, Any]) -> None:
    """Write a report's two files."""
    run_id = report["run_id"]
    data = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
    store.write(report_name(run_id, "json"), data.encode(errors="replace"))
    store.write(report_name(run_id), render_report(report).encode(errors="replace"))


def write_index_page(store: Store, runs: Sequence[RunLine]) -> None:
    """Write the page that lists an output's runs."""
    listed = [dataclasses.asdict(run) for run in reversed(runs[-_LISTED_RUNS:])]
    store.write(_INDEX_PAGE, render_index(store.url, listed).encode(errors="replace"))


def _held_back(store: Store, plan: Plan, manifest: Manifest) -> list[dict[str, Any]]:
    found = []
    for partition, status in sorted(manifest.partitions.items()):
        if status != "held_back":
            continue
        records = staged_records(store, plan, partition)
        counts = sum_counts(record.entry.counts for record in records)
        dead = sum(counts.dead_letter_reasons.values())
        rows = sum(record.entry.rows for record in records)
        named = f"partition {partition or '(none)'}: "
        message = next((w for w in manifest.warnings if w.startswith(named)), "")
        found.append(
            {
                "partition": partition,
                "message": message.removeprefix(named).partition("; look at")[0],
                "rows": rows,
                "dead_letters": dead,
                **_limit(message),
                "reasons": [
                    {"name": name, "posts": posts, "share": posts / max(rows, 1)}
                    for name, posts in sorted(
                        counts.dead_letter_reasons.items(), key=lambda item: -item[1]
                    )
                ],
                "letters": held_back_letters(store, records),
                "where": f"{store.url}/{layout.STAGED_PARTS}/**/*.dead_letters.parquet",
            }
        )
    return found


def _limit(message: str) -> dict[str, Any]:
    """Which limit held a partition back and by which share; nothing where a failed file did."""
    match = _LIMIT.search(message)
    if match is None:
        return {"share": None, "option": None}
    if match[3] is not None:
        return {"share": float(match[3]) / 100, "option": match[4]}
    some, rows = (int(number.replace(",", "")) for number in match.group(1, 2))
    return {"share": some / rows, "option": match[4]}
