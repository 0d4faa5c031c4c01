"""A run's files: whatever is damaged, the weights and numbers are the same ones, or one error says why not."""

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ivlens
from ivlens import Prompt
from ivlens.errors import MismatchError, RecordError
from ivlens.files import held
from ivlens.tensor_files import load_tensors, save_tensors, seal
from ivlens.training import Ability, Guidance, TrainingConfig, fine_tune
from ivlens.vocabulary import Head

CONFIG = TrainingConfig(Guidance(), steps=6, batch_size=2, learning_rate=3e-3, save_every=2, evaluate_every=2)


def run(model: Any, prompts: list[Prompt], out: Path, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A run's measures and terms, and the weights at its end."""
    abilities = options.pop("keep", [Ability("old", tuple(prompts[:3]))])
    found = fine_tune(model, prompts, options.pop("config", CONFIG), keep=abilities, out=out, **options)
    return found, {name: each.detach().clone() for name, each in model.named_parameters()}


def same(one: Any, two: Any) -> bool:
    """Equal but for the seconds that steps took."""
    kept = [at for at, name in enumerate(one[0].columns) if name != "seconds"]
    return (
        one[0].columns == two[0].columns
        and torch.equal(one[0].values[:, kept], two[0].values[:, kept])
        and one[0].measured == two[0].measured
        and all(torch.equal(one[1][name], two[1][name]) for name in one[1])
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_hf: Any, tiny_tokenizer: Any) -> tuple[Path, Any, Any]:
    """A finished run's folder, what it found, and how to load its model anew."""

    def load() -> Any:
        return ivlens.load_model(tiny_hf("llama", num_hidden_layers=1), tokenizer=tiny_tokenizer())

    words = ["capital", "of", "France", "is", "Paris", "and", "the"]
    prompts = [Prompt(f"Q: {word} A:", (f" {after}",)) for word, after in pairwise(words)]
    out = tmp_path_factory.mktemp("whole")
    return out, run(load(), prompts, out), (load, prompts)


def flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def swap(data: bytes, chance: random.Random) -> bytes:
    """Eight bytes in the place of the next eight, where these differ."""
    at = chance.randrange(len(data) - 16)
    while data[at : at + 8] == data[at + 8 : at + 16]:
        at = chance.randrange(len(data) - 16)
    return data[:at] + data[at + 8 : at + 16] + data[at : at + 8] + data[at + 16 :]


def lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Callable[[bytes, random.Random], bytes]:
    return lambda data, chance: b"\n".join(change(data.splitlines(), chance)) + b"\n"


LOG = {
    "flipped": flip, "cut": cut, "swapped": swap, "empty": lambda data, chance: b"",
    "doubled": lines(lambda rows, chance: rows + rows),
    "shuffled": lines(lambda rows, chance: chance.sample(rows, len(rows))),
    "half missing": lines(lambda rows, chance: rows[::2]), "a number": lambda data, chance: data + b"5\n[1]\nnull\n",
    "no UTF-8": lambda data, chance: b"\xff\n" + data,
    "foreign": lambda data, chance: data.replace(b'"accuracy": ', b'"accuracy": 1'),
    "another run's": lambda data, chance: f"{seal({'step': 6, 'ability': 'old', 'run': 'x'})}\n".encode() + data,
}  # fmt: skip


@pytest.mark.parametrize("damage", LOG.values(), ids=LOG)
def test_a_damaged_log_changes_no_number(made: Any, tmp_path: Path, damage: Any) -> None:
    whole, expected, (load, prompts) = made
    seed = time.time_ns()
    for _ in range(3 if damage in (flip, cut, swap) else 1):
        out = shutil.copytree(whole, tmp_path / "run", dirs_exist_ok=True)
        data = (out / "log.jsonl").read_bytes()
        (out / "log.jsonl").write_bytes(damage(data, random.Random(seed)))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert same(run(load(), prompts, out), expected), seed
        harmless = damage in (LOG["doubled"], LOG["shuffled"], LOG["another run's"]) or damage is cut
        assert harmless or any("log.jsonl is damaged" in str(each.message) for each in told), seed
        assert sorted((out / "log.jsonl").read_bytes().splitlines()) == sorted(data.splitlines())
        seed += 1


@pytest.mark.parametrize("damage", [flip, cut, swap])
def test_a_damaged_state_gives_its_place_to_the_spare(made: Any, tmp_path: Path, damage: Any) -> None:
    whole, expected, (load, prompts) = made
    seed = time.time_ns()
    out = shutil.copytree(whole, tmp_path / "run")
    path = out / "state.safetensors"
    path.write_bytes(damage(path.read_bytes(), random.Random(seed)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert same(run(load(), prompts, out), expected), seed
    assert any("trying the state before it" in str(each.message) for each in told), seed
    for name in ("state", "state.previous"):
        path = out / f"{name}.safetensors"
        path.write_bytes(damage(path.read_bytes(), random.Random(seed)))
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(RecordError, match="move them away"):
        run(load(), prompts, out)


@pytest.mark.parametrize("step", [-5, 10**9, 4, None, "6", 6.5])
def test_a_step_that_cannot_be_is_not_believed(made: Any, tmp_path: Path, step: Any) -> None:
    """Even where the digest was computed anew."""
    whole, expected, (load, prompts) = made
    out = shutil.copytree(whole, tmp_path / "run")
    tensors, facts = load_tensors(out / "state.safetensors")
    save_tensors(out / "state.safetensors", tensors, facts | {"step": step})
    with pytest.warns(UserWarning, match="trying the state before it"):
        assert same(run(load(), prompts, out), expected)


def test_a_state_without_a_digest_is_not_believed(made: Any, tmp_path: Path) -> None:
    whole, expected, (load, prompts) = made
    out = shutil.copytree(whole, tmp_path / "run")
    path = out / "state.safetensors"
    with safe_open(path, "pt") as file:
        header = {"ivlens": file.metadata()["ivlens"]}
    save_file({name: each + 1 for name, each in load_file(path).items()}, path, metadata=header)
    with pytest.warns(UserWarning, match="trying the state before it"):
        assert same(run(load(), prompts, out), expected)


def test_states_of_two_runs_that_change_places_are_refused(made: Any, tmp_path: Path) -> None:
    whole, _, (load, prompts) = made
    from dataclasses import replace

    other = replace(CONFIG, learning_rate=1e-3)
    run(load(), prompts, tmp_path / "other", config=other)
    out = shutil.copytree(whole, tmp_path / "run")
    for name in ("state", "state.previous"):
        shutil.copy(tmp_path / "other" / f"{name}.safetensors", out / f"{name}.safetensors")
    with pytest.raises(MismatchError, match=r"training\.learning_rate 0\.001 against 0\.003"):
        run(load(), prompts, out)


def test_a_changed_ability_is_noticed_and_others_may_come_and_go(made: Any, tmp_path: Path) -> None:
    whole, expected, (load, prompts) = made
    out = shutil.copytree(whole, tmp_path / "run")
    changed = Ability("old", (*prompts[:2], Prompt("Q: another A:", (" Paris",))))
    before = (out / "log.jsonl").read_bytes()
    with pytest.raises(MismatchError, match=r"other prompts or another vector of ability 'old'.*choose another folder"):
        run(load(), prompts, out, keep=[changed])
    assert (out / "log.jsonl").read_bytes() == before
    more, _ = run(load(), prompts, out, keep=[Ability("new", tuple(prompts[3:]))])
    assert {(row["step"], row["ability"]) for row in more.measured} == {(6, "new")}
    assert same(run(load(), prompts, out), expected)
    with pytest.raises(MismatchError, match="ability 'old'"):
        run(load(), prompts, out, keep=[changed])


def test_a_run_from_before_guidance_was_terms_is_refused_by_name(made: Any, tmp_path: Path) -> None:
    whole, _, (load, prompts) = made
    out = shutil.copytree(whole, tmp_path / "run")
    for name in ("state", "state.previous"):
        tensors, facts = load_tensors(out / f"{name}.safetensors")
        earlier = {"training.guidance.kl_last": 0.0, "training.guidance.progressive": "none"}
        facts = facts | {"key": facts["key"] | earlier, "asked": facts.pop("abilities")}
        save_tensors(out / f"{name}.safetensors", tensors, facts)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(MismatchError, match=r"training\.guidance\.kl_last 0\.0 against None.*choose another folder"):
        run(load(), prompts, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_measures_of_a_run_without_a_state_are_not_believed(made: Any, tmp_path: Path) -> None:
    whole, expected, (load, prompts) = made
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "log.jsonl", tmp_path / "run" / "log.jsonl")
    model = load()
    model.W_E.data.mul_(1.5)
    found = run(model, prompts, tmp_path / "run")
    other = load()
    other.W_E.data.mul_(1.5)
    assert same(found, run(other, prompts, tmp_path / "fresh"))
    assert not same(found, expected)


def test_the_same_model_by_another_path_resumes_and_another_config_does_not(
    tmp_path: Path, tiny_hf: Any, tiny_tokenizer: Any, prompts: list[Prompt]
) -> None:
    for name in ("one", "two"):
        tiny_hf("llama", num_hidden_layers=1).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    first = run(ivlens.load_model(tmp_path / "one"), prompts, tmp_path / "run")
    lines = sorted((tmp_path / "run" / "log.jsonl").read_bytes().splitlines())
    assert same(run(ivlens.load_model(tmp_path / "two"), prompts, tmp_path / "run"), first)
    assert sorted((tmp_path / "run" / "log.jsonl").read_bytes().splitlines()) == lines
    path = tmp_path / "two" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.5}))
    with pytest.raises(MismatchError, match="config_sha256"):
        run(ivlens.load_model(tmp_path / "two"), prompts, tmp_path / "run")


