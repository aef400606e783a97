"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# gcsfs reads it when it is imported, by whichever test comes first: it would ask the emulator for
# the bucket's type over gRPC, which that does not speak, for a minute each time.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"
LABELS = ("negative", "neutral", "positive")
# The damage that the tiny checkpoint knows by name.
KINDS = {"text": ["typos", "no_vowels"], "image": ["blur", "noise"]}


# Tests that are not quick: by the fixtures that they take, which run a job, train, or need a store
# or many real posts, and by where they lie.
COSTLY_FIXTURES = {"drf", "annotate", "shared", "remote", "gs", "s3"}
COSTLY_ROOMS = (
    *("benchmarks/", "deploy/", "pipelines/train/", "pipelines/evaluate/", "drf_core/runtimes/"),
    *("drf_core/training/", "drf_core/corpus/test_views.py", "drf_core/decoding/test_decoders.py"),
    *("drf_core/model/test_auto_classes.py", "drf_core/test_default_checkpoint.py"),
    *("test_readme.py", "pipelines/test_annotate_posts.py"),
    *(
        f"pipelines/annotate/{room}"
        for room in (
            *("test_", "end_to_end/", "engines/test_prism.py", "publish/test_publishing_k"),
            "work/test_annotate_unit",
        )
    ),
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave rooms alone that have no quick test, where those are asked for: imports take time."""
    room = collection_path.relative_to(Path(__file__).parent).as_posix()
    costly = f"{room}/".startswith(COSTLY_ROOMS) or room.startswith(COSTLY_ROOMS)
    return True if costly and config.option.markexpr.startswith("quick") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `tests/run --quick` runs."""
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).as_posix()
        costly = COSTLY_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if not costly and not room.startswith(COSTLY_ROOMS):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real posts and encoders beside the repository."""
    if not (SHARED / "corpora").is_dir():
        pytest.skip("needs ../shared/corpora (real posts), which is not on this machine")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches of the session's own, also for the processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRF_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def make_tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a small checkpoint with random weights, fitted to a few posts; loads in no time."""

    def make(seed: int = 0, labels: tuple[str, ...] = LABELS) -> Path:
        import torch

        from drf_core.corpus.posts import TrainingCorpus, TrainingPost
        from drf_core.corpus.views import encode_undisrupted
        from drf_core.training.building import build_model
        from drf_core.training.fitting import fill_queues, fit_kinds, set_reference
        from tests.data.corpora import make_posts

        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        words = [
            f"{a}{b}" for a in ("sun", "rain", "good", "bad") for b in ("ny", "day", "ish", "")
        ]
        posts = [TrainingPost(post["text"], post["image"]) for post in make_posts(160)]
        # Half of the texts in words of their own: of five sentences alone all others are strange.
        posts[::2] = [
            TrainingPost(" ".join(rng.choice(words, rng.integers(1, 9))), post.image)
            for post in posts[::2]
        ]
        model, processor = build_model(
            "small",
            "small",
            labels,
            [post.text or "" for post in posts],
            small={
                "text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2},
                "image": {"widths": (8, 16, 16, 32), "side": 32},
            },
            queue_length=64,
            projection_size=16,
            reference_length=64,
        )
        model.train_on_kinds(KINDS)
        queued, held_out = (
            TrainingCorpus(part, processor, 96) for part in (posts[:96], posts[96:])
        )
        fill_queues(model, queued, {}, KINDS, rng)
        model.fit_distributions()
        fit_kinds(model, queued, {}, KINDS, rng)
        set_reference(model, encode_undisrupted(model, held_out))
        folder = tmp_path_factory.mktemp("tiny-checkpoint")
        model.save_pretrained(folder)
        processor.save_pretrained(str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_tiny_checkpoint: Callable[..., Path]) -> Path:
    """One such checkpoint for the whole session."""
    return make_tiny_checkpoint()
