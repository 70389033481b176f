"""What a comparison asks of an engine that computes its shards."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class Future(Protocol):
    """What became, or will become, of a function that was submitted.

    `result` is all that is needed. Where it has them, `add_done_callback(function)` or else
    `done()` save a thread for each future that waits for its result.
    """

    def result(self) -> Any:
        """Wait for the function, and return what it returned.

        Raises:
            Exception: of whatever kind, where it did not come to its end: its worker was killed,
                say, or its node is gone. What goes wrong inside of the function never gets here: it
                is caught there and returned, so that an error means that the worker is lost.
        """


class Beat(NamedTuple):
    """The last sign of life of a shard: where it is computed, and how far it is.

    Attributes:
        host: the name of the machine.
        process: its number there.
        step: of the shard's training.
    """

    host: str
    process: int
    step: int


class AbstractEngine(abc.ABC):
    """What shards are submitted to, and what is known of it.

    A shard is submitted as `submit(function, *args)` with a function of this package, and with
    arguments that are built-in numbers, texts and bytes; it returns as plain an object. Both go
    through plain pickle. Whatever else is sent (problems, strategies) is in the bytes.

    Workers that see the folder of the comparison, with what is written there, keep checkpoints of
    their shards in it and say there how far they are, at least every `BEAT` seconds. Those that do
    not send their results back by value: that is found out by each shard itself.

    Attributes:
        name: what people call it, such as "processes:4".
        workers: how many shards it computes at once, at most; a guess is better than none, as work
            is cut into about twice as many.
        window: how many shards may be submitted and not finished. None: all of them, which wait
            there until it is their turn. As many as workers: a shard that was submitted is being
            computed, so that one that gives no sign of life at all has timed out, too.
        same_machine: whether workers are processes of this machine, which see its temporary files:
            a comparison that is kept nowhere has its checkpoints, and signs of life, there.
        threads: of torch, in every worker.
        breaks: whether a shard can break it for all others, which are then tried one by one.
        timeout: seconds after which a shard counts as lost that began and gave no sign of life
            since; None: never.
    """

    name: str
    workers: int = 8
    window: int | None = None
    same_machine: bool = False
    threads: int = 1
    breaks: bool = True
    timeout: float | None = 300.0

    @abc.abstractmethod
    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future:
        """Have a function called somewhere.

        Raises:
            Exception: it cannot be submitted now; `renew` is asked then, and it is tried again.
        """

    def renew(self, error: BaseException) -> bool:
        """Make anew what is broken, after a future or `submit` failed with an error.

        Returns:
            Whether it was made anew, so that all that was submitted before is lost and must be
            submitted again. False: only what failed is lost, if anything is.

        Raises:
            BilevelError: it cannot be made anew; says why, and what to do.
        """
        return False

    def waits(self, future: Future, beat: Beat | None) -> bool:
        """Whether a future without a sign of life waits for a worker: it has not timed out then.

        Engines that give the work of a worker that died to another one by themselves know it.

        Args:
            future: of `submit`.
            beat: the last sign of life, if there was one.
        """
        return False

    def versions(self, packages: list[str]) -> dict[str, dict[str, str | None]]:
        """Versions of packages at each place of the engine, as far as it tells without a task."""
        return {}

    def stop(self, future: Future, beat: Beat | None) -> None:
        """Give up a future, be it queued or running, and free its worker as far as possible.

        Asked for shards that timed out, and for all that is left after Ctrl-C. It may not raise.

        Args:
            future: of `submit`.
            beat: the last sign of life, if there was one.
        """
        if cancel := getattr(future, "cancel", None):
            cancel()

    def last_words(self, error: BaseException, beat: Beat | None) -> str:
        """What is known of a worker that is lost, for the message: an exit code, the end of a log.

        Args:
            error: what its future raised.
            beat: its last sign of life, if there was one.
        """
        return f"{type(error).__name__}: {error}".rstrip(": ")

    def close(self) -> None:  # noqa: B027
        """Let go of what was made for this comparison; not called of an engine that was given."""
