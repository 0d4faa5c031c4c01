"""The pages quote tables of the studies, and these are those of the saved records."""

import json
import re
from pathlib import Path

import pytest

from figures.demo import study as demo
from figures.pages import QUOTED, quote_again
from figures.training_cost import study as training_cost
from ivlens import RecordError

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "figures"
PAGES = [ROOT / "README.md", *sorted(FIGURES.glob("*/README.md"))]
TABLE = re.compile(r"^\|.*\n(?:\|.*\n)+", re.MULTILINE)
MEASURED = re.compile(r"\| \d{1,3}\.\d")  # a cell that begins with a decimal number


def test_every_study_has_a_page_that_the_list_names() -> None:
    studies = {path.parent.name for path in FIGURES.glob("*/study.py")}
    assert len(studies) >= 7
    assert studies == {page.parent.name for page in PAGES[1:]}
    listed = set(re.findall(r"\]\((\w+)/README\.md\)", (FIGURES / "README.md").read_text(encoding="utf-8")))
    assert listed == studies
    in_the_site = set(re.findall(r"- figures/(\w+)/README\.md\n", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert in_the_site == studies


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_table_with_numbers_is_quoted_and_up_to_date(page: Path) -> None:
    """``python -m figures`` puts the tables in again."""
    text = page.read_text(encoding="utf-8")
    for name, number, _, table in QUOTED.findall(text):
        tables = (page.parent / name).read_text(encoding="utf-8").strip().split("\n\n")
        assert table.strip() == tables[int(number) - 1], (name, number)
    quoted = [table for *_, table in QUOTED.findall(text)]
    assert [table for table in TABLE.findall(text) if MEASURED.search(table) and table not in quoted] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.parent.name)
def test_a_studys_page_shows_all_of_its_tables_and_pictures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = {*page.parent.glob("*tables.md")}
    numbers = {(path.name, str(n)) for path in files for n in range(1, 1 + path.read_text().strip().count("\n\n") + 1)}
    assert {(name, number) for name, number, *_ in QUOTED.findall(text)} == numbers
    assert {path.name for path in page.parent.glob("*.png")} == set(re.findall(r"\]\(([\w.-]+\.png)\)", text))
    assert "python -m figures" in text


@pytest.mark.parametrize("study", [demo, training_cost])
def test_the_small_tables_are_those_of_their_records(
    study: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "load_model", lambda name: pytest.fail("a model was loaded"))
    home = Path(str(study.__file__)).parent  # type: ignore[attr-defined]
    (tmp_path / "records").symlink_to(home / "records")
    for path in study.write(tmp_path):  # type: ignore[attr-defined]
        assert path.read_text() == (home / path.name).read_text()


def test_tables_are_put_in_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("| x |\n|---|\n| 1 |\n\n| y |\n|---|\n| 2 |\n")
    page = tmp_path / "README.md"
    page.write_text("text\n\n<!-- a.md 2 -->\n| old |\n| older |\n\nmore <!-- a.md --> text\n<!-- a.md 1 -->\n")
    second, first = "| y |\n|---|\n| 2 |\n", "| x |\n|---|\n| 1 |\n"
    expected = f"text\n\n<!-- a.md 2 -->\n{second}\nmore <!-- a.md --> text\n<!-- a.md 1 -->\n{first}"
    assert quote_again(page).read_text() == expected
    assert quote_again(page).read_text() == expected


@pytest.mark.parametrize("name", ["a.md 3", "b.md 1"])
def test_a_table_that_is_not_there_is_an_error_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("| x |\n\n| y |\n")
    page = tmp_path / "README.md"
    page.write_text(f"<!-- a.md 1 -->\n<!-- {name} -->\n")
    with pytest.raises(RecordError, match=r"tables or more in .\.md"):
        quote_again(page)
    assert page.read_text() == f"<!-- a.md 1 -->\n<!-- {name} -->\n"


def test_a_record_that_is_missing_or_broken_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a record in"):
        training_cost.write(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / training_cost.RECORD).write_text(json.dumps({})[:1])
    with pytest.raises(RecordError, match="JSONDecodeError"):
        training_cost.write(tmp_path)
