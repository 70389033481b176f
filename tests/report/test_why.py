"""The section "Why": its sentences, its figures, and what `explain` measures."""

import dataclasses
import json

import numpy as np
import pytest
from comparison_example import example, small
from small_problems import Scalar, Smooth, TrueBilevel
from tasks import Tasks

import bilevel
from bilevel import analysis
from bilevel.comparison.result import Comparison
from bilevel.errors import ArgumentError, IncompatibleError, ResultsError
from bilevel.report import html, why
from bilevel.storage.results import EXPLAINED

TWO = {"slow": bilevel.uniform(0.01), "exact": bilevel.BestResponse(0.01)}


def table(**changes):
    found = {"joint_largest": 2.0, "best_largest": 30.0, "phi_largest": 10.0, "head_gap": 4.0,
             "best_norm": 8.0, "scale": 15.0} | changes  # fmt: skip
    return {key: [[value, value], [value, value]] for key, value in found.items()}


def explained(**tables):
    content = {"seeds": [4, 5], "steps": {key: [0, 20] for key in tables}, "values": tables}
    return small(settings={"seeds": [4, 5, 9], "why": content})


def said(**tables):
    return why.sentences(explained(**tables).content())


def test_sentences_say_what_the_numbers_say():
    exact = table(joint_largest=30.0, head_gap=0.0, scale=1.0)
    assert said(slow=table(), fast=exact) == [
        "A fifth of the way, the head of fast is closest to the exact one: less than 0.1 % of its "
        "length away, that of slow 50.0 %.",
        "Φ is then sharper than the joint objective at the head in use for slow. That is a matter "
        "of scale: the exact head is longer than that head, for slow by a factor of 15.0 in "
        "squares. At the exact head Φ never is the sharper one.",
        "Φ is then flatter than the joint objective at the head in use for fast, by a factor of "
        "3.00.",
        "What the answering head takes off the curvature at the exact one is a factor of 3.00 to "
        "3.00.",
    ]
    assert "up to 6.00 (slow)" in said(slow=table(joint_largest=60.0), fast=exact)[1]
    lost = table(**dict.fromkeys(EXPLAINED))
    assert said(slow=lost)[0].startswith("No strategy has numbers")
    assert len(said(slow=lost, fast=exact)) == 2  # nothing to compare the head with
    assert why.sentences(small(settings={"seeds": [1, 2, 3]}).content())


@pytest.mark.usefixtures("undrawn")
def test_the_page_has_the_section_where_it_was_asked_for(tmp_path):
    tables = {name: table() for name in ("two-timescale", "best response", "uniform fast")}
    tables["uniform fast"] = table(**dict.fromkeys(EXPLAINED))
    content = {"seeds": [0, 1], "steps": {key: [0, 1500] for key in tables}, "values": tables}
    plain = example(runs=3, records=4)
    asked = dataclasses.replace(plain, settings={**plain.settings, "why": content})
    page = html.page(asked.content(), html.draw(asked.content()))
    assert "<h2>Why</h2>" in page
    assert page.count("against steps") >= 3
    assert "n/a" in page
    assert not [key for key, _ in html.sentences.settings(asked.content()) if key == "why"]
    other = html.page(plain.content(), html.draw(plain.content()))
    assert "<h2>Why</h2>" not in other
    asked.report(tmp_path / "found")
    again = Comparison.load(tmp_path / "found")
    assert again.settings["why"] == content
    assert html.page(again.content(), html.draw(again.content())).count("<h2>Why</h2>") == 1


def test_tables_that_do_not_fit_are_refused():
    for change in (
        {"steps": {"slow": [0]}}, {"seeds": [4]}, {"steps": {"fast": [0, 20]}},
        {"steps": {"slow": []}}, {"values": {"nobody": table()}, "steps": {"nobody": [0, 20]}},
    ):  # fmt: skip
        good = {"seeds": [4, 5], "steps": {"slow": [0, 20]}, "values": {"slow": table()}}
        with pytest.raises(ResultsError, match="why"):
            small(settings={"seeds": [4, 5, 9], "why": good | change})


@pytest.mark.usefixtures("untimed")
def test_explain_looks_at_the_trainings_that_were_compared():
    problem, options = Smooth(redraws_data=True), {"steps": 40, "batch_size": 6, "seeds": 3}
    compared = bilevel.compare(problem, TWO, every=8, **options)
    found = analysis.explain(compared, problem, TWO, seeds=2).settings["why"]
    assert found["seeds"] == [0, 1]
    assert found["steps"] == {"slow": [0, 2, 8, 20, 40], "exact": [0, 2, 8, 20, 40]}
    json.dumps(found)
    for name in TWO:
        gaps, recorded = (
            np.array(found["values"][name]["head_gap"]),
            compared.history[name]["head_gap"],
        )
        for place, record in ((0, 0), (2, 1), (4, 5)):  # steps 0, 8 and 40
            np.testing.assert_allclose(gaps[place], recorded[record, :2], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("untimed")
def test_explain_counts_gradients_as_the_comparison_did():
    two = {"one": bilevel.uniform(0.01), "three": bilevel.uniform(0.01, head_steps=3)}
    options = {"steps": 16, "budget": "gradients", "seeds": 2, "batch_size": None}
    compared = bilevel.compare(Scalar(), two, **options)
    steps = analysis.explain(compared, Scalar(), two).settings["why"]["steps"]
    assert (steps["one"][-1], steps["three"][-1]) == (8, 4)


@pytest.mark.parametrize("problem", [TrueBilevel(power=2), Tasks()])
def test_what_cannot_be_explained_is_refused(problem):
    with pytest.raises(IncompatibleError, match="explains"):
        analysis.explain(small(), problem, TWO)


@pytest.mark.parametrize("strategies", [{}, None, {"other": bilevel.uniform(0.1)}, [1]])
def test_strategies_that_were_not_compared_are_refused(strategies):
    with pytest.raises(ArgumentError, match="strategies"):
        analysis.explain(small(), Scalar(), strategies)
