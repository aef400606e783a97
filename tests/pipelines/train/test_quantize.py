"""`drf quantize`: int8 encoders that drf annotate uses when told to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output, Run, annotate_arguments

Drf = Callable[..., Run]


def test_int8_encoders_are_made_once_and_used_when_asked_for(
    drf: Drf, tmp_path: Path, tiny_checkpoint: Path, output: Output
) -> None:
    pytest.importorskip("nncf", reason="needs nncf (the extra `quantize`)")
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    write_posts(tmp_path / "posts.parquet", make_posts(12))
    given = annotate_arguments(tmp_path / "posts.parquet", output, model)

    before = drf(*given, "--runtime", "openvino-int8")
    made = drf("quantize", "--model", model, "--posts", tmp_path / "posts.parquet")
    after = drf(*given, "--runtime", "openvino-int8")

    assert before.code != 0 and "drf quantize --model DIR --posts PATH" in before.err
    assert made.code == 0 and "calibrating on 12 texts and 12 images" in made.err + made.out
    assert after.code == 0
    assert after.manifest["runtimes"] == {"openvino int8 on cpu": 12}
    assert after.manifest["options"]["runtime"] == "openvino-int8"


def test_what_cannot_be_quantised_is_said_in_one_line(
    drf: Drf, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    write_posts(tmp_path / "posts.parquet", make_posts(2))
    run = drf("quantize", "--model", "default", "--posts", tmp_path / "posts.parquet")
    assert run.code == 2
    assert run.err.count("\n") == 1 and "--model default: is no folder" in run.err
