"""The model card that travels with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the figures; command: what printed them.

    judged_posts: number of posts the figures are from; judged_on_validation: whether those
    fitted the temperature and, with chose_epoch, chose the epoch; known_posts: how many of them
    were also trained or validated on where they were given as others. trained_kinds: damage per
    modality.
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
    trained_kinds: dict[str, list[str]]
    notes: str = ""


def write_card(facts: CardFacts, figures: dict[str, dict[str, float]]) -> str:
    """Model card in Markdown; figures as `drf_core.evaluation.quick.evaluate` returns them."""
    judged = "They chose nothing: epoch and temperature come from other posts."
    if facts.judged_on_validation:
        judged = (
            f"They also {'chose the epoch and ' if facts.chose_epoch else ''}fitted the "
            "temperature, so expect a little less on new ones."
        )
    elif facts.known_posts:
        judged = (
            f"{facts.known_posts} of them are also among the posts trained or validated on, so "
            "expect less on new ones."
        )
    kinds = facts.trained_kinds.items()
    damage = "; ".join(f"{m}s by {', '.join(names)}" for m, names in kinds if names)
    disrupted = (
        "disrupted nothing" if not damage else f"discarded modalities, and damaged\n{damage}"
    )
    rival = "" if facts.design == "drf" else f"\nDesign: {facts.design}, to be compared with DRF."
    return f"""---
library_name: drf
license: apache-2.0
pipeline_tag: text-classification
---

# {facts.name}

A DRF checkpoint ("Robust Multimodal Sentiment Analysis of Image-Text Pairs by
Distribution-Based Feature Recovery and Fusion", arXiv:2511.18751; the formulas are this
project's own reading of its abstract). Labels: {", ".join(facts.labels)}.
Text encoder: {facts.text_encoder}. Image encoder: {facts.image_encoder}.
{facts.parameters / 1e6:.1f} M parameters.{rival}

{facts.notes}

## Figures

On {facts.judged_posts} posts, after training on {facts.training_posts} others. {judged}
Qualities are ranks among {facts.reference}. Training {disrupted}.

{figures_table(figures)}

quality AUROC: how well the quality of the named modality tells undisrupted from corrupted
posts. corrupt: 40-80 % of the words masked or pixels black; discard: the
modality is gone; corrupt+discard: each for every other post.

Written by:

```
{facts.command}
```
"""


def figures_table(figures: dict[str, dict[str, float]]) -> str:
    """Figures per cell as a Markdown table."""
    names = ["accuracy", "weighted_f1", "macro_f1", "calibration_error", "quality_auroc"]
    head = "| | " + " | ".join(name.replace("_", " ") for name in names) + " |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for cell, values in figures.items():
        row = [f"{values[name]:.3f}" if name in values else "" for name in names]
        lines.append(f"| {cell} | " + " | ".join(row) + " |")
    return "\n".join(lines)
