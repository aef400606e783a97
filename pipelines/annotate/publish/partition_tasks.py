"""What a run wants of each partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.annotate.job import Plan, Shard
from pipelines.posts.input_files import FailedFile
from pipelines.posts.names import partition_of


@dataclass(frozen=True)
class FileTask:
    """An input file that a run wants published. rows: by its footer when it was planned."""

    path: str
    source_file: str
    identity: str
    rows: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class PartitionTask:
    """What a run wants of a partition.

    files: to be published. failed: what could not be read. orphans: source files whose input
    is gone; prune: their parts shall go. Files that it does not name stay as they are. usual:
    labels of the last nights before it, counted.
    """

    partition: str
    files: tuple[FileTask, ...] = ()
    failed: tuple[FailedFile, ...] = ()
    orphans: tuple[str, ...] = ()
    prune: bool = False
    usual: Mapping[str, int] = field(default_factory=dict)

    def paths(self) -> dict[str, str]:
        """Return the input files that are there, with their paths, by source_file."""
        readable = {file.source_file: file.path for file in self.files}
        return readable | {file.source_file: file.path for file in self.failed}


def partition_tasks(plan: Plan) -> dict[str, PartitionTask]:
    """Return what a plan wants, for every partition that it touches, also the settled ones."""
    files: dict[str, list[FileTask]] = defaultdict(list)
    failed: dict[str, list[FailedFile]] = defaultdict(list)
    orphans: dict[str, list[str]] = defaultdict(list)
    for file in plan.files:
        shards = plan.shards[file.source_file]
        task = FileTask(file.path, file.source_file, file.identity, file.rows, shards)
        files[file.partition].append(task)
    for failure in plan.failed_files:
        failed[failure.partition].append(failure)
    for source_file in plan.orphans:
        partition = partition_of(source_file)
        # A night whose whole input was put away is complete; one written anew is not.
        if plan.prune or partition in files or partition in failed:
            orphans[partition].append(source_file)
    return {
        partition: PartitionTask(
            partition,
            tuple(files.get(partition, ())),
            tuple(failed.get(partition, ())),
            tuple(orphans.get(partition, ())),
            plan.prune,
            plan.usual.get(partition, {}),
        )
        for partition in sorted({*files, *failed, *orphans})
    }
