"""What people look for is found: the search of the built site in a browser, `make docs-browser`."""

import re

import pytest
from built_site import ROOT, SITE, chromium, reading, served

pytestmark = pytest.mark.browser

FIRST, LISTED = 3, 5
WORDS = {
    "lasso": "how-to/penalties.html tutorials/group-penalties.html",
    "elastic net": "how-to/penalties.html tutorials/group-penalties.html",
    "feature selection": "tutorials/group-penalties.html",
    "MAML": "tutorials/many-tasks.html how-to/tasks.html",
    "few-shot": "tutorials/many-tasks.html how-to/tasks.html reproductions/few-shot.html",
    "meta-learning": "tutorials/many-tasks.html how-to/tasks.html",
    "cleaning": "tutorials/hyper-cleaning.html problems/hyper-cleaning.html",
    "noisy labels": "tutorials/hyper-cleaning.html",
    "DataLoader": "start/your-loop.html how-to/loops.html",
    "CNN": "tutorials/own-loop.html",
    "GPU": "how-to/many-runs.html tutorials/gpu.html",
    "cuda": "how-to/many-runs.html start/install.html tutorials/gpu.html",
    "out of memory": "how-to/many-runs.html",
    "cite": "citation.html",
    "BibTeX": "citation.html",
    "AdamW": "api/optimizers.html how-to/loops.html",
    "early stopping": "how-to/overfitting.html",
    "hyperparameter": "how-to/penalties.html tutorials/group-penalties.html",
    "hyper-parameter": "how-to/penalties.html tutorials/group-penalties.html",
    "grid search": "how-to/penalties.html start/which-rates.html",
    "cross-validation": "how-to/penalties.html",
    "learning rate": "how-to/advice.html start/which-rates.html how-to/rates.html "
    "tutorials/rates.html",
    "scheduler": "start/your-loop.html how-to/rates.html api/parts.html",
    "checkpoint": "how-to/resume.html",
    "wandb": "how-to/tensorboard.html",
    "TensorBoard": "how-to/tensorboard.html",
    "csv": "start/your-table.html problems/table.html",
    "pandas": "start/your-table.html",
    "scikit-learn": "api/estimators.html",
    "memory map": "how-to/big-data.html",
    "Windows": "start/install.html",
    "pip": "start/install.html",
    "implicit differentiation": "concepts/implicit-term.html",
    "hypergradient": "api/hypergradients.html concepts/implicit-term.html",
    "Danskin": "api/hypergradients.html concepts/best-response.html",
    "conjugate gradient": "api/linear.html",
    "Neumann": "api/linear.html",
    "timescale": "api/strategies.html how-to/strategy.html concepts/two-time-scales.html",
    "ridge regression": "how-to/head-solver.html how-to/penalties.html api/exact.html",
    "Bayesian": "how-to/uncertainty.html tutorials/uncertainty.html",
    "NNLS": "how-to/head-solver.html",
    "reinforcement learning": "problems/policy-evaluation.html problems/deep-q.html "
    "tutorials/policy-evaluation.html",
    "DQN": "problems/deep-q.html problems/atari.html",
    "Atari": "problems/atari.html",
    "Slurm": "how-to/clusters.html tutorials/cluster.html",
    "cluster": "how-to/clusters.html tutorials/cluster.html",
    "TorchOpt": "faq.html reproductions/other-libraries.html libraries.html",
    "does not converge": "how-to/status.html faq.html",
    "nan": "how-to/status.html",
    "loss landscape": "how-to/analysis.html",
    "pull request": "contributing.html",
    "pickle": "security.html",
    "ClosedForm": "api/heads.html",
    "BilevelError": "api/errors.html",
}
"""What one types -> the pages that answer it, one of which must be among the first three."""
RESULTS = ".md-search-result__item > a.md-search-result__link"
GLOSSARY = re.findall(
    r"^([^\n:]+)\n:   ", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE
)


def looked_up(reader, word):
    """The pages that the search lists for a word, the best first."""
    page = reader.page
    field = page.locator(".md-search__input")
    field.fill("")
    page.keyboard.press("Backspace")  # `fill` presses no key, and the search listens to keys
    page.locator(RESULTS).first.wait_for(state="detached")
    field.fill(word)
    page.keyboard.press("End")
    page.locator(RESULTS).first.wait_for()
    links = page.locator(RESULTS).evaluate_all("links => links.map(a => a.href.split(/[?#]/)[0])")
    return [link.removeprefix(reader.base + "/") for link in dict.fromkeys(links)]


def searching(browser, base):
    with reading(browser, base, search=True) as reader:
        reader.open("index.html").locator(".md-search__input").click()
        yield reader
        assert reader.outside() == []
        assert reader.complaints == []


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def disk(browser):
    yield from searching(browser, SITE.as_uri())


@pytest.fixture(scope="module")
def web(browser):
    with served() as address:
        yield from searching(browser, address)


@pytest.mark.parametrize("word", WORDS)
def test_the_words_that_people_use_are_found(disk, word):
    found = looked_up(disk, word)[:FIRST]
    assert set(found) & set(WORDS[word].split()), found


@pytest.mark.parametrize("word", ["lasso", "cuda", "ClosedForm"])
def test_the_search_works_from_a_server(web, word):
    assert set(looked_up(web, word)[:FIRST]) & set(WORDS[word].split())


@pytest.mark.parametrize("term", GLOSSARY)
def test_the_glossary_is_found_by_its_words(disk, term):
    found = looked_up(disk, re.sub(r"[\\()`]", "", term))[:LISTED]
    assert "glossary.html" in found, found


def test_there_are_words_enough():
    assert len(WORDS) >= 40
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    assert len(GLOSSARY) == len(re.findall(r"^:   ", text, re.MULTILINE)) >= 12


def test_a_result_leads_to_its_words_which_are_marked(browser):
    with reading(browser, SITE.as_uri(), search=True) as reader:
        page = reader.open("index.html")
        page.locator(".md-search__input").click()
        page.locator(".md-search__input").press_sequentially("Neumann")
        marking = page.locator(f'{RESULTS}[href*="api/linear.html?h="]').first
        marking.wait_for()
        marking.click()
        page.wait_for_url("**/api/linear.html?*")
        page.locator("article mark").first.wait_for()


def test_hidden_words_stay_hidden(disk):
    """A page that is found by a word it does not have is shown as it is, without the word."""
    looked_up(disk, "lasso")
    shown = disk.page.locator(".md-search-result__list").inner_text().lower()
    assert "gridsearchcv, grid search" not in shown
    assert "weight decay, cross-validation" not in shown
