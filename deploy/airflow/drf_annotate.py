"""The nightly `drf annotate` in Airflow: one run per night, several at once in a backfill.

    wait_for_posts >> annotate >> partitions_published, files_readable

wait_for_posts fails where a night's posts are still not there at the deadline; annotate where
the run failed; partitions_published where people must look at dead letters; files_readable
where files must be written again (the others are published). Which box is red says what to do.

The Variable `drf` (JSON) names the executable in its own virtual environment, and the folders:

    {"drf": "/opt/drf/bin/drf", "input": "s3://exports/dt={night}", "output": "s3://annotated",
     "options": ["--image-uri-prefix", "s3://media/"], "wait_for": "s3://exports/dt={night}/_SUCCESS"}

The last two may be left out; {night:%Y/%m/%d} is the date in any pattern of strftime.
Credentials are what the worker's environment or machine gives.
This file runs in Airflow's environment, so it imports nothing of the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk import (
    DAG,
    BaseOperator,
    BaseSensorOperator,
    CronDataIntervalTimetable,
    Param,
    Variable,
    task,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException

DONE, WRONG_USAGE, HELD_BACK, FAILED_FILES = 0, 2, 3, 4

# The exit code of a missing input is that of wrong usage; only the line tells them apart.
NOT_THERE = re.compile(
    r"^drf: error: --input .*: (no such file(, folder or bucket| or folder)|matches no file|"
    r"the folder holds no file of posts .*|cannot be listed: .*)$"
)
# What a run's parameter `options` may ask for; the Variable drf has the rest.
FLAGS = ("--strict", "--prune", "--no-report")
OPTIONS = ("--retry", "--max-dead-letter-share", "--batch-size", "--threads", "--runtime")
# After the end of a night's data interval.
DEADLINE = timedelta(hours=18)
# What drf needs to commit what it holds and to end in an orderly way.
PATIENCE_SECONDS = 60


class _Drf(BaseOperator):
    """A task that runs `drf annotate` and stops it when Airflow stops the task."""

    _process: subprocess.Popen[str] | None = None

    def run_drf(self, context: Any, posts: str, *options: str) -> tuple[int, str, str]:
        """Run on the input that the setting `posts` names; return exit code, output, last line."""
        settings = Variable.get("drf", deserialize_json=True)
        if not context.get("ds"):
            raise AirflowFailException("the run has no logical date, so it names no night")
        command = [
            *(settings["drf"], "annotate", *settings.get("options", [])),
            *("--input", _of_night(settings.get(posts, settings["input"]), context["ds"])),
            *("--output", settings["output"]),
            *(*_allowed(context["params"]["options"]), *options),
        ]
        # Airflow's own settings hold secrets, and its Python's paths are not those of drf.
        environment = {
            name: value
            for name, value in os.environ.items()
            if "AIRFLOW" not in name and not name.startswith("PYTHON")
        }
        last_line = ""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    encoding="utf-8",
                    errors="replace",
                    env=environment,
                )
            except OSError as error:
                raise AirflowFailException(
                    f"cannot start {settings['drf']} ({error.strerror}): the Variable drf names it"
                ) from error
            try:
                for line in self._process.stderr:
                    self.log.info(line.rstrip())
                    last_line = line.strip() or last_line
                code = self._process.wait()
            finally:
                self.on_kill()
            output.seek(0)
            if code < 0:
                last_line = f"killed by {signal.Signals(-code).name}; {last_line}"
            return code, output.read(), last_line

    def on_kill(self) -> None:
        """Stop drf, if it runs: its next try goes on from what it had committed."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _allowed(words: list[str]) -> list[str]:
    """The options that whoever starts a run may give; those of Beam could start any program."""
    follows = False
    for word in words:
        name, equals, _ = word.partition("=")
        if (follows and not word.startswith("-")) or (name in FLAGS and not equals):
            follows = False
        elif name in OPTIONS:
            follows = not equals
        else:
            raise AirflowFailException(
                f"the parameter options may hold {', '.join((*FLAGS, *OPTIONS))}, not {word!r}; "
                "others belong into the Variable drf"
            )
    return words


def _of_night(place: str, night: str) -> str:
    """Put the date in the place of {night}, or of {night:PATTERN} as strftime writes it."""
    date = datetime.fromisoformat(night)
    return re.sub(r"\{night(?::([^}]*))?\}", lambda m: date.strftime(m[1] or "%Y-%m-%d"), place)


class PostsAreThere(_Drf, BaseSensorOperator):
    """Waits for a night's posts, asking drf itself, which sees what the run will see."""

    def poke(self, context: Any) -> bool:
        """Return whether they are there; fail on wrong usage, and at the deadline."""
        code, _, line = self.run_drf(context, "wait_for", "--dry-run")
        if code in (DONE, FAILED_FILES):
            return True
        if code != WRONG_USAGE:
            raise AirflowException(f"exit code {code}: {line}")
        late = datetime.now(timezone.utc) > context["data_interval_end"] + DEADLINE
        if late or not NOT_THERE.match(line):
            raise AirflowFailException(f"exit code {code}: {line}")
        return False


class Annotate(_Drf):
    """Annotates a night. Its XCom holds the manifest's counts."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the counts of a run that came to its end; raise where it did not."""
        code, output, line = self.run_drf(context, "input", "--json", "--run-id", run_id(context))
        if code in (DONE, HELD_BACK, FAILED_FILES) and output:
            manifest = json.loads(output)
            counts = ("run_id", "exit_code", "totals", "computed_rows", "skipped_rows", "seconds")
            held_back = [name for name, how in manifest["partitions"].items() if how == "held_back"]
            return {
                **{name: manifest[name] for name in counts},
                "held_back": held_back,
                "last_line": line,
            }
        permanent = code in (HELD_BACK, FAILED_FILES) or (
            code == WRONG_USAGE and not NOT_THERE.match(line)
        )
        raise (AirflowFailException if permanent else AirflowException)(f"exit code {code}: {line}")


def run_id(context: Any) -> str:
    """The run's name for `--run-id`: the same in every try, and within what drf allows."""
    name = f"{context['dag'].dag_id}.{context['run_id']}"
    allowed = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")
    if len(allowed) <= 128:
        return allowed
    return f"{allowed[:111]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@task(retries=0)
def partitions_published(run: dict[str, Any]) -> None:
    """Fail where dead letters, or failed files under --strict, held a partition back."""
    if run["held_back"]:
        raise AirflowFailException(f"held back: {', '.join(run['held_back'])}. {run['last_line']}")


@task(retries=0)
def files_readable(run: dict[str, Any]) -> None:
    """Fail where files could not be read; the others are published."""
    if failed := run["totals"]["failed_files"]:
        raise AirflowFailException(f"files that failed: {failed}. {run['last_line']}")


with DAG(
    "drf_annotate",
    # A run's date is that of the night which has just ended.
    schedule=CronDataIntervalTimetable("0 1 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=4,
    params={"options": Param([], type="array", items={"type": "string"})},
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(hours=1),
    },
    doc_md=__doc__,
) as dag:
    there = PostsAreThere(
        task_id="wait_for_posts",
        mode="reschedule",
        poke_interval=timedelta(minutes=10).total_seconds(),
        # Beyond the deadline, which poke() keeps.
        timeout=timedelta(days=2).total_seconds(),
        execution_timeout=timedelta(minutes=30),
    )
    # As many at once as one machine carries, whatever runs and backfills are active.
    annotated = Annotate(
        task_id="annotate", execution_timeout=timedelta(hours=6), max_active_tis_per_dag=2
    )
    there >> annotated
    partitions_published(annotated.output)
    files_readable(annotated.output)
