"""`drf annotate` on s3:// and gs://, end to end, on emulators of both."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipelines.storage.files import Store, open_store
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.support.services.object_stores import Remote, gs, remote, rows_of, s3

__all__ = ["gs", "remote", "s3"]

on_both = pytest.mark.parametrize("remote", ["s3", "gs"], indirect=True)


def write_corpus(folder: Path) -> Path:
    write_nights(folder, posts_per_file=3)
    posts = make_posts(3, first=50)
    posts[0]["text"] = posts[0]["image"] = None
    write_posts(folder / "dt=2026-11-18" / "part-00009.parquet", posts)
    return folder


@on_both
def test_a_nightly_life(remote: Remote, inferred: list[int], tmp_path: Path) -> None:
    """Annotated like on a disk; nothing to do; one file changed; one file gone."""
    folder = write_corpus(tmp_path / "in")
    remote.upload(folder)
    run = remote.annotate("--max-dead-letter-share", 1)
    assert run.code == 0, run.err
    output = remote.output()
    assert output.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]
    assert (len(output.annotations), len(output.dead_letters)) == (14, 1)
    assert len(list(output.root.glob("_runs/*/manifest.json"))) == 1
    assert not [name for name in output.root.glob("_staging/*/*") if "locks" not in str(name)]
    if remote.emulator.protocol == "s3":
        # The rows of both stores are those of a disk; to compare one with it is enough.
        local = remote.local(folder, "--max-dead-letter-share", 1)
        assert rows_of(output) == rows_of(local)

    before = output.files()
    inferred.clear()
    run = remote.annotate("--max-dead-letter-share", 1)
    assert (run.code, inferred, run.manifest["skipped_rows"]) == (0, [], 15)
    assert remote.output().files() == before

    changed = write_posts(tmp_path / "changed.parquet", make_posts(2, first=90))
    url = f"{remote.bucket}/in/dt=2026-11-18/part-00000.parquet"
    remote.emulator.put(url, changed.read_bytes())
    remote.emulator.direct.rm_file(f"{remote.bucket}/in/dt=2026-11-17/part-00001.parquet")
    run = remote.annotate("--max-dead-letter-share", 1, "--prune")
    assert (run.code, sum(inferred)) == (0, 2), run.err
    assert run.manifest["pruned"] == ["dt=2026-11-17/part-00001.parquet"]
    places = remote.output().places()
    files = Counter(name for name, _ in places)
    assert len(places) == len(set(places)) == 11
    assert files["dt=2026-11-18/part-00000.parquet"] == 2
    assert remote.output().succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


@on_both
def test_of_many_creators_one_wins_and_a_lost_answer_is_known(remote: Remote) -> None:
    """The stores' own conditions, on which commits and locks rest."""
    store = open_store(f"{remote.bucket}/out")
    wins = Counter[bool]()
    contents = [str(number).encode() for number in range(16)]
    store.for_each(lambda data: wins.update([store.create("record", data)]), contents)
    assert wins == {True: 1, False: 15}

    remote.emulator.proxy.seed += 1
    remote.emulator.proxy.faults = ("lost_answer",)
    remote.emulator.proxy.fault_share = 0.5
    assert [store.create(f"record-{n}", f"mine {n}".encode()) for n in range(3)] == [True] * 3
    assert remote.emulator.proxy.spoilt["lost_answer"] > 0


@on_both
def test_a_folder_is_listed_whole_and_nothing_of_its_neighbours(remote: Remote) -> None:
    store: Store = open_store(f"{remote.bucket}/out")
    names = ["a/one", "a/b/two", "ab/three", "a/ü & ?#+%20.json"]
    for name in names:
        store.write(name, name.encode())
    assert sorted(store.sizes("a")) == ["one", "ü & ?#+%20.json"]
    assert sorted(store.sizes("", recursive=True)) == sorted(names)
    assert [store.read(name) for name in names] == [name.encode() for name in names]
    assert store.copy("a/one", "c/one") and not store.copy("a/two", "c/two")
    assert (store.read("c/one"), store.size("c/two"), store.sizes("d")) == (b"a/one", None, {})
    assert store.ages("c")["one"] < 60


def test_model_and_images_may_lie_in_a_bucket(
    remote: Remote, inferred: list[int], tmp_path: Path
) -> None:
    posts = make_posts(2)
    for number, post in enumerate(posts):
        remote.emulator.put(f"{remote.bucket}/images/{number}.jpg", post.pop("image"))
        post["image_uri"] = f"{remote.bucket}/images/{number}.jpg"
    posts[1]["image_uri"] = "s3://elsewhere/1.jpg"
    import pyarrow as pa

    types = {name: pa.string() for name in ("post_id", "text", "image_uri")}
    write_posts(tmp_path / "in" / "posts.parquet", posts, types=types)
    remote.upload(tmp_path / "in")
    remote.emulator.upload(remote.checkpoint, f"{remote.bucket}/checkpoint")

    run = remote.annotate(
        *("--model", f"{remote.bucket}/checkpoint"),
        *("--image-uri-prefix", f"{remote.bucket}/images", "--column", "image="),
    )

    assert run.code == 0, run.err
    rows = remote.output().annotations
    assert [row["image_reason"] for row in rows] == [None, "not_allowed"]
    assert sum(inferred) == 2


def test_a_run_asks_the_store_little(remote: Remote, tmp_path: Path) -> None:
    """Requests per shard and per night with nothing to do: a HEAD too many is money and time."""
    files = 6
    write_nights(tmp_path / "in", nights=("2026-11-17",), files_per_night=files, posts_per_file=2)
    remote.upload(tmp_path / "in")
    requests = remote.emulator.proxy.requests
    requests.clear()
    assert remote.annotate().code == 0
    of_shards = Counter(r.kind for r in requests if "part" in r.path or "commits/" in r.path)
    assert sum(of_shards.values()) <= 40 * files
    requests.clear()
    assert remote.annotate().code == 0
    assert len(requests) <= files + 36
