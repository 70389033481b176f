"""The layers: the guide, the contract, the folders and the figure say the same."""

import re

import grimp
import layers
import pytest

LIBRARY = layers.ROOT / "bilevel"


def test_the_guide_has_the_contract_in_its_order():
    named = [name for _, names in layers.bands() for name in names]
    assert named == [name for floor in layers.floors() for name in floor]
    assert [number for number, _ in layers.bands()] == [8, 7, 6, 5, 4, 3, 2, 1]


def test_every_folder_and_file_has_its_place():
    there = {
        path.stem
        for path in LIBRARY.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert there - {"__init__"} == {name for floor in layers.floors() for name in floor}


def test_the_contract_lets_nothing_through():
    contract = layers.contract()
    assert contract["containers"] == ["bilevel"]
    assert contract["exhaustive"] is True
    # no exceptions; neither "a : b", whose sides may import each other, nor "(a)", which may lack
    assert set(contract) == {"name", "type", "containers", "exhaustive", "layers"}
    assert not set("".join(contract["layers"])) & set(":()")


def test_no_circles_inside_of_folders():
    acyclic = [one for one in layers.contracts() if one["type"] == "acyclic_siblings"]
    assert [one["ancestors"] for one in acyclic] == [["bilevel", "problems"]]
    assert set(acyclic[0]) == {"name", "type", "ancestors"}


def test_the_graph_holds_every_module():
    """What the contracts are checked on: a folder without `__init__.py` would be left out."""
    files = {path.relative_to(layers.ROOT).with_suffix("") for path in LIBRARY.rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert grimp.build_graph("bilevel", cache_dir=None).modules == modules


def test_the_figure_shows_the_imports():
    expected = layers.description(layers.arrows())
    assert layers.drawn() == expected, "Draw it anew: python tests/project/layers.py"
    assert set(layers.PLACES) <= {name for floor in layers.floors() for name in floor}
    assert "](assets/layers.svg)" in layers.GUIDE.read_text()


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ({("a", "b"), ("b", "c"), ("a", "c")}, {("a", "b"), ("b", "c")}),
        ({("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")}, {("a", "b"), ("b", "c"), ("c", "d")}),
        ({("a", "b"), ("c", "b")}, {("a", "b"), ("c", "b")}),
    ],
)
def test_arrows_along_a_path_are_left_out(found, kept):
    assert layers.without_detours(found) == kept


def test_every_file_that_the_guide_names_is_there():
    """By its path in `bilevel`, or by the end of it where the folder was named before."""
    text = layers.GUIDE.read_text()
    roots = [LIBRARY, layers.ROOT, *(path for path in LIBRARY.rglob("*") if path.is_dir())]
    for name in re.findall(r"`([\w./]+(?:\.py|\.pyi|\.html|\.toml|\.md|/))`", text):
        assert any((root / name).exists() for root in roots), name
