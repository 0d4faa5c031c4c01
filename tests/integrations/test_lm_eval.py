"""Tasks of lm-evaluation-harness give on an ivlens model what they give on the harness' own Hugging Face model."""

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ivlens as iv
from ivlens.models.engines import has_hooked
from ivlens.stats import paired_drop
from lm_eval_tasks import CHOICE, GENERATE, ROLLING, ROWS, TEXTS

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ivlens.integrations.lm_eval_model import HarnessModel

LAYER, SCALE = 1, 3.0
BOS = "<s> $A"
ENGINES = ["bridge", *(["hooked"] if has_hooked() else [])]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(tiny_hf: Any, tiny_tokenizer: Any, engine: str) -> tuple[Any, Any]:
    """A tiny model of ivlens, and the harness' own on the same weights, in float64."""
    theirs = tiny_hf("llama").double()
    model = iv.load_model(tiny_hf("llama").double(), tokenizer=tiny_tokenizer(BOS), dtype=torch.float64, engine=engine)
    return model, HFLM(pretrained=theirs, tokenizer=tiny_tokenizer(BOS), batch_size=1, device="cpu")


def harness(lm: Any, path: Path, **options: Any) -> Any:
    return simple_evaluate(
        lm, tasks=[str(path)], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0,
        random_seed=None, numpy_random_seed=None, torch_random_seed=None, **options,
    )  # fmt: skip


