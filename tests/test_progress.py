"""Progress bars: in a notebook plain text that is finished when saved, elsewhere tqdm's, hidden where nobody looks."""

import io
import time
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from ivlens import progress
from ivlens.progress import ProgressBar, no_bars

CELL = """import time, ivlens.progress
for _ in ivlens.progress.ProgressBar(range(3), "sweep", leave=False):
    time.sleep(0.4)"""


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a notebook shows, by the output's name; a bar is shown from its first state on."""
    found: dict[str, str] = {}

    def publish(data: dict[str, str], metadata: Any, *, transient: dict[str, str], update: bool) -> None:
        assert metadata == {"progress": True}
        assert update == (transient["display_id"] in found)
        found[transient["display_id"]] = data["text/plain"]

    monkeypatch.setattr(progress, "_publisher", lambda: publish)
    monkeypatch.setattr(progress, "BETWEEN", 0)
    return found


def test_a_notebook_keeps_the_finished_bar_as_text(outputs: dict[str, str]) -> None:
    for _ in ProgressBar(range(3), "sweep", unit="prompt", leave=False):
        pass
    (text,) = outputs.values()
    assert text.startswith("sweep: 100%")
    assert "3/3" in text


def test_a_bar_within_another_is_a_line_of_it_and_goes_with_its_end(outputs: dict[str, str]) -> None:
    with ProgressBar(total=2, desc="outer") as outer:
        for _ in range(2):
            with ProgressBar(total=2, desc="inner") as inner:
                inner.update()
                time.sleep(0.01)
                inner.update()
                (text,) = outputs.values()
                assert [line.split(":")[0] for line in text.split("\n")] == ["outer", "inner"]
            time.sleep(0.01)
            outer.update()
    (text,) = outputs.values()
    assert text.startswith("outer: 100%")
    assert "\n" not in text


def test_an_error_ends_the_bar_where_it_was(outputs: dict[str, str]) -> None:
    def stop_at_two() -> None:
        with ProgressBar(total=4, desc="broken") as bar:
            bar.update(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_at_two()
    with ProgressBar(total=1, desc="next") as bar:
        bar.update()
    assert [text.split("|")[0] for text in outputs.values()] == ["broken:  50%", "next: 100%"]


def test_a_notebook_does_not_show_what_is_done_at_once(
    outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "BETWEEN", 60)
    assert list(ProgressBar(range(3))) == [0, 1, 2]
    assert outputs == {}


def test_hidden_bars_show_nothing(outputs: dict[str, str]) -> None:
    with no_bars():
        assert list(ProgressBar(range(3))) == [0, 1, 2]
    assert list(ProgressBar(range(3), disable=True)) == [0, 1, 2]
    assert outputs == {}
    assert not ProgressBar._open


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_tqdms_bar_and_a_file_none() -> None:
    terminal, file = Terminal(), io.StringIO()
    for each in (terminal, file):
        list(ProgressBar(range(3), "sweep", file=each))
    assert "sweep: 100%" in terminal.getvalue()
    assert file.getvalue() == ""


@pytest.mark.notebook
def test_a_saved_notebook_has_the_bar_without_a_widget() -> None:
    notebook = new_notebook(cells=[new_code_cell(CELL)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.validate(notebook)
    (output,) = notebook.cells[0].outputs
    assert [*output.data] == ["text/plain"]
    assert output.data["text/plain"].startswith("sweep: 100%")
