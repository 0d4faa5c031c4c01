"""Every public function with every argument of a wrong kind: a right call, or one of ivlens' errors; never another."""

import inspect
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import ivlens as iv
from ivlens.errors import brief
from tests.test_checks import public_functions
from tiny_models import WORDS

pytestmark = pytest.mark.slow

SEED = 14
SECONDS = 60
UNHOOKED = "IVLENS_UNHOOKED" in os.environ
LARGE = {"resamples", "steps", "n_jobs"}  # options in which a large number only takes long


def odd_values(things: dict[str, Any]) -> list[Callable[[], Any]]:
    """What does not belong anywhere, or only somewhere: made anew for each call, since generators are used up."""
    plain: list[Any] = [
        None, True, 0, -1, 3, 1.7, float("nan"), float("inf"), -0.0, 1j, 10**30, "", "last", "x", "\ud800", "\x00",
        b"bytes", [], (), {}, {"a": 1}, set(), {1, 2}, [[]], [None], [1.5], [0], ["x"], [(0, 0)], [(0, 0, 0)],
        [(0.9, 1.9)], [(-1, 0)], [(99, 0)], [("a", "b")], (1, 2), (1.7, 2), range(3), object(), int, len, Path("x"),
        np.int64(1), np.float64(2.5), np.bool_(True), np.zeros((2, 2)), np.array("x"), torch.tensor(1),
        torch.tensor(float("nan")), torch.zeros(2), torch.zeros(2, 2, 2), torch.float32, pd.DataFrame(),
        pd.DataFrame({"a": [1]}), Exception("x"),
    ]  # fmt: skip
    made: list[Callable[[], Any]] = [lambda value=value: value for value in plain]
    made += [lambda value=value: value for value in things.values()]
    made += [lambda value=value: [value] for value in things.values()]
    return [*made, lambda: (each for each in (0, 1)), lambda: iter([None])]


