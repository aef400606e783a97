"""The manifest: what one run read, wrote, left out and counted, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import DRFError
from schemas.read_record import read_record

MANIFEST_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FileCounts:
    """One input file: rows in, rows out, and the parts that hold them.

    parts: names of the parts, the same below annotations/ and dead_letters/.
    status: published by this run; up_to_date: by an earlier one, nothing to do; failed: cannot be
        read or annotated; held_back: too many dead letters, or a failed file under --strict;
        incomplete: shards of it are not committed yet; overtaken: a run that was planned later has
        published it, and it stays as that run left it.
    error: one line where status is failed.
    identity: of the content that was planned (checksum, etag, or size, time and footer hash);
        null where the file could not be read.
    earlier: annotations, dead_letters and parts are those of an earlier content, which stay as
        this one is not published; so are rows where the file could not be read.
    """

    source_file: str
    partition: str
    rows: int
    annotations: int
    dead_letters: int
    parts: list[str]
    status: str
    error: str | None = None
    identity: str | None = None
    earlier: bool = False


@dataclass(frozen=True)
class Totals:
    """Sums over the published files of the run's input.

    labels: annotations by label. states: annotations by modality, then state.
    reasons: annotations by modality, then reason. dead_letter_reasons: dead letters by reason.
    duplicate_ids: in the whole partitions of those files, files of other runs included, posts
        whose id had already occurred in the same partition.
    """

    files: int = 0
    rows: int = 0
    annotations: int = 0
    dead_letters: int = 0
    failed_files: int = 0
    duplicate_ids: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    dead_letter_reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One run, from its start to its exit code.

    started_at, finished_at: ISO 8601, UTC. seconds: wall time between the two.
    versions: of the packages that matter to the rows. options: as given, defaults included,
    no credentials. partitions: status by partition. failed_files: their source_file names.
    orphans: published source files whose input is gone; pruned: those removed.
    runtimes: rows computed by this run, by what encoded them ("openvino f32 on cpu").
    computed_rows, skipped_rows: rows inferred by this run, and rows found done. phases: seconds
    by what the run did, in order. report: where its page lies, null where there is none.
    fetched: addresses of images that this run asked for, by host, then by what became of them:
    fetched, or the reason. counts, where there were any: input_bytes, uncompressed, of the
    columns read of files with something to do; cache_lookups and cache_hits, texts and images that
    the feature cache was asked for and had; killed_attempts, attempts at this run's shards that
    had taken their worker down before.
    """

    run_id: str
    status: str
    exit_code: int
    started_at: str
    finished_at: str
    model_id: str
    model_revision: str
    package_version: str
    schema_version: int = MANIFEST_SCHEMA_VERSION
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    files: list[FileCounts] = field(default_factory=list)
    partitions: dict[str, str] = field(default_factory=dict)
    failed_files: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    runtimes: dict[str, int] = field(default_factory=dict)
    fetched: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    computed_rows: int = 0
    skipped_rows: int = 0
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    report: str | None = None


def to_json(manifest: Manifest) -> str:
    """Return the manifest as indented JSON, keys in the order of the fields."""
    return json.dumps(manifest, default=vars, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Manifest:
    """Return the manifest written by to_json.

    Raises DRFError where the text is no manifest, or one of another schema_version.
    """
    try:
        fields = json.loads(text)
        version = fields["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise DRFError(f"not a manifest: {type(error).__name__} while reading its JSON") from error
    if version != MANIFEST_SCHEMA_VERSION:
        raise DRFError(
            f"the manifest has schema_version {version}, this package reads "
            f"{MANIFEST_SCHEMA_VERSION}; read it with the version of the package that wrote it"
        )
    try:
        return read_record(Manifest, fields)
    except ValueError as error:
        raise DRFError(f"not a manifest: {error}") from error
