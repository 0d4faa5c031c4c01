"""The data dictionary names every column of every public frame, with its type: each frame is built and compared."""

from collections.abc import Callable
from dataclasses import replace
from inspect import isclass, isfunction, signature
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens as iv
from ivlens import records
from ivlens.checkpoints import rejudge
from ivlens.integrations.watched_run import WatchedRun
from ivlens.records.columns import FRAMES, OPTIONAL
from sequences import made_up_sequence

WORDS = "the capital of France is Paris and quick brown fox jumps over lazy dog".split()  # noqa: SIM905
LABORATORY = Path(__file__).parents[1] / "figures" / "laboratory" / "records" / "smollm2"
LAB_TASKS = ("present-past", "antonym")
PRESETS = ("fv", "fv-code", "kl", "rehearsal", "replay")  # which have every term between them
KINDS = {"int": "iu", "float": "f", "bool": "b"}


def shifted(by: int) -> iv.Task:
    """A task that asks for the word so many places on."""
    pairs = list(zip(WORDS, WORDS[by:] + WORDS[:by], strict=True))
    return iv.Task(f"shift-{by}", pairs, ("the quick fox jumps",), ("Q", "A"), "{input} before")


def all_frames() -> set[str]:
    """Names of the public functions and methods that return a frame, as far as their annotations say so."""
    found = {name for name in (*iv.__all__, "findings") if _gives_frame(getattr(iv, name, None) or records.findings)}
    kinds = [each for each in (*vars(records).values(), *(getattr(iv, name) for name in iv.__all__)) if isclass(each)]
    for kind in {each for each in kinds if each not in (records.Record, records.HeadMap)}:
        names = [name for name in dir(kind) if name[0] != "_" and _gives_frame(getattr(kind, name))]
        found |= {f"{kind.__name__}.{name}" for name in names}
    return found


def _gives_frame(what: Any) -> bool:
    return isfunction(what) and signature(what).return_annotation is pd.DataFrame


@pytest.fixture(scope="module")
def frames(tmp_path_factory: Any, tiny_hf: Any, tiny_tokenizer: Any) -> dict[str, list[pd.DataFrame]]:
    """Every frame, of a tiny model and, where that takes long, of made-up numbers."""
    folder = tmp_path_factory.mktemp("frames")
    model = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer())
    effects = iv.HeadEffects(torch.rand(6, 2, 4), torch.rand(6), "probability", "exact", "a task")
    everywhere = iv.PositionPartEffects(
        torch.rand(3, 2, 4, 2), None, torch.rand(3, 2, 2), None, torch.rand(3), "probability", "loop", ("query", "last")
    )
    positions = iv.PositionEffects(torch.rand(3, 2, 4, 2), torch.rand(3), "probability", "loop", ("query", "last"))
    scores, correct = torch.rand(2, 3, dtype=torch.float64), torch.tensor([[True, False, True]] * 2)
    means = iv.mean_head_activations(model, shifted(1).prompts(3))
    vector = iv.instruction_vector(model, means, heads=[(0, 1), (1, 2)])
    vector.save(folder / "vector.safetensors")
    lab = iv.Laboratory.load(LABORATORY, LAB_TASKS)
    sweep = iv.SteeringSweep(correct[:1, None, None], scores[:1, None, None], (1,), (2.0,), (3,), "a task")
    made = {
        "HeadEffects.to_frame": effects.to_frame(),
        "RacedEffects.to_frame": iv.RacedEffects(
            torch.rand(6, 2, 4), torch.rand(6), torch.full((2, 4), 6), 3, (6,), "probability", "exact"
        ).to_frame(),
        "PartEffects.to_frame": iv.PartEffects(
            torch.rand(3, 2, 4), None, torch.rand(3, 2), None, torch.rand(3), "probability", "exact"
        ).to_frame(),
        "UniversalEffects.to_frame": iv.universal_effects([effects, replace(effects, task="another")]).to_frame(),
        "PositionEffects.to_frame": positions.to_frame(),
        "PositionPartEffects.to_frame": everywhere.to_frame(),
        "Stability.to_frame": iv.top_k_stability(effects, 2, resamples=5).to_frame(),
        "prompts_needed": iv.prompts_needed(effects, 2, resamples=5),
        "MethodAgreement.to_frame": iv.MethodAgreement(
            scores[:1], scores[:1], scores[0, :1], scores[0, :1], ("attribution",), "exact", "probability", 2
        ).to_frame(),
        "InstructionVector.to_frame": vector.to_frame(),
        "list_vectors": iv.list_vectors(folder),
        "logit_lens": iv.logit_lens(model, vector, k=2, parts=True),
        "Evaluation.to_frame": iv.evaluate(model, shifted(1).prompts(3)).to_frame(),
        "SteeredAnswers.to_frame": iv.SteeredAnswers(("a",), ("x",), (("y",),), 1, (2.0,)).to_frame(),
        "SteeringSweep.to_frame": sweep.to_frame(),
        "ConditionComparison.to_frame": iv.ConditionComparison(correct, scores, ("bare", "clean"), "a task").to_frame(),
        "Laboratory.controls_frame": lab.controls_frame(),
        "Laboratory.necessity_frame": lab.necessity_frame(),
        "ContinualRun.to_frame": made_up_sequence().to_frame(),
        "ContinualRun.matrix": made_up_sequence().matrix().set_axis(["TASK"] * 2, axis=1),
        "ContinualRun.curves": made_up_sequence().curves(),
        "ContinualRun.summary": made_up_sequence().summary(),
        "compare_variants": iv.compare_variants({"one": made_up_sequence(), "two": made_up_sequence()}),
        "compare_sequences": iv.compare_sequences({"run": made_up_sequence()}),
        "TransferMatrix.to_frame": iv.TransferMatrix(
            torch.eye(2), torch.eye(2), torch.ones(2, 2, 3, dtype=torch.bool), correct, ("a", "b")
        ).to_frame(),
    }
    return (
        {name: [frame] for name, frame in made.items()}
        | _of_checkpoints(tiny_hf, tiny_tokenizer, folder)
        | _of_runs(tiny_hf, tiny_tokenizer)
    )


