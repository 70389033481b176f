"""Whatever becomes of workers, every shard is done once, or is reported."""

import signal
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, CancelledError

import pytest
from scripted_engine import DONE, Asked, Noted, Scripted, Silent, result, shard

from bilevel.comparison.engines import dispatch
from bilevel.comparison.engines.answers import Answer, Trouble
from bilevel.comparison.engines.dispatch import Dispatch
from bilevel.errors import ArgumentError, EngineError

SHARDS = [shard(number) for number in range(6)]
RAISED = Answer(None, trouble=Trouble("ValueError", "unlucky", "line 7", False, False))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(dispatch, "TICK", 0.01)
    monkeypatch.setattr(dispatch, "GRACE", 0.05)


def dispatched(engine, shards=SHARDS, beats=None):
    """What was noted of shards, of which none may be done twice."""
    work = Noted(engine, beats)
    whole = Dispatch(engine, work, shards, "session").run()
    done = Counter(one for one, _ in work.results)
    assert whole
    assert done == Counter(shards)
    return work


def once(number, answer):
    """A script: the n-th submission ends otherwise."""
    return lambda n, _: answer if n == number else DONE


@pytest.mark.parametrize("wrap", [lambda future: future, Asked, Silent])
def test_any_future_will_do(wrap):
    engine = Scripted(once(2, RuntimeError("gone")), wrap=wrap)
    dispatched(engine)
    assert len(engine.seen) == 7


@pytest.mark.parametrize("window", [None, 1, 2])
def test_no_more_are_under_way_than_may_be(window):
    waiting = []

    def script(n, _):
        waiting.append(n)

    engine = Scripted(script, window=window)
    work = Noted(engine)

    def answer(running):
        for future in engine.open:
            if not future.done():
                future.set_result(DONE)

    work.tell = answer
    assert Dispatch(engine, work, SHARDS, "session").run()
    assert engine.most == (window or len(SHARDS))


def test_dear_shards_come_first():
    shards = [shard(0, weight=1.0), shard(1, weight=3.0), shard(2, weight=2.0)]
    engine = Scripted(lambda n, _: DONE, window=1)
    dispatched(engine, shards)
    assert [one.number for one in engine.seen] == [1, 2, 0]


@pytest.mark.parametrize("error", [OSError("node lost"), CancelledError(), RAISED])
def test_a_shard_is_submitted_again_three_times(error):
    def script(times):
        left = Counter({SHARDS[3]: times})

        def answer(n, asked):
            left[asked] -= 1
            return error if left[asked] >= 0 else DONE

        return answer

    engine = Scripted(script(3))
    dispatched(engine)
    assert Counter(engine.seen) == Counter(SHARDS) + Counter({SHARDS[3]: 3})

    engine = Scripted(script(4))
    work = Noted(engine)
    with pytest.raises(EngineError, match=r"training-3 .* failed 4 times on scripted") as raised:
        Dispatch(engine, work, SHARDS, "session").run()
    assert {one for one, _ in work.results} == set(SHARDS) - {SHARDS[3]}  # all others are done
    words = {OSError: "OSError: node lost", CancelledError: "CancelledError"}
    assert words.get(type(error), "ValueError: unlucky\nline 7") in str(raised.value)
    assert Counter(engine.seen)[SHARDS[3]] == 4


def test_shards_that_all_fail_end_it_soon():
    engine = Scripted(lambda n, _: RAISED, window=1)
    with pytest.raises(EngineError, match="So did 2 other shards"):
        Dispatch(engine, Noted(engine), [shard(i) for i in range(100)], "session").run()
    assert len(engine.seen) == 12


def test_an_error_of_arguments_is_raised_at_once_as_what_it_is():
    trouble = Trouble("ArgumentError", "`width` must be", "", True, False)
    engine = Scripted(once(1, Answer(None, trouble=trouble)), window=1)
    work = Noted(engine)
    with pytest.raises(ArgumentError, match=r"`width` must be \(in shard training-1 "):
        Dispatch(engine, work, SHARDS, "session").run()
    assert len(engine.seen) == 2


