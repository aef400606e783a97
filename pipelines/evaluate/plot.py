"""Plots of an evaluation: accuracy over the share of disrupted posts, and over confidence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drf_core.corpus.disruption import STRATEGIES
from drf_core.evaluation.protocol import CLEAN, RANDOM
from pipelines.evaluate.records import Record


def draw_accuracy(records: Sequence[Record], path: Path, always: tuple[str, float]) -> None:
    """Write the plot in the format that the path's first suffix names.

    A line begins at the clean cell (share 0); the band is the 95 % interval. always: what a
    model that says one label for everything is called, and its accuracy.
    """
    shown = [r for r in records if r["scope"] == "cell" and r["metric"] == "accuracy"]
    models = list(dict.fromkeys(record["model"] for record in shown))
    with _panels(len(STRATEGIES), path) as panels:
        for panel, strategy in zip(panels, STRATEGIES, strict=True):
            for model in models:
                line = [
                    record
                    for record in shown
                    if record["model"] == model
                    and (
                        record["group"] == CLEAN
                        or (record["group"] == RANDOM and record["strategy"] == strategy)
                    )
                ]
                line.sort(key=lambda record: record["ratio"])
                ratios = [record["ratio"] for record in line]
                panel.plot(ratios, [record["value"] for record in line], marker="o", label=model)
                panel.fill_between(
                    ratios,
                    [record["low"] for record in line],
                    [record["high"] for record in line],
                    alpha=0.1,
                )
            name, accuracy = always
            panel.axhline(accuracy, color="grey", linestyle="--", linewidth=1, label=name)
            panel.set_title(strategy)
            panel.set_xlabel("share of posts disrupted")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel(f"accuracy ({shown[0]['posts']:,} posts)")
        panels[-1].legend(frameon=False)


def draw_reliability(models: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Write accuracy over confidence: a panel per group of cells, a line per model.

    models: by model and group, (bins, 3) as `drf_core.evaluation.labels.reliability` gives it.
    A dot's size is its share of the posts.
    """
    groups = list(next(iter(models.values())))
    with _panels(len(groups), path) as panels:
        for panel, group in zip(panels, groups, strict=True):
            panel.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
            for model, of_model in models.items():
                confidence, accuracy, posts = of_model[group].T
                there = posts > 0
                panel.plot(confidence[there], accuracy[there], label=model)
                panel.scatter(
                    confidence[there], accuracy[there], 2 + 200 * posts[there] / posts.sum()
                )
            panel.set_title(f"{group} ({int(posts.sum()):,} predictions)")
            panel.set_xlabel("confidence")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("share that is right")
        panels[-1].legend(frameon=False)


@contextlib.contextmanager
def _panels(count: int, path: Path) -> Iterator[Any]:
    """Yield panels side by side, and write them when they are drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The same file for the same figures: ids in an SVG are salted otherwise.
    with pyplot.rc_context({"svg.hashsalt": "drf", "font.size": 9}):
        drawing, panels = pyplot.subplots(
            1, count, figsize=(10, 3.4), sharey=True, layout="constrained"
        )
        yield panels
        kind = path.suffixes[0].lstrip(".")
        metadata = {"Date": None} if kind == "svg" else None
        drawing.savefig(path, format=kind, dpi=150, metadata=metadata)
        pyplot.close(drawing)
