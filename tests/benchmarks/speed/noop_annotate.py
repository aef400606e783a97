"""`drf annotate` with a model that does nothing: what remains is the job itself.

Posts are read, checked, handed to the threads, batched, written, committed, published and proved
as ever; only `Annotator.prepare` and `Annotator.predict` answer at once. For one process: Beam's
workers in processes of their own would load the real model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from drf_core.annotator import Annotator, ModalityPrediction, Prediction, PreparedPost
from drf_core.checkpoint import read_checkpoint
from drf_core.runtimes.interface import Runtime
from pipelines.cli import main


class NoOpAnnotator:
    """Has an answer ready for every post; real enough for the job."""

    def __init__(self, folder: str, *options: Any) -> None:
        self.labels = read_checkpoint(folder).labels
        self.runtime = Runtime("none", "f32", "cpu")
        self.batch_size = 64
        probabilities = (1.0, *(0.0 for _ in self.labels[1:]))
        present = ModalityPrediction("present", 0.5, -1.5, probabilities, None, None)
        self._prediction = Prediction(self.labels[0], 1.0, probabilities, present, present, 1.0)
        self._prepared = PreparedPost([1, 2, 3], None, None, None)

    def prepare(self, text: str | None, image: bytes | None, **options: Any) -> PreparedPost:
        """Everything is usable."""
        return self._prepared

    def predict(self, posts: Sequence[PreparedPost]) -> list[Prediction]:
        """The same for every post."""
        return [self._prediction] * len(posts)


def annotate(arguments: Sequence[str]) -> int:
    """Run the command line of `drf`; return its exit code."""
    with patch.object(Annotator, "from_pretrained", NoOpAnnotator):
        return main(arguments)


if __name__ == "__main__":
    sys.exit(annotate(sys.argv[1:]))