@pytest.fixture(scope="module")
def things(tiny_hf: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One of each kind of object that a public function takes, on a model of two layers."""
    model = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer())
    task = iv.load_task(list(zip(WORDS, WORDS[3:] + WORDS[:3], strict=True)), name="toy", instructions="Say it.")
    clean, corrupted = task.prompts(4, split="train"), task.prompts(4, corruption="no-instruction", split="train")
    effects = iv.locate_heads(model, task, n_clean=4, n_corrupted=4)
    vector = iv.instruction_vector(model, effects.means, effects.top(3))
    position_means = iv.mean_position_activations(model, clean)
    bare = task.prompts(3, shots=0, instruction=False, split="test")
    conditions = iv.compare_conditions(model, {"bare": (bare, None), "clean": (bare, None)}, task="toy")
    saved = vector.save(tmp_path_factory.mktemp("fuzz") / "vector.safetensors")
    sweep = iv.steering_sweep(model, vector, bare, [0, 1], [1.0])
    return {
        "model": model, "task": task, "clean": clean, "corrupted": corrupted, "prompt": clean[0], "effects": effects,
        "means": effects.means, "vector": vector, "bare": bare, "conditions": conditions,
        "position_means": position_means,
        "position_effects": iv.position_effects(model, corrupted, position_means),
        "universal": iv.universal_effects([effects]),
        "evaluation": iv.evaluate(model, bare), "saved": saved, "sweep": sweep, "seed": 1,
        "stability": iv.top_k_stability(effects, 2), "figure": go.Figure(),
    }  # fmt: skip


def calls(things: dict[str, Any], folder: Path) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """A call that works of each function, cheap ones; options that have defaults are left to the fuzz."""
    of = things.__getitem__
    model, effects, vector, heads = of("model"), of("effects"), of("vector"), [(0, 1), (1, 2)]
    small = iv.TrainingConfig(iv.Guidance(), steps=1, batch_size=2)
    raced = iv.RacedEffects(torch.rand(6, 2, 4), torch.rand(6), torch.full((2, 4), 6), 3, (6,), "probability", "exact")
    needed: dict[str, dict[str, Any]] = {
        "Ability": {"name": "old", "prompts": tuple(of("bare"))},
        "Ability.of": {"what": of("task")},
        "Ability.check": {"self": iv.Ability("old", tuple(of("bare"))), "model": model},
        "ConditionComparison.accuracy": {"self": of("conditions"), "condition": "bare"},
        "CheckpointConfig.tried_layers": {"self": iv.CheckpointConfig(), "n_layers": 2},
        "Evaluation.accuracy_interval": {"self": of("evaluation")},
        "Guidance.preset": {"name": "iv"},
        "Guidance.scaled": {"self": iv.Guidance(), "factor": 2.0},
        "HeadEffects.interval": {"self": effects},
        "InstructionVector.cosine": {"self": vector, "other": vector},
        "InstructionVector.first": {"self": vector, "k": 1},
        "InstructionVector.interpolate": {"self": vector, "other": vector, "weight": 0.5},
        "PositionEffects.at": {"self": of("position_effects"), "position": "last"},
        "PositionEffects.strongest_heads": {"self": of("position_effects"), "k": 1},
        "PositionEffects.top": {"self": of("position_effects"), "k": 1},
        "Prompt.encode": {"self": of("prompt"), "tokenizer": model.tokenizer},
        "RacedEffects.interval": {"self": raced},
        "RacedEffects.top": {"self": raced, "k": 1},
        "Task.cloze_prompts": {"self": iv.load_task("country-capital"), "n": 1},
        "Task.prompts": {"self": of("task"), "n": 1},
        "Task.split": {"self": of("task"), "name": "test"},
        "TrainingConfig.rate": {"self": small, "step": 0},
        "ablate": {"model": model, "heads": heads},
        "attention_patterns": {"model": model, "prompt": of("prompt"), "heads": heads},
        "attention_view": {"tokens": ["a"], "patterns": torch.ones(1, 1, 1), "head_names": ["0.1"]},
        "comparison_bars": {"comparisons": [of("conditions")]},
        "capture": {"model": model, "prompts": of("clean"), "points": ["blocks.0.attn.hook_z"]},
        "compare_checkpoints": {"base": model, "checkpoints": [], "tasks": [of("task")]},
        "compare_conditions": {"model": model, "conditions": {"bare": (of("bare"), None)}},
        "compare_methods": {"model": model, "prompts": of("corrupted"), "means": of("means"), "k": 2},
        "evaluate": {"model": model, "prompts": of("bare")},
        "explore": {"model": model, "tasks_or_prompts": of("task"), "n_clean": 2, "n_test": 2},
        "export_adapter": {"model": model, "folder": folder / "adapter"},
        "export_hf": {"model": model, "folder": folder / "exported"},
        "fine_tune": {"model": model, "data": of("clean"), "config": small},
        "frame_table": {"frame": effects.to_frame()},
        "head_heatmap": {"effects": effects},
        "head_heatmaps": {"effects": [effects]},
        "head_overlap": {"heads": heads, "others": heads},
        "indirect_effects": {"model": model, "prompts": of("corrupted"), "means": of("means")},
        "instruction_vector": {"model": model, "source": of("means"), "heads": heads},
        "list_vectors": {"folder": of("saved").parent},
        "load_model": {"source": model},
        "load_task": {"source": "antonym"},
        "load_vector": {"path": of("saved"), "model": model},
        "locate_heads": {"model": model, "task": of("task"), "n_clean": 2, "n_corrupted": 2},
        "mean_difference": {"model": model, "clean": of("clean"), "corrupted": of("corrupted"), "layer": 1},
        "mean_head_activations": {"model": model, "prompts": of("clean")},
        "mean_position_activations": {"model": model, "prompts": of("clean")},
        "merge_lora": {"model": model},
        "page": {"title": "t", "sections": [("s", "text")]},
        "position_effects": {"model": model, "prompts": of("corrupted"), "means": of("position_means")},
        "position_heatmap": {"effects": of("position_effects")},
        "prompts_needed": {"effects": effects, "k": 2, "resamples": 3},
        "prose": {"text": "t"},
        "random_heads": {"shape": (2, 4), "k": 2, "seed": 0},
        "random_heads_vector": {"model": model, "means": of("means"), "vector": vector, "seed": 0},
        "random_vector": {"vector": vector, "seed": 0},
        "rank_aggregate": {"effects": [effects]},
        "logit_lens": {"model": model, "vector": vector},
        "rehearsal_prompts": {"task": of("task"), "others": [iv.load_task("antonym")]},
        "save_figure": {"figure": of("figure"), "path": folder / "figure.html"},
        "stability_curve": {"frame": iv.prompts_needed(effects, 2)},
        "steer": {"model": model, "vector": vector, "layer": 1},
        "steering_sweep": {"model": model, "vector": vector, "prompts": of("bare"), "layers": [0], "scales": [1.0]},
        "sweep_heatmap": {"sweep": of("sweep")},
        "top_k_stability": {"effects": effects, "k": 2, "resamples": 3},
        "universal_effects": {"effects": [effects]},
        "write_page": {"path": folder / "page.html", "title": "t", "sections": [("s", "text")]},
        "write_report": {"path": folder / "report.html", "records": {"a": effects}},
    }  # fmt: skip
    for name, function in public_functions():
        yield name, function, needed.get(name, {})


def attempts(things: dict[str, Any], folder: Path) -> Iterator[tuple[str, str, Callable[[], Any], Any]]:
    """Function, argument, and the call in which that argument alone is odd."""
    for name, function, needed in calls(things, folder):
        for argument in inspect.signature(function).parameters:
            for make in odd_values(things):
                value = make()
                large = isinstance(value, int) and value > 2 and argument in LARGE
                own = argument == "format" and callable(value)  # what a caller's own function raises is the caller's
                whole = argument == "self" or (argument == "tokenizer" and name.startswith("Prompt"))
                options = {**needed, argument: value}
                if whole or large or own or not _fits(function, options):
                    continue
                yield name, argument, _call(function, options), value


def _fits(function: Callable[..., Any], options: dict[str, Any]) -> bool:
    """Whether nothing that is needed is missing, which is Python's own error."""
    try:
        inspect.signature(function).bind(**options)
    except TypeError:
        return False
    return True


def _call(function: Callable[..., Any], options: dict[str, Any]) -> Callable[[], Any]:
    options = dict(options)
    given = [options.pop("self")] if "self" in options else []
    return lambda: function(*given, **options)


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, since "x" is a path too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(UNHOOKED, reason="this is the run that it starts")
def test_no_argument_of_a_wrong_kind_ends_in_a_raw_error() -> None:
    """In a process of its own, without the type checks that the other tests install: as users have it."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    ran = subprocess.run(
        command, env={**os.environ, "IVLENS_UNHOOKED": "1"}, capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1], timeout=10 * SECONDS,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]


@pytest.mark.skipif(not UNHOOKED, reason="started by the test above")
@pytest.mark.filterwarnings("ignore")
def test_the_calls_themselves(things: dict[str, Any], somewhere: Path) -> None:
    tried, raw = 0, []
    todo = list(attempts(things, somewhere))
    random.Random(SEED).shuffle(todo)
    end = time.monotonic() + SECONDS
    for name, argument, call, value in todo:
        if time.monotonic() > end:
            break
        tried += 1
        try:
            found = call()
            if name in ("steer", "ablate"):
                with found:
                    iv.evaluate(things["model"], things["bare"][:1])
        except iv.IvlensError:
            pass
        except Exception as error:
            raw.append((name, argument, brief(value), type(error).__name__, str(error)[:200]))
    print(f"{tried} of {len(todo)} calls")
    kinds = {(name, argument, kind): f"{value}: {told}" for name, argument, value, kind, told in raw}
    report = "\n".join(f"{key} {example}" for key, example in kinds.items())
    assert not raw, f"{len(raw)} of {tried} calls ended in a raw error:\n{report}"
    assert tried > 5000
