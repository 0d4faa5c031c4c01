"""``steer`` and ``ablate`` as contexts: any order, again, threads, resets, copies, and an interrupt at every line."""

import copy
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ivlens
from ivlens import HookError, Prompt
from ivlens.models import Hooks, active_edits, checkpointed, resid_pre_name, this_pass, z_name
from ivlens.models.passes import last_prompt_tokens

PROMPTS = [Prompt("the quick", " fox"), Prompt("the capital of France is", " Paris")]
TOKENS = torch.tensor([[3, 40, 5, 60]])


@pytest.fixture(scope="module")
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    return ivlens.load_model(tiny_hf("llama").double(), tokenizer=tiny_tokenizer(), dtype=torch.float64)


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return torch.randn(4, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _nothing_is_left(model: Any) -> Iterator[None]:
    yield
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())
    assert not {"forward", "generate", "generate_stream"} & set(vars(model))
    assert (model.context_level, torch.is_grad_enabled()) == (0, True)


def answers(model: Any) -> Tensor:
    return ivlens.evaluate(model, PROMPTS).probabilities


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
@torch.no_grad()
def test_the_active_vectors_add_up_whatever_the_order_of_entering_and_leaving(
    model: Any, vectors: Tensor, toggled: list[int]
) -> None:
    """A number enters its context, or leaves it where it is active."""
    contexts = [ivlens.steer(model, each, 1) for each in vectors]
    active: set[int] = set()
    last = torch.arange(TOKENS.shape[1])[:, None] == TOKENS.shape[1] - 1
    with model.hooks(fwd_hooks=[(resid_pre_name(1), lambda stream, hook: plain.append(stream))]):
        plain: list[Tensor] = []
        model(TOKENS)
    for number in toggled:
        if number in active:
            contexts[number].__exit__(None, None, None)
            active.remove(number)
        else:
            contexts[number].__enter__()
            active.add(number)
        _, cache = model.run_with_cache(TOKENS)
        added = sum((vectors[each] for each in active), torch.zeros(32, dtype=torch.float64))
        torch.testing.assert_close(cache["resid_pre", 1][0], plain[0][0] + last * added)
        assert len(active_edits(model)) == len(active)
    for number in active:
        contexts[number].__exit__(None, None, None)


@torch.no_grad()
def test_a_generator_closed_late_takes_only_its_own_vector_along(model: Any, vectors: Tensor) -> None:
    def stream(vector: Tensor) -> Iterator[Tensor]:
        with ivlens.steer(model, vector, 1):
            while True:
                yield answers(model)

    with ivlens.steer(model, vectors[1], 1):
        expected = answers(model)
    one, other = stream(vectors[0]), stream(vectors[1])
    next(one), next(other)
    one.close()
    assert torch.equal(next(other), expected)
    other.close()


def test_a_context_is_entered_again_but_not_inside_itself(model: Any, vectors: Tensor) -> None:
    context = ivlens.steer(model, vectors[0], 1)
    table = ivlens.compare_conditions(model, {"once": (PROMPTS, context), "again": (PROMPTS, context)})
    assert torch.equal(table.probabilities[0], table.probabilities[1])
    assert not torch.equal(table.probabilities[0], answers(model))
    with context:
        once = answers(model)
        with pytest.raises(HookError, match="got one entered inside itself; make a second one"), context:
            pytest.fail("entered")
        assert torch.equal(answers(model), once)
    with ExitStack() as stack:
        stack.enter_context(context)
        assert torch.equal(answers(model), once)

    @context
    def decorated() -> Tensor:
        return answers(model)

    assert torch.equal(decorated(), once)


def test_resetting_hooks_inside_leaves_the_edit_or_is_told(model: Any, vectors: Tensor) -> None:
    context = ivlens.steer(model, vectors[0], 1)
    with context:
        expected = answers(model)
    with context:
        model.reset_hooks()
        with model.hooks(fwd_hooks=[(resid_pre_name(0), lambda stream, hook: None)]):
            torch.testing.assert_close(answers(model), expected, rtol=1e-12, atol=0)
        assert torch.equal(answers(model), expected)
    context.__enter__()
    answers(model)
    model.reset_hooks(including_permanent=True)
    with pytest.raises(HookError, match=r"edits of blocks\.1\.hook_resid_pre until their block ends; got one that rem"):
        context.__exit__(None, None, None)


