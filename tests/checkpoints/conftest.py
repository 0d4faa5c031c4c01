"""What ivlens logs while a comparison runs, but for the loading of models."""

import logging
from collections.abc import Callable, Iterator

import pytest

Listen = Callable[[Callable[[str], object]], None]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """``listen(react)``: from now on ``react`` is called with each message, and may raise."""
    logger = logging.getLogger("ivlens")
    before = logger.level
    added = []

    def add(react: Callable[[str], object]) -> None:
        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.name == "ivlens":
                    react(record.getMessage())

        added.append(Handler())
        logger.addHandler(added[-1])

    logger.setLevel(logging.INFO)
    yield add
    for handler in added:
        logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def messages(listen: Listen) -> list[str]:
    """The messages so far."""
    collected: list[str] = []
    listen(collected.append)
    return collected
