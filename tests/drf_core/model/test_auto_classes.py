"""transformers' own Auto classes load a checkpoint after `import drf_core`, and that is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import drf_core
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer
for auto in (AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, AutoImageProcessor):
    print(type(auto.from_pretrained(sys.argv[1])).__name__)
"""


def test_auto_classes_know_drf_after_its_import(tiny_checkpoint: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_checkpoint)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    names = ran.stdout.split()
    assert names[:3] == ["DRFConfig", "DRFModel", "DRFProcessor"]
    assert "Tokenizer" in names[3] and "ImageProcessor" in names[4]
