"""`drf annotate --media all`: several pictures of a post pooled to its one row."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.corpora import image_bytes
from tests.support.running import Output, Run
from tests.support.services.image_server import image_server

Annotate = Callable[..., Run]
TEXT = "a day at the lake"
BROKEN = b"\xff\xd8\xff\xe0 no picture"


def write(path: Path, posts: dict[str, tuple[str | None, list[Any] | None]], kind: Any) -> Path:
    """Posts by id: text, and the list of their pictures."""
    columns = {
        "post_id": list(posts),
        "text": [text for text, _ in posts.values()],
        "media": pa.array([media for _, media in posts.values()], pa.list_(kind)),
    }
    pq.write_table(pa.table(columns), path)
    return path


def probabilities(row: dict[str, Any]) -> np.ndarray:
    return np.array(list(row["probabilities"].values()))


def test_the_pictures_of_a_post_are_pooled_and_the_text_counts_once(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    one, two, three = (image_bytes(number) for number in range(3))
    source = write(
        tmp_path / "posts.parquet",
        {
            **{"one": (TEXT, [one]), "two": (TEXT, [two]), "three": (TEXT, [three])},
            **{"all": (TEXT, [one, None, two, three]), "none": (TEXT, [])},
            **{"broken": (TEXT, [BROKEN, two]), "only broken": (TEXT, [BROKEN, None])},
            **{"lost": (None, [BROKEN, BROKEN[:-1]]), "textless": (None, [one, BROKEN])},
        },
        pa.binary(),
    )

    run = annotate(
        *(source, "--column", "image=media", "--media", "all", "--keep", "text"),
        *("--max-dead-letter-share", "1"),
    )
    assert run.code == 0, run.err
    rows = {row["post_id"]: row for row in output.annotations}
    singles = [rows[name] for name in ("one", "two", "three")]
    mean = np.exp(np.log([probabilities(row) for row in singles]).mean(0))
    assert probabilities(rows["all"]) == pytest.approx(mean / mean.sum(), abs=1e-4)
    best = max(singles, key=lambda row: row["image_quality"])
    assert rows["all"]["image_quality"] == best["image_quality"]
    assert rows["all"]["image_state"] == best["image_state"]
    assert rows["all"]["text_quality"] == rows["one"]["text_quality"]
    # What is usable counts; what is not has a reason only where nothing else is there.
    assert rows["broken"]["probabilities"] == rows["two"]["probabilities"]
    assert rows["broken"]["image_reason"] is None
    assert rows["only broken"]["image_reason"] == "undecodable"
    assert rows["none"]["image_reason"] == "missing"
    assert rows["textless"]["text_state"] == "recovered"
    assert [row["post_id"] for row in output.dead_letters] == ["lost"]
    # The promise holds: a row each, kept columns beside them.
    assert [row for _, row in output.places()] == list(range(9))
    assert rows["all"]["text"] == TEXT


def test_pictures_behind_addresses_are_pooled_when_all_have_come(
    tmp_path: Path, annotate: Annotate, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    held = f"data:image/jpeg;base64,{base64.b64encode(image_bytes(7)).decode()}"
    with image_server() as server:
        there = f"{server.url}/1.jpg"
        source = write(
            tmp_path / "posts.parquet",
            {
                **{"there": (TEXT, [there]), "held": (TEXT, [held]), "both": (TEXT, [held, there])},
                **{"gone": (TEXT, [f"{server.url}/2.jpg?status=404", there])},
            },
            pa.string(),
        )
        run = annotate(
            *(source, "--column", "image=", "--column", "image_uri=media", "--media", "all"),
            *("--image-uri-prefix", f"{server.url}/"),
        )
        assert sorted(server.asked) == ["/1.jpg", "/2.jpg?status=404"]

    assert run.code == 0, run.err
    rows = {row["post_id"]: row for row in output.annotations}
    assert all(row["image_reason"] is None for row in rows.values())
    mean = np.exp(np.log([probabilities(rows[name]) for name in ("there", "held")]).mean(0))
    assert probabilities(rows["both"]) == pytest.approx(mean / mean.sum(), abs=1e-4)
    assert rows["gone"]["probabilities"] == rows["there"]["probabilities"]


def test_of_a_list_the_first_counts_unless_all_shall(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    source = write(
        tmp_path / "posts.parquet", {"post": (TEXT, [BROKEN, image_bytes(1)])}, pa.binary()
    )
    for media, reason in (("first", "undecodable"), ("all", None)):
        run = annotate(source, "--column", "image=media", "--media", media)
        # Another choice annotates anew.
        assert run.code == 0 and run.manifest["computed_rows"] == 1
        assert output.annotations[0]["image_reason"] == reason
