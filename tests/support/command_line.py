"""The command line in process, for the tests of the commands."""

from bilevel.commands.main import main

TINY = ["--seeds", "2", "--steps", "4", "--set", "width=4"]
PAIR = ["--strategies", "uniform slow", "two-timescale"]


def run(*arguments):
    """The exit code of a command line."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return leaving.code
