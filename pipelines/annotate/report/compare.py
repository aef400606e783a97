"""What changed from night to night, and whether the posts are like those the model knows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from drf_core.evaluation.bootstrap import holm
from pipelines.annotate.output.histograms import GROUP_FIELDS
from pipelines.annotate.report import significance
from pipelines.annotate.report.nights import Night
from schemas.annotations import MODALITIES, STATES

# A difference may be no chance and yet no matter: of a million posts every one is. Fewer points
# than these never call for attention.
LEAST_POINTS = 0.02

# Nights that "as usual" is reckoned from.
USUAL_NIGHTS = 7

# Groups of a kept column with fewer posts say nothing, and might name a person.
_LEAST_GROUP = 20
_MOST_GROUPS = 5

# A measure: what it is of, its name, and the rows that have it, of how many.
_Measure = tuple[str, str, Callable[[Night], tuple[float, int]]]


def compare_nights(
    night: Night, before: Night | None, earlier: Sequence[Night]
) -> list[dict[str, Any]]:
    """Return a record per share (and for the mean confidence), the most surprising first.

    before: the night it is compared with. earlier: nights before it, in order; of the last
    seven "median" is the middle value. p_holm is corrected for the number of records;
    more_than_chance says that it lies below the rate of false alarms.
    """
    usual = [one for one in earlier if one.annotations][-USUAL_NIGHTS:]
    records = []
    for group, name, measure in _measures([night, *([before] if before else []), *usual]):
        count, posts = measure(night)
        record: dict[str, Any] = {
            "group": group,
            "name": name,
            "count": count,
            "posts": posts,
            "value": count / posts if posts else 0.0,
            "before": None,
            "median": _median(measure, usual),
            "difference": None,
            "p": 1.0,
        }
        if before is not None:
            other_count, other_posts = measure(before)
            record["before"] = other_count / other_posts if other_posts else 0.0
            record["difference"] = record["value"] - record["before"]
            record["p"] = (
                significance.means_p(night.moments(), before.moments())
                if group == "confidence"
                else significance.shares_p(int(count), posts, int(other_count), other_posts)
            )
        records.append(record)
    corrected = holm([record["p"] for record in records])
    for record, p in zip(records, corrected, strict=True):
        record["p_holm"] = p
        record["more_than_chance"] = before is not None and p < significance.ALARM_RATE
        record["matters"] = record["more_than_chance"] and abs(record["difference"]) >= LEAST_POINTS
    return sorted(records, key=lambda one: (one["p"], -abs(one["difference"] or 0.0)))


def _measures(nights: Sequence[Night]) -> list[_Measure]:
    """What is compared: whatever occurs in one of the nights."""
    found = _counts(nights, "label", lambda night: night.labels)
    for m in MODALITIES:
        found += _counts(nights, m, partial(_of, "states", m), STATES)
        found += _counts(nights, f"{m} reason", partial(_of, "reasons", m))
        found += _counts(nights, f"{m} damage", partial(_of, "damage", m))
    found.append(("dead letters", "all", lambda night: (night.dead_letters, night.rows)))
    found += _counts(
        nights, "dead letters", lambda night: night.dead_letter_reasons, total=lambda n: n.rows
    )
    found.append(("confidence", "mean", lambda night: (night.confidence[0], night.annotations)))
    return found


def _of(field: str, modality: str, night: Night) -> Mapping[str, int]:
    by_modality: Mapping[str, Mapping[str, int]] = getattr(night, field)
    return by_modality.get(modality, {})


def _counts(
    nights: Sequence[Night],
    group: str,
    counts: Callable[[Night], Mapping[str, int]],
    names: Sequence[str] | None = None,
    total: Callable[[Night], int] = lambda night: night.annotations,
) -> list[_Measure]:
    """A measure for each name that is counted in one of the nights, or for those given."""

    def share(name: str, night: Night) -> tuple[float, int]:
        return counts(night).get(name, 0), total(night)

    if names is None:
        names = sorted({name for night in nights for name in counts(night)})
    return [(group, name, partial(share, name)) for name in names]


def _median(measure: Callable[[Night], tuple[float, int]], nights: Sequence[Night]) -> float | None:
    values = [count / posts for count, posts in map(measure, nights) if posts]
    return statistics.median(values) if values else None


def compare_with_reference(
    night: Night, before: Night | None, earlier: Sequence[Night], reference: int
) -> dict[str, dict[str, Any]]:
    """Return, by modality, how its posts stand among those the model knows.

    earlier: nights before it, in order; those of another checkpoint are left out, as their
    qualities are ranks among other posts. reference: posts that qualities are ranked among.
    """
    same = [one for one in earlier if one.model_revision == night.model_revision]
    comparable = before is not None and before.model_revision == night.model_revision
    curves = {m: np.cumsum(night.quality.get(m, [])) / max(night.usable(m), 1) for m in MODALITIES}
    evens = {m: np.arange(1, len(of) + 1) / max(len(of), 1) for m, of in curves.items()}
    p_values = holm(
        [
            *(significance.reference_p(night.below(m), night.usable(m), reference) for m in curves),
            *(
                significance.lower_p((of - evens[m]).max(initial=0.0), night.usable(m), reference)
                for m, of in curves.items()
            ),
        ]
    )
    found = {}
    for m, p, p_lower in zip(MODALITIES, p_values[:2], p_values[2:], strict=True):
        posts, below = night.usable(m), night.below(m)
        share = below / posts if posts else 0.0
        low, high = significance.reference_band(posts, reference)
        nights = [one for one in [*same, night] if one.usable(m)]
        sums, alarms = significance.drift_chart(
            np.array([one.below(m) / one.usable(m) for one in nights])
        )
        cumulated, even = curves[m], evens[m]
        bound = significance.uniform_band(posts, reference)
        found[m] = {
            "posts": posts,
            "below": below,
            "share": share,
            "band": [low, high],
            "p_holm": p,
            "in_band": bool(low <= share <= high) or not posts,
            "stranger": bool(p < significance.ALARM_RATE and share > significance.EXPECTED_BELOW),
            # As strange as ever at the end, and yet lower as a whole: blurred images, say.
            "lower": bool(p_lower < significance.ALARM_RATE),
            "median": float(np.interp(0.5, [0.0, *cumulated], [0.0, *even])),
            "histogram": list(night.quality.get(m, [])),
            "cumulated": cumulated.tolist(),
            "diagonal_band": bound,
            "furthest_from_diagonal": float(np.abs(cumulated - even).max(initial=0.0)),
            "before": None,
            "night_p": None,
            "drifts": bool(alarms[-1]) if len(alarms) and night.usable(m) else False,
            "nights": [
                {
                    "name": one.name,
                    "posts": one.usable(m),
                    "below": one.below(m),
                    "share": one.below(m) / one.usable(m),
                    "band": list(significance.reference_band(one.usable(m), reference)),
                    "in_reference": one.in_reference,
                    "chart": float(level),
                    "alarm": bool(alarm),
                }
                for one, level, alarm in zip(nights, sums, alarms, strict=True)
            ],
        }
        if comparable and before is not None and before.usable(m):
            found[m]["before"] = before.below(m) / before.usable(m)
            found[m]["night_p"] = significance.shares_p(
                below, posts, before.below(m), before.usable(m)
            )
    return found


def deviating_groups(
    groups: Mapping[str, Mapping[str, Sequence[float]] | None],
) -> dict[str, list[dict[str, Any]]]:
    """Return, by kept column, up to five of its values whose posts deviate most from the rest.

    They deviate by the share of low qualities, either modality's, or by the mean confidence;
    `surprise` is how many standard deviations the largest of the three lies off the others.
    """
    found = {}
    for column, values in groups.items():
        if values is None:
            continue
        whole = [sum(of) for of in zip(*values.values(), strict=True)]
        total = dict(zip(GROUP_FIELDS, whole, strict=True)) if whole else {}
        records = [
            _deviation(value, dict(zip(GROUP_FIELDS, sums, strict=True)), total)
            for value, sums in values.items()
            if sums[0] >= _LEAST_GROUP and sums[0] < total["posts"]
        ]
        records.sort(key=lambda one: -abs(one["surprise"]))
        if records:
            found[column] = records[:_MOST_GROUPS]
    return found


def _deviation(
    value: str, group: Mapping[str, float], total: Mapping[str, float]
) -> dict[str, Any]:
    record: dict[str, Any] = {"value": value, "posts": int(group["posts"])}
    surprises = {}
    for m in MODALITIES:
        posts, below = group[m], group[f"{m}_below"]
        rest, rest_below = total[m] - posts, total[f"{m}_below"] - below
        record[m] = below / posts if posts else None
        if posts and rest:
            pooled = (below + rest_below) / (posts + rest)
            error = math.sqrt(max(pooled * (1 - pooled), 1e-9) * (1 / posts + 1 / rest))
            surprises[m] = (below / posts - rest_below / rest) / error
    record["confidence"] = group["confidence"] / group["posts"]
    own, other = (
        significance.Moments(int(of["posts"]), of["confidence"], of["squares"])
        for of in (group, {name: total[name] - group[name] for name in GROUP_FIELDS})
    )
    error = math.sqrt(own.variance / own.count + other.variance / other.count)
    surprises["confidence"] = (own.mean - other.mean) / max(error, 1e-9)
    record["by"] = max(surprises, key=lambda name: abs(surprises[name]))
    record["surprise"] = surprises[record["by"]]
    return record
