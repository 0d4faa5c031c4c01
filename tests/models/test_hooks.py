"""Hooks are always removed, and one that never ran is an error."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ivlens.errors import HookError
from ivlens.models import active_edits, check_streamable, has_hooks, hooked, last_token, resid_pre_name, z_name
from ivlens.models.passes import last_prompt_tokens
from ivlens.models.points import pattern_name

TOKENS = torch.arange(10, 16)[None]


@pytest.fixture(scope="module")
def model(tiny_hf: Any, tiny_tokenizer: Any) -> Any:
    from ivlens import load_model

    return load_model(tiny_hf("llama"), tokenizer=tiny_tokenizer())


@pytest.fixture(autouse=True)
def _no_hook_is_left(model: Any) -> Any:
    yield
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def seen(into: list[tuple[int, ...]]) -> Any:
    return lambda activation: into.append(tuple(activation.shape))


def test_the_names_are_those_of_the_activations(model: Any) -> None:
    shapes: list[tuple[int, ...]] = []
    with hooked(model, {resid_pre_name(0): seen(shapes), z_name(1): seen(shapes), pattern_name(1): seen(shapes)}):
        model(TOKENS)
    assert sorted(shapes) == [(1, 4, 6, 6), (1, 6, 4, 8), (1, 6, 32)]


@torch.no_grad()
def test_an_edit_changes_the_logits_only_inside(model: Any) -> None:
    plain = model(TOKENS)
    with hooked(model, {z_name(0): torch.zeros_like}):
        assert (model(TOKENS) - plain).abs().max() > 0.1
    assert torch.equal(model(TOKENS), plain)


@torch.no_grad()
def test_an_edit_in_place_that_returns_nothing_counts(model: Any) -> None:
    def zero(z: Tensor) -> None:
        z.zero_()

    with hooked(model, {z_name(0): torch.zeros_like}):
        expected = model(TOKENS)
    with hooked(model, {z_name(0): zero}):
        assert torch.equal(model(TOKENS), expected)


def test_hooks_go_when_the_block_raises(model: Any) -> None:
    with pytest.raises(ZeroDivisionError), hooked(model, {z_name(0): torch.zeros_like}):
        1 / 0  # noqa: B018


def test_hooks_go_when_an_edit_raises(model: Any) -> None:
    def fail(z: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooked(model, {z_name(1): fail}):
        model(TOKENS)


def test_a_hook_that_never_ran_is_an_error(model: Any) -> None:
    edits = {z_name(0): torch.zeros_like, z_name(1): torch.zeros_like}
    never = r"a forward pass through blocks\.1\.attn\.hook_z; got none"
    with pytest.raises(HookError, match=never), hooked(model, edits):
        model(TOKENS, stop_at_layer=1)


def test_an_error_inside_is_not_hidden_by_the_hook_that_never_ran(model: Any) -> None:
    with pytest.raises(ZeroDivisionError), hooked(model, {z_name(1): torch.zeros_like}):
        1 / 0  # noqa: B018


def test_an_unknown_name_is_an_error_before_anything_runs(model: Any) -> None:
    edits = {z_name(0): torch.zeros_like, z_name(2): torch.zeros_like}
    unknown = r"got blocks\.2\.attn\.hook_z; model\.hook_dict lists them"
    with pytest.raises(HookError, match=unknown), hooked(model, edits):
        pytest.fail("entered")


@torch.no_grad()
def test_contexts_nest_and_the_inner_one_leaves_the_outer_in_place(model: Any) -> None:
    outer: list[tuple[int, ...]] = []
    inner: list[tuple[int, ...]] = []
    with hooked(model, {z_name(0): seen(outer)}):
        with hooked(model, {z_name(0): seen(inner)}):
            model(TOKENS)
        model(TOKENS)
    assert (len(outer), len(inner)) == (2, 1)


@torch.no_grad()
def test_an_inner_exception_leaves_the_outer_hooks_in_place(model: Any) -> None:
    outer: list[tuple[int, ...]] = []
    with hooked(model, {z_name(0): seen(outer)}):
        with pytest.raises(ZeroDivisionError), hooked(model, {z_name(0): torch.zeros_like}):
            1 / 0  # noqa: B018
        model(TOKENS)
    assert len(outer) == 1


def test_a_users_own_hook_stays(model: Any) -> None:
    shapes: list[tuple[int, ...]] = []
    with model.hooks(fwd_hooks=[(z_name(0), lambda z, hook: shapes.append(tuple(z.shape)))]):
        with hooked(model, {z_name(0): lambda z: None}):
            pass_once = model(TOKENS)
        model(TOKENS)
    assert (len(shapes), pass_once.ndim) == (2, 3)


def test_a_replaced_forward_function_counts_as_a_hook_and_a_compiled_one_does_not(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams would not run it: their effects would be those of another model."""
    block = model.blocks[0]
    monkeypatch.setitem(vars(block), "forward", torch.compile(block.forward))
    assert not has_hooks(model)
    monkeypatch.setitem(vars(block), "forward", lambda x, **options: type(block).forward(block, x, **options) / 2)
    assert active_edits(model) == [{"hooks": ["blocks.0"]}]
    with pytest.raises(HookError, match="no active hooks: last-token streams would not run them"):
        check_streamable(model)


def test_outside_a_call_of_the_model_no_last_token_is_known() -> None:
    with pytest.raises(HookError, match=r"call model\(\.\.\.\) inside the with block"):
        last_token(torch.zeros(1, 6, 1))


def test_told_where_the_prompts_end_the_last_tokens_are_there() -> None:
    activation = torch.arange(12.0).view(2, 6, 1)
    with last_prompt_tokens(torch.tensor([2, 4])):
        assert activation[last_token(activation)].flatten().tolist() == [2, 10]
        with last_prompt_tokens(torch.tensor([0, 0])):
            assert activation[last_token(activation)].flatten().tolist() == [0, 6]
        assert activation[last_token(activation)].flatten().tolist() == [2, 10]


def test_where_the_prompts_end_is_forgotten_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), last_prompt_tokens(torch.tensor([0])):
        1 / 0  # noqa: B018
    with pytest.raises(HookError):
        last_token(torch.zeros(1, 6, 1))
