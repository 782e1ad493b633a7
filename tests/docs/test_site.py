"""README is short; the site has every page, and pictures that say what they show; every file named exists."""

import re
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tools.docs import site

README = ROOT / "README.md"
FILE = re.compile(r"`((?:app|models|tests|benchmarks|tools|client|deploy|examples)/[\w./-]*)`")
NAMING_FILES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_readme_is_read_in_a_few_minutes():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.encode()) <= 8192


def test_the_navigation_has_every_page_once():
    assert list(site.navigation(ROOT)) == []


def test_every_picture_is_there_and_says_what_it_shows():
    assert list(site.pictures(ROOT)) == []


@pytest.mark.parametrize("page", NAMING_FILES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


COMMAND = re.compile(r"^(?:\$ )?(?:CARRYOVER_\w+=\S+ )*carryover ", re.MULTILINE)


def test_every_page_that_shows_a_command_says_how_to_have_it_at_hand():
    texts = {page.relative_to(ROOT).as_posix(): page.read_text() for page in NAMING_FILES}
    shown = {name for name, text in texts.items() if COMMAND.search(text)}
    assert len(shown) > 10
    at_hand = {name for name in shown if re.search(r"^make shell |`make shell`", texts[name], re.MULTILINE)}
    assert shown - at_hand == set()


def test_no_page_installs_from_an_index_what_is_not_there():
    """A distribution of ours is installed from a clone or from a wheel in a file."""
    pages = [*NAMING_FILES, ROOT / "client" / "README.md", ROOT / "examples" / "README.md"]
    assert [page.name for page in pages if re.search(r"pip install '?carryover", page.read_text())] == []


def test_a_page_outside_of_the_navigation_and_an_entry_without_a_page_are_problems(tmp_path):
    plant(tmp_path, {"index.md": "# Home", "lost.md": "# Lost"}, nav='["index.md", {Guide = ["gone.md"]}]')
    assert list(site.navigation(tmp_path)) == [
        "lost.md: not in the navigation of zensical.toml",
        "zensical.toml: there is no page gone.md",
    ]


def test_a_page_that_is_listed_twice_is_a_problem(tmp_path):
    plant(tmp_path, {"index.md": "# Home"}, nav='["index.md", {Again = "index.md"}]')
    assert list(site.navigation(tmp_path)) == ["zensical.toml: index.md is listed twice"]


def test_a_missing_picture_and_one_without_a_text_are_problems(tmp_path):
    plant(tmp_path, {"index.md": "![what it shows, in words](gone.png) ![](there.png)"})
    (tmp_path / "docs" / "there.png").touch()
    assert list(site.pictures(tmp_path)) == [
        "docs/index.md: there is no picture gone.png",
        "docs/index.md: there.png needs a text that says what it shows",
    ]


@pytest.mark.parametrize(
    ("element", "addresses"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//fonts.example/css">', ["//fonts.example/css"]),
        ('<img src="http://badge.example/x.svg">', ["http://badge.example/x.svg"]),
        ('<link rel="canonical" href="https://here.example/">', []),
        ('<a href="https://zensical.org/">made with</a><img src="../x.png">', []),
    ],
)
def test_whatever_a_page_would_load_from_another_host_is_a_problem(tmp_path, element, addresses):
    (tmp_path / "index.html").write_text(f"<html>{element}</html>")
    assert list(site.foreign(tmp_path)) == [f"index.html: loads {address}" for address in addresses]


@pytest.mark.parametrize(
    ("marked", "drawn", "left_over"),
    [
        (r"\(x_t\)", "<msub>", "_"),
        (r"\[a &lt; b\]", "<mo>&#x0003C;</mo>", "lt"),
        (r"\[\begin{aligned}a &amp;= b \\ c &amp;= d\end{aligned}\]", "<mtr>", "<mi>&"),
    ],
)
def test_a_formula_becomes_mathml_with_nothing_of_its_source_left(marked, drawn, left_over):
    pytest.importorskip("latex2mathml", reason="of the extra docs")
    pytest.importorskip("markdown", reason="of the extra docs")
    from tools.docs.mathml import mathml

    assert drawn in mathml(marked)
    assert left_over not in mathml(marked)


def plant(root: Path, pages: dict[str, str], nav: str = '["index.md"]') -> None:
    (root / "docs").mkdir()
    (root / "README.md").touch()
    (root / "zensical.toml").write_text(f"[project]\nnav = {nav}\n")
    for name, text in pages.items():
        (root / "docs" / name).write_text(text)
