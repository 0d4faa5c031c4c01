"""A setting outside its field's values is refused by the field's name, where no type checker speaks before ivlens does.

One plain interpreter evaluates them all: beartype's import hook of these tests is not in it.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # a process that imports all of ivlens
REFUSED = {
    "ProgressiveVector('quadratic')": "schedule", "ProgressiveVector(handover=0)": "handover",
    "KLToGuidedTeacher(-1)": "last", "KLToGuidedTeacher(site='mlp')": "site", "KLToBase(temperature=0)": "temperature",
    "KLToBase(direction='up')": "direction", "HeadConsistency(reduction='max')": "reduction",
    "L2ToBase(float('nan'))": "weight", "Rehearsal(batch_size=1.5)": "batch_size", "Replay(batch_size=0)": "batch_size",
    "Guidance((0.5,))": "terms[0]", "Guidance(L2ToBase())": "terms", "TrainingConfig(decay='steep')": "decay",
    "TrainingConfig(precision='half')": "precision", "TrainingConfig(teacher='none')": "teacher",
}  # fmt: skip
CLOSED = {
    "CheckpointConfig(metric='x')": "metric", "CheckpointConfig(corruption='x')": "corruption",
    "CheckpointConfig(method='x')": "method",
}  # fmt: skip
CODE = """
import sys
from ivlens import ArgumentError, CheckpointConfig
from ivlens.training import *
for expression in sys.argv[1:]:
    try: print(eval(expression))
    except ArgumentError as error: print(error)
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    expressions = [*REFUSED, *CLOSED]
    run = subprocess.run([sys.executable, "-c", CODE, *expressions], capture_output=True, text=True, check=True)
    return dict(zip(expressions, run.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("expression", REFUSED)
def test_a_value_is_refused_by_its_field(answers: dict[str, str], expression: str) -> None:
    assert answers[expression].startswith(f"expected {REFUSED[expression]} to be")


@pytest.mark.parametrize("expression", CLOSED)
def test_a_name_outside_a_closed_set_is_refused_by_its_field(answers: dict[str, str], expression: str) -> None:
    assert answers[expression].startswith(f"expected {CLOSED[expression]} to be one of")
