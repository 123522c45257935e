"""The `dedn` command: one file a subcommand.

A file has a function that declares the arguments and one that does the work. To add a subcommand, write the file and
name the first function in `COMMANDS`. Import what is heavy inside the second, so that `dedn --help` answers at once.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import errno
import functools
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dedn_hf import __version__
from dedn_hf.cli.baselines import add_baselines
from dedn_hf.cli.check import add_check
from dedn_hf.cli.classify import add_classify
from dedn_hf.cli.describe import add_describe
from dedn_hf.cli.env import add_env
from dedn_hf.cli.evaluate import add_evaluate
from dedn_hf.cli.explain import add_explain
from dedn_hf.cli.export import add_export
from dedn_hf.cli.prepare import add_prepare
from dedn_hf.cli.push import add_push, add_push_data
from dedn_hf.cli.reproduce import add_reproduce
from dedn_hf.cli.serve import add_serve
from dedn_hf.cli.train import add_train

MEMORY = (
    "Give a smaller --batch-size, of a training --set training.batch_size=25, or --cpu where there is that option."
)
GOING_ON = ("run_train", "run_classify")  # after a stop
THE_WAY = """\
from photos and a table of traits to answers:
  dedn check photos --traits birds.csv
  dedn train photos --traits birds.csv --out birds
  dedn evaluate birds photos
  dedn classify birds new-photos --out answers.csv

dedn COMMAND --help says more about each.
"""
COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
    add_check,  # the order of `dedn --help` is that of the way from photos to answers
    add_train,
    add_evaluate,
    add_classify,
    add_explain,
    add_describe,
    add_serve,
    add_export,
    add_push,
    add_push_data,
    add_prepare,
    add_baselines,
    add_reproduce,
    add_env,
)


class Parser(argparse.ArgumentParser):
    """Says in two lines what is wrong with a command, and which option was perhaps meant."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = re.findall(r"--[a-z-]+", self.format_usage())
            near = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
            self.error(f"{unknown[0]!r} is not understood." + "".join(f" Did you mean {name}?" for name in near))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help shows what can be given.\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `dedn` with every subcommand."""
    parser = Parser(
        prog="dedn",
        description="Recognises classes in photos by their traits, also classes without any photo.",
        epilog=THE_WAY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dedn_hf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser


@functools.cache
def collect_garbage_seldom() -> None:
    """What torch and transformers make when they are imported stays to the end: to look through it took 2 seconds."""
    gc.set_threshold(10_000, 20, 100)
    atexit.register(gc.freeze)


def message_of(error: Exception) -> str:
    """What the user is told."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error.filename or error}. Make room, and give the same command again."
    return str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dedn` with `arguments` (default: the command line).

    Returns:
        The exit status: 0, of `dedn classify` also 3, 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    collect_garbage_seldom()
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    run = given.pop("run")
    try:
        status = run(**given) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"dedn: {message_of(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for its name
            raise
        print(f"dedn: the accelerator has too little memory. {MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = " The same command goes on where it was." if run.__name__ in GOING_ON else ""
        print(f"\ndedn: stopped.{goes_on}", file=sys.stderr)
        return 130
