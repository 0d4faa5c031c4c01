"""One model on several workers: the same numbers whatever the split, weights shared, nothing silently lost."""

import os
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from ivlens import ArgumentError, HeadMeans, HookError, MismatchError, Prompt, PromptError, WorkerError
from ivlens.files import in_use
from ivlens.models import add_lora, map_with_model, shared_weights
from ivlens.models.workers import worker_device

pytestmark = pytest.mark.slow

PROMPTS = [
    Prompt(text, " Paris is") for text in ("the fox", "a lazy dog", "Q: what is the capital?", "1 + 2", "and", "over")
]
TEXT = "the capital of France is Paris and quick brown fox jumps over lazy dog"
FEW = 20  # streams: groups of one prompt


def measured(model: Any, n_jobs: int | None, **options: Any) -> tuple[HeadMeans, torch.Tensor, torch.Tensor]:
    means = ivlens.mean_head_activations(model, PROMPTS, batch_size=2, n_jobs=n_jobs)
    effects = ivlens.indirect_effects(model, PROMPTS, means, stream_budget=FEW, n_jobs=n_jobs, **options)
    return means.values, effects.values, effects.baseline


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


@pytest.fixture
def model_of(tiny_hf: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    def made(family: str, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
        return ivlens.load_model(tiny_hf(family, **config), tokenizer=tiny_tokenizer("<s> $A"), dtype=dtype)

    return made


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", torch.float32), ("gpt2", torch.float64), ("gemma3_text", torch.float32), ("qwen2", torch.bfloat16)],
)
def test_two_processes_give_the_numbers_of_one(model_of: Any, family: str, dtype: torch.dtype) -> None:
    model = model_of(family, dtype)
    assert same(measured(model, 1), measured(model, 2))


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("metric", ["probability", "logit-difference"])
def test_the_plain_loop_and_every_metric_are_spread_alike(model_of: Any, metric: str) -> None:
    model = model_of("llama")
    options = {"method": "loop", "metric": metric}
    assert same(measured(model, 1, **options), measured(model, 2, **options))


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("steps", [1, 3])
def test_attribution_is_spread_and_gives_the_same_bits(model_of: Any, steps: int) -> None:
    model = model_of("llama")
    model.requires_grad_(True)
    options = {"method": "attribution", "metric": "log-probability", "steps": steps}
    assert same(measured(model, 1, **options), measured(model, 2, **options))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.usefixtures("two_workers")
def test_methods_are_compared_by_workers_with_the_same_result(model_of: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ivlens.effects.attribution.rows_that_fit", lambda *_: FEW)  # attribution in several batches
    model = model_of("llama")
    means = ivlens.mean_head_activations(model, PROMPTS)
    one, two = (
        ivlens.compare_methods(model, PROMPTS, means, methods=("loop", "attribution"), k=3, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    )
    assert same((one.spearman, one.overlap, one.aie_spearman), (two.spearman, two.overlap, two.aie_spearman))
    assert one.provenance == two.provenance


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("method", ["exact", "loop", "attribution"])
def test_effects_by_position_are_spread_alike(model_of: Any, method: str) -> None:
    texts = ("the quick fox", "the lazy dog", "lazy dog", "quick fox")
    prompts = [Prompt(text, " Paris is") for text in texts]
    model = model_of("llama")
    means = ivlens.mean_position_activations(model, prompts, by="position")
    one, two = (
        ivlens.position_effects(model, prompts, means, method=method, batch_size=3, n_jobs=n_jobs) for n_jobs in (1, 2)
    )
    assert same((one.values, one.baseline), (two.values, two.baseline))
    assert one.values.abs().max() > 0
    model.ln_final.register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(HookError, match="no active hooks"):
        ivlens.position_effects(model, prompts, means, method=method, batch_size=3, n_jobs=2)


@pytest.mark.usefixtures("two_dask_workers")
def test_a_dask_cluster_gives_the_numbers_of_one_process(model_of: Any) -> None:
    for model in (model_of("llama"), model_of("gemma3_text", torch.float64)):
        assert same(measured(model, 1), measured(model, None))
        options = {"method": "attribution"}
        assert same(measured(model, 1, **options), measured(model, None, **options))


@pytest.mark.usefixtures("two_workers")
def test_locating_heads_is_spread_and_its_record_is_the_same(model_of: Any) -> None:
    task = ivlens.Task("next", tuple(pairwise(TEXT.split())), ("the quick fox jumps",), ("Q", "A"))
    model, options = model_of("llama"), {"n_clean": 6, "n_corrupted": 4, "shots": 1, "method": "loop"}
    one, two = (ivlens.locate_heads(model, task, **options, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert torch.equal(two.values, one.values)
    assert torch.equal(two.means.values, one.means.values)
    assert two.provenance == one.provenance
    assert two.means.provenance == one.means.provenance


@pytest.mark.usefixtures("two_workers")
def test_changed_weights_and_lora_are_what_workers_compute_with(model_of: Any) -> None:
    model = model_of("llama")
    before = measured(model, 2)
    with torch.no_grad():
        model.blocks[0].attn.W_O.mul_(3)
    assert same(measured(model, 2), measured(model, 1))
    assert not same(measured(model, 2), before)
    add_lora(model, 2, 4.0, ("W_Q", "W_out"), None, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter.fill_(0.3)
    torch.testing.assert_close(measured(model, 2), measured(model, 1), rtol=1e-5, atol=1e-6)
    model.blocks[0].attn.W_O.data.mul_(0.5)  # an edit that no version counter sees
    assert not same(measured(model, 2), before)
    torch.testing.assert_close(measured(model, 2), measured(model, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("two_workers")
def test_a_weight_with_two_names_is_both(model_of: Any) -> None:
    model = model_of("llama")
    model.blocks[0].ln2.w = model.blocks[0].ln1.w
    assert same(measured(model, 2), measured(model, 1))


def whereabouts(model: Any, piece: int) -> tuple[int, int, bool]:
    mapped = any("ivlens-" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return os.getpid(), id(model), mapped


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("two_workers")
def test_weights_are_saved_once_mapped_by_the_workers_and_removed(
    model_of: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = model_of("llama", num_hidden_layers=3)
    with shared_weights(model, 2):
        (folder,) = tmp_path.iterdir()
        (file,) = folder.iterdir()
        size = sum(parameter.nbytes for parameter in model.parameters())
        assert size <= file.stat().st_size < size + 64 * 100
        found = [each for _ in range(2) for each in map_with_model(model, whereabouts, range(8), 2, [""] * 8)]
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
    assert all(mapped for _, _, mapped in found)
    assert len({(process, model) for process, model, _ in found}) == len({process for process, _, _ in found}) <= 2


@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be removed there")
def test_copies_that_killed_processes_left_go_at_the_next_start(
    model_of: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kinds = {"ivlens-weights-left": "weights", "ivlens-weights-used": "weights"}
    others = {"ivlens-weights-of-someone": "thesis.tex", "ivlens-results": "weights"}
    for folder, name in (kinds | others).items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    with in_use(tmp_path / "ivlens-weights-used"), shared_weights(model_of("llama"), 2):
        there = {path.name for path in tmp_path.iterdir()}
    assert there > {"ivlens-weights-used", *others}
    assert "ivlens-weights-left" not in there


@pytest.mark.usefixtures("two_workers")
def test_what_workers_would_not_compute_is_refused(model_of: Any, monkeypatch: Any, tmp_path: Path) -> None:
    model = model_of("llama")
    means = ivlens.mean_head_activations(model, PROMPTS)
    with ivlens.steer(model, torch.ones(model.cfg.d_model), 0):
        steered = ivlens.indirect_effects(model, PROMPTS[:2], means, method="loop")
        with pytest.raises(HookError, match="no active hooks: workers"):
            ivlens.indirect_effects(model, PROMPTS[:2], means, method="loop", n_jobs=2)
    assert steered.baseline.isfinite().all()
    handle = model.ln_final.register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(HookError, match="no active hooks"):
        ivlens.indirect_effects(model, PROMPTS, means, stream_budget=FEW, n_jobs=2)
    handle.remove()
    model.blocks[1].mlp.act_fn = torch.zeros_like  # no weight says this
    with pytest.raises(MismatchError, match=r"logits within .* of the model that the workers were given"):
        ivlens.indirect_effects(model, PROMPTS, means, stream_budget=FEW, n_jobs=2)


def test_a_folder_without_room_is_an_error_that_says_what_to_do(model_of: Any, monkeypatch: Any) -> None:
    model = model_of("llama")
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(WorkerError, match=r"No space left.*set TMPDIR"), shared_weights(model, 2):
        pass


@pytest.mark.usefixtures("two_workers")
def test_an_error_of_a_worker_names_its_prompts(model_of: Any) -> None:
    model = model_of("llama")
    means = ivlens.mean_head_activations(model, PROMPTS)
    with pytest.raises(ArgumentError, match="n_jobs to be a whole number"):
        ivlens.indirect_effects(model, PROMPTS, means, n_jobs=0)
    with pytest.raises(PromptError, match="not this one; in prompts 3 to 3"):
        map_with_model(model, refusing, [1, 2, 3], 2, ["prompts 1 to 1", "prompts 2 to 2", "prompts 3 to 3"])


def refusing(model: Any, piece: int) -> int:
    if piece == 3:
        raise PromptError("another", "3", "not this one")
    return model.cfg.n_layers


def test_workers_take_gpus_in_turn_unless_one_was_named(monkeypatch: Any) -> None:
    class Process:
        _identity: tuple[int, ...] = ()

    monkeypatch.setattr("multiprocessing.current_process", Process)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert worker_device("cuda") == "cuda"  # not a worker
    asked = []
    for number in (1, 2, 5):
        Process._identity = (number,)
        asked.append([worker_device(device) for device in ("cuda", None, "cuda:3", "cpu")])
    assert [first for first, *_ in asked] == [second for _, second, *_ in asked] == ["cuda:0", "cuda:1", "cuda:0"]
    assert all(rest == ["cuda:3", "cpu"] for _, _, *rest in asked)
