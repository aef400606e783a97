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


# Tests that are not quick: by the fixtures that they take, which run a job, train, or need a store
# or many real posts, and by where they lie.
_COSTLY_FIXTURES = {"drf", "annotate", "shared", "remote", "gs", "s3"}
_COSTLY_ROOMS = (
    *("benchmarks/", "deploy/", "pipelines/train/", "pipelines/evaluate/", "drf_core/runtimes/"),
    *("drf_core/training/", "drf_core/corpus/test_views.py", "drf_core/decoding/test_decoders.py"),
    *("drf_core/model/test_auto_classes.py", "pipelines/annotate/work/test_unit"),
    *("test_readme.py", "drf_core/test_default_checkpoint.py", "pipelines/test_annotate_posts.py"),
    *("pipelines/annotate/test_", "pipelines/annotate/publish/test_publishing_killed.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `tests/run --quick` runs."""
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).as_posix()
        costly = _COSTLY_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if not costly and not room.startswith(_COSTLY_ROOMS):
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
    """Makes a small checkpoint with random weights; loads in well under a second."""

    def make(seed: int = 0, labels: tuple[str, ...] = LABELS) -> Path:
        import torch

        from drf_core.model.building import build_model

        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        words = [
            f"{a}{b}" for a in ("sun", "rain", "good", "bad") for b in ("ny", "day", "ish", "")
        ]
        texts = [" ".join(rng.choice(words, 6)) for _ in range(64)]
        model, processor = build_model(
            "small",
            "small",
            labels,
            texts,
            small={
                "text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2},
                "image": {"widths": (8, 16, 16, 32), "side": 32},
            },
            queue_length=64,
            projection_size=16,
            reference_length=64,
        )
        for name, spread in (("undisrupted", 1.0), ("disrupted", 2.0)):
            text, image = (spread * torch.randn(64, 32) for _ in range(2))
            posts = torch.arange(64)
            if name == "undisrupted":
                model.undisrupted_queue.push({"text": text, "image": image}, posts)
            else:
                model.disrupted_queues["text"].push({"text": text}, posts)
                model.disrupted_queues["image"].push({"image": image}, posts)
        model.fit_distributions()
        paired = torch.arange(64)[:, None].repeat(1, 2)
        model.set_reference(torch.randn(64, 32), torch.randn(64, 32), paired)
        folder = tmp_path_factory.mktemp("tiny-checkpoint")
        model.save_pretrained(folder)
        processor.save_pretrained(str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_tiny_checkpoint: Callable[..., Path]) -> Path:
    """One such checkpoint for the whole session."""
    return make_tiny_checkpoint()
