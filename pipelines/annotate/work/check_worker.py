"""What a worker must find as it was planned; looked at before torch and what it brings is imported.

That import is most of a worker's start. An engine that tries again what cannot succeed starts a
worker each time.
"""

from __future__ import annotations

from functools import lru_cache

from drf_core.checkpoint import read_checkpoint
from pipelines.annotate.job import JobOptions
from pipelines.console.version import package_version
from pipelines.storage.checkpoints import resolve_model
from pipelines.storage.files import open_store
from schemas.errors import DRFError


class ModelError(DRFError):
    """The model on this worker is not the planned one, or fails on everything."""


# Failures are not remembered: the fault may be mended.
@lru_cache(maxsize=4)
def check_worker(options: JobOptions) -> None:
    """Check package, checkpoint and output, once per run and process.

    Raises ModelError where package or checkpoint is not the planned one, CheckpointError where
    there is none, OutputError where the output cannot be written.
    """
    check_package(options.package_version)
    check_checkpoint(options.model, options.model_revision)
    open_store(options.output).check_writable()


def check_package(planned: str | None) -> None:
    """Raise ModelError unless this worker's package has the planned version. None: any."""
    if planned not in (None, package_version()):
        raise ModelError(
            f"this worker has version {package_version()} of the package, the plan was made "
            f"with {planned}: install the same version on client and workers"
        )


# Its files are hashed once, not for every handler.
@lru_cache(maxsize=4)
def check_checkpoint(model: str, planned: str | None) -> str:
    """Return the local folder of the checkpoint `model`. planned: its revision, None: any.

    Raises ModelError where it has another revision, CheckpointError where there is none.
    """
    folder = resolve_model(model)
    if planned is not None and (found := read_checkpoint(folder).revision) != planned:
        raise ModelError(
            f"the checkpoint on this worker has revision {found}, the plan was made with "
            f"{planned}: it changed meanwhile, or client and workers see different folders; "
            "run again with a --model that all of them reach"
        )
    return folder
