"""`drf runs`, `drf report` and `drf show`: what an output says of its runs and of a post."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.annotate.manifest import read_manifest
from pipelines.annotate.output import layout
from pipelines.annotate.output.part_reader import StoredFile, read_rows
from pipelines.annotate.report.build import build_report, compare_report, run_line
from pipelines.annotate.report.gather import RunNight, gather_nights
from pipelines.annotate.report.model_facts import ModelFacts, read_model_facts
from pipelines.annotate.report.nights import Night
from pipelines.annotate.report.pages.render import plain, render_gallery
from pipelines.annotate.report.run_index import RunLine, append_to_index, nights_of, read_index
from pipelines.annotate.report.source_posts import (
    ledger_files,
    post_columns,
    read_source_posts,
)
from pipelines.annotate.report.write import report_name, save_report, write_index_page
from pipelines.console.options import positive
from pipelines.storage.checkpoints import resolve_model
from pipelines.storage.files import OutputError, Store, open_store
from pipelines.storage.redaction import redact
from schemas.annotations import MODALITIES
from schemas.errors import DRFError, UsageError
from schemas.manifest import Manifest, from_json

_MANIFEST = "manifest.json"


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="what `drf annotate --output` was given")


def add_runs_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `drf runs`."""
    _add_output(parser)


def run_runs(arguments: argparse.Namespace) -> int:
    """List an output's runs, the latest last."""
    store = open_store(arguments.output)
    runs = list_runs(store)
    if not runs:
        raise UsageError(f"{store.url} holds no run; give what `drf annotate --output` was given")
    width = max(len(run.run_id) for run in runs)
    for run in runs:
        print(
            f"{run.run_id:<{width}}  {run.word:<13}  {run.annotations:>9,} posts  "
            f"{run.dead_letters:>6,} lost  {plain(run.sentence, 200)}"
        )
    return 0


def list_runs(store: Store) -> list[RunLine]:
    """Return an output's runs by their start: of the index, and those that it lacks."""
    runs = {run.run_id: run for run in read_index(store)}
    for name in store.sizes("_runs", recursive=True):
        run_id, _, file = name.rpartition("/")
        if file == _MANIFEST and run_id not in runs and (data := store.read(f"_runs/{name}")):
            try:
                manifest = from_json(data.decode())
            except DRFError:
                continue
            report = build_report(manifest, [], [], ModelFacts(), store.url)
            runs[run_id] = dataclasses.replace(
                run_line(manifest, report, []), sentence="(no report)", report=False
            )
    return sorted(runs.values(), key=lambda run: (run.started_at, run.run_id))


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `drf report`."""
    _add_output(parser)
    parser.add_argument("--run", metavar="ID", help="default: the last one")
    parser.add_argument(
        "--against", metavar="ID|DATE", help="compare with this run or night, not the one before"
    )
    parser.add_argument(
        "--gallery",
        type=positive,
        metavar="N",
        help="also write gallery.html with up to N posts of each kind, texts and pictures; only "
        "for those who may see them",
    )
    parser.add_argument(
        "--labels-of",
        metavar="OUT",
        help="with --gallery: the output of another model over the same posts; show whose label "
        "changed",
    )


def run_report(arguments: argparse.Namespace) -> int:
    """Write a run's report anew, also of a run that left none; print where it lies."""
    store = open_store(arguments.output)
    runs = list_runs(store)
    run_id = arguments.run or next((run.run_id for run in reversed(runs)), None)
    known = [run.run_id for run in runs]
    if run_id is None or run_id not in known:
        raise UsageError(
            f"--run {run_id or ''}: {store.url} holds no such run; `drf runs` lists them"
        )
    against = _find_night(runs, arguments.against) if arguments.against else None
    manifest = read_manifest(arguments.output, run_id)
    report = store.read_json(report_name(run_id, "json"))
    facts = _facts(manifest)
    nights: Sequence[RunNight] = gather_nights(store, manifest, None, facts.reference_files)
    earlier = [run for run in runs if run.started_at < manifest.started_at]
    if report is None:
        report = build_report(manifest, nights, earlier, facts, store.url)
        append_to_index(store, run_line(manifest, report, nights))
        write_index_page(store, list_runs(store))
    if against is not None:
        # What a held-back night's own numbers were counted from may be gone by now.
        others = nights_of(run for run in runs if run.started_at <= manifest.started_at)
        report = compare_report(report, manifest, others, earlier, facts, against)
    save_report(store, report)
    print(plain(report["verdict"]["sentence"], 400))
    print(f"{store.url}/{report_name(run_id)}")
    if arguments.gallery:
        print(_write_gallery(store, manifest, nights, arguments.gallery, arguments.labels_of))
    return 0


def _facts(manifest: Manifest) -> ModelFacts:
    """What the run's checkpoint says, as far as it is still to be had."""
    try:
        return read_model_facts(resolve_model(str(manifest.options.get("model", ""))))
    except DRFError:
        return ModelFacts()


def _find_night(runs: Sequence[RunLine], name: str) -> Night:
    """The night that a run's id, a date or a partition names; raises UsageError."""
    for run in reversed(runs):
        if run.run_id == name and run.nights:
            return run.nights[-1]
    for night in reversed(nights_of(runs)):
        if name in (night.name, night.key):
            return night
    raise UsageError(
        f"--against {name}: no such run or night is on record; `drf runs` lists the runs, and "
        "`drf report OUT --run ID` puts an old one on record"
    )


