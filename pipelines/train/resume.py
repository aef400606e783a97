"""Intermediate results of a training, kept beside its output so that it can be resumed.

Not in it, since they hold what was trained on, and gone when the checkpoint is written. A
result is written under another name first: a training killed while writing leaves none.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from drf_core.corpus.images import image_digest
from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.corpus.views import FeatureViews, encode_views, read_views
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.write_whole import write_whole
from pipelines.console.messages import say
from pipelines.storage.local import local_folder
from schemas.errors import UsageError


def state_folder(output: Path, restart: bool) -> Path:
    """The folder of a training's state, beside its output, made.

    restart: what a training left there is removed. Raises UsageError where the output holds a
    checkpoint already and is not to be replaced, or what a training left cannot be removed.
    """
    output = output.resolve()
    folder = output.with_name(f"{output.name}.training")
    if restart and folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            # Else the training would meet what is left, and refuse to go on from it.
            raise UsageError(
                f"--restart: {folder} cannot be removed: {error.strerror}; give another --output"
            ) from error
    elif not folder.exists() and (output / "config.json").exists():
        raise UsageError(
            f"--output: {output} holds a checkpoint; give another --output, "
            "or --restart to train anew in its place"
        )
    return local_folder(str(folder))


def end(folder: Path) -> None:
    """Remove the state of a training that is done."""
    shutil.rmtree(folder)


def begin(folder: Path, facts: object, posts: Iterable[TrainingPost]) -> None:
    """Remember what is trained on and how; raises UsageError where another training began here.

    facts: everything beside the posts that changes the result; its repr counts.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for post in posts:
        digest.update(repr((post.text, post.label)).encode())
        digest.update(image_digest(post.image))
    mark = folder / "fingerprint"
    if mark.exists() and mark.read_text() != digest.hexdigest():
        raise UsageError(
            f"--output: {folder} holds a training with other posts, encoders or settings; repeat "
            "its command to go on, give another --output, or --restart to begin anew"
        )
    mark.write_text(digest.hexdigest())


def initial_model(
    folder: Path, build: Callable[[], tuple[DRFModel, DRFProcessor]]
) -> tuple[DRFModel, DRFProcessor]:
    """The model that the training begins with, built once."""
    saved = folder / "initial"
    if saved.exists():
        return DRFModel.from_pretrained(saved), DRFProcessor.from_pretrained(str(saved))
    model, processor = build()
    unfinished = folder / "initial.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(str(unfinished))
    unfinished.rename(saved)
    return model, processor


def encode_frozen(
    folder: Path,
    name: str,
    model: DRFModel,
    corpus: TrainingCorpus,
    modality: str,
    kinds: Sequence[str],
    seed: int,
) -> FeatureViews:
    """Views of one modality of the corpus called name, by an encoder that does not learn, once.

    The file's name tells kinds and seed: views of other kinds are never taken for these.
    """
    wanted = hashlib.sha256(repr((list(kinds), seed)).encode()).hexdigest()[:8]
    path = folder / f"{modality}_views_{name}-{wanted}.safetensors"
    if path.exists():
        return read_views(path, kinds)
    say(f"encoding the {modality}s of {len(corpus)} posts ({name}), {len(kinds)} damages of each")
    return encode_views(model, corpus, modality, kinds, seed, path)


def once(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What compute returns, kept in the file at path."""
    if path.exists():
        return load_file(path)
    tensors = compute()
    whole = {name: value.contiguous() for name, value in tensors.items()}
    write_whole(path, lambda unfinished: save_file(whole, unfinished))
    return tensors