def _of_checkpoints(tiny_hf: Any, tiny_tokenizer: Any, folder: Path) -> dict[str, list[pd.DataFrame]]:
    for name, seed in (("base", 0), ("tuned", 1)):
        tiny_hf("llama", seed=seed, max_position_embeddings=2048).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    config = iv.CheckpointConfig(
        n_clean=6, groups=3, n_corrupted=2, k=4, shots=1, n_test=4, n_validation=2, layers=(0,), scales=(1.0,),
        random_seeds=(0,),
    )  # fmt: skip
    found = iv.compare_checkpoints(
        str(folder / "base"), {"tuned": str(folder / "tuned")}, [shifted(1), shifted(2)], config, learned=["shift-2"]
    )
    probe = iv.Relearning(*torch.tensor([[False] * 4, [True] * 4] * 2), "shift-1", "another")
    found = rejudge(found, relearned={"tuned": [probe]})
    kinds = {name.partition(".")[2] for name in FRAMES if name.startswith("CheckpointComparison.")}
    made = {f"CheckpointComparison.{name}": [getattr(found, name)()] for name in kinds}
    made["CheckpointComparison.matrix"] = [made["CheckpointComparison.matrix"][0].set_axis(["TASK"] * 2, axis=1)]
    patching = iv.patch_checkpoints(folder / "base", folder / "tuned", shifted(1).prompts(3), only_forgotten=False)
    patched = {
        "CheckpointPatching.to_frame": [patching.to_frame()],
        "CheckpointPatching.beside_controls": [patching.beside_controls()],
    }
    few = iv.RevertConfig(n_bands=1, n_test=3, shots=1)
    reverts = iv.revert_weights(folder / "base", folder / "tuned", [shifted(1)], [shifted(2)], few)
    reverted = {
        "WeightReverts.to_frame": [reverts.to_frame()],
        "WeightReverts.tasks_frame": [reverts.tasks_frame()],
    }
    made |= {"findings": [records.findings(found)], "Relearning.to_frame": [probe.to_frame()]}
    return made | patched | reverted | _of_repairs(folder)


def _of_repairs(folder: Path) -> dict[str, list[pd.DataFrame]]:
    config = iv.RepairConfig(n_greedy=1, n_validation=2, n_test=3, shots=1, random_seeds=(0,))
    learned, old = shifted(1), shifted(2)
    found = iv.repair(folder / "base", folder / "tuned", [old], [learned], others=[], config=config)
    kinds = {name.partition(".")[2] for name in FRAMES if name.startswith("Repair.")}
    return {f"Repair.{name}": [getattr(found, name)()] for name in kinds}


def _of_runs(tiny_hf: Any, tiny_tokenizer: Any) -> dict[str, list[pd.DataFrame]]:
    runs = []
    for preset in PRESETS:
        model, task = iv.load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer()), shifted(1)
        effects = iv.locate_heads(model, task, n_clean=4, n_corrupted=2, shots=1)
        vector = iv.instruction_vector(model, effects, k=2)
        prompts, others = task.prompts(4, shots=1, split="train"), shifted(2).prompts(4, shots=1)
        config = iv.TrainingConfig(iv.Guidance.preset(preset), steps=1, batch_size=2)
        ability = iv.Ability("shift-1", tuple(prompts), vector)
        runs.append(iv.fine_tune(model, prompts, config, vector=vector, new=[ability], rehearse=others, replay=others))
    watched = WatchedRun(Path(), (), {})  # of a Trainer of transformers
    watched.add(0, [{name: row[name] for name in row if name not in ("step", "role")} for row in runs[-1].measured[:1]])
    runs.append(replace(runs[-1], measured=tuple(watched.rows)))
    kinds: dict[str, Callable[[Any], pd.DataFrame]] = {
        "TrainingRun.to_frame": lambda run: run.to_frame(),
        "TrainingRun.abilities": lambda run: run.abilities(),
        "TrainingRun.final": lambda run: run.final(),
    }
    return {name: [frame(run) for run in runs] for name, frame in kinds.items()}


def test_the_dictionary_names_every_public_frame() -> None:
    assert {*FRAMES} == all_frames()


@pytest.mark.parametrize("name", FRAMES)
def test_every_column_of_a_frame_is_named_with_its_type(name: str, frames: dict[str, list[pd.DataFrame]]) -> None:
    columns, optional = FRAMES[name], OPTIONAL.get(name, set())
    seen = {column for frame in frames[name] for column in frame}
    assert seen == {*columns}
    for frame in frames[name]:
        assert {*columns} - {*frame} <= optional
        for column in frame.columns.unique():
            values = frame[column] if isinstance(frame[column], pd.Series) else frame[column].iloc[:, 0]
            assert values.dtype.kind in KINDS.get(columns[column].type, "OTU"), (column, values.dtype)


def test_every_column_says_what_it_means() -> None:
    for columns in FRAMES.values():
        for name, column in columns.items():
            assert column.type in ("int", "float", "text", "bool", "list"), name
            assert column.meaning[0].isupper() or column.meaning[0] in '"c', name
            assert column.meaning.endswith("."), name
            assert column.unit or column.type in ("text", "bool", "float"), name
