"""The model card that travels with a checkpoint: metadata that a hub reads, and figures.

Made with huggingface_hub's ModelCard, ModelCardData and EvalResult.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_TEMPLATE = Path(__file__).with_name("model_card.md")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# Cells' figures as {cell: {metric: value}}, as `drf_core.evaluation.quick` returns them.
CardFigures = Mapping[str, Mapping[str, float]]

# By name in the figures: type and name as the hub knows them. What is not here stands in the
# table alone.
_METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "weighted_f1": ("f1", "Weighted F1"),
    "macro_f1": ("f1", "Macro F1"),
    "calibration_error": ("ece", "Expected calibration error"),
}


@dataclass(frozen=True)
class Provenance:
    """What a hub's readers ask first: may I use it, and what is it made of.

    licence: of the checkpoint, as the hub spells it ("apache-2.0"), None where unknown.
    base_models: hub ids of the encoders. datasets: hub ids or names of what was trained on.
    languages: ISO 639 codes of the texts.
    """

    licence: str | None = None
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the figures; command: what printed them.

    judged_posts: number of posts the figures are from; judged_on_validation: whether those
    fitted the temperature and, with chose_epoch, chose the epoch; known_posts: how many of them
    were also trained or validated on where they were given as others. trained_kinds: damage per
    modality. licences: of the encoders, by name.
    """

    name: str
    design: str
    labels: tuple[str, ...]
    text_encoder: str
    image_encoder: str
    training_posts: int
    judged_posts: int
    judged_on_validation: bool
    chose_epoch: bool
    known_posts: int
    parameters: int
    command: str
    reference: str
    trained_kinds: Mapping[str, Sequence[str]]
    prior: Mapping[str, float] | None = None
    notes: str = ""
    provenance: Provenance = Provenance()
    licences: Mapping[str, str | None] | None = None


def write_card(facts: CardFacts, figures: CardFigures, matched: CardFigures) -> str:
    """The model card in Markdown, its metadata as YAML in front.

    figures: under the checkpoint's prior; matched: of the same posts under their own.
    """
    provenance = facts.provenance
    data = ModelCardData(
        language=list(provenance.languages) or None,
        license=provenance.licence,
        library_name="drf",
        # What the hub calls it; it runs no widget, as none takes a text with an image.
        pipeline_tag="text-classification",
        inference=False,
        tags=["drf", "sentiment-analysis", "multimodal", "image-text", "arxiv:2511.18751"],
        base_model=list(provenance.base_models) or None,
        datasets=list(provenance.datasets) or None,
        metrics=["accuracy", "f1"],
        model_name=facts.name,
        eval_results=list(_results(facts, figures)),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        facts=facts,
        usage=usage(),
        licence=_licence(facts),
        damage=[(m, ", ".join(kinds)) for m, kinds in facts.trained_kinds.items() if kinds],
        figures_table=figures_table(figures),
        matched_table=figures_table(matched),
    )
    return f"{str(card).rstrip()}\n"


def usage(hub_id: str | None = None) -> str:
    """Lines of Python that annotate a post: with a checkpoint of the hub, or a local folder."""
    first, folder = "", '"FOLDER"'
    if hub_id is not None:
        first = "from huggingface_hub import snapshot_download\n"
        folder = f'snapshot_download("{hub_id}")'
    return f"""\
{first}from drf_core import Annotator
annotator = Annotator.from_pretrained({folder})
post = annotator.prepare("What a lovely morning!", open("photo.jpg", "rb").read())
print(annotator.predict([post])[0])"""


def as_published(content: str, name: str, licence: str | None = None) -> ModelCard:
    """A checkpoint's card under the hub id `name`: there its snippet and its results say so.

    licence: stands in place of the card's own. Raises ValueError for a card whose metadata
    cannot be read.
    """
    card = ModelCard(content)
    card.text = card.text.replace(usage(), usage(name))
    # It may have been published before, under another name.
    card.text = re.sub(r'(snapshot_download\(")[^"]+', rf"\g<1>{name}", card.text)
    card.data["model_name"] = name.rpartition("/")[2]
    if licence is not None:
        card.data["license"] = licence
    return card


def is_hub_id(name: str) -> bool:
    """Whether an encoder or checkpoint is named as the hub names it, and is no folder."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def licence_of(name: str) -> str | None:
    """The licence that the card of an encoder's folder or hub id names, None where none does."""
    try:
        path = Path(name, "README.md") if Path(name).is_dir() else None
        card = ModelCard.load(path or name, ignore_metadata_errors=True)
    except (OSError, ValueError):
        # No card, no such model, no network: of a hub, all of them are OSErrors.
        return None
    licence = card.data.get("license")
    return licence if isinstance(licence, str) else None


def common_licence(licences: Iterable[str | None]) -> str | None:
    """The licence that all parts share; None where they differ or one is unknown."""
    found = set(licences)
    return found.pop() if len(found) == 1 else None


def _results(facts: CardFacts, figures: CardFigures) -> Iterable[EvalResult]:
    datasets = facts.provenance.datasets
    for cell, values in figures.items():
        for metric, (kind, name) in _METRICS.items():
            if metric in values:
                yield EvalResult(
                    task_type="text-classification",
                    task_name="Sentiment of image-text posts",
                    dataset_type=datasets[0] if datasets else "own",
                    dataset_name=f"{facts.judged_posts} posts, {cell}",
                    dataset_config=cell,
                    metric_type=kind,
                    metric_name=name,
                    # A number of Python's own: YAML would spell out numpy's as an object.
                    metric_value=round(float(values[metric]), 4),
                )


def _licence(facts: CardFacts) -> str:
    licences = facts.licences or {}
    parts = "; ".join(f"{name}: {licence or 'not known'}" for name, licence in licences.items())
    if facts.provenance.licence is None:
        why = f" ({parts})" if parts else ""
        return f"This card names no licence, since the encoders' are not all one and known{why}."
    return f"Licence: {facts.provenance.licence}." + (f" Encoders: {parts}." if parts else "")


def figures_table(figures: CardFigures) -> str:
    """Figures per cell as a Markdown table."""
    names = ["accuracy", "weighted_f1", "macro_f1", "calibration_error", "quality_auroc"]
    head = "| | " + " | ".join(name.replace("_", " ") for name in names) + " |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for cell, values in figures.items():
        row = [f"{values[name]:.3f}" if name in values else "" for name in names]
        lines.append(f"| {cell} | " + " | ".join(row) + " |")
    return "\n".join(lines)
