"""Progress on the command line: a line that is logged stands above an open bar."""

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
