"""A comparison by two workers: the numbers of one, safe to resume, a killed worker loses its measure only."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ivlens
from ivlens import ArgumentError, Prompt, Task, WorkerError, cli
from ivlens.checkpoints import CheckpointConfig, compare_checkpoints
from ivlens.records import CheckpointComparison
from tiny_models import WORDS

pytestmark = pytest.mark.slow

CONFIG = CheckpointConfig(
    n_clean=6, groups=3, n_corrupted=2, k=4, shots=1, n_test=4, n_validation=2, layers=(0,), scales=(1.0,),
    random_seeds=(0,), general=False,
)  # fmt: skip


def shifted(by: int, kind: type[Task] = Task) -> Task:
    """A task that asks for the word so many places on."""
    pairs = tuple((word, WORDS[(at + by) % 14]) for at, word in enumerate(WORDS))
    return kind(f"shift-{by}", pairs, ("the quick fox jumps",), ("Q", "A"), "{input} before")


class DeadlyPrompt(Prompt):
    """Made tokens in a worker, it kills it."""

    def encode(self, *arguments: Any, **options: Any) -> Any:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(*arguments, **options)


class Deadly(Task):
    """Its cloze texts are deadly."""

    def cloze_prompts(self, *arguments: Any, **options: Any) -> list[Prompt]:
        return [DeadlyPrompt(**vars(each)) for each in super().cloze_prompts(*arguments, **options)]


TASKS = [shifted(1), shifted(2)]


@pytest.fixture(scope="module")
def folders(tiny_hf: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """The base, two checkpoints whose W_O was scaled, and one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_hf("llama", num_hidden_layers=1).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for name, factor in (("doubled", 2.0), ("halved", 0.5)):
        model = ivlens.load_model(folder / "base")
        with torch.no_grad():
            model.blocks[0].attn.W_O.mul_(factor)
        ivlens.export_hf(model, folder / name)
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    return {name: folder / name for name in ("base", "doubled", "broken", "halved")}


def compared(folders: dict[str, Path], out: Path, tasks: list[Task] = TASKS, **options: Any) -> Any:
    base, *others = folders
    return compare_checkpoints(
        folders[base], {name: folders[name] for name in others}, tasks, CONFIG, out=out, **options
    )


def assert_same(one: CheckpointComparison, two: CheckpointComparison) -> None:
    assert one.checkpoints == two.checkpoints == ("base", "doubled", "halved")
    assert one.failures == two.failures
    assert "SourceError" in one.failures["broken"]
    for name in ("to_frame", "heads_frame", "layers_frame", "recovery_frame"):
        pd.testing.assert_frame_equal(getattr(one, name)(), getattr(two, name)(), check_exact=True)


@pytest.mark.usefixtures("two_workers")
def test_two_workers_give_the_numbers_of_one_and_leave_the_same_measures(
    folders: Any, tmp_path: Path, messages: list[str]
) -> None:
    one = compared(folders, tmp_path / "one")
    alone = messages.copy()
    messages.clear()
    two = compared(folders, tmp_path / "two", n_jobs=2)
    assert_same(one, two)
    assert sorted(messages) == sorted(alone)
    files = [{str(path.relative_to(tmp_path / out)) for path in (tmp_path / out).rglob("*")} for out in ("one", "two")]
    assert files[0] == files[1]
    messages.clear()
    assert_same(compared(folders, tmp_path / "two"), one)
    assert_same(compared(folders, tmp_path / "one", n_jobs=2), one)
    assert [message.partition(":")[0] for message in messages] == ["broken was not compared"] * 2


@pytest.mark.usefixtures("two_workers")
def test_a_killed_worker_is_an_error_and_what_was_finished_is_found_again(
    folders: Any, tmp_path: Path, messages: list[str]
) -> None:
    good = {name: folder for name, folder in folders.items() if name != "broken"}
    with pytest.raises(WorkerError, match=r"every worker to finish its work; got TerminatedWorkerError.*found again"):
        compared(good, tmp_path / "out", [shifted(1), shifted(2, Deadly)], n_jobs=2)
    messages.clear()
    found = compared(good, tmp_path / "out", n_jobs=2)
    rest = messages.copy()
    messages.clear()
    assert compared(good, tmp_path / "whole").to_frame().equals(found.to_frame())
    assert 0 < len(rest) < sum(not line.startswith("base") for line in messages)
    assert set(rest) < set(messages)


@pytest.mark.usefixtures("two_dask_workers")
def test_a_dask_cluster_gives_the_numbers_of_one_process(folders: Any, tmp_path: Path) -> None:
    assert_same(compared(folders, tmp_path / "one"), compared(folders, tmp_path / "two", n_jobs=None))


@pytest.mark.usefixtures("two_workers")
def test_a_model_object_is_refused_with_workers_unless_it_is_the_base(
    folders: Any, tiny_hf: Any, tmp_path: Path
) -> None:
    model = ivlens.load_model(folders["base"])
    with pytest.raises(ArgumentError, match="other: a HookedTransformer object; save it, or use n_jobs=1"):
        compare_checkpoints(folders["base"], {"other": model, "doubled": folders["doubled"]}, TASKS, CONFIG, n_jobs=2)
    checkpoints = {name: folders[name] for name in ("doubled", "broken", "halved")}
    assert_same(
        compare_checkpoints(model, checkpoints, TASKS, CONFIG, out=tmp_path, n_jobs=2),
        compared(folders, tmp_path / "one"),
    )


@pytest.mark.usefixtures("two_workers")
def test_the_command_line_has_jobs(folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "next.csv"
    file.write_text("input,output\n" + "\n".join(f"{word},{WORDS[at - 1]}" for at, word in enumerate(WORDS)))
    few = ("--n-clean", "5", "--n-corrupted", "4", "--instruction", "the quick fox jumps", "--n-jobs")
    tables = []
    for n_jobs in ("1", "2"):
        out = str(tmp_path / n_jobs)
        names = [str(folders[name]) for name in ("base", "doubled", "halved")]
        assert (
            cli.main(["compare", *names, "--tasks", str(file), "--out", out, "--n-test", "3", "--k", "2", *few, n_jobs])
            == 0
        )
        compare = capsys.readouterr().out
        assert cli.main(["heads", names[0], str(file), *few, n_jobs]) == 0
        tables.append((compare, capsys.readouterr().out))
    assert tables[0] == tables[1]
    with pytest.raises(SystemExit):
        cli.main(["heads", names[0], str(file), *few, "0"])
    assert "argument --n-jobs: expected a whole number of 1 or more; got '0'" in capsys.readouterr().err
