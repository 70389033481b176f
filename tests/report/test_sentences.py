"""Sentences say what the numbers say."""

import math

import pytest

from bilevel.report import sentences, verdicts, words
from bilevel.report.units import UNITS

NAN = float("nan")
RESULT = {
    "strategy": "two-timescale",
    "baseline": "uniform slow",
    "metric": "test_mse",
    "kind": "ratio",
    "effect": 0.951,
    "low": 0.89,
    "high": 1.01,
    "wins": 8,
    "losses": 4,
    "ties": 0,
    "pairs": 12,
    "lost": 0,
    "failed": 0,
    "baseline_failed": 0,
    "p_value": 0.387,
    "p_adjusted": 0.387,
    "significant": False,
}


FAILURES = {"status": {name: ["DIVERGED"] for name in ("two-timescale", "uniform slow")},
            "final": {name: [NAN] for name in ("two-timescale", "uniform slow")}}  # fmt: skip


def sentence(**changes):
    return sentences.pair({"at": "", "doubts": {}, "runs": 12, **FAILURES}, RESULT | changes)


def test_the_sentence_of_the_specification():
    assert sentence() == (
        "two-timescale is 5 % below uniform slow on test MSE, interval 0.890 to 1.01, "
        "better on 8 of 12 seeds: not significant (p = 0.39 after correction)."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"significant": True, "p_adjusted": 0.0004}, "significantly better (p < 0.001 after"),
        ({"significant": True, "wins": 1, "losses": 11}, "significantly worse"),
        ({"wins": 8, "losses": 3, "ties": 1}, "better on 8 of 12 seeds (equal on 1):"),
        ({"pairs": 7, "lost": 5, "failed": 5, "wins": 7, "losses": 5},
         "better on 7 of 12 seeds (5 runs of two-timescale failed and count as losses): not"),
        ({"pairs": 7, "lost": 5, "failed": 5}, "The ratio is over the 7 seeds where both ended."),
        ({"pairs": 7, "lost": 5, "failed": 2, "baseline_failed": 4, "ties": 3, "losses": 1},
         "8 of 12 seeds (equal on 2; 1 run of two-timescale and 3 runs of uniform slow failed and "
         "count as losses; both failed on 1, which counts as equal): not"),
        ({"pairs": 1, "lost": 1, "low": NAN}, "too few seeds for an interval"),
        ({"pairs": 2, "low": NAN}, "too few seeds for an interval"),
        ({"effect": 1.0}, "is on average equal to uniform slow on test MSE, interval 0.890 to"),
        ({"effect": 1.0, "low": NAN, "wins": 0, "losses": 0, "ties": 12},
         "is equal to uniform slow on test MSE, on all 12 seeds."),
        ({"pairs": 0, "lost": 12, "effect": NAN, "wins": 0, "failed": 12, "losses": 12,
          "significant": True}, "two-timescale failed and count as losses): significantly worse"),
        ({"pairs": 0, "lost": 12, "effect": NAN, "wins": 0, "losses": 0, "p_value": NAN},
         "cannot be compared with uniform slow on test MSE: both failed on all 12 seeds."),
        ({"metric": "test_r2", "kind": "difference", "effect": 0.012, "low": -0.01, "high": 0.03},
         "is 0.0120 above uniform slow on test R², interval of the difference -0.0100 to 0.0300"),
    ],
)  # fmt: skip
def test_sentences(changes, expected):
    assert expected in sentence(**changes)


