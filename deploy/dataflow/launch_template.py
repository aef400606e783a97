"""What the launcher of the Flex Template runs: its parameters as a command line of `drf annotate`.

The launcher gives every parameter as --NAME=VALUE, whatever the option is like.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipelines.annotate.command import add_annotate_arguments
from pipelines.cli import main

# What holds unless a parameter says otherwise. One process for all cores of a machine and its
# GPU: it loads the model once. There is nothing in this module that workers need.
DEFAULTS = (
    "--model=/opt/drf/checkpoint",
    "--number_of_worker_harness_threads=1",
    "--experiments=no_use_multiple_sdk_containers",
    "--no_save_main_session",
)


def command_line(parameters: Sequence[str]) -> list[str]:
    """The arguments of `drf` that parameters of the template stand for.

    A parameter of ours is an option with underscores. Of those that take several values, the
    values are separated by spaces; true sets a flag. What is not ours is Beam's, as it stands.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_annotate_arguments(parser)
    words = ["annotate", *DEFAULTS]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        option = name.replace("_", "-")
        action = parser._option_string_actions.get(option)
        if action is None:
            words.append(parameter)
        elif action.nargs == 0:
            words += [option] * (value.lower() == "true")
        elif isinstance(action.default, list) or action.nargs == "+":
            words += [f"{option}={one}" for one in value.split()]
        elif value:
            words.append(f"{option}={value}")
    return words


if __name__ == "__main__":
    sys.exit(main(command_line(sys.argv[1:])))