@contextmanager
def added_at(theirs: Any, vector: Tensor, contexts: dict[tuple[int, ...], int]) -> Iterator[None]:
    """Within this context plain torch adds the vector to the layer's input, at the token where the context ends."""
    ids: list[Tensor] = []

    def remember(module: Any, args: Any, options: dict[str, Any]) -> None:
        ids[:] = [options["input_ids"] if "input_ids" in options else args[0]]

    def add(module: Any, args: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        stream = (args[0] if args else options["hidden_states"]).clone()
        for row, tokens in enumerate(ids[0].tolist()):
            for context, at in contexts.items():
                if tuple(tokens[: len(context)]) == context:
                    stream[row, at] += vector
        return (stream, *args[1:]), options

    handles = [
        theirs.model.register_forward_pre_hook(remember, with_kwargs=True),
        theirs.model.model.layers[LAYER].register_forward_pre_hook(add, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def responses(results: Any, task: str) -> list[Any]:
    return [each["resps"] for each in results["samples"][task]]


def log_likelihoods(results: Any, task: str) -> Tensor:
    return torch.tensor([each[0][0] for answers in responses(results, task) for each in answers], dtype=torch.float64)


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_log_likelihoods_are_those_of_the_harness(
    pair: tuple[Any, Any], task_file: Callable[..., Path], num_fewshot: int, steered: bool
) -> None:
    model, theirs = pair
    path, vector = task_file(CHOICE), torch.randn(model.cfg.d_model, dtype=torch.float64)
    plain = harness(theirs, path, num_fewshot=num_fewshot)
    prompts = {each["arguments"][0][0] for each in plain["samples"]["words"]}
    contexts = {tuple(theirs.tok_encode(prompt)): len(theirs.tok_encode(prompt)) - 1 for prompt in prompts}
    with added_at(theirs, SCALE * vector, contexts) if steered else nullcontext():
        expected = harness(theirs, path, num_fewshot=num_fewshot)
    with iv.steer(model, vector, LAYER, SCALE) if steered else nullcontext():
        found = iv.run_lm_eval(model, path, num_fewshot=num_fewshot, batch_size=4)["words"]
    logs = [each for sample in found.samples for each in sample.log_likelihoods]
    # TransformerLens computes rotary tables in float32, a bridge is the harness' own model
    tolerance = {"rtol": 0, "atol": 1e-10 if isinstance(model, iv.Bridge) else 1e-5}
    expected_logs = log_likelihoods(expected, "words")
    torch.testing.assert_close(torch.tensor(logs, dtype=torch.float64), expected_logs, **tolerance)
    assert found.metrics["acc,none"] == expected["results"]["words"]["acc,none"]
    assert found.metrics["acc_norm,none"] == expected["results"]["words"]["acc_norm,none"]
    assert torch.allclose(log_likelihoods(plain, "words"), log_likelihoods(expected, "words")) is not steered


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("until", ['["\\n"]', '["e", "</s>"]'])
def test_generations_are_those_of_the_harness(
    pair: tuple[Any, Any], task_file: Callable[..., Path], until: str, steered: bool
) -> None:
    model, theirs = pair
    path, vector = task_file(GENERATE, until=until), torch.randn(model.cfg.d_model, dtype=torch.float64)
    prompts = [f"Q: {row['question']}\nA:" for row in ROWS]
    contexts = {tuple(theirs.tok_encode(prompt)): len(theirs.tok_encode(prompt)) - 1 for prompt in prompts}
    with added_at(theirs, SCALE * vector, contexts) if steered else nullcontext():
        expected = harness(theirs, path)
    with iv.steer(model, vector, LAYER, SCALE) if steered else nullcontext():
        found = iv.run_lm_eval(model, path)["ends"]
    texts = [each[0][0] for each in responses(expected, "ends")]
    assert [sample.text for sample in found.samples] == texts
    assert len({*texts}) > 1
    assert found.answers is not None


def test_whole_texts_are_those_of_the_harness(pair: tuple[Any, Any], task_file: Callable[..., Path]) -> None:
    model, theirs = pair
    path = task_file(ROLLING, TEXTS)
    found, expected = iv.run_lm_eval(model, path)["texts"], harness(theirs, path)["results"]["texts"]
    assert found.metrics["word_perplexity,none"] == pytest.approx(expected["word_perplexity,none"], rel=1e-5)
    assert found.answers is None
    vector = torch.randn(model.cfg.d_model, dtype=torch.float64)
    with iv.steer(model, vector, LAYER, position="all"):
        assert iv.run_lm_eval(model, path)["texts"].metrics != found.metrics
    with pytest.raises(iv.UnsupportedError, match="position='all'"), iv.steer(model, vector, LAYER):
        iv.run_lm_eval(model, path)


def test_chat_prompts_and_long_contexts_are_those_of_the_harness(
    tiny_hf: Any, tiny_tokenizer: Any, chatml: str, task_file: Callable[..., Path]
) -> None:
    path, tokenizer = task_file(CHOICE), tiny_tokenizer(BOS, chatml)
    theirs = HFLM(pretrained=tiny_hf("llama").double(), tokenizer=tokenizer, batch_size=2, device="cpu", max_length=40)
    model = iv.load_model(tiny_hf("llama").double(), tokenizer=tiny_tokenizer(BOS, chatml), engine="bridge")
    options = {"apply_chat_template": True, "system_instruction": "the fox", "fewshot_as_multiturn": True}
    expected = harness(theirs, path, num_fewshot=1, **options)
    with pytest.warns(UserWarning, match="cut on the left"):
        found = iv.run_lm_eval(model, path, chat=True, system="the fox", num_fewshot=1, max_length=40)["words"]
    logs = [each for sample in found.samples for each in sample.log_likelihoods]
    torch.testing.assert_close(torch.tensor(logs, dtype=torch.float64), log_likelihoods(expected, "words"))
    assert found.samples[0].prompt.startswith("<|im_start|>system\nthe fox")


def test_samples_are_an_evaluation(tiny_hooked: Any, task_file: Callable[..., Path], tmp_path: Path) -> None:
    model, path = tiny_hooked("llama"), task_file(CHOICE)
    found = iv.run_lm_eval(model, [path], metric="acc_norm")["words"]
    answers = found.answers
    assert answers is not None
    assert (answers.n, answers.accuracy) == (len(ROWS), found.metrics["acc_norm,none"])
    assert answers.answers == tuple(f" {row['answer']}" for row in ROWS)
    expected = iv.evaluate(model, [iv.Prompt(*each) for each in zip(answers.prompts, answers.answers, strict=True)])
    for name in ("probabilities", "token_probabilities", "first_token_probabilities"):
        torch.testing.assert_close(getattr(answers, name), getattr(expected, name), rtol=1e-5, atol=1e-8)
    for sample, row in zip(found.samples, ROWS, strict=True):
        lengths = [log / len(option) for log, option in zip(sample.log_likelihoods, sample.options, strict=True)]
        assert sample.text == sample.options[lengths.index(max(lengths))]
        assert sample.score == (sample.text == row["answer"])
        assert sample.chance == 1 / len(row["options"])
    assert answers.texts == tuple(sample.text for sample in found.samples)
    assert answers.options == tuple(tuple(row["options"]) for row in ROWS)
    assert answers.option_log_likelihoods == tuple(sample.log_likelihoods for sample in found.samples)
    answers.save(tmp_path / "answers.safetensors")
    gathered = iv.records.gather_records([tmp_path / "answers.safetensors"]).records["answers.safetensors"]
    assert gathered.provenance["settings"]["metrics"] == found.metrics
    assert isinstance(gathered, iv.Evaluation)
    assert paired_drop(answers.correct, gathered.correct).value == 0
    few = iv.run_lm_eval(model, path, limit=2)["words"]
    assert few.metric == "acc,none"
    assert list(few.to_frame()["prompt"]) == list(answers.prompts[:2])


def test_ablation_and_heads_reach_the_harness(tiny_hooked: Any, task_file: Callable[..., Path]) -> None:
    model, path = tiny_hooked("llama"), task_file(CHOICE)
    plain = iv.run_lm_eval(model, path)["words"].answers
    with iv.ablate(model, [(0, 0), (1, 2)]):
        ablated = iv.run_lm_eval(model, path)["words"].answers
    assert plain is not None
    assert ablated is not None
    assert not torch.equal(plain.probabilities, ablated.probabilities)
    assert ablated.provenance["edits"][0]["ablate"] == [[0, 0], [1, 2]]
    assert not iv.models.has_hooks(model)


def test_a_real_model_scores_and_answers_as_in_the_harness(
    smollm2: Any, smollm2_folder: Path, task_file: Callable[..., Path]
) -> None:
    theirs = HFLM(pretrained=str(smollm2_folder), dtype="float32", batch_size=2, device="cpu")
    path = task_file(CHOICE)
    expected, found = harness(theirs, path), iv.run_lm_eval(smollm2, path)["words"]
    logs = [each for sample in found.samples for each in sample.log_likelihoods]
    torch.testing.assert_close(torch.tensor(logs).double(), log_likelihoods(expected, "words"), rtol=0, atol=1e-3)
    path = task_file(GENERATE, until='["\\n\\n"]')
    options = {"num_fewshot": 1, "limit": 2}
    texts = [each[0][0] for each in responses(harness(theirs, path, **options), "ends")]
    assert [sample.text for sample in iv.run_lm_eval(smollm2, path, **options)["ends"].samples] == texts
    assert all(texts)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (("do_sample: false, temperature: 0.0", "do_sample: true, temperature: 0.7"), iv.UnsupportedError, "greedily"),
        (("do_sample: false", "num_beams: 4"), iv.UnsupportedError, "num_beams"),
        (("max_gen_toks: 12", "max_gen_toks: 128"), iv.PromptError, "max_gen_toks: 128"),
        (("dataset_path: json", "dataset_path: nowhere/nothing"), iv.TaskError, "ends.yaml"),
    ],
)
def test_what_would_not_be_exact_is_refused(
    tiny_hooked: Any, task_file: Callable[..., Path], change: tuple[str, str], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        iv.run_lm_eval(tiny_hooked("llama"), task_file(GENERATE.replace(*change), until='["\\n"]'))


def test_arguments_are_refused_by_name(tiny_hooked: Any, tiny_tokenizer: Any, task_file: Callable[..., Path]) -> None:
    model, path = tiny_hooked("llama"), task_file(CHOICE)
    with pytest.raises(iv.ArgumentError, match=r"acc,none, acc_norm,none.*'f1'"):
        iv.run_lm_eval(model, path, metric="f1")
    with pytest.raises(iv.ArgumentError, match="at least one"):
        iv.run_lm_eval(model, [])
    with pytest.raises(iv.ArgumentError, match="max_length within"):
        iv.run_lm_eval(model, path, max_length=1000)
    with pytest.raises(iv.PromptError, match="chat template"):
        iv.run_lm_eval(model, path, chat=True)
    with pytest.raises(iv.UnsupportedError, match="use_cache"):
        HarnessModel(model).set_cache_hook(None)
    model.tokenizer = tiny_tokenizer("$A </s>")
    with pytest.raises(iv.UnsupportedError, match="appends"):
        iv.run_lm_eval(model, path)


def test_without_the_extra_the_error_names_it(tiny_hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "lm_eval":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(iv.SourceError, match=r"pip install 'ivlens\[lm-eval\]'"):
        iv.run_lm_eval(tiny_hooked("llama"), "arc_easy")
