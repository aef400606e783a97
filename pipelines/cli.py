"""The console command `drf`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from pipelines.console.messages import complain
from pipelines.console.version import package_version
from schemas.errors import DRFError, UsageError
from schemas.exit_codes import ExitCode

_EXIT_CODES = textwrap.fill(
    "exit codes: " + "; ".join(f"{code:d} {code.meaning}" for code in ExitCode), 95
)


class _Command(NamedTuple):
    """module: has add_NAME_arguments(parser) and run_NAME(arguments), which returns an exit code.

    takes_beam_options: run_NAME is also given what the parser does not know, and own, the names
    of its own options.
    """

    module: str
    help: str
    takes_beam_options: bool = False


_COMMANDS = {
    "annotate": _Command(
        "pipelines.annotate.command",
        "annotate files of posts; alone, without options, a sample",
        True,
    ),
    "runs": _Command("pipelines.annotate.report.command", "list the runs of an output"),
    "report": _Command(
        "pipelines.annotate.report.command", "write the page of a run, with pictures if asked"
    ),
    "show": _Command("pipelines.annotate.report.command", "show what is known of one post"),
    "review": _Command(
        "pipelines.annotate.review.command",
        "have people label some posts, and measure by it",
    ),
    "train": _Command("pipelines.train.command", "train a checkpoint"),
    "adapt": _Command(
        "pipelines.train.adapt", "fit a checkpoint's qualities to posts without labels", True
    ),
    "sample": _Command(
        "pipelines.sample.command", "write a small sample corpus of posts, some broken"
    ),
    "import": _Command(
        "pipelines.importing.command", "turn a corpus as distributed into posts (Parquet)"
    ),
    "evaluate": _Command(
        "pipelines.evaluate.command",
        "compare checkpoints on labelled posts, undisrupted and disrupted",
    ),
    "publish": _Command(
        "pipelines.train.publish_to_hub", "put a checkpoint on the Hugging Face hub"
    ),
}


_INTERRUPTS = (signal.SIGTERM, signal.SIGINT)


class _Parser(argparse.ArgumentParser):
    """Reports a usage error like any other: one line, no usage text."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (`{self.prog} --help` lists the options)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Prints one line for any error."""
    # Threads of torch that wait for one another by spinning take the cores that decoding, or what
    # else runs here, needs (a training: 195 s in place of 29). Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    before = {number: signal.signal(number, _interrupt) for number in _INTERRUPTS}
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(arguments)
        # Here, not at the interpreter's end, which would show a traceback.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _debug()
        _forget_output()
        complain("error: whoever read the output closed it before its end")
        return 1
    except KeyboardInterrupt:
        starts_afresh = arguments[:1] == ["import"]
        complain(
            "interrupted; the same command starts afresh"
            if starts_afresh
            else "interrupted; the same command goes on from what was committed"
        )
        return ExitCode.INTERRUPTED
    except DRFError as error:
        _debug()
        complain(f"error: {error}")
        return error.exit_code
    except Exception as error:
        _debug()
        complain(f"error: {type(error).__name__}: {error} (DRF_DEBUG=1 shows where)")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(argv: list[str]) -> int:
    if argv == ["annotate"]:
        from pipelines.sample.command import prepare_first_try

        argv = prepare_first_try()
    parser = _Parser(
        prog="drf",
        description="Sentiment of posts (text + image), nightly, also where one of the two is "
        "broken or missing.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"drf {package_version()}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, command in _COMMANDS.items():
        commands.add_parser(
            name,
            help=command.help,
            epilog=_EXIT_CODES if command.takes_beam_options else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    # A command is imported only where it was named: `drf --help` shall not wait for torch.
    named = next((argument for argument in argv if not argument.startswith("-")), None)
    if named in _COMMANDS:
        module = import_module(_COMMANDS[named].module)
        getattr(module, f"add_{named}_arguments")(commands.choices[named])
    try:
        arguments, rest = parser.parse_known_args(argv)
    except UsageError:
        if named in _COMMANDS:
            _check_spelling(argv, commands.choices[named])
        raise
    _quiet_libraries()
    _tell_warnings()
    arguments.words = argv
    run: Callable[..., int] = getattr(module, f"run_{named}")
    if _COMMANDS[arguments.command].takes_beam_options:
        return run(
            arguments, rest, own=list(commands.choices[arguments.command]._option_string_actions)
        )
    if rest:
        parser.error(f"unknown option or argument: {rest[0]}")
    return run(arguments)


def _check_spelling(argv: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raise UsageError for what may be meant as a required option that is missing."""
    named = {argument.split("=", 1)[0] for argument in argv}
    known = parser._option_string_actions
    missing = [name for name, action in known.items() if action.required and name not in named]
    for name in sorted(named - known.keys()):
        if close := difflib.get_close_matches(name, missing, n=1):
            raise UsageError(f"unknown option {name}: did you mean {close[0]}?")


def _quiet_libraries() -> None:
    """Leave the terminal to what the user asked for; errors are told in one line at the end."""
    if os.environ.get("DRF_DEBUG"):
        return
    logging.getLogger().setLevel(logging.ERROR)
    # Beam logs the traceback of every error that it passes on.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    # And gcsfs that of every request that a store refused.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # Prism's own log; Beam sets this logger's level itself.
    logging.getLogger("PrismJobServer").disabled = True


def _tell_warnings() -> None:
    """Show what the core warns of, such as a slower runtime, as lines of this command."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("drf: warning: %(message)s"))
    core = logging.getLogger("drf_core")
    core.setLevel(logging.WARNING)
    core.handlers = [handler]


def _forget_output() -> None:
    """Let the interpreter flush at its end what nobody reads any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(signum: int, frame: object) -> NoReturn:
    # A scheduler that stops the job shall find its attempts ended in an orderly way, and soon:
    # nobody waits for what is being decoded. On a thread, as this one may hold any lock.
    if "drf_core.decoding.children" in sys.modules:
        stop = sys.modules["drf_core.decoding.children"].stop_all_children
        threading.Thread(target=stop, name="stop-children").start()
    raise KeyboardInterrupt


def _debug() -> None:
    if os.environ.get("DRF_DEBUG"):
        import traceback

        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
