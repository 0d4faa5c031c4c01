"""The Examples of public docstrings run, on a tiny model."""

import doctest
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter

import ivlens as iv
from ivlens.models.engines import has_hooked
from lm_eval_tasks import CHOICE, write_task
from sequences import made_up_sequence

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "quick", "brown", "fox", "jumps", "over", "lazy"]


def documented() -> Iterator[tuple[str, str]]:
    """The names and docstrings of public functions and classes, and of the classes' public methods, inherited too."""
    for name in iv.__all__:
        thing = getattr(iv, name)
        yield name, inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            for kind in [each for each in thing.__mro__ if each.__module__.startswith("ivlens")]:
                for member, value in vars(kind).items():
                    if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                        yield f"{kind.__name__}.{member}", inspect.getdoc(value) or ""
    for name, value in vars(iv.views).items():
        if inspect.isfunction(value):
            yield f"views.{name}", inspect.getdoc(value) or ""


EXAMPLES = {name: text for name, text in documented() if ">>>" in text}
NEED_HOOKED = {"continual", "export_adapter", "merge_lora", "fine_tune", "relearning_probe"}


# What an Example may use. Only its model is its own: everything else is a record, which no Example can change.


@pytest.fixture
def model(tiny_hooked: Callable[..., Any]) -> Any:
    """A tiny model with random weights, the same each time."""
    return tiny_hooked("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def measured_model(tiny_hooked: Callable[..., Any]) -> Any:
    """The same model, which the records below were measured on."""
    return tiny_hooked("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def task() -> iv.Task:
    pairs = [(word, WORDS[(number + 1) % len(WORDS)]) for number, word in enumerate(WORDS)]
    return iv.Task("next-word", pairs, ("the quick fox jumps",))


@pytest.fixture(scope="module")
def prompts(task: iv.Task) -> Any:
    return task.prompts(4)


@pytest.fixture(scope="module")
def effects(measured_model: Any, task: iv.Task) -> iv.HeadEffects:
    return iv.locate_heads(measured_model, task, n_clean=4, n_corrupted=4)


@pytest.fixture(scope="module")
def means(effects: iv.HeadEffects) -> Any:
    return effects.means


@pytest.fixture
def control_vector(tmp_path: Path) -> Path:
    """A control vector for layer 1, as repeng writes it."""
    writer = GGUFWriter(tmp_path / "happy.gguf", "controlvector")
    writer.add_tensor("direction.1", torch.ones(32).numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return tmp_path / "happy.gguf"


@pytest.fixture(scope="module")
def vector(measured_model: Any, effects: iv.HeadEffects) -> iv.InstructionVector:
    return iv.instruction_vector(measured_model, effects, k=3)


@pytest.fixture(scope="module")
def comparison(measured_model: Any, task: iv.Task) -> iv.CheckpointComparison:
    """The model beside itself as a checkpoint that learned the task."""
    config = iv.CheckpointConfig(n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=2, n_validation=2)
    return iv.compare_checkpoints(measured_model, {"same": measured_model}, [task], config, learned=[task.name])


@pytest.fixture(scope="module")
def new_task() -> iv.Task:
    """What ``tuned`` learned."""
    pairs = [(word, WORDS[number - 1]) for number, word in enumerate(WORDS)]
    return iv.Task("last-word", pairs, ("the quick fox jumps over",))


@pytest.fixture(scope="module")
def tuned(tiny_hooked: Callable[..., Any]) -> Any:
    """The model, every weight changed a little."""
    tuned = tiny_hooked("llama", max_position_embeddings=256)
    generator = torch.Generator().manual_seed(0)
    for weight in tuned.parameters():
        weight.data += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    return tuned


@pytest.fixture(scope="module")
def reverts(measured_model: Any, tuned: Any, task: iv.Task, new_task: iv.Task) -> iv.WeightReverts:
    config = iv.RevertConfig(n_bands=2, n_test=2, shots=1)
    return iv.revert_weights(measured_model, tuned, [task], [new_task], config)


@pytest.fixture(scope="module")
def repaired(measured_model: Any, tuned: Any, task: iv.Task, new_task: iv.Task) -> iv.Repair:
    """A repair that puts back the embeddings and half of all other changes, whatever it costs."""
    config = iv.RepairConfig(fractions=(0.5,), depths=(), n_greedy=0, n_validation=2, n_test=2, shots=1)
    found = iv.repair(measured_model, tuned, [task], [new_task], others=[], tolerance=1.0, config=config)
    half = torch.full_like(found.attention, 0.5)
    return replace(found, attention=half, mlp=half, rest=0.0, step="interpolation")


@pytest.fixture(scope="module")
def patching(measured_model: Any, prompts: Any) -> iv.CheckpointPatching:
    """The model patched with its own activations."""
    return iv.patch_checkpoints(measured_model, measured_model, prompts, only_forgotten=False)


@pytest.fixture(scope="module")
def lab(measured_model: Any, task: iv.Task) -> iv.Laboratory:
    """The laboratory on two tasks."""
    few = iv.LabConfig((0,), (1.0,), (2,), n_clean=2, n_corrupted=2, n_validation=2, n_test=2, random_seeds=(0,))
    return iv.laboratory(measured_model, [task, replace(task, name="its twin")], few)


@pytest.fixture(scope="module")
def sequence() -> iv.ContinualRun:
    """Two tasks, learned one after the other."""
    return made_up_sequence()


@pytest.fixture
def words_yaml(tmp_path: Path) -> Path:
    """A task file of lm-evaluation-harness."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-evaluation-harness is not installed")
    return write_task(tmp_path, CHOICE)


NAMES = (
    "model", "task", "prompts", "effects", "means", "vector", "comparison", "patching", "lab", "tuned", "new_task",
    "reverts", "repaired", "sequence", "tmp_path", "words_yaml", "control_vector",
)  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEED_HOOKED and not has_hooked():
        pytest.skip("TransformerLens has no HookedTransformer, which is trained or exported there")
    monkeypatch.chdir(tmp_path)
    used = {*re.findall(r"\w+", EXAMPLES[name])}
    names = {each: request.getfixturevalue(each) for each in NAMES if each in used}
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], {"iv": iv, **names}, name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=report.append)
    assert not report, "".join(report)


def test_many_examples_are_found() -> None:
    assert len(EXAMPLES) > 40
