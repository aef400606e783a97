"""What an evaluation asks of a model: its cells, each a disruption of every post.

Undisrupted, the paper's two settings (one named modality disrupted in every post; a share of
the posts disrupted, the modality drawn at random), and kinds of damage beyond the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drf_core.corpus.disruption import (
    DISCARD,
    EVALUATED_IMAGE_KINDS,
    EVALUATED_TEXT_KINDS,
    STRATEGIES,
    Disruption,
    modality_fixed,
    modality_random,
)
from schemas.annotations import MODALITIES

CLEAN = "clean"
FIXED = "modality-fixed"
RANDOM = "modality-random"
OTHER_DAMAGE = "other damage"
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)

_EVALUATED = {"text": EVALUATED_TEXT_KINDS, "image": EVALUATED_IMAGE_KINDS}


@dataclass(frozen=True)
class Cell:
    """One disruption of a corpus.

    group: clean, modality-fixed, modality-random or other damage. strategy: the paper's
    strategy or the kind of other damage, None where clean. modality: the one that is
    disrupted, None where it is drawn or none is. ratio: share of posts disrupted.
    damages: the (modality, kind) pairs that occur, discarding left aside.
    """

    name: str
    group: str
    strategy: str | None
    modality: str | None
    ratio: float
    damages: frozenset[tuple[str, str]]
    disruptions: tuple[Disruption, ...]


def clean_cell(count: int) -> Cell:
    """Count posts as they are."""
    return _cell(CLEAN, CLEAN, None, None, 0.0, [Disruption()] * count)


def modality_fixed_cells(count: int) -> list[Cell]:
    """The clean cell for count posts, then each modality under each strategy in all of them."""
    made = [clean_cell(count)]
    for modality in MODALITIES:
        for strategy in STRATEGIES:
            disruptions = modality_fixed(count, modality, strategy)
            made.append(
                _cell(f"{modality} {strategy}", FIXED, strategy, modality, 1.0, disruptions)
            )
    return made


def damage_cells(count: int, kinds: Mapping[str, Sequence[str | None]]) -> list[Cell]:
    """A cell per kind of damage of a modality ({modality: kinds}) that the paper does not name."""
    return [
        _cell(f"{m} {kind}", OTHER_DAMAGE, kind, m, 1.0, [Disruption(**{m: kind})] * count)
        for m in MODALITIES
        for kind in kinds[m]
        if kind is not None and kind != "corrupt"
    ]


def cells(count: int, seed: int = 0) -> list[Cell]:
    """All cells for count posts, the clean one first; the same seed disrupts the same posts."""
    made = modality_fixed_cells(count)
    for strategy in STRATEGIES:
        for ratio in RATIOS:
            disruptions = modality_random(count, strategy, ratio, seed)
            name = f"random {strategy} {ratio:.1f}"
            made.append(_cell(name, RANDOM, strategy, None, ratio, disruptions))
    for modality in reversed(MODALITIES):
        for kind in _EVALUATED[modality]:
            disruptions = [Disruption(**{modality: kind})] * count
            made.append(_cell(f"{modality} {kind}", OTHER_DAMAGE, kind, modality, 1.0, disruptions))
    return made


def kinds_to_encode(modality: str) -> tuple[str, ...]:
    """The kinds of damage of one modality that the cells ask for."""
    return ("corrupt", *_EVALUATED[modality])


def met_in_training(cell: Cell, trained_kinds: Mapping[str, Sequence[str]] | None) -> bool | None:
    """Whether a checkpoint's training damaged its own inputs as this cell does.

    trained_kinds: {modality: kinds}, None where the checkpoint does not say. Returns None
    where nothing is known, and for a cell that damages nothing (clean, discard).
    """
    if trained_kinds is None or not cell.damages:
        return None
    return all(kind in trained_kinds.get(modality, ()) for modality, kind in cell.damages)


def groups(
    given: Sequence[Cell], trained_kinds: Sequence[Mapping[str, Sequence[str]] | None]
) -> dict[str, list[int]]:
    """Groups of cells to average over, as positions in `given`.

    "disrupted" is the paper's protocol as a whole, modality-fixed and modality-random.
    "unseen damage" holds the other damage that none of the models compared met in training;
    it is there only where every model says what it met.
    """
    found = {
        name: [number for number, cell in enumerate(given) if cell.group in members]
        for name, members in (
            (CLEAN, (CLEAN,)),
            (FIXED, (FIXED,)),
            (RANDOM, (RANDOM,)),
            ("disrupted", (FIXED, RANDOM)),
            (OTHER_DAMAGE, (OTHER_DAMAGE,)),
        )
    }
    found["unseen damage"] = [
        number
        for number in found[OTHER_DAMAGE]
        if all(met_in_training(given[number], kinds) is False for kinds in trained_kinds)
    ]
    return {name: members for name, members in found.items() if members}


def _cell(
    name: str,
    group: str,
    strategy: str | None,
    modality: str | None,
    ratio: float,
    disruptions: Sequence[Disruption],
) -> Cell:
    damages = {
        (m, kind)
        for disruption in disruptions
        for m, kind in zip(MODALITIES, disruption.kinds(), strict=True)
        if kind is not None and kind != DISCARD
    }
    return Cell(name, group, strategy, modality, ratio, frozenset(damages), tuple(disruptions))
