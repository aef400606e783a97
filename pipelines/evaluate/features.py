"""Encoding the posts of an evaluation, once per distinct encoder, so that it can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from drf_core.annotator import Annotator
from drf_core.checkpoint import encoder_revisions
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, encode_views, read_views
from drf_core.evaluation.protocol import kinds_to_encode
from drf_core.runtimes.openvino_library import load_openvino
from pipelines.console.messages import say
from pipelines.console.version import package_version
from schemas.annotations import MODALITIES

_OURS = re.compile(rf"({'|'.join(MODALITIES)})-[0-9a-f]{{24}}\.safetensors(\.unfinished)?")


@dataclass(frozen=True)
class ViewStore:
    """Encoded views of the posts, kept in files until the evaluation is written.

    folder: where they are kept. posts, corpus: the posts and their hash. seed: of the damage.
    """

    folder: Path
    posts: list[TrainingPost]
    corpus: str
    seed: int

    def views(self, annotator: Annotator, name: str, folder: str) -> dict[str, FeatureViews]:
        """The views of both modalities; encodes what no model with the same encoder did.

        name, folder: of the checkpoint.
        """
        model, processor = annotator.model, annotator.processor
        corpus = TrainingCorpus(self.posts, processor, model.config.max_text_tokens)
        self.folder.mkdir(exist_ok=True)
        # Before the encoding imports it by itself.
        load_openvino()
        encoders = encoder_revisions(folder)
        views = {}
        for m in MODALITIES:
            kinds = kinds_to_encode(m)
            path = self._path(m, encoders[m], kinds)
            if path.exists():
                say(f"{name}: {m} features are there already")
            else:
                say(f"{name}: encoding the {m}s of {len(self.posts):,} posts, {len(kinds)} damages")
                encode_views(model, corpus, m, kinds, self.seed, path)
            views[m] = read_views(path, kinds)
        return views

    def clear(self) -> None:
        """Remove the files, also those that stopped evaluations of other posts left there."""
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
        # Whatever else lies there is not ours to remove.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, modality: str, encoder: str, kinds: tuple[str, ...]) -> Path:
        facts = (encoder, self.corpus, kinds, self.seed, package_version())
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
        return self.folder / f"{modality}-{key}.safetensors"
