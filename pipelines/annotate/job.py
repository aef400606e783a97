"""What the client plans and the workers carry out: shards, work units, options.

Plain frozen dataclasses with JSON-able fields, because they are all that crosses a
shuffle. Importing this module imports neither torch nor Beam.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.posts.input_files import FailedFile, InputFile, RowRange
from schemas.errors import UsageError
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, PostColumns

PART_BYTES = 128 << 20


@dataclass(frozen=True)
class Earlier:
    """Where --retry asks for some rows of a shard: where they lie in the output, and which.

    parts: trees and places, where its rows are, perhaps beside others'. reasons: rows with one
    are computed again.
    """

    parts: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Shard(RowRange):
    """The unit of commit.

    base_key: function of input identity, row range, model revision and the options that
        change rows.
    key: base_key, or one derived from it by --retry (then generation > 0). earlier: what it
        holds already, where only some of its rows are wanted.
    """

    path: str
    partition: str
    identity: str
    base_key: str
    key: str
    generation: int = 0
    earlier: Earlier | None = None


@dataclass(frozen=True)
class WorkUnit:
    """What one worker streams once: shards of one huge row group, or many tiny shards."""

    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class RowOptions:
    """The options that change rows, and so a shard's key.

    max_image_pixels, max_image_bytes: an image above either is too_large.
    image_uri_prefixes: an image_uri under none of them is not_allowed. image_formats: opened
    beside the usual ones, of drf_core.decoding.MORE_FORMATS.
    prior: share of each label that probabilities assume; empty for the checkpoint's own.
    """

    columns: PostColumns = PostColumns()
    keep: tuple[str, ...] = ()
    image_uri_prefixes: tuple[str, ...] = ()
    max_image_pixels: int = MAX_IMAGE_PIXELS
    max_image_bytes: int = MAX_IMAGE_BYTES
    image_formats: tuple[str, ...] = ()
    prior: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class JobOptions:
    """Everything a worker needs beside its work unit.

    output: fsspec URL of the output root.
    model: folder or fsspec URL workers can reach; model_id: the name the user gave.
    model_revision: content hash, checked by each worker; so is package_version.
    labels: the checkpoint's labels, in the order of its probabilities.
    device: auto, cpu or cuda. runtime: what encodes. batch_size: posts per forward, 0 for what
        fills the device. threads: per process, 0 for all cores. fetch_concurrency,
        fetch_per_host: requests for images at a time, per process, to all hosts and to each.
    feature_cache: fsspec URL of a folder that keeps encoders' features, None for no cache.
    kept: fields of the kept columns that all parts have (pipelines.posts.column_types), None for
        those of each file.
    part_bytes: published parts are filled up to so many bytes. table: "delta" where what is
        published shall also be Delta tables.
    planned_at: when the input was looked at, seconds since 1970. Where two runs publish one
        file, the one that was planned later has its way.
    """

    output: str
    run_id: str
    model: str
    model_id: str
    model_revision: str
    package_version: str
    labels: tuple[str, ...]
    rows: RowOptions = RowOptions()
    device: str = "auto"
    runtime: str = "auto"
    batch_size: int = 0
    threads: int = 0
    fetch_concurrency: int = 256
    fetch_per_host: int = 16
    max_dead_letter_share: float = 0.05
    max_recovered_share: float = 1.0
    max_low_quality_share: float = 1.0
    max_label_shift: float = 1.0
    max_fetch_failed_share: float = 0.5
    strict: bool = False
    feature_cache: str | None = None
    kept: str | None = None
    part_bytes: int = PART_BYTES
    table: str | None = None
    planned_at: float = dataclasses.field(default_factory=time.time)


@dataclass(frozen=True)
class ShardOutcome:
    """What a worker says of one shard; the files, not this, are the proof.

    computed: rows that were computed now; the others were found: all where a commit record was
        there, those that --retry does not ask for where it was not.
    failure: one readable line where the shard can never be committed as things are
        (corrupt page, input changed since planning, worker killed three times), else None.
    runtime: what encoded it; note: why that is not what was meant to. None where not computed.
    began, ended: when it was computed, in seconds since 1970; 0 where it was not.
    fetched: host, what became of addresses there (fetched, or the reason), and how many: those
        that the work unit asked since its last outcome.
    killed: earlier attempts at it that took their worker down. cached: texts and images looked
        for in the feature cache since the process's last outcome, and found there.
    """

    key: str
    source_file: str
    partition: str
    rows: int
    computed: int = 0
    failure: str | None = None
    runtime: str | None = None
    note: str | None = None
    began: float = 0.0
    ended: float = 0.0
    fetched: tuple[tuple[str, str, int], ...] = ()
    killed: int = 0
    cached: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Plan:
    """One run: what is to be done, and what was found that is already done.

    units: work still to compute. files: every readable input file. shards: all shards of
    each file, by source_file, in row order, computed or not. orphans: published source
    files whose input is gone. publish: the partitions that need publishing, also
    when all their shards are committed already (a killed run) or a file was pruned. usual: by
    partition, the labels of the last nights before it, counted.
    """

    options: JobOptions
    files: tuple[InputFile, ...]
    failed_files: tuple[FailedFile, ...]
    shards: dict[str, tuple[Shard, ...]]
    units: tuple[WorkUnit, ...]
    publish: tuple[str, ...]
    orphans: tuple[str, ...] = ()
    prune: bool = False
    warnings: tuple[str, ...] = dataclasses.field(default=())
    usual: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


def parse_prior(text: str | None, labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The shares that --prior gives to labels, summing to 1; raises UsageError."""
    if text is None:
        return ()
    if text == "uniform":
        return tuple((label, 1 / len(labels)) for label in labels)
    shares = {}
    for part in text.split(","):
        label, _, share = part.partition("=")
        try:
            shares[label.strip()] = float(share)
        except ValueError:
            raise UsageError(f"--prior {text}: {part!r} is not LABEL=SHARE") from None
    if set(shares) != set(labels) or not all(0 < share < 1 for share in shares.values()):
        raise UsageError(
            f"--prior {text}: give each of {', '.join(labels)} a share between 0 and 1"
        )
    total = sum(shares.values())
    if abs(total - 1) > 0.01:
        raise UsageError(f"--prior {text}: the shares add up to {total:g}, not 1")
    return tuple((label, shares[label] / total) for label in labels)