def test_a_second_thread_is_refused_and_the_first_is_right(model: Any, vectors: Tensor) -> None:
    with ivlens.steer(model, vectors[0], 1):
        expected = answers(model)
    bare, done, told = answers(model), threading.Event(), []

    def steering() -> None:
        while not done.is_set():
            with ivlens.steer(model, vectors[0], 1):
                told.append(torch.equal(answers(model), expected))

    thread = threading.Thread(target=steering)
    thread.start()
    refused = 0
    for _ in range(30):
        try:
            assert torch.equal(answers(model), bare)
        except HookError as error:
            refused += "one thread at a time on a model with active edits; got a second thread" in str(error)
    done.set()
    thread.join()
    assert told
    assert all(told)
    assert refused


def test_a_second_thread_enters_nothing_but_may_leave(model: Any, vectors: Tensor) -> None:
    caught: list[Exception] = []

    def enter() -> None:
        try:
            with ivlens.ablate(model, [(0, 0)]):
                pytest.fail("entered")
        except HookError as error:
            caught.append(error)

    with ivlens.steer(model, vectors[0], 1):
        answers(model)
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "second thread" in str(caught[0])
    context = ivlens.steer(model, vectors[0], 1)
    context.__enter__()
    answers(model)
    thread = threading.Thread(target=context.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not context.active


def test_blocks_recomputed_by_another_thread_are_edited_as_the_first_time(model: Any, vectors: Tensor) -> None:
    """As autograd does on a GPU: the backward pass recomputes blocks in a thread of its own."""
    found: list[Tensor] = []

    def edit(stream: Tensor) -> Tensor:
        found.append(this_pass(stream).last)
        return stream + vectors[0]

    with Hooks(model, {resid_pre_name(1): edit}), checkpointed(model):
        loss = model(["the quick brown", "the"]).square().sum()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
    model.zero_grad(set_to_none=True)
    assert [each.tolist() for each in found] == [found[0].tolist()] * 2
    assert found[0][0] != found[0][1]


def test_a_steered_model_is_not_copied_and_not_trained(model: Any, vectors: Tensor) -> None:
    with ivlens.steer(model, vectors[0], 1):
        answers(model)
        with pytest.raises(HookError, match="a model without active edits to copy"):
            copy.deepcopy(model)
        with pytest.raises(HookError, match="a model without active edits; got training within steer or ablate"):
            ivlens.fine_tune(model, PROMPTS)


def test_a_record_says_what_it_was_measured_under(model: Any, vectors: Tensor) -> None:
    assert "edits" not in ivlens.evaluate(model, PROMPTS).provenance
    with ivlens.steer(model, vectors[0], 1, 2.0), ivlens.ablate(model, [(0, 1)]):
        edits = ivlens.evaluate(model, PROMPTS).provenance["edits"]
    told = {"steer": "a tensor", "layer": 1, "scale": 2.0, "position": "last", "site": "resid_pre"}
    assert edits == [told, {"ablate": [[0, 1]], "means": None}]
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda stream, hook: None)]):
        assert ivlens.evaluate(model, PROMPTS).provenance["edits"] == [{"hooks": ["blocks.0.hook_resid_pre"]}]
        with pytest.raises(HookError, match="training within steer or ablate, or with hooks"):
            ivlens.fine_tune(model, PROMPTS)


