"""One prediction for a post of several pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from drf_core.annotator import Prediction


def pool_pictures(predictions: Sequence[Prediction], labels: Sequence[str]) -> Prediction:
    """Pool what the model says of one text with each of its pictures (our own reading).

    The mean of the log-probabilities: where fusion adds up evidence, the text counts once and the
    pictures by the mean of what they say. Quality, state and damage of the image are those of
    the picture with the highest quality. A picture that is not usable counts only where none is.

    predictions: at least one, of the post's text with one picture each. labels: in the order of
    their probabilities.
    """
    usable = [said for said in predictions if said.image.reason is None]
    if not usable:
        return predictions[0]
    floor = np.finfo(np.float32).tiny
    logits = np.log(np.maximum([said.probabilities for said in usable], floor)).mean(0)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    best = max(usable, key=lambda said: said.image.quality)
    text, image = (
        np.mean([getattr(said, name).evidence for said in usable], 0) for name in ("text", "image")
    )
    return dataclasses.replace(
        best,
        label=labels[int(probabilities.argmax())],
        confidence=float(probabilities.max()),
        probabilities=tuple(map(float, probabilities)),
        text=dataclasses.replace(best.text, evidence=tuple(map(float, text))),
        image=dataclasses.replace(best.image, evidence=tuple(map(float, image))),
    )