def test_memory_that_ran_out_is_divided():
    trouble = Trouble("NotEnoughMemoryError", "", "", False, True)
    engine = Scripted(lambda n, _: Answer(None, trouble=trouble) if n < 2 else DONE)
    work = dispatched(engine, SHARDS[:1])
    assert work.fewer == [1, 2, 4]


def test_a_pool_that_broke_is_made_anew_and_the_one_who_did_it_is_found():
    """Four at once; one breaks the pool whenever it is computed, and takes the others with it."""
    guilty = SHARDS[2]
    engine = Scripted(None, anew=True, window=4, workers=4)

    def script(n, asked):
        alone = all(future.done() for future in engine.open[:-1])
        if asked is guilty:
            for future in engine.open[:-1]:
                if not future.done():
                    future.set_exception(BrokenExecutor())
            return BrokenExecutor("killed")
        return DONE if alone or n > 12 else None

    engine.script = script
    work = Noted(engine)
    with pytest.raises(EngineError, match=r"training-2 .* failed 4 times"):
        Dispatch(engine, work, SHARDS, "session").run()
    assert Counter(one for one, _ in work.results) == Counter(set(SHARDS) - {guilty})
    assert Counter(engine.seen)[guilty] <= 6


def test_an_engine_that_breaks_for_ever_is_given_up():
    engine = Scripted(lambda n, _: BrokenExecutor("no"), anew=True, window=2, workers=2)
    with pytest.raises(EngineError):
        Dispatch(engine, Noted(engine), SHARDS, "session").run()
    assert len(engine.seen) < 60


def test_an_engine_that_takes_nothing_says_so():
    class Closed(Scripted):
        def submit(self, function, /, *args):
            raise RuntimeError("cannot schedule new futures after shutdown")

    engine = Closed(None)
    with pytest.raises(EngineError, match="Nothing can be submitted to scripted: RuntimeError: ca"):
        Dispatch(engine, Noted(engine), SHARDS, "session").run()


def test_a_worker_that_gives_no_sign_of_life_is_given_up():
    engine = Scripted(lambda n, _: None if n == 1 else DONE, timeout=0.1, window=2, workers=2)
    work = dispatched(engine, SHARDS, {SHARDS[1]: [1, 2, 3]})
    assert len(engine.stopped) == 1
    assert Counter(engine.seen)[SHARDS[1]] == 2
    assert {SHARDS[1]: 3} in work.told


@pytest.mark.parametrize("beats", [{}, {SHARDS[0]: range(1, 200)}])
def test_who_waits_for_a_worker_has_not_timed_out(beats):
    """Nothing was heard yet where thousands may wait; nor where signs of life go on."""
    engine = Scripted(None, timeout=0.05, window=None)

    def script(n, asked):
        return None if n == 0 else DONE

    engine.script = script
    work = Noted(engine, beats)
    work.tell = lambda running: len(work.told) > 20 and engine.open[0].set_result(DONE)
    told = work.told

    def tell(running):
        told.append(running)
        if len(told) == 20:
            next(one for one in engine.open if not one.done()).set_result(DONE)

    work.tell = tell
    assert Dispatch(engine, work, SHARDS[:1], "session").run()
    assert engine.stopped == []


def test_an_engine_that_says_that_a_shard_waits_is_believed():
    engine = Scripted(lambda n, _: None, timeout=0.05)
    engine.waits = lambda future, beat: True
    work = Noted(engine, {SHARDS[0]: [1]})
    looks = []

    def tell(running):
        looks.append(running)
        if len(looks) == 20:
            engine.open[0].set_result(DONE)

    work.tell = tell
    assert Dispatch(engine, work, SHARDS[:1], "session").run()
    assert engine.stopped == []