def test_a_vector_of_other_heads_is_another_run(made: Any, tmp_path: Path) -> None:
    _, _, (load, prompts) = made
    vector = ivlens.InstructionVector(torch.ones(32), torch.ones(1, 32), (Head(0, 1),), "ones")
    run(load(), prompts, tmp_path / "run", vector=vector)
    with pytest.raises(MismatchError, match="vector '"):
        run(load(), prompts, tmp_path / "run", vector=replace(vector, heads=(Head(0, 2),)))


def test_both_versions_of_a_run_are_recorded(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected, (load, prompts) = made
    out = shutil.copytree(whole, tmp_path / "run")
    assert "earlier_versions" not in expected[0].provenance
    (out / "state.safetensors").unlink()
    honest = ivlens.training.state.package_versions()
    monkeypatch.setattr("ivlens.training.state.package_versions", lambda: honest | {"ivlens": "9.9"})
    for _ in range(2):
        found = run(load(), prompts, out)
        assert found[0].provenance["earlier_versions"] == [honest]
    assert same(found, expected)


def test_a_second_process_in_one_folder_is_refused(made: Any, tmp_path: Path) -> None:
    import threading

    _, _, (load, prompts) = made
    refused: list[BaseException] = []

    def other() -> None:
        try:
            run(load(), prompts, tmp_path / "run")
        except RecordError as error:
            refused.append(error)

    with held(tmp_path / "run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another process is at work" in str(refused[0])
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_folder_that_vanishes_is_made_again(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected, (load, prompts) = made
    from ivlens.training.log import Log

    honest = Log.step

    def step(log: Log, row: dict[str, float]) -> None:
        if len(log.steps) == 2:
            shutil.rmtree(tmp_path / "run")
        honest(log, row)

    monkeypatch.setattr(Log, "step", step)
    with pytest.warns(UserWarning, match="cannot be written"):
        found = run(load(), prompts, tmp_path / "run")
    assert same(found, expected)
    monkeypatch.setattr(Log, "step", honest)
    with pytest.warns(UserWarning, match="put back from the state"):
        assert same(run(load(), prompts, tmp_path / "run"), expected)


@pytest.mark.parametrize("name", ["log.jsonl", "state.safetensors"])
def test_what_is_no_file_in_the_folder_is_refused_and_stays(made: Any, tmp_path: Path, name: str) -> None:
    import os

    _, _, (load, prompts) = made
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / name)
    model = load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RecordError, match="a FIFO"):
            run(model, prompts, tmp_path / "run")
    assert (tmp_path / "run" / name).is_fifo()


def test_records_from_before_load_with_the_names_of_today(tmp_path: Path) -> None:
    records = Path(__file__).parents[2] / "figures" / "forgetting" / "records"
    tensors, facts = load_tensors(next(records.glob("guided-*.safetensors")), unsealed=True)
    names = {"correct": "hits"}
    rows = [{names.get(name, name): value for name, value in row.items()} for row in facts["measured"]]
    assert "hits" in rows[0]
    earlier = ivlens.TrainingRun.load(
        save_tensors(tmp_path / "earlier.safetensors", tensors, {**facts, "measured": rows})
    )
    assert {*earlier.measured[0]} >= {"correct", "accuracy"}
    assert all("hits" not in row for row in earlier.measured)
    row = earlier.measured[0]
    assert row["correct"].count("1") / row["n"] == pytest.approx(row["accuracy"])
    again = ivlens.TrainingRun.load(earlier.save(tmp_path / "again.safetensors"))
    assert again.measured == earlier.measured
