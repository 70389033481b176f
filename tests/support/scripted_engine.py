"""Engines without workers, which do what a test says; and work that is done at once."""

from concurrent.futures import Future

import numpy as np

from bilevel.comparison.engines.answers import Answer, Result
from bilevel.comparison.engines.base import AbstractEngine, Beat
from bilevel.comparison.engines.shards import Shard


def shard(number, seeds=(0,), weight=1.0):
    return Shard("training", number, ("two",), tuple(seeds), weight)


def result(values=((1.0,),), status=("COMPLETED",), processor=None):
    """Of the strategy "two"."""
    found = {"two": {"objective": np.array(values)}}
    codes = {"two": list(status)}
    return Result(found, codes, {"two": ["COMPLETED"] * len(status)}, processor or {})


DONE = Answer(result())


class Silent:
    """A future that can do nothing but give its result."""

    def __init__(self, future):
        self._future = future

    def result(self):
        return self._future.result()


class Asked(Silent):
    """A future that says when it is asked whether it is done."""

    def done(self):
        return self._future.done()


class Scripted(AbstractEngine):
    """Answers the n-th submission by `script(n, shard)`: an answer, an error, or None for never.

    Args:
        script: the answers.
        anew: whether it is made anew after an error.
        wrap: what futures are turned into.
    """

    name = "scripted"

    def __init__(self, script, anew=False, wrap=lambda future: future, **attributes):
        self.script, self.anew, self.wrap = script, anew, wrap
        self.seen, self.stopped, self.open, self.most = [], [], [], 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def submit(self, function, /, *args):
        number, asked, future = len(self.seen), args[0], Future()
        self.seen.append(asked)
        self.open = [one for one in self.open if not one.done()] + [future]
        self.most = max(self.most, len(self.open))
        answer = self.script(number, asked)
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        return self.wrap(future)

    def renew(self, error):
        return self.anew

    def stop(self, future, beat):
        self.stopped.append(future)


class Noted:
    """Work whose results are kept in a list, in the order in which they come.

    Args:
        engine: where it is done.
        beats: shard -> the signs of life that it gives, one at each look.
    """

    def __init__(self, engine, beats=None):
        self.engine, self.beats = engine, {k: list(v) for k, v in (beats or {}).items()}
        self.results, self.told, self.stopped, self.lacking = [], [], 0, 0
        self.fewer = []

    def submit(self, shard, attempt, fewer):
        self.fewer.append(fewer)
        return self.engine.submit(None, shard)

    def heard(self, shard, attempt):
        left = self.beats.get(shard, [])
        if not left:
            return None
        count = left.pop(0) if len(left) > 1 else left[0]
        return count, Beat("here", 1, count)

    def done(self, shard, result, kept):
        self.results.append((shard, result))

    def lacks(self):
        self.lacking += 1

    def tell(self, running):
        self.told.append(running)

    def ask_to_stop(self):
        self.stopped += 1
