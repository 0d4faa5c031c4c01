"""The README quotes tables of ``figures/``, and these are those of the saved records."""

import json
import re
from pathlib import Path

import pytest

from ivlens import RecordError
from ivlens.experiments import readme
from ivlens.experiments.readme import COSTS, QUOTED, make_costs_table, make_demo_table, quote_again

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = re.compile(r"^\|.*\n(?:\|.*\n)+", re.MULTILINE)


def test_every_table_with_numbers_is_quoted_and_up_to_date(tmp_path: Path) -> None:
    """``ivlens figures`` puts the tables in again."""
    quoted = [table for *_, table in QUOTED.findall(README)]
    measured = [table for table in TABLE.findall(README) if re.search(r"\| \d{1,3}\.\d", table)]
    assert len(measured) >= 10
    assert [table for table in measured if table not in quoted] == []
    (tmp_path / "figures").symlink_to(ROOT / "figures")
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    assert quote_again(copy).read_text(encoding="utf-8") == README


def test_the_small_tables_are_those_of_their_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "load_model", lambda name: pytest.fail("a model was loaded"))
    (tmp_path / "records").symlink_to(ROOT / "figures" / "records")
    for path in (*make_demo_table(tmp_path), *make_costs_table(tmp_path)):
        assert path.read_text() == (ROOT / "figures" / path.name).read_text()


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
        make_costs_table(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / COSTS).write_text(json.dumps({})[:1])
    with pytest.raises(RecordError, match="JSONDecodeError"):
        make_costs_table(tmp_path)
