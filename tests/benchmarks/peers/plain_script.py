"""The script everyone writes first: decode in full, Hugging Face processors, eager fp32.

It annotates with the same checkpoint as `drf annotate`, one batch of 32 after the other, and
prints its start-up and its loop in seconds, and the loop's processor time, as JSON. A post with a
broken half gets a black image or an empty text, as such scripts do. --engine has Hugging Face's
datasets or Ray Data call the same function (requirements.txt); --output: where labels are written.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 32
_COLUMNS = ["post_id", "text", "image"]


class Script:
    """A checkpoint, its tokenizer and its image processor: columns of posts in, labels out."""

    def __init__(self, model: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer
        from transformers.utils import logging

        from drf_core.model.modeling_drf import DRFModel

        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.image_processor = AutoImageProcessor.from_pretrained(model)
        self.model = DRFModel.from_pretrained(model).eval()

    def __call__(self, posts: dict[str, Any]) -> dict[str, Any]:
        """Label one batch."""
        import torch

        tokens = self.tokenizer(
            [text or "" for text in posts["text"]],
            padding=True,
            truncation=True,
            max_length=self.model.config.max_text_tokens,
            return_tensors="pt",
        )
        pictures = [_picture(image) for image in posts["image"]]
        pixels = self.image_processor(pictures, return_tensors="pt")
        present = torch.ones(len(pictures), dtype=torch.bool)
        with torch.no_grad():
            output = self.model(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                pixel_values=pixels["pixel_values"],
                text_present=present,
                image_present=present,
            )
        labels = [self.model.config.labels[n] for n in output.logits.argmax(-1).tolist()]
        return {"post_id": list(posts["post_id"]), "label": labels}


def _picture(data: bytes | None) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data or b"")).convert("RGB")
    except Exception:
        return Image.new("RGB", (224, 224))


def plain(model: str, posts: str, output: Path | None) -> None:
    """One batch after the other, written at the end."""
    began = time.perf_counter()
    script = Script(model)
    loaded, before = time.perf_counter(), time.process_time()
    table = pq.read_table(posts, columns=_COLUMNS)
    batches = table.to_batches(BATCH)
    said = [script(batch.to_pydict()) for batch in batches]
    ended, cpu = time.perf_counter(), time.process_time() - before
    if output is not None:
        output.mkdir(exist_ok=True)
        pq.write_table(pa.concat_tables(map(pa.table, said)), output / "labels.parquet")
    print(json.dumps({"startup": loaded - began, "loop": ended - loaded, "cpu": cpu}))


def with_datasets(model: str, posts: str, output: Path) -> None:
    """`Dataset.map` with a batched function, written at the end; caches beside the output."""
    from datasets import load_dataset

    read = load_dataset(
        "parquet", data_files=f"{posts}/*.parquet", split="train", cache_dir=f"{output}.cache"
    )
    labelled = read.map(Script(model), batched=True, batch_size=BATCH, remove_columns=_COLUMNS[1:])
    output.mkdir(exist_ok=True)
    labelled.to_parquet(str(output / "labels.parquet"))


def with_ray(model: str, posts: str, output: Path) -> None:
    """`map_batches` over a pool of as many actors as cores, written as it goes."""
    import ray

    cores = len(os.sched_getaffinity(0))
    # Its workers yield to whatever else runs, which on a quiet machine changes nothing.
    os.environ.update(RAY_worker_niceness="0")
    ray.init(num_cpus=cores + 1, include_dashboard=False, log_to_driver=False)
    ray.data.read_parquet(posts, columns=_COLUMNS).map_batches(
        Script,
        fn_constructor_args=(model,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=cores),
        num_cpus=1,
    ).write_parquet(str(output))


ENGINES = {"plain": plain, "datasets": with_datasets, "ray": with_ray}


def main() -> None:
    """Annotate a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--posts", required=True)
    parser.add_argument("--engine", choices=list(ENGINES), default="plain")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    ENGINES[arguments.engine](arguments.model, arguments.posts, arguments.output)


if __name__ == "__main__":
    main()