@pytest.mark.parametrize("found", [0, 1, 27, 28])
def test_of_many_comparisons_those_without_a_difference_are_counted(found):
    """28 sentences on a terminal are read by nobody."""

    def said(number):
        results = [RESULT | {"significant": i < found} for i in range(number)]
        content = {"at": "", "doubts": {}, "runs": 12, "headline": "test_mse", **FAILURES}
        return sentences.pairs(content | {"paired": results})

    assert said(12) == [sentence(significant=i < found) for i in range(12)]
    *told, last = said(28)
    if found == 28:
        assert [*told, last] == 28 * [sentence(significant=True)]
        return
    assert told == found * [sentence(significant=True)]
    which = {0: "none is", 1: "the other 27 are not", 27: "the other 1 is not"}[found]
    assert last == f"Of 28 comparisons on test MSE, {which} significant; the report has them all."


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (1.15, "15 % above"),
        (0.9969, "0.3 % below"),
        (1.0001, "less than 0.1 % above"),
        (2.41, "2.41 times"),
        (0.004, "a factor of 250 below"),
        (1.0, "equal to"),
        (0.0, "a factor of more than 1e300 below"),
        (5e-324, "a factor of more than 1e300 below"),
        (math.inf, "more than 1e300 times"),
        (NAN, "not comparable with"),
    ],
)
def test_change(effect, expected):
    assert sentences.change({"kind": "ratio", "effect": effect}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.09651, "0.0965"), (1500, "1,500"), (0, "0"), (3.2e-9, "3.20e-9"), (-2.0, "-2.00"),
     (NAN, "n/a"), (math.inf, "∞"), (99.96, "100.0")],
)  # fmt: skip
def test_number(value, expected):
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [("ratio", 0.0, 2.0, "less than 1e-300 to 2.00"), ("ratio", 0.0, 5e-324, "n/a"),
     ("ratio", 2.0, math.inf, "2.00 to more than 1e300"), ("ratio", NAN, NAN, "n/a"),
     ("difference", 0.0, 3.0, "0 to 3.00"), ("ratio", 0.99991, 0.99994, "0.99991 to 0.99994"),
     ("difference", -math.inf, 1.0, "less than -1e300 to 1.00")],
)  # fmt: skip
def test_intervals_tell_their_ends_apart(kind, low, high, expected):
    assert sentences.interval(RESULT | {"kind": kind, "low": low, "high": high}) == expected


def test_many_parts_are_not_all_said():
    names = [f"s{number}" for number in range(2000)]
    assert words.joined(names[:12]) == f"{', '.join(names[:11])} and s11"
    assert words.joined(names, "or") == f"{', '.join(names[:11])} or 1,989 more"


def test_a_rounded_p_value_never_contradicts_the_verdict():
    assert words.probability(0.0496) == "p = 0.0496"
    assert words.probability(0.9999) == "p = 1"
    assert words.probability(NAN) == "no p-value"


@pytest.mark.parametrize(("pairs", "seeds", "needed"), [(1, 5, 6), (12, 8, 9), (3, 2, 7)])
def test_too_few_seeds_are_said_so(pairs, seeds, needed):
    def power(counting, runs):
        results = [RESULT | {"wins": counting, "losses": 0}] * pairs
        known = {"same_runs": [], "strategies": {"a": "", "b": ""}}
        return sentences.power(known | {"runs": runs, "paired": results})

    assert f"at least {needed} seeds" in power(seeds, seeds)
    assert "the rest are ties" in power(seeds, 20)
    assert pairs * 2.0 ** (1 - needed) < 0.05 <= pairs * 2.0 ** (2 - needed)
    assert power(needed, 20) == ""


def lead(best, mean, metric="test_mse", **changes):
    """The first paragraph on "a", "b" and "c", of which some have a mean of all three runs."""
    content = {
        "families": [{"kind": "", "names": {name: name for name in "abc"}}],
        "intervals": dict.fromkeys(best, mean),
        "validation": {},
        "rounding": 1e-12,
        "counts": dict.fromkeys("abc", 3) | changes.pop("counts", {}),
        "runs": 3,
        "doubts": {},
        "headline": metric,
        "higher": metric == "test_r2",
        "unit": UNITS["steps"],
        "step": 1500,
        "score": None,
    }
    (said,) = verdicts.leads(content | changes)
    return said