def test_ctrl_c_cancels_what_waits_and_takes_what_comes():
    engine = Scripted(lambda n, _: DONE if n == 0 else None)
    work = Noted(engine, {SHARDS[1]: [1]})
    ticks = []

    def tell(running):
        ticks.append(running)
        if running:
            raise KeyboardInterrupt

    def ask_to_stop():
        work.stopped += 1
        engine.open[0].set_result(Answer(result(status=["INTERRUPTED"])))

    work.tell, work.ask_to_stop = tell, ask_to_stop
    assert not Dispatch(engine, work, SHARDS, "session").run()
    assert work.stopped == 1
    assert [one for one, _ in work.results] == SHARDS[:2]
    assert len(engine.stopped) == 4  # they had not begun


def test_ctrl_c_that_goes_to_a_worker_ends_all():
    interrupted = Answer(result(status=["INTERRUPTED"]))
    engine = Scripted(once(1, interrupted), window=1)
    work = Noted(engine)
    assert not Dispatch(engine, work, SHARDS, "session").run()
    assert len(engine.seen) == 2


def test_a_worker_that_does_not_see_the_folder_is_sent_all():
    engine = Scripted(once(0, Answer(None, lacks=True)))
    work = dispatched(engine)
    assert work.lacking == 1
    assert Counter(engine.seen)[SHARDS[0]] == 2


def test_errors_of_the_caller_stop_what_is_under_way():
    engine = Scripted(lambda n, _: DONE if n == 0 else None, window=3)
    work = Noted(engine)

    def done(shard, result, kept):
        raise OSError("disk full")

    work.done = done
    with pytest.raises(OSError, match="disk full"):
        Dispatch(engine, work, SHARDS, "session").run()
    assert len(engine.stopped) == 2
    assert work.stopped == 1


def test_an_engine_that_no_shard_breaks_computes_all_of_them_at_once_again():
    """A scheduler that was gone and is back: none of what was being computed is to blame."""
    engine = Scripted(lambda n, _: None, anew=True, breaks=False)
    work = Noted(engine, {one: [1, 2] for one in SHARDS})

    def tell(running):
        if len(running) == len(SHARDS) and len(engine.seen) == len(SHARDS):
            engine.open[0].set_exception(ConnectionError("lost"))
        elif len(engine.seen) == 2 * len(SHARDS):
            for future in engine.open[len(SHARDS) - 1 :]:
                future.set_result(DONE)

    work.tell = tell
    assert Dispatch(engine, work, SHARDS, "session").run()
    assert Counter(engine.seen) == Counter(2 * SHARDS)
    assert len(work.results) == len(SHARDS)


def test_who_stood_still_gives_nobody_up(monkeypatch):
    """As after Ctrl-Z: workers stood still as well."""
    monkeypatch.setattr(dispatch, "PAUSED", 0.3)
    engine = Scripted(lambda n, _: None, timeout=0.2)
    work = Noted(engine, {SHARDS[0]: [1]})
    looks = []

    def tell(running):
        looks.append(running)
        if len(looks) == 1:
            time.sleep(0.5)
        if len(looks) == 3:
            engine.open[0].set_result(DONE)

    work.tell = tell
    assert Dispatch(engine, work, SHARDS[:1], "session").run()
    assert len(looks) == 3
    assert engine.stopped == []


@pytest.mark.parametrize("wrap", [lambda future: future, Asked, Silent])
def test_what_ends_after_ctrl_c_counts_whatever_the_future(wrap, monkeypatch):
    monkeypatch.setattr(dispatch, "GRACE", 60.0)
    engine = Scripted(lambda n, _: None, wrap=wrap)
    work = Noted(engine, {SHARDS[0]: [1]})

    def tell(running):
        if running:
            raise KeyboardInterrupt

    work.tell, work.ask_to_stop = tell, lambda: engine.open[0].set_result(DONE)
    assert not Dispatch(engine, work, SHARDS[:1], "session").run()
    assert [one for one, _ in work.results] == SHARDS[:1]


def test_ctrl_c_waits_until_a_result_is_kept():
    engine, kept = Scripted(lambda n, _: DONE), []
    work = Noted(engine)

    def done(shard, result, by_worker):
        if not kept:
            signal.raise_signal(signal.SIGINT)
        kept.append(shard)

    work.done = done
    assert not Dispatch(engine, work, SHARDS, "session").run()
    assert SHARDS[0] in kept
