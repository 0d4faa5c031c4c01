"""What the tests of figures share: a made-up comparison of checkpoints."""

from collections.abc import Callable

import pytest

from comparisons import made
from ivlens.records import CheckpointComparison


@pytest.fixture
def comparison() -> Callable[..., CheckpointComparison]:
    """``comparison(names, tasks, n_layers=6, n_heads=8, learned=("capitalize",), rows=None, **fields)``."""
    return made