def _write_gallery(
    store: Store, manifest: Manifest, nights: Sequence[RunNight], most: int, other: str | None
) -> str:
    from pipelines.annotate.report.gallery import (
        add_labels_before,
        make_gallery,
        read_night_rows,
    )

    if not nights or not nights[-1].night.annotations:
        raise UsageError(f"--gallery: run {manifest.run_id} has no posts to show")
    subject = nights[-1]
    rows = read_night_rows(store, subject.places[layout.ANNOTATIONS])
    if not subject.whole:
        published = [file.source_file for file in manifest.files if file.status == "published"]
        rows = rows.filter(pc.is_in(rows["source_file"], pa.array(published, pa.string())))
    if other:
        before = read_night_rows(open_store(other), subject.places[layout.ANNOTATIONS])
        if not before.num_rows:
            raise UsageError(f"--labels-of {other}: holds no posts of {subject.night.name}")
        rows = add_labels_before(rows, before)
    page = render_gallery(
        make_gallery(
            rows,
            most,
            ledger_files(store),
            post_columns(manifest.options),
            f"{subject.night.name}: {subject.night.annotations:,} posts",
        )
    )
    name = f"_runs/{manifest.run_id}/gallery.html"
    # Nobody else shall read it, not even while it is written.
    mask = os.umask(0o077)
    try:
        store.write(name, page.encode(errors="replace"))
    finally:
        os.umask(mask)
    return f"{store.url}/{name}"


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `drf show`."""
    _add_output(parser)
    parser.add_argument("post_id", metavar="POST_ID")
    parser.add_argument("--image", metavar="FILE", help="also write the post's image, as it came")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")


def run_show(arguments: argparse.Namespace) -> int:
    """Print the rows of a post, and why they say what they say."""
    store = open_store(arguments.output)
    rows = [
        (tree, row) for tree in layout.TREES for row in _find_rows(store, tree, arguments.post_id)
    ]
    if not rows:
        raise UsageError(
            f"{store.url} has no post with the id {plain(arguments.post_id)!r}; posts without an "
            "id are found by their file and row among the dead letters"
        )
    for tree, row in rows:
        if arguments.json:
            print(json.dumps(row, default=str, ensure_ascii=False))
        else:
            print(_describe_lost(row) if tree == layout.DEAD_LETTERS else _describe(row))
    if arguments.image:
        _write_image(store, rows[0][1], arguments.image)
        print(f"  image         {arguments.image}")
    return 0


def _find_rows(store: Store, tree: str, post_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, size in sorted(store.sizes(tree, recursive=True).items()):
        if not layout.part_number(name.rpartition("/")[2]):
            continue
        file = StoredFile(store, f"{tree}/{name}", size)
        found += read_rows(file, "post_id", post_id).to_pylist()
    return found


def _describe(row: dict[str, Any]) -> str:
    said = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    lines = [
        f"{plain(row['post_id'])}  {row['label']} ({row['confidence']:.2f})",
        "  labels        " + "   ".join(f"{name} {share:.2f}" for name, share in said),
    ]
    for m in MODALITIES:
        lines.append(f"  {m:<14}{_why(row, m)}")
    lines += [
        f"  source        {plain(row['source_file'])}, row {row['source_row']}",
        f"  model         {row['model_id']} ({row['model_revision'][:12]}), run {row['run_id']}",
    ]
    return "\n".join(lines)


def _why(row: dict[str, Any], m: str) -> str:
    state, quality = row[f"{m}_state"], row[f"{m}_quality"]
    evidence = row.get(f"{m}_evidence")
    spoke = "" if evidence is None else f"; speaks {'for' if evidence > 0 else 'against'} the label"
    spoke += "" if evidence is None else f" ({evidence:+.2f})"
    if state == "recovered":
        other = "image" if m == "text" else "text"
        return (
            f"recovered from the {other}, as it is {row[f'{m}_reason']} (quality {quality:.2f}, a "
            f"rank among recoveries){spoke}"
        )
    damage = row.get(f"{m}_damage")
    stranger = f"stranger than {1 - quality:.0%} of the reference"
    looks = f", looks {damage}" if damage else ""
    return f"{state.replace('_', ' ')} (quality {quality:.2f}: {stranger}{looks}){spoke}"


def _describe_lost(row: dict[str, Any]) -> str:
    return (
        f"{plain(row['post_id'])}  could not be annotated: {row['reason']} at {row['stage']}, "
        f"{row['message']}\n  source        {plain(row['source_file'])}, row {row['source_row']}"
    )


def _write_image(store: Store, row: dict[str, Any], path: str) -> None:
    run_id = row.get("run_id")
    options = read_manifest(store.url, run_id).options if run_id else {}
    place = (row["source_file"], row["source_row"])
    posts, problems = read_source_posts(ledger_files(store), [place], post_columns(options))
    post = posts.get(place)
    if post is None:
        raise OutputError(f"the post cannot be read again: {'; '.join(problems)}")
    if post.image is None:
        where = f": it lies at {redact(post.image_uri)}" if post.image_uri else ""
        raise OutputError(f"--image {path}: no image came with the post{where}")
    with open(path, "wb") as file:
        file.write(post.image)
