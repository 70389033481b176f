"""What a notebook shows of a solution and of a comparison."""

import html
import re
from html.parser import HTMLParser

import pytest
import torch
from comparison_example import example
from small_problems import Smooth
from tuned_example import tuned

import bilevel
from problems.toy import ScalarProduct


class Balanced(HTMLParser):
    """Raises unless every tag is closed in its order; keeps the cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.seen = [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_solution_is_a_table_of_its_records():
    strategy = bilevel.TwoTimescale(0.05, 0.2, bilevel.SGD())
    found = bilevel.solve(ScalarProduct(noise_scale=0.1), strategy, seeds=3, steps=20, every=10)
    text = found._repr_html_()
    assert text.startswith("<p>Solution of ScalarProduct: 3 runs, 20 steps</p><p>  3 COMPLETED")
    header, *rows = Balanced(text).rows
    assert header == ["mean over runs", "at step 0", "at step 20", "lowest", "highest"]
    assert [row[0] for row in rows] == list(found.history)
    for name, *cells in rows:
        values = found.history[name]
        ends = [values[0].mean(), values[-1].mean(), values[-1].min(), values[-1].max()]
        assert [float(cell) for cell in cells] == pytest.approx([float(x) for x in ends], rel=1e-3)


def test_runs_without_a_number_are_left_out_of_means():
    strategy = bilevel.uniform(torch.tensor([0.01, 1e6]), bilevel.SGD())
    found = bilevel.solve(Smooth(), strategy, seeds=2, steps=30, every=10, batch_size=5)
    rows = {name: cells for name, *cells in Balanced(found._repr_html_()).rows}
    values = found.history["objective"][-1]
    known = values[values.isfinite()]
    assert float(rows["objective"][1]) == pytest.approx(float(known.mean()), rel=1e-3)
    assert "DIVERGED" in found._repr_html_()


def test_a_comparison_is_the_table_and_the_sentences():
    made = example()
    text, table = made._repr_html_(), made.table()
    rows = Balanced(text).rows
    assert rows[0] == re.split(r" {2,}", table.splitlines()[0].strip())
    assert [row[0] for row in rows[1:]] == list(made.strategies)
    for line in table.splitlines()[table.splitlines().index("") + 1 :]:
        assert f"<p>{html.escape(line)}</p>" in text
    assert text.startswith("<p>Comparison on friedman1</p><table>")


def test_tuned_rates_have_a_table_of_their_own():
    text = tuned()._repr_html_()
    assert text.count("<table>") == 2
    Balanced(text)


def test_names_of_users_are_text():
    bad = "<script>alert('&')</script>"
    made = example(strategies={bad: "code", "b": "code"}, problem=bad, baselines=("b",),
                   **{field: {bad: getattr(example(), field)["swapped"],
                              "b": getattr(example(), field)["uniform slow"]}
                      for field in ("history", "status", "gradients_per_step",
                                    "seconds_per_step")})  # fmt: skip
    text = made._repr_html_()
    assert "<script" not in text
    assert Balanced(text).seen == {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert html.escape(bad) in text

    class Named(ScalarProduct):
        def metrics(self, body, head, data):
            return {bad: head * 1.0}

    found = bilevel.solve(Named(noise_scale=0.1), bilevel.uniform(0.01), seeds=2, steps=4)
    assert "<script" not in found._repr_html_()
    assert html.escape(bad) in found._repr_html_()
