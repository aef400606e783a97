from __future__ import annotations

from typing import Any

import pytest

from pipelines.annotate.output.histograms import BINS
from pipelines.annotate.report.compare import (
    compare_nights,
    compare_with_reference,
    deviating_groups,
)
from pipelines.annotate.report.nights import Night, earlier_nights, night_key
from pipelines.annotate.report.verdict import findings


def night(day: int, below: int = 50, positive: int = 600, **fields: Any) -> Night:
    """A night of 1,000 posts; below: of either modality, those in the lowest bin of quality."""
    bins = [below, *[(1000 - below) // (BINS - 1)] * (BINS - 2)]
    bins.append(1000 - sum(bins))
    key = f"2026-11-{day:02d}"
    values: dict[str, Any] = {
        "name": f"dt={key}",
        "key": key,
        "run_id": f"run-{day}",
        "model_revision": "r1",
        "rows": 1000,
        "annotations": 1000,
        "labels": {"positive": positive, "negative": 1000 - positive},
        "states": {m: {"present": 1000 - below, "low_quality": below} for m in ("text", "image")},
        "reasons": {"text": {}, "image": {}},
        "quality": {"text": bins, "image": bins},
        "confidence": [700.0, 500.0],
    }
    return Night(**{**values, **fields})


@pytest.mark.parametrize(
    ("partition", "key"),
    [
        ("dt=2026-11-19", "2026-11-19"),
        ("lang=en/day=20261119", "2026-11-19"),
        ("year=2026/month=3/day=7", "2026-03-07"),
        ("country=de", None),
        ("shard=12345678901", None),
        ("dt=2026-99-99", None),
    ],
)
def test_a_partition_is_a_night_where_it_names_a_date(partition: str, key: str | None) -> None:
    assert night_key(partition, "start") == key


def test_nights_before_come_in_order_and_the_last_record_of_each_counts() -> None:
    again = night(17, positive=1)
    known = [night(18), night(17), again, night(20), night(19)]
    assert earlier_nights(known, night(19)) == [again, night(18)]


def test_what_changed_most_comes_first_and_calls_for_a_look() -> None:
    changes = compare_nights(night(19, positive=500), night(18), [night(17), night(18)])
    assert {change["name"] for change in changes[:2]} == {"positive", "negative"}
    assert changes[0]["matters"] and not any(change["matters"] for change in changes[2:])
    positive = next(change for change in changes if change["name"] == "positive")
    assert positive["difference"] == pytest.approx(-0.1)
    assert (positive["value"], positive["before"], positive["median"]) == (0.5, 0.6, 0.6)


def test_a_difference_that_is_no_chance_but_small_does_not() -> None:
    large = {"labels": {"positive": 600_000, "negative": 400_000}, "annotations": 10**6}
    larger = {"labels": {"positive": 605_000, "negative": 395_000}, "annotations": 10**6}
    changes = compare_nights(night(19, **larger), night(18, **large), [])
    positive = next(change for change in changes if change["name"] == "positive")
    assert positive["more_than_chance"] and not positive["matters"]


def test_what_only_one_night_has_is_compared_with_none() -> None:
    reasons = {"text": {}, "image": {"fetch_failed": 80}}
    changes = compare_nights(night(19, reasons=reasons), night(18), [])
    assert (changes[0]["group"], changes[0]["name"]) == ("image reason", "fetch_failed")
    assert changes[0]["before"] == 0.0


def test_the_first_night_has_nothing_to_be_compared_with() -> None:
    changes = compare_nights(night(19), None, [])
    assert changes and not any(change["matters"] or change["before"] for change in changes)


def test_stranger_posts_than_the_reference_are_called() -> None:
    said = compare_with_reference(night(19, below=120), None, [], 512)["text"]
    assert said["stranger"] and not said["in_band"]
    calm = compare_with_reference(night(19, below=60), None, [], 512)["text"]
    assert calm["in_band"] and not calm["stranger"]


def test_fewer_strange_posts_than_expected_call_for_nothing() -> None:
    said = compare_with_reference(night(19, below=0), None, [], 512)["image"]
    assert not said["in_band"] and not said["stranger"]


def test_posts_that_are_less_ordinary_as_a_whole_are_called() -> None:
    """As many below .05 as ever, and half of them below .35: blurred images, say."""
    lower = [50, *[75] * 10, *[22] * 8, 24]
    quality = {"text": [50] * 20, "image": lower}
    said = compare_with_reference(night(19, quality=quality), None, [], 512)
    assert said["image"]["lower"] and not said["image"]["stranger"]
    assert said["image"]["median"] == pytest.approx(0.35)
    assert not said["text"]["lower"]
    (finding,) = findings([], said)
    assert finding.startswith("images are less ordinary") and "below 0.35" in finding
    higher = night(19, quality={"text": [50] * 20, "image": lower[::-1]})
    assert not compare_with_reference(higher, None, [], 512)["image"]["lower"]


def test_night_against_night_is_the_sharper_test() -> None:
    # A reference of 512 allows 68 of 1,000; the 35 of the night before make them odd.
    said = compare_with_reference(night(19, below=68), night(18, below=35), [], 512)["text"]
    assert said["in_band"] and said["night_p"] < 0.01


def test_nights_of_another_checkpoint_have_other_qualities() -> None:
    before = night(18, model_revision="r0")
    said = compare_with_reference(night(19), before, [night(17), before], 512)["text"]
    assert said["night_p"] is None
    assert [one["name"] for one in said["nights"]] == ["dt=2026-11-17", "dt=2026-11-19"]


def test_a_drift_over_nights_is_called_before_any_night_leaves_the_band() -> None:
    calm = [night(day, below=45 + day % 5) for day in range(1, 16)]
    drifting = [night(day, below=58) for day in range(16, 21)]
    nights = [*calm, *drifting]
    called = [
        compare_with_reference(one, None, nights[:place], 512)["text"]
        for place, one in enumerate(nights)
    ]
    assert not any(said["drifts"] for said in called[:15])
    assert any(said["drifts"] for said in called[15:])
    assert all(said["in_band"] for said in called)


def test_groups_that_deviate_are_named_and_small_ones_are_not() -> None:
    def sums(posts: int, strange: int) -> list[float]:
        return [posts, posts, strange, posts, 0, 0.7 * posts, 0.5 * posts]

    groups = {
        "lang": {"en": sums(800, 20), "ja": sums(100, 60), "de": sums(100, 3), "xx": sums(9, 9)},
        "user": None,
        "kind": {"post": sums(1000, 10)},
    }
    found = deviating_groups(groups)
    assert list(found) == ["lang"]
    assert [one["value"] for one in found["lang"]] == ["ja", "en", "de"]
    assert found["lang"][0]["by"] == "text" and found["lang"][0]["surprise"] > 5
