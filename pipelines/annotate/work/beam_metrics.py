"""What Flink's, Dataflow's and Prism's own pages show of a job that runs: Beam's metrics.

They are for watching only: retried bundles count twice. What is published is counted from the
parts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipelines.annotate.work.rows import AsBefore, DeadLetter, Result
from schemas.annotations import MODALITIES

_NAMESPACE = "drf"


def count_batch(posts: int, seconds: float) -> None:
    """Count one forward of the model. Outside of a Beam step it counts nowhere."""
    if metrics := _metrics():
        metrics.distribution(_NAMESPACE, "batch_posts").update(posts)
        metrics.distribution(_NAMESPACE, "batch_milliseconds").update(round(1000 * seconds))


def count_results(results: Iterable[Result]) -> None:
    """Count what became of posts: posts, dead letters by reason, modalities by reason."""
    if not (metrics := _metrics()):
        return
    counts: Counter[str] = Counter()
    for result in results:
        counts["posts"] += 1
        if isinstance(result, DeadLetter):
            counts[f"dead_letters_{result.reason}"] += 1
            continue
        if isinstance(result, AsBefore):
            continue
        for m in MODALITIES:
            if reason := getattr(result, m).reason:
                counts[f"{m}_{reason}"] += 1
    for name, number in counts.items():
        metrics.counter(_NAMESPACE, name).inc(number)


def _metrics() -> Any:
    """Beam's, where it runs this; a local run need not import it, which takes a second."""
    module = sys.modules.get("apache_beam.metrics")
    return module and module.Metrics
