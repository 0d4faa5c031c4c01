"""Progress on the command line: lines that are logged, above an open bar, and no longer than the command runs."""

import io
import logging
import sys

import pytest

from ivlens.cli.streams import progress_lines
from ivlens.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_stands_above_an_open_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_lines(str), ProgressBar(total=3, file=sys.stderr):
        logging.getLogger("ivlens").info("step 1")
        before, after = sys.stderr.getvalue().split("step 1\n")
    assert before.endswith("\r")
    assert before.rsplit("\r", 2)[1].strip() == ""
    assert "0/3" in after


def test_what_is_logged_is_shown_only_within_the_context() -> None:
    log, child = logging.getLogger("ivlens"), logging.getLogger("ivlens.loading")
    with progress_lines(str):
        assert log.isEnabledFor(logging.INFO)
        assert child.isEnabledFor(logging.INFO)
    assert not log.isEnabledFor(logging.INFO)
    assert not child.isEnabledFor(logging.INFO)