def test_headlines():
    unknown = {"low": NAN, "high": NAN}
    means = {"a": {"value": 0.9, "low": 0.8, "high": 1.0}, "b": {"value": 0.5, **unknown},
             "c": {"value": NAN, **unknown}}  # fmt: skip
    counts = {"a": 3, "b": 3, "c": 0}
    content = {"intervals": means, "counts": counts, "runs": 3, "rounding": 1e-12}
    best = [verdicts.ranked(content | {"higher": higher}, "intervals", "counts", "abc")
            for higher in (True, False)]  # fmt: skip
    assert best == [["a"], ["b"]]
    content |= {"counts": counts | {"b": 2}, "higher": False}
    assert verdicts.ranked(content, "intervals", "counts", "abc") == ["a"]
    assert verdicts.ranked(content, "intervals", "counts", "bc") == []
    assert lead("a", means["a"], "test_r2") == (
        "After 1,500 steps, a has the highest mean test R²: 0.900, 95 % interval 0.800 to 1.00."
    )
    assert lead("b", means["b"], step=1).startswith("After 1 step, b has")
    assert lead("", {}) == "No strategy ended with a finite test MSE."
    none = lead("", {}, counts={"b": 2})
    assert none == "No strategy ended with a finite test MSE in every run."
    some = lead("a", means["a"], counts={"b": 2})
    assert some.endswith("Without a value of every run, b (2 of 3 runs) is not ranked.")
    validated = {"validation": {"b": means["b"]}, "counts_validation": {"b": 3}}
    assert lead("a", means["a"], **validated).endswith("best, b has the lowest: 0.500.")


def against(baseline, wins, significant, effect=0.9):
    return RESULT | {"baseline": baseline, "wins": wins, "losses": 12 - wins,
                     "significant": significant, "effect": effect}  # fmt: skip


def cards(results, baselines):
    """Of the family that "two-timescale" makes with the baselines of its results."""
    names = {name: name for name in ("two-timescale", *(each["baseline"] for each in results))}
    family = {"kind": "", "names": names, "baselines": baselines, "paired": results}
    (found,) = verdicts.cards({"families": [family], "doubts": {}, "runs": 12})
    return found["answers"]


@pytest.mark.parametrize(
    ("results", "short"),
    [
        ([against("uniform slow", 12, True), against("uniform fast", 12, True)], "Yes."),
        ([against("uniform slow", 12, True), against("uniform fast", 7, False)], "In part."),
        ([against("uniform slow", 12, True), against("uniform fast", 0, True)],
         "It depends on which."),
        ([against("uniform slow", 7, False), against("uniform fast", 0, True)], "No."),
        ([against("uniform slow", 9, False), against("uniform fast", 7, False)], "Not shown."),
        ([against("uniform slow", 0, False) | {"p_value": NAN}], "Cannot be said."),
    ],
)  # fmt: skip
def test_short_answers(results, short):
    (card,) = cards(results, [each["baseline"] for each in results])
    ((question, answer, reasons),) = card
    assert question == "Does two-timescale beat uniform rates?"
    assert answer == short
    for result in results:
        assert result["baseline"] in reasons


def test_other_baselines_get_their_own_question():
    results = [against("uniform slow", 12, True), against("swapped", 6, False)]
    (card,) = cards(results, ["uniform slow", "swapped"])
    assert [question for question, _, _ in card] == [
        "Does two-timescale beat uniform rates?",
        "Is two-timescale better than swapped?",
    ]
    ((question, _, _),) = cards(results[1:], ["swapped"])[0]
    assert question == "Does two-timescale beat swapped?"


def test_reasons_name_size_and_direction():
    results = [against("uniform slow", 12, True, 0.8), against("uniform fast", 6, False, 1.1)]
    ((_, _, reasons),) = cards(results, [each["baseline"] for each in results])[0]
    assert reasons == (
        "Significantly better than uniform slow (20 % below); "
        "no significant difference from uniform fast (10 % above)."
    )


def test_statuses_are_counted():
    statuses = ["DIVERGED", "COMPLETED", "DIVERGED", "SOMETHING_NEW"]
    assert words.status_words(statuses) == "1 completed, 2 diverged, 1 something new"
