"""How the demo ends: what to open, and commands to try next that can be parsed."""

import logging
import shlex
from pathlib import Path

import pytest

from ivlens.cli.demo import _cut, _next
from ivlens.cli.parser import build_parser
from ivlens.demo import DemoConfig


def test_the_demo_says_what_to_open_and_try() -> None:
    first, *lines = _next(Path("my demo")).splitlines()
    assert first == "Open my demo/index.html in a browser. Then try:"
    commands = [shlex.split(line) for line in lines if line.startswith("  ivlens")]
    assert len(commands) == 4
    for command in commands:
        build_parser(command[1:]).parse_args(command[1:])


def test_the_demo_cuts_counts_as_the_other_verbs(caplog: pytest.LogCaptureFixture) -> None:
    assert _cut(DemoConfig()) == DemoConfig()
    with caplog.at_level(logging.INFO, "ivlens"):
        cut = _cut(DemoConfig(n_test=1000))
    assert cut.n_test < 1000
    assert len([text for text in caplog.messages if "--n-test is cut from 1000 to" in text]) == 4
