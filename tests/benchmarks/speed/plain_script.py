"""The script everyone writes first: decode in full, Hugging Face processors, eager fp32.

It annotates with the same checkpoint as `drf annotate`, one batch of 32 after the other, and
prints its start-up and its loop in seconds, and the loop's
processor time, as JSON. A post with a broken half gets a black
image or an empty text, as such scripts do.
"""

from __future__ import annotations

import argparse
import io
import json
import time

import pyarrow.parquet as pq

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--posts", required=True)
    arguments = parser.parse_args()
    began = time.perf_counter()

    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.utils import logging

    from drf_core.model.modeling_drf import DRFModel

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    image_processor = AutoImageProcessor.from_pretrained(arguments.model)
    model = DRFModel.from_pretrained(arguments.model).eval()
    loaded, before = time.perf_counter(), time.process_time()

    def picture(data: bytes | None) -> Image.Image:
        try:
            return Image.open(io.BytesIO(data or b"")).convert("RGB")
        except Exception:
            return Image.new("RGB", (224, 224))

    posts = pq.read_table(arguments.posts, columns=["text", "image"]).to_pylist()
    labels: list[str] = []
    for start in range(0, len(posts), BATCH):
        batch = posts[start : start + BATCH]
        tokens = tokenizer(
            [post["text"] or "" for post in batch],
            padding=True,
            truncation=True,
            max_length=model.config.max_text_tokens,
            return_tensors="pt",
        )
        pixels = image_processor([picture(post["image"]) for post in batch], return_tensors="pt")
        present = torch.ones(len(batch), dtype=torch.bool)
        with torch.no_grad():
            output = model(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                pixel_values=pixels["pixel_values"],
                text_present=present,
                image_present=present,
            )
        labels += [model.config.labels[index] for index in output.logits.argmax(-1).tolist()]
    ended, cpu = time.perf_counter(), time.process_time() - before
    assert len(labels) == len(posts)
    print(json.dumps({"startup": loaded - began, "loop": ended - loaded, "cpu": cpu}))


if __name__ == "__main__":
    main()
