"""What Dataflow asks for beyond other runners: its packages, and templates that run later."""

from __future__ import annotations

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineRunner

from schemas.errors import UsageError


def check_installed(runner: PipelineRunner) -> None:
    """Raise UsageError for Dataflow's runner where the packages that it needs are missing.

    Beam itself says so only when the job is about to be submitted.
    """
    if type(runner).__name__ != "DataflowRunner":
        return
    try:
        import gcsfs  # noqa: F401
        from apache_beam.runners.dataflow.internal import apiclient  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--runner DataflowRunner: Google Cloud's packages are not installed; install this "
            "one with its extra `dataflow`: pip install '.[dataflow]'"
        ) from error


def template_location(options: PipelineOptions | None) -> str | None:
    """Where the job's graph is to be written instead of being run, None to run it.

    The launcher of a Flex Template asks for that, and starts the job from what was written.
    Other runners do not know the option.
    """
    if options is None or options.view_as(StandardOptions).runner != "DataflowRunner":
        return None
    return options.view_as(GoogleCloudOptions).template_location
