"""The `bilevel` command. Thin: everything it does can be done from Python.

torch is imported inside of the commands that need it, so that `bilevel --help` is quick.
"""

import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, get_args

import tyro

from bilevel.commands.advise import Advise
from bilevel.commands.check import Check
from bilevel.commands.compare import Compare
from bilevel.commands.convergence import Convergence
from bilevel.commands.curvature import Curvature
from bilevel.commands.doctor import Doctor
from bilevel.commands.ending import mute, say, unheard
from bilevel.commands.exit_codes import FAILED, OK, SIGNAL, USAGE
from bilevel.commands.landscape import Landscape
from bilevel.commands.lists import Problems, Strategies
from bilevel.commands.new import New
from bilevel.commands.predict import Predict
from bilevel.commands.report import Report
from bilevel.errors import AllRunsFailedError, BilevelError, unknown_name
from bilevel.problem import registry

Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Problems, tyro.conf.subcommand("problems")]
    | Annotated[Strategies, tyro.conf.subcommand("strategies")]
    | Annotated[New, tyro.conf.subcommand("new")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Advise, tyro.conf.subcommand("advise")]
    | Annotated[Convergence, tyro.conf.subcommand("convergence")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
    | Annotated[Curvature, tyro.conf.subcommand("curvature")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)
OWN = tuple(one.__metadata__[0].name for one in get_args(Command))
"""The names of these commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0 (fine), 1 (a run failed) or 2 (wrong usage)."""
    code, raised = OK, None
    try:
        code = run(arguments)
    except BrokenPipeError:  # `| head` has seen enough
        for stream in (sys.stdout, sys.stderr):
            mute(stream)
        return SIGNAL + 13
    except OSError as error:
        raised = error
    # what is in the buffers may fail now; later, Python would say so in its own words
    broken = list(filter(None, map(unheard, (sys.stdout, sys.stderr))))
    if not broken:
        if raised is not None:  # of something else than what is printed
            raise raised
        return code
    if all(isinstance(error, BrokenPipeError) for error in broken):
        return SIGNAL + 13
    say(f"bilevel: {broken[0]}", sys.stderr)
    return FAILED


def run(arguments: Sequence[str] | None) -> int:
    """The same, for an output that somebody reads."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    extra = registry.names(registry.COMMANDS)
    try:
        if arguments and arguments[0] in extra:
            return int(registry.load(arguments[0], registry.COMMANDS)(arguments[1:]) or OK)
        if arguments[:1] == ["--version"]:
            print(f"bilevel {metadata.version('bilevel')}")
            return OK
        known = (*OWN, *extra)
        if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
            raise unknown_name("command", arguments[0], known)
        description = "Compare training strategies for bilevel and Stackelberg problems."
        description += " --version prints the version."
        if extra:
            description += f" Commands of installed packages: {', '.join(extra)}."
        command = tyro.cli(
            Command,
            prog="bilevel",
            description=description,
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
        return int(command.run())
    except AllRunsFailedError as error:
        print(f"bilevel: {error}", file=sys.stderr)
        return FAILED
    except BilevelError as error:
        print(f"bilevel: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("bilevel: interrupted before anything was recorded", file=sys.stderr)
        return SIGNAL + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