def test_hooks_of_any_kind_stop_the_sweep(model: Any) -> None:
    means = ivlens.mean_head_activations(model, PROMPTS)
    handle = model.blocks[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(HookError, match="no active hooks"):
        ivlens.indirect_effects(model, PROMPTS, means)
    handle.remove()


class Interrupter:
    """Raises KeyboardInterrupt at the n-th line that runs while it is ``on``, in any file but the type checkers'."""

    def __init__(self, n: int) -> None:
        self.left, self.on, self.where = n, True, ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if any(name in frame.f_code.co_filename for name in ("beartype", "jaxtyping", "inspect.py", "<string>")):
            return None
        if event == "line" and self.on:
            self.left -= 1
            if not self.left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self

    def switch(self, on: bool) -> None:
        self.on = on
        sys.settrace(self if on else None)


@pytest.mark.parametrize("kind", ["steer", "ablate"])
@pytest.mark.slow
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(model: Any, vectors: Tensor, kind: str) -> None:
    """Also while the interrupt's traceback, which holds the frames, and the context live on, as in a notebook."""
    kept: list[Any] = []
    points = [model.hook_dict[name] for name in (resid_pre_name(1), z_name(0), z_name(1))]
    probes = [vectors[None], vectors.view(1, 4, 4, 8), vectors.view(1, 4, 4, 8)]

    def edited() -> int:
        with last_prompt_tokens(torch.tensor([3])):
            return sum(not torch.equal(point(each), each) for point, each in zip(points, probes, strict=True))

    def entered_and_left(n: int) -> str:
        interrupter = Interrupter(n)
        context = ivlens.steer(model, vectors[0], 1) if kind == "steer" else ivlens.ablate(model, [(0, 0), (1, 1)])
        kept.append(context)
        before = sys.gettrace()
        try:
            interrupter.switch(True)
            with context:
                interrupter.switch(False)
                assert edited() == len(context.edits)
                interrupter.switch(True)
        except KeyboardInterrupt as error:
            kept.append(error)
        finally:
            sys.settrace(before)
        return interrupter.where

    n = 1
    while where := entered_and_left(n):
        assert not edited(), where
        assert not active_edits(model), where
        n += 1
    assert n > 100
    with ivlens.steer(model, vectors[0], 1):  # sweeps what was left behind without effect
        answers(model)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["steer", "ablate"])
def test_functions_taken_from_the_model_before_are_refused(model: Any, vectors: Tensor, kind: str) -> None:
    """They pass by what says where the prompts end: a padded row would be edited elsewhere than alone."""
    forward, generate, block = model.forward, model.generate, model.blocks[1]
    context = ivlens.steer(model, vectors[0], 1) if kind == "steer" else ivlens.ablate(model, [(1, 0)])
    with context:
        model(TOKENS)
        with pytest.raises(HookError, match=r"call model\(\.\.\.\) inside the with block"):
            forward(TOKENS)
        with pytest.raises(HookError, match=r"call model\(\.\.\.\) inside the with block"):
            block(torch.zeros(1, 4, 32, dtype=torch.float64))
        with pytest.raises(HookError, match=r"call model\.generate\(\.\.\.\) inside"):
            generate(TOKENS, max_new_tokens=2, use_past_kv_cache=False, verbose=False)
        kept = generate(TOKENS, max_new_tokens=3, do_sample=False, verbose=False)
        assert torch.equal(kept, model.generate(TOKENS, max_new_tokens=3, do_sample=False, verbose=False))


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_compiled_model_is_steered_while_the_context_is_active(model: Any, vectors: Tensor, when: str) -> None:
    """Compiled code has no hooks; contexts of two models may end in any order."""
    torch.compiler.set_stance("default")  # an interrupt, as above, may leave compiled models running as written
    torch._dynamo.reset()
    compiled, other, plain = torch.compile(model, backend="eager"), copy.deepcopy(model), model(TOKENS)
    if when == "before":
        assert torch.equal(compiled(TOKENS), plain)
    first, second = ivlens.steer(model, 5 * vectors[0], 1), ivlens.steer(other, vectors[1], 1)
    first.__enter__()
    second.__enter__()
    steered = model(TOKENS)
    assert (steered - plain).abs().max() > 0.01
    assert torch.equal(compiled(TOKENS), steered)
    first.__exit__(None, None, None)
    assert torch.equal(compiled(TOKENS), plain)
    other(TOKENS)
    second.__exit__(None, None, None)
    assert torch.equal(compiled(TOKENS), plain)
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()
