"""The plan of a run: what the inputs ask for, less what the output has already.

The client makes it without torch and Beam, so a night with nothing to do ends at once. It
changes nothing; `--dry-run` is the plan, described.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

from pipelines.annotate.job import Earlier, JobOptions, Plan, Shard
from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import committed_keys, find_commit
from pipelines.annotate.output.ledger import Ledger
from pipelines.annotate.output.partition_state import (
    PartitionState,
    listed_numbers,
    newest_ledger,
    read_partition,
)
from pipelines.annotate.planning.kept_column_types import settle_kept_columns
from pipelines.annotate.planning.known_names import keep_names
from pipelines.annotate.planning.shards import (
    SHARD_ROWS,
    cut_shards,
    fill_units,
    in_generation,
)
from pipelines.annotate.publish.decide import decide, displaces
from pipelines.annotate.publish.delta_table import behind, check_installed
from pipelines.annotate.publish.partition_tasks import partition_tasks
from pipelines.posts.inputs import InputListing, input_gone
from pipelines.storage.files import Store, in_parallel, open_store
from pipelines.storage.redaction import reason_of, redact
from schemas.errors import UsageError
from schemas.reasons import FETCH_REASONS, DeadLetterReason, ModalityReason

# More would hide what comes behind them.
_MOST_FILES_SHOWN = 20

# That a night's labels are compared with.
_USUAL_NIGHTS = 7


def make_plan(
    options: JobOptions,
    listing: InputListing,
    *,
    retry: Collection[str] = (),
    prune: bool = False,
    shard_rows: int = SHARD_ROWS,
    workers: int = 1,
) -> Plan:
    """Return what is to be done for the inputs listed, and what is done already.

    retry: posts with one of these reasons are computed once more; fetch_failed stands for all
    reasons of addresses. prune: orphans are removed.
    workers: how many units are computed at once, so that none idles.
    Raises UsageError where the output holds another label set or another input's annotations
    under the name of one listed, or a reason is unknown, and OutputError where the output
    cannot be read.
    """
    retry = _known_reasons(retry)
    if options.table:
        check_installed()
    store = open_store(options.output)
    wanted = {file.partition for file in listing.files} | {f.partition for f in listing.failed}
    output = _read_output(store, wanted)
    _check_labels(output, options)
    listing = keep_names(listing, output.ledgers)
    _check_displaced(listing, output)
    listing, options = settle_kept_columns(listing, output.ledgers, options)
    cut = {f.source_file: cut_shards(f, options, shard_rows) for f in listing.files}
    generations = iter(
        in_parallel(lambda shard: _choose(shard, store, output, retry), chain(*cut.values()))
    )
    chosen = {name: tuple(islice(generations, len(shards))) for name, shards in cut.items()}
    done = _committed(store, (shard for shards in chosen.values() for shard in shards), output)
    todo = [shard for shards in chosen.values() for shard in shards if shard.key not in done]
    plan = Plan(
        options=options,
        files=listing.files,
        failed_files=listing.failed,
        shards=chosen,
        units=fill_units(todo, listing.files, workers),
        publish=(),
        orphans=_orphans(listing, output, prune),
        prune=prune,
        warnings=(*listing.warnings, *_tell_other_keys(listing, output.ledgers)),
        usual={partition: _usual_labels(partition, output.ledgers) for partition in wanted},
    )
    return dataclasses.replace(plan, publish=tuple(_unsettled(plan, output)))


def _unsettled(plan: Plan, output: _Output) -> Iterator[str]:
    """Yield the partitions that do not hold yet what the plan wants of them."""
    states = output.partitions.items()
    ledgers = {name: (state.number, state.ledger) for name, state in states if state.ledger}
    tables_lack = behind(output.store, ledgers) if plan.options.table else set()
    for partition, task in partition_tasks(plan).items():
        state = output.partition(partition)
        decision = decide(plan.options, task, state, {}, {})
        keys = {shard.key for file in task.files for shard in file.shards}
        left = keys & output.commits or partition in output.prepared or partition in tables_lack
        if decision.changes(state) or decision.wanting() or left:
            yield partition


def describe_plan(plan: Plan) -> list[str]:
    """Return what the plan would do, for a person, in lines."""
    todo: dict[str, int] = defaultdict(int)
    for unit in plan.units:
        for shard in unit.shards:
            todo[shard.source_file] += shard.rows
    rows = sum(file.rows for file in plan.files)
    lines = [
        f"{len(plan.files)} files, {rows:,} posts; to annotate: {sum(todo.values()):,} posts of "
        f"{len(todo)} files in {len(plan.units)} work units"
    ]
    open_files = [file for file in plan.files if file.source_file in todo]
    lines += [
        f"  {file.source_file}: {todo[file.source_file]:,} of {file.rows:,} posts"
        for file in open_files[:_MOST_FILES_SHOWN]
    ]
    if len(open_files) > _MOST_FILES_SHOWN:
        lines.append(f"  and {len(open_files) - _MOST_FILES_SHOWN:,} more")
    lines += [f"publish: {partition or '(no partition)'}" for partition in plan.publish]
    lines += [f"failed: {file.source_file}: {file.error}" for file in plan.failed_files]
    verb = "prune" if plan.prune else "orphan (input gone; --prune removes its parts)"
    lines += [f"{verb}: {source_file}" for source_file in plan.orphans]
    lines += [f"warning: {warning}" for warning in plan.warnings]
    if not (plan.units or plan.publish):
        lines.append("nothing to do")
    return lines


@dataclass(frozen=True)
class _Output:
    """What an output holds. commits: keys that have a commit record.

    prepared: partitions of which a run that was killed left prepared parts.
    """

    store: Store
    partitions: dict[str, PartitionState]
    commits: set[str]
    prepared: set[str]

    def partition(self, partition: str) -> PartitionState:
        return self.partitions.get(partition) or PartitionState()

    @property
    def ledgers(self) -> dict[str, Ledger]:
        return {name: state.ledger for name, state in self.partitions.items() if state.ledger}


def _read_output(store: Store, wanted: set[str]) -> _Output:
    """Return what an output holds. wanted: partitions of the input, to be looked at closely."""
    sizes: dict[str, dict[str, dict[str, int]]] = {}
    for tree in layout.TREES:
        folders: dict[str, dict[str, int]] = {}
        for path, size in store.sizes(tree, recursive=True).items():
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, {})[name] = size
        sizes[tree] = folders
    numbers = listed_numbers(store)

    def read_state(partition: str) -> PartitionState:
        listed = {tree: sizes[tree].get(partition, {}) for tree in layout.TREES}
        if partition in wanted:
            return read_partition(store, partition, listed, numbers.get(partition, 0))
        return PartitionState(*newest_ledger(store, partition, numbers[partition]), listed)

    partitions = sorted({*wanted, *numbers})
    states = dict(zip(partitions, in_parallel(read_state, partitions), strict=True))
    prepared = set()
    for name in store.sizes(layout.PREPARED, recursive=True):
        partition, _, part = name.partition("/")[2].rpartition("/")
        # One that no ledger names yet may be another run's, at work.
        if layout.part_number(part) <= numbers.get(partition, 0):
            prepared.add(partition)
    return _Output(store, states, committed_keys(store), prepared)


def _choose(shard: Shard, store: Store, output: _Output, retry: set[str]) -> Shard:
    """Return the shard in the generation that this run wants."""
    published = output.partition(shard.partition).published(shard)
    newest = in_generation(shard, published.generation if published else 0)
    while (following := in_generation(shard, newest.generation + 1)).key in output.commits:
        newest = following
    entry, state, record = published, output.partition(shard.partition), None
    if published is None or newest.key != published.key:
        record = find_commit(store, newest.key) if retry and newest.key in output.commits else None
        # A run that ended without publishing it held it back; one that was killed is resumed.
        ended = record is not None and store.size(layout.manifest(record.run_id)) is not None
        entry = record.entry if record and ended else None
    if entry is None or not entry.counts.all_reasons() & retry:
        return newest
    if record is not None:
        places = [(tree, record.staged(tree)) for tree in record.parts]
    else:
        places = [
            (tree, state.place(shard.partition, tree, entry.part))
            for tree in layout.TREES
            if entry.part in state.parts(tree)
        ]
    earlier = Earlier(tuple(places), tuple(sorted(retry)))
    return dataclasses.replace(in_generation(shard, newest.generation + 1), earlier=earlier)


def _committed(store: Store, shards: Iterable[Shard], output: _Output) -> set[str]:
    """Return the keys of the shards that are published or have a commit record."""
    done, look_up = set(), []
    for shard in shards:
        published = output.partition(shard.partition).published(shard)
        if published is not None and published.key == shard.key:
            done.add(shard.key)
        elif shard.key in output.commits:
            look_up.append(shard.key)
    records = in_parallel(lambda key: find_commit(store, key), look_up)
    done.update(key for key, record in zip(look_up, records, strict=True) if record is not None)
    return done


def _orphans(listing: InputListing, output: _Output, prune: bool) -> tuple[str, ...]:
    """Return the published files whose input lay below a root of this run and is gone.

    Raises UsageError where that cannot be told and prune would remove them.
    """
    present = {file.source_file for file in listing.files}
    present |= {file.source_file for file in listing.failed}
    orphans = []
    for ledger in output.ledgers.values():
        for source_file, file in ledger.files.items():
            root = next((r for r in listing.roots if _below(file.path, r)), None)
            if source_file in present or root is None:
                continue
            # The ledger's paths have no credentials; the root as given has.
            path = root + file.path[len(redact(root)) :]
            try:
                is_gone = input_gone(path)
            except Exception as error:
                if prune:
                    raise UsageError(
                        f"--prune: cannot tell whether {file.path} is gone: {reason_of(error)}; "
                        "nothing was removed, try again when the input can be listed"
                    ) from error
                continue
            if is_gone:
                orphans.append(source_file)
    return tuple(sorted(orphans))


def _below(path: str, root: str) -> bool:
    root = redact(root).rstrip("/")
    return path == root or path.startswith(root + "/")


def _usual_labels(partition: str, ledgers: Mapping[str, Ledger]) -> dict[str, int]:
    """Return the labels of the last nights before a partition, counted."""
    before = sorted(other for other in ledgers if other < partition)[-_USUAL_NIGHTS:]
    files = (file for other in before for file in ledgers[other].files.values())
    labels: Counter[str] = Counter()
    for shard in (shard for file in files for shard in file.shards):
        labels.update(shard.counts.labels)
    return dict(labels)


def _check_labels(output: _Output, options: JobOptions) -> None:
    for partition, ledger in output.ledgers.items():
        if ledger.files and ledger.labels != options.labels:
            where = f" (partition {partition})" if partition else ""
            raise UsageError(
                f"--output {redact(options.output)} holds annotations with the labels "
                f"{', '.join(ledger.labels)}{where}, the model has {', '.join(options.labels)}; "
                "choose another output"
            )


def _tell_other_keys(listing: InputListing, ledgers: Mapping[str, Ledger]) -> list[str]:
    """A warning where not all partitions have the same keys; DuckDB and Spark want that."""
    partitions = {file.partition for file in listing.files}
    partitions |= {partition for partition, ledger in ledgers.items() if ledger.files}
    one_of: dict[tuple[str, ...], str] = {}
    for partition in sorted(partitions):
        keys = tuple(folder.partition("=")[0] for folder in partition.split("/") if folder)
        one_of.setdefault(keys, partition or "no folder")
    if len(one_of) < 2:
        return []
    return [
        f"partitions have other keys than others ({', '.join(one_of.values())}): DuckDB and Spark "
        "do not read them as one table; annotate them into outputs of their own"
    ]


def _check_displaced(listing: InputListing, output: _Output) -> None:
    """Refuse inputs that would take the place of other inputs' annotations."""
    listed = [(f.source_file, f.partition, f.path, f.identity) for f in listing.files]
    failed = [(f.source_file, f.partition, f.path, None) for f in listing.failed]
    displaceable = [
        (path, ledger.files[name], identity)
        for name, partition, path, identity in (*listed, *failed)
        if (ledger := output.partition(partition).ledger)
        and name in ledger.files
        and ledger.files[name].path != redact(path)
    ]
    displaced = in_parallel(lambda one: displaces(one[1], one[0], one[2]), displaceable)
    for (path, published, _), is_displaced in zip(displaceable, displaced, strict=True):
        if is_displaced:
            raise UsageError(
                f"--input: {redact(path)} would replace the annotations of {published.path}, "
                "which has the same name; give the folder above both, or another output"
            )


def _known_reasons(retry: Collection[str]) -> set[str]:
    known = [str(reason) for reason in (*ModalityReason, *DeadLetterReason)]
    for reason in retry:
        if reason not in known:
            raise UsageError(f"--retry {reason}: unknown reason; it is one of {', '.join(known)}")
    return {*retry, *(FETCH_REASONS if "fetch_failed" in retry else ())}
