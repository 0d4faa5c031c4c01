"""What a kept measure belongs to, and that a damaged one is measured again: never the numbers of something else."""

import json
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors

import ivlens
from ivlens import Task
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints
from ivlens.checkpoints.facts_cache import cached_facts
from ivlens.checkpoints.measure_words import IN_WORDS
from ivlens.errors import HookError, RecordError, SourceError
from ivlens.files import held
from ivlens.models import PACKAGED
from tiny_models import WORDS

pytestmark = pytest.mark.slow

CONFIG = CheckpointConfig(
    n_clean=4, groups=2, n_corrupted=2, k=2, shots=1, n_test=3, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,), general=False,
)  # fmt: skip


def task(by: int = 1, name: str = "shift") -> Task:
    pairs = [(word, WORDS[(at + by) % len(WORDS)]) for at, word in enumerate(WORDS)]
    return Task(name, tuple(pairs), ("the quick fox jumps",), ("Q", "A"), "{input} before")


Compare = Callable[..., tuple[list[Any], list[str]]]


@pytest.fixture
def folders(tiny_hf: Any, tiny_tokenizer: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A base and a checkpoint."""
    for at, name in enumerate(("base", "tuned")):
        tiny_hf("llama", seed=at, num_hidden_layers=1, tie_word_embeddings=False).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "base", tmp_path / "tuned"


@pytest.fixture
def compare(folders: tuple[Path, Path], tmp_path: Path, messages: list[str]) -> Compare:
    """``compare(out)``: the numbers of a comparison that keeps its measures in a folder, and which were computed."""

    def compared(out: str, base: Any = folders[0], tuned: Any = folders[1], **options: Any) -> Any:
        messages.clear()
        asked, config = options.pop("task", task()), options.pop("config", CONFIG)
        found = compare_checkpoints(base, {"tuned": tuned}, [asked], config, out=tmp_path / out, **options)
        assert found.failures == {}
        frame = found.to_frame()
        return frame[["probability", "cosine", "aie_correlation"]].to_numpy().tolist(), messages.copy()

    return compared


def why_not(folders: tuple[Path, Path], out: Path) -> str:
    """What was expected, where a comparison or its checkpoint ends in a RecordError; else nothing."""
    try:
        compare_checkpoints(folders[0], {"tuned": folders[1]}, [task()], CONFIG, out=out)
    except (RecordError, SourceError) as error:
        return re.split(r"\(tuned: RecordError: expected |^expected ", str(error))[-1].partition(" /")[0]
    return ""


def edit(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def other_epsilon(base: Path, tuned: Path) -> dict[str, Any]:
    edit(tuned / "config.json", rms_norm_eps=0.5)
    return {}


def other_rotary_base(base: Path, tuned: Path) -> dict[str, Any]:
    for folder in (base, tuned):
        edit(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10.0})
    return {}


def other_activation(base: Path, tuned: Path) -> dict[str, Any]:
    edit(tuned / "config.json", hidden_act="gelu")
    return {}


def other_dtype(base: Path, tuned: Path) -> dict[str, Any]:
    return {"dtype": torch.bfloat16}


def bos_first(base: Path, tuned: Path) -> dict[str, Any]:
    for folder in (base, tuned):
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        backend.save(str(folder / "tokenizer.json"))
    return {}


def swapped_weights(base: Path, tuned: Path) -> dict[str, Any]:
    """Other weights of the same size and time."""
    path = tuned / "model.safetensors"
    before = path.stat()
    weights = load_file(path)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return {}


def other_task(base: Path, tuned: Path) -> dict[str, Any]:
    return {"task": task(by=2)}


CHANGES = [
    other_epsilon, other_rotary_base, other_activation, other_dtype, bos_first, swapped_weights, other_task
]  # fmt: skip


@pytest.mark.parametrize(("change", "settled"), [(swapped_weights, False), *((change, True) for change in CHANGES)])
def test_a_changed_input_gives_the_numbers_of_a_new_folder(
    folders: tuple[Path, Path], compare: Compare, change: Any, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ivlens.checkpoints.facts_cache.SETTLED", -1.0 if settled else 60.0)
    before, _ = compare("out")
    options = change(*folders)
    again, said = compare("out", **options)
    fresh, all_said = compare("fresh", **options)
    assert again == fresh != before
    assert 0 < len(said) <= len(all_said)


def measures(lines: list[str]) -> set[str]:
    """The measures that were logged, such as "tuned: hidden states (shift)"."""
    names = {words: name for name, words in IN_WORDS.items()}
    return {names[line.partition(": ")[2].partition(" (")[0]] for line in lines}


OF_PROMPTS = ("answers", "heads", "hidden", "sweep", "recovery", "replies", "replies-steered")


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"method": "attribution"}, {"heads", "sweep", "recovery", "replies-steered"}),
        ({"stream_dtype": torch.float64}, {"heads", "sweep", "recovery", "replies-steered"}),
        ({"instruction": "over the lazy dog"}, {*OF_PROMPTS}),
        ({"format": "plain"}, {*OF_PROMPTS}),
        ({"format": "chat"}, {*OF_PROMPTS}),
    ],
)
def test_an_option_is_part_of_what_it_touches_and_of_nothing_else(
    folders: tuple[Path, Path], compare: Compare, changes: dict[str, Any], measured: set[str], chatml: str,
    tiny_tokenizer: Any,
) -> None:  # fmt: skip
    for folder in folders:
        tiny_tokenizer(chat_template=chatml).save_pretrained(folder)
    before, _ = compare("out")
    again, computed = compare("out", config=replace(CONFIG, **changes))
    fresh, everything = compare("fresh", config=replace(CONFIG, **changes))
    assert again == fresh
    assert again != before or "stream_dtype" in changes  # of a model in float32, it moves the last digits of effects
    assert {"heads"} <= measures(computed) <= measured
    assert len(everything) > len(computed)


def test_steps_of_attribution_are_part_of_the_effects(compare: Compare) -> None:
    one, _ = compare("out", config=replace(CONFIG, method="attribution"))
    two, computed = compare("out", config=replace(CONFIG, method="attribution", steps=3))
    assert two != one
    assert "tuned: heads and instruction vector (shift)" in computed


def test_measures_of_the_layout_before_are_not_read(compare: Compare, tmp_path: Path) -> None:
    numbers, everything = compare("whole")
    for now, before in (("measures", "cells"), ("facts", "checkpoints")):
        shutil.copytree(tmp_path / "whole" / now, tmp_path / "out" / before)
    assert compare("out") == (numbers, everything)


def test_a_tokenizer_that_is_passed_counts(compare: Compare, tiny_tokenizer: Any) -> None:
    before, _ = compare("out")
    again, _ = compare("out", tokenizer=tiny_tokenizer("<s> $A"))
    fresh, _ = compare("fresh", tokenizer=tiny_tokenizer("<s> $A"))
    assert again == fresh != before
    assert compare("out", tokenizer=tiny_tokenizer("<s> $A")) == (fresh, [])


def test_the_base_s_weights_under_another_config_are_another_checkpoint(
    folders: tuple[Path, Path], compare: Compare, tmp_path: Path
) -> None:
    shutil.copytree(folders[0], tmp_path / "rope")
    edit(tmp_path / "rope" / "config.json", rms_norm_eps=1.0)
    numbers, _ = compare("out", tuned=tmp_path / "rope")
    assert numbers[0][0] != numbers[1][0]
    prompts = task().prompts(3, shots=1, split="test")
    expected = [
        ivlens.evaluate(ivlens.load_model(each), prompts).probability for each in (folders[0], tmp_path / "rope")
    ]
    assert [row[0] for row in numbers] == pytest.approx(expected, rel=1e-5)


def test_the_same_model_by_another_path_is_measured_once(
    folders: tuple[Path, Path], compare: Compare, tmp_path: Path
) -> None:
    numbers, _ = compare("out")
    shutil.copytree(folders[0], tmp_path / "copied")
    (tmp_path / "linked").symlink_to(folders[1])
    assert compare("out", base=tmp_path / "copied", tuned=tmp_path / "linked") == (numbers, [])


def test_objects_that_are_changed_in_place_are_measured_anew(folders: tuple[Path, Path], compare: Compare) -> None:
    model = ivlens.load_model(folders[1])
    found = [compare("out", tuned=model)[0]]
    model.blocks[0].attn.W_O.data.mul_(2.0)
    found.append(compare("out", tuned=model)[0])
    model.blocks[0].ln1.eps = 0.5
    found.append(compare("out", tuned=model)[0])
    assert compare("fresh", tuned=model)[0] == found[-1]
    assert len({str(numbers) for numbers in found}) == 3


def test_an_adapter_that_is_written_again_is_measured_anew(
    folders: tuple[Path, Path], compare: Compare, tmp_path: Path
) -> None:
    model = ivlens.load_model(folders[0])
    config = ivlens.TrainingConfig(
        ivlens.Guidance(), steps=2, batch_size=2, learning_rate=1e-2, lora=ivlens.LoRA(2, 4.0)
    )
    ivlens.fine_tune(model, task().prompts(4, shots=1, split="train"), config)
    ivlens.export_adapter(model, tmp_path / "adapter")
    before, _ = compare("out", tuned=tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    times = path.stat()
    save_file({name: 3 * each for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again, _ = compare("out", tuned=tmp_path / "adapter")
    assert again == compare("fresh", tuned=tmp_path / "adapter")[0] != before


def test_unchanged_files_are_hashed_once(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ivlens.checkpoints.facts_cache.SETTLED", -1.0)
    first = compare("out")
    monkeypatch.setattr("ivlens.checkpoints.facts_cache.file_digest", lambda *_: pytest.fail("hashed again"))
    assert compare("out") == (first[0], [])


def test_a_packaged_base_is_not_loaded_again_while_its_folder_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ivlens.checkpoints.facts_cache.SETTLED", -1.0)
    (folder := tmp_path / "converted").mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setitem(PACKAGED, "packed", SimpleNamespace(folder=folder))
    loads: list[int] = []

    def facts() -> dict[str, Any]:
        loads.append(1)
        return {"weights_sha256": str(len(loads))}

    first = cached_facts(tmp_path / "facts", ["packed"], {}, facts)
    assert cached_facts(tmp_path / "facts", ["packed"], {}, facts) == first
    (folder / "config.json").write_text("[]")
    assert cached_facts(tmp_path / "facts", ["packed"], {}, facts) != first


def test_a_second_process_is_refused_and_a_name_is_no_path(compare: Compare, tmp_path: Path) -> None:
    with held(tmp_path / "elsewhere"):
        compare("out", task=task(name="../../escaped"))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned", "out", "elsewhere"}
    import threading

    refused: list[BaseException] = []

    def other() -> None:
        try:
            compare("out")
        except RecordError as error:
            refused.append(error)

    with held(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another process is at work" in str(refused[0])


@pytest.mark.parametrize("after", [4, 9])
def test_an_out_folder_that_vanishes_is_made_again_or_one_error(
    folders: tuple[Path, Path], compare: Compare, tmp_path: Path, after: int, messages: list[str], listen: Any
) -> None:
    out, removed = tmp_path / "out", []

    def remove(line: str) -> None:
        if len(messages) == after and not removed:
            removed.append(line)
            shutil.rmtree(out)

    listen(remove)
    assert why_not(folders, out) in ("", "a file at", "to write")
    assert removed
    assert compare("out")[0] == compare("fresh")[0]


def flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def empty(data: bytes, chance: random.Random) -> bytes:
    return b""


def swap(data: bytes, chance: random.Random) -> bytes:
    """Eight bytes in the place of the next eight, where these differ."""
    at = chance.randrange(len(data) - 16)
    while data[at : at + 8] == data[at + 8 : at + 16]:
        at = chance.randrange(len(data) - 16)
    return data[:at] + data[at + 8 : at + 16] + data[at : at + 8] + data[at + 16 :]


def test_whatever_is_damaged_is_noticed_and_measured_again(compare: Compare, tmp_path: Path) -> None:
    """Every kept file, in four ways, and each in another one's place: the same numbers, always."""
    whole, everything = compare("whole")
    kept = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    kept = [path for path in kept if path.name != ".lock"]
    assert len(kept) > len(everything)
    seed = time.time_ns()
    chance, out = random.Random(seed), tmp_path / "out"
    for damage in (flip, flip, flip, cut, empty, swap, None):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", out)
        data = {path: (out / path).read_bytes() for path in kept}
        for path in kept:
            others = [each for each in kept if each.suffix == path.suffix and data[each] != data[path]]
            changed = data[chance.choice(others)] if damage is None else damage(data[path], chance)
            (out / path).write_bytes(changed)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            numbers, _ = compare("out")
        assert numbers == whole, (seed, damage)
        assert damage is None or sum("ivlens:" in str(each.message) for each in told) > 2, (seed, damage)


def test_a_folder_in_a_file_s_place_is_one_error_of_its_checkpoint(
    folders: tuple[Path, Path], compare: Compare, tmp_path: Path
) -> None:
    compare("out")
    for pattern in ("measures/*.answers.*", "measures/attention-*", "facts/*"):
        path = sorted((tmp_path / "out").glob(pattern))[0]
        path.unlink()
        path.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert why_not(folders, tmp_path / "out") == "a file to write at"
        path.rmdir()


def test_what_hooks_do_to_a_model_object_is_not_kept_as_its_own(folders: tuple[Path, Path], tmp_path: Path) -> None:
    models = [ivlens.load_model(folder) for folder in folders]

    def compared(out: Path, test: int) -> Any:
        return compare_checkpoints(models[0], [models[1]], [task()], replace(CONFIG, n_test=test), out=out)

    compared(tmp_path / "out", 3)
    for model in models:
        model.add_hook("blocks.0.hook_resid_pre", lambda stream, hook: 3 * stream)
        if model is models[0]:
            with pytest.raises(HookError, match="a checkpoint without active hooks; got some on base"):
                compared(tmp_path / "out", 4)
            model.reset_hooks()
    with pytest.raises(SourceError, match="some on HookedTransformer"):
        compared(tmp_path / "out", 4)
    models[1].reset_hooks()
    now, anew = (compared(tmp_path / out, 4).to_frame().probability for out in ("out", "anew"))
    assert now.tolist() == anew.tolist()
