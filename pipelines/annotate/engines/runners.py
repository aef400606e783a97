"""Beam's side of a command line: options checked by name, runner chosen, errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NoReturn

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipelines.annotate.engines import flink
from pipelines.annotate.engines.dataflow import check_installed
from pipelines.storage.redaction import one_line
from schemas.errors import DRFError, UsageError

# "package.module.ErrorName: message [while running 'step']", as runners quote a worker's error.
_QUOTED_ERROR = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Z]\w*)(?:: (?P<message>.*))?$", re.MULTILINE
)
# How runners call the number of work units they compute at once.
_PARALLELISM = ("direct_num_workers", "num_workers", "max_num_workers", "parallelism")
_WHILE_RUNNING = re.compile(r" \[while running '[^']*'\]")


class JobError(DRFError):
    """A job that failed on its runner, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse_beam_options(arguments: Sequence[str], own: Sequence[str] = ()) -> PipelineOptions:
    """Beam's pipeline options from what is left of a command line.

    own: the command's own option names, for suggestions. Raises UsageError for an option
    that neither the command nor Beam knows (Beam itself would ignore it), and where Beam has
    no such runner or the runner lacks an option.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    for group in PipelineOptions.__subclasses__():
        if group.__module__.startswith("apache_beam."):
            group._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        name = unknown[0].split("=", 1)[0]
        if not name.startswith("-"):
            raise UsageError(f"unexpected argument {name!r}")
        known = [*own, *parser._option_string_actions]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "`drf annotate --help` lists the options"
        raise UsageError(f"unknown option {name}: {hint}")
    options = PipelineOptions(list(arguments))
    if faults := PipelineOptionsValidator(options, choose_runner(options)).validate():
        name = options.view_as(StandardOptions).runner
        raise UsageError(f"--runner {name}: {one_line(' '.join(faults))}")
    return options


def count_workers(options: PipelineOptions) -> int:
    """How many work units the runner computes at once, as far as its options tell."""
    settings = options.get_all_options()
    numbers = (settings.get(name) for name in _PARALLELISM)
    return max([1, *(number for number in numbers if isinstance(number, int))])


def choose_runner(options: PipelineOptions) -> PipelineRunner:
    """The runner that was asked for, else one that works in this process, offline.

    Beam's own default tries to download a runner first; FnApiRunner needs nothing. It takes
    one work unit after another, so the model is loaded once. Raises UsageError where Beam
    knows no such runner, or lacks what it needs.
    """
    name = options.view_as(StandardOptions).runner
    if name and name != "FnApiRunner":
        try:
            runner = create_runner(name)
        except (ValueError, ImportError, AttributeError) as error:
            raise UsageError(f"--runner {name}: {str(error).splitlines()[0]}") from error
        check_installed(runner)
        return runner
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    return FnApiRunner()


def run_pipeline(
    pipeline: beam.Pipeline,
    run_id: str,
    while_running: Callable[[Callable[[], object]], contextlib.AbstractContextManager[None]],
) -> None:
    """Run to the end; raise JobError, or the worker's own DRFError, in one line.

    An interrupt cancels the job: one that nobody waits for would keep its workers.
    while_running: what goes on beside a job that an engine elsewhere runs; it is given a
    function that cancels the job.
    """
    flink.name_job(pipeline.options, run_id)
    with _quiet_root_logger():
        try:
            result = pipeline.run()

            def cancel() -> None:
                for cancel_it in (result.cancel, partial(flink.cancel_job, pipeline.options)):
                    # What cannot be cancelled ends by itself.
                    with contextlib.suppress(Exception):
                        cancel_it()

            try:
                with while_running(cancel):
                    state = result.wait_until_finish()
            except KeyboardInterrupt:
                cancel()
                raise
        except Exception as error:
            raise as_one_line(error) from error
    if state is not None and str(state) not in ("DONE", "RUNNING"):
        raise JobError(f"the runner ended the job as {state}; its own log says more")


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep back what is logged on the root logger itself, unless DRF_DEBUG is set.

    Beam's client of a job server logs there the traceback that it raises as well.
    """

    def refuse(record: logging.LogRecord) -> bool:
        return bool(os.environ.get("DRF_DEBUG"))

    root = logging.getLogger()
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)


def as_one_line(error: Exception) -> BaseException:
    """What a worker raised, recovered from what the runner made of it.

    Runners in this process re-raise the worker's exception, others quote its traceback. A
    KeyboardInterrupt, wrapped by either, comes back as one.
    """
    if isinstance(error, JobError):
        return error
    text = _WHILE_RUNNING.sub("", str(error)).strip()
    if isinstance(error, DRFError):
        return job_error(type(error), text)
    if re.search(r"^KeyboardInterrupt\b", text, re.MULTILINE):
        return KeyboardInterrupt()
    if quoted := quoted_error(text):
        return job_error(*quoted)
    return JobError(f"{type(error).__name__}: {(text.splitlines() or [''])[-1].strip()}")


def quoted_error(text: str) -> tuple[type[DRFError], str] | None:
    """Kind and message of the last error of ours that a traceback ends in, None without one."""
    known = {kind.__name__: kind for kind in _subclasses(DRFError)}
    matches = _QUOTED_ERROR.finditer(_WHILE_RUNNING.sub("", text))
    quoted = [match for match in matches if match["name"] in known]
    return (known[quoted[-1]["name"]], quoted[-1]["message"] or "") if quoted else None


def job_error(kind: type[DRFError], message: str) -> JobError:
    """A worker's error as the job's, with the exit code of its kind."""
    error = JobError(message)
    error.exit_code = kind.exit_code
    return error


def _subclasses(kind: type[DRFError]) -> list[type[DRFError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in _subclasses(child))]
