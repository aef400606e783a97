"""The command line that parsed arguments stand for, to print beside what they made."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from pipelines.storage.redaction import redact


def command_line(
    command: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    args: argparse.Namespace,
) -> str:
    """`drf COMMAND` with the options that are not at their default, paths as `shown`.

    add_arguments: adds the command's options to a parser.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["drf", command]
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest == "help" or value == action.default:
            continue
        option = action.option_strings[0]
        # `nargs` takes its values after one option, `append` one option each.
        appended = isinstance(action, argparse._AppendAction)
        for one in value if appended else [value]:
            words += [option, *(shown(str(v)) for v in (one if isinstance(one, list) else [one]))]
    return shlex.join(words)


def shown(path: str) -> str:
    """A path as others may see it: absolute ones by their last two parts, no credentials."""
    if "://" in path:
        return redact(path)
    name, equals, rest = path.partition("=")
    if equals and os.path.isabs(rest):
        return f"{name}={shown(rest)}"
    return os.path.join(*Path(path).parts[-2:]) if os.path.isabs(path) else path
