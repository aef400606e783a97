"""Runs the DAG with `dag.test()` in Airflow's environment; the tests start it there.

Standard input: JSON, a list of nights to run, one after another:
    night; settings (the Variable); options (of this run); timeout_seconds of `annotate`;
    deadline_hours; changes: by number, what is moved ([from, to]) once that drf has ended.
The last line printed: per night its state, and by task the state, tries and message of failure;
and what `annotate` returned.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "deploy" / "airflow" / "drf_annotate.py"


def main() -> None:
    """Run what standard input asks for."""
    asked = json.load(sys.stdin)
    spec = importlib.util.spec_from_file_location("drf_annotate", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["drf_annotate"] = module
    spec.loader.exec_module(module)
    dag = module.dag
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
        task.retry_exponential_backoff = 0
    dag.get_task("wait_for_posts").poke_interval = 0
    failures: list[tuple[str, str]] = []
    for task in dag.tasks:
        keep = [lambda context: failures.append((context["ti"].task_id, str(context["exception"])))]
        task.on_failure_callback = task.on_retry_callback = keep
    run_drf = module._Drf.run_drf
    results = []
    for one in asked:
        os.environ["AIRFLOW_VAR_DRF"] = json.dumps(one["settings"])
        module.DEADLINE = timedelta(hours=one.get("deadline_hours", 1_000_000))
        dag.get_task("annotate").execution_timeout = timedelta(
            seconds=one.get("timeout_seconds", 3600)
        )
        failures.clear()
        changes = {int(number): change for number, change in one.get("changes", {}).items()}
        module._Drf.run_drf = _with_changes(run_drf, changes)
        night = datetime.fromisoformat(one["night"]).replace(hour=1, tzinfo=timezone.utc)
        run = dag.test(logical_date=night, run_conf={"options": one.get("options", [])})
        tasks = {
            ti.task_id: {
                "state": str(ti.state),
                "tries": ti.try_number,
                "messages": [text for name, text in failures if name == ti.task_id],
            }
            for ti in run.get_task_instances()
        }
        annotate = run.get_task_instance("annotate")
        results.append(
            {
                "state": str(run.state),
                "run_id": run.run_id,
                "tasks": tasks,
                "returned": annotate.xcom_pull(task_ids="annotate"),
            }
        )
    print("\n" + json.dumps(results))


def _with_changes(run_drf: Callable[..., Any], changes: dict[int, list[str]]) -> Callable[..., Any]:
    calls = itertools.count(1)

    def run_and_change(*arguments: Any) -> Any:
        result = run_drf(*arguments)
        if change := changes.get(next(calls)):
            os.rename(*change)
        return result

    return run_and_change


if __name__ == "__main__":
    main()
