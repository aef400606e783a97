"""Posts whose label can be learned in seconds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = {
    "negative": ["awful", "sad", "angry", "broken", "lost"],
    "positive": ["lovely", "happy", "great", "sunny", "won"],
}
FILLER = ["the", "day", "in", "town", "with", "my", "team", "and", "a", "dog"]


def write_labelled(path: Path, count: int, seed: int, without_image: int = 0) -> Path:
    """Posts whose label shows in words and in colour."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = ("negative", "positive")[number % 2]
        words = [*rng.choice(WORDS[label], 3), *rng.choice(FILLER, 5)]
        rng.shuffle(words)
        colour = (200, 60, 60) if label == "negative" else (60, 200, 60)
        pixels = np.clip(rng.normal(colour, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        image = None if number < without_image else buffer.getvalue()
        rows.append(
            {"post_id": f"{seed}-{number}", "text": " ".join(words), "image": image, "label": label}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
