"""Accuracy over the share of disrupted posts: one panel per strategy, one line per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drf_core.corpus.disruption import STRATEGIES
from drf_core.evaluation.protocol import CLEAN, RANDOM
from pipelines.evaluate.records import Record


def draw_accuracy(records: Sequence[Record], paths: Sequence[Path]) -> None:
    """Write the plot to each path, in the format that its suffix names.

    A line begins at the clean cell (share 0); the band is the 95 % interval.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [r for r in records if r["scope"] == "cell" and r["metric"] == "accuracy"]
    models = list(dict.fromkeys(record["model"] for record in shown))
    # The same file for the same figures: ids in an SVG are salted otherwise.
    with pyplot.rc_context({"svg.hashsalt": "drf", "font.size": 9}):
        drawing, panels = pyplot.subplots(
            1, len(STRATEGIES), figsize=(10, 3.4), sharey=True, layout="constrained"
        )
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
            panel.set_title(strategy)
            panel.set_xlabel("share of posts disrupted")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("accuracy")
        panels[-1].legend(frameon=False)
        for path in paths:
            kind = path.suffixes[0].lstrip(".")
            metadata = {"Date": None} if kind == "svg" else None
            drawing.savefig(path, format=kind, dpi=150, metadata=metadata)
        pyplot.close(drawing)
