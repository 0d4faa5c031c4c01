"""The door: what an annotation takes, what it refuses and how it says so, and that every public function has it."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction as Ratio
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

import ivlens
from ivlens import ArgumentError, Prompt
from ivlens.checks import Between, Count, Fraction, Natural, Seed, checked
from ivlens.kinds import kind_of
from ivlens.vocabulary import Head, check_heads

HINTS = {
    "count": Count, "seed": Seed, "share": Fraction, "temperature": Annotated[float, Between(1e-3)], "on": bool,
    "head": tuple[Natural, Natural], "names": Sequence[str], "layers": tuple[int, ...], "by_name": Mapping[str, float],
    "prompts": Iterable[Prompt] | Prompt, "vector": Float[Tensor, " d_model"], "where": str | Path | None,
    "kind": Literal["a", "b"], "position": str | int | Sequence[int], "say": Callable[[str], None],
    "tasks": Sequence[ivlens.Task | str], "heads": Sequence[Head],
    "keep": Sequence[ivlens.Ability | ivlens.Task], "checkpoints": Mapping[str, Any] | Sequence[Any],
    "steering": ivlens.InstructionVector | Float[Tensor, " d_model"],
}  # fmt: skip
PROMPT = Prompt("one", " two")


def taken(hint: str, value: Any) -> Any:
    """What a function with one argument of that annotation is given."""

    def takes(argument: Any) -> Any:
        return argument

    takes.__annotations__["argument"] = HINTS[hint]
    return checked(takes)(value)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        ("count", np.int64(3), 3),
        ("count", torch.tensor(3), 3),
        ("share", np.float32(0.5), 0.5),
        ("share", 1, 1.0),
        ("share", torch.tensor(0.5), 0.5),
        ("share", np.array(0.5), 0.5),
        ("head", [np.int32(1), 2], (1, 2)),
        ("head", torch.tensor([1, 2]), (1, 2)),
        ("names", ("a", "b"), ["a", "b"]),
        ("layers", range(3), (0, 1, 2)),
        ("layers", (each for each in (4, 5)), (4, 5)),
        ("prompts", PROMPT, PROMPT),
        ("prompts", iter([PROMPT]), [PROMPT]),
        ("by_name", {"a": 1}, {"a": 1.0}),
        ("where", None, None),
        ("where", Path("x"), Path("x")),
        ("where", PurePosixPath("x"), Path("x")),
        ("kind", "b", "b"),
        ("position", "last", "last"),
        ("position", (0, -1), [0, -1]),
        ("on", np.True_, True),
        ("say", print, print),
    ],
)
def test_what_an_annotation_names_is_taken_in_its_form(hint: str, value: Any, expected: Any) -> None:
    found = taken(hint, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        ("where", "a\0b", "a path or a name"),
        ("where", "", "a path or a name, or None; got ''"),
        ("where", b"x", "a path or a name"),
        ("where", "x" * 5000, "a path or a name"),
        ("where", "\ud800", "a path or a name"),
        ("count", 1.7, "argument to be a whole number of 1 or more; got 1.7"),
        ("count", 1.0, "got 1.0"),
        ("count", True, "got True"),
        ("count", Ratio(10**5000, 3), "got a Fraction"),
        ("count", torch.tensor(True), "got True"),
        ("count", torch.zeros((), device="meta"), "got a Tensor"),
        ("share", torch.tensor([0.5]), r"got a Tensor of shape \(1,\)"),
        ("count", 0, "got 0"),
        ("count", "3", "got '3'"),
        ("count", None, "got None"),
        ("share", float("nan"), "argument to be a finite number from 0 to 1; got nan"),
        ("share", 1.5, "got 1.5"),
        ("seed", 2**64, "a whole number from 0 to"),
        ("temperature", 0, r"of 0\.001 or more"),
        ("head", (0.9, 1.9), r"argument\[0\] to be a whole number of 0 or more; got 0.9"),
        ("head", (1, 2, 3), r"got \(1, 2, 3\)"),
        ("head", 3, "got 3"),
        ("names", "antonym", "argument to be a list of texts; got 'antonym'"),
        ("names", {"b", "a"}, "a list of texts"),
        ("names", ["a", None], r"argument\[1\] to be a text; got None"),
        ("prompts", ["text"], r"argument\[0\] to be a Prompt; got 'text'; task.prompts\(n\) gives"),
        ("prompts", 5, "argument to be a Prompt or a list of Prompts; got 5"),
        ("vector", torch.zeros(2, 3), r"a float tensor of shape \[d_model\]; got a Tensor of shape \(2, 3\)"),
        ("vector", torch.zeros(3, dtype=torch.int), r"a float tensor of .* got a Tensor of shape \(3,\), torch.int32"),
        ("vector", torch.zeros(3).to_sparse(), "got a Tensor of shape .* torch.sparse_coo"),
        ("vector", torch.zeros(3, device="meta"), "got a Tensor of shape .* meta"),
        ("by_name", {"a": "x"}, r"argument\['a'\] to be a finite number; got 'x'"),
        ("by_name", {3: 1}, "argument's key 3 to be a text; got 3"),
        ("where", 5, "a path or a name, or None; got 5"),
        ("kind", "c", "one of 'a', 'b'; got 'c'"),
        ("kind", ["a"], "one of"),
        ("position", [0, 1.5], r"argument\[1\] to be a whole number; got 1.5"),
        ("say", "print", "a callable"),
        ("on", 1, "True or False; got 1"),
    ],
)
def test_what_it_does_not_name_is_refused(hint: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        taken(hint, value)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Sequence[int], "a list of whole numbers"),
        (tuple[Count, ...], "a list of whole numbers of 1 or more"),
        (list[float], "a list of finite numbers"),
        (Sequence[Prompt | str], "a list of Prompts or texts"),
        (Sequence[ivlens.HeadEffects], "a list of HeadEffects"),
        (Sequence[ivlens.InstructionVector], "a list of InstructionVectors"),
        (Sequence[Literal["a", "b"]], "a list of names among 'a', 'b'"),
        (Sequence[Float[Tensor, "x y"]], "a list of float tensors of shape [x, y]"),
        (Sequence[Head], "a list of (layer, head)"),
        (Sequence[ivlens.Ability], "a list of Abilities"),
    ],
)
def test_several_of_a_kind_are_told_in_plain_words(hint: Any, words: str) -> None:
    assert kind_of(hint).words == words


TABLE = pd.DataFrame({"input": ["sit", "run"], "output": ["sat", "ran"]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ivlens.evaluate("smollm2", [PROMPT]), "a Model; got 'smollm2'; load_model('smollm2') gives one"),
        (lambda: ivlens.evaluate(None, TABLE), "model to be a Model; got None; load_model(source) gives one"),
        (lambda: taken("prompts", TABLE), "load_task(table, name=...).prompts(n) makes prompts of its rows"),
        (lambda: taken("tasks", TABLE), "load_task(table, name=...) makes one of its rows"),
        (lambda: taken("names", TABLE), "argument to be a list of texts; got a DataFrame of shape (2, 2)"),
        (lambda: taken("tasks", "antonym"), "a list of Tasks or texts; got 'antonym'; pass ['antonym']"),
        (lambda: taken("keep", "antonym"), "Abilities or Tasks; got 'antonym'; load_task('antonym') gives one"),
        (lambda: taken("keep", [Path("a.csv")]), "an Ability or a Task; got PosixPath('a.csv'); load_task('a.csv')"),
        (lambda: taken("checkpoints", "out/run"), "got 'out/run'; pass ['out/run']"),
        (lambda: taken("names", "antonym"), "got 'antonym'; pass ['antonym']"),
        (lambda: taken("heads", "20.5"), "a list of (layer, head); got '20.5'; pass [(20, 5)]"),
        (lambda: taken("heads", ["L20H5"]), "argument[0] to be (layer, head); got 'L20H5'; pass (20, 5)"),
        (lambda: taken("heads", (20, 5)), "a list of (layer, head); got (20, 5); pass [(20, 5)]"),
        (lambda: taken("heads", [20.5]), "argument[0] to be (layer, head); got 20.5; effects.top(k) gives some"),
        (lambda: taken("layers", "9"), "a list of whole numbers; got '9'; pass [9]"),
        (lambda: taken("layers", 9), "a list of whole numbers; got 9; pass [9]"),
        (lambda: taken("layers", ["9"]), "argument[0] to be a whole number; got '9'; pass 9"),
        (lambda: taken("count", "9"), "argument to be a whole number of 1 or more; got '9'; pass 9"),
        (lambda: taken("count", 9.0), "got 9.0; pass 9"),
        (lambda: taken("share", "0.5"), "got '0.5'; pass 0.5"),
        (lambda: taken("steering", "antonym"), "load_vector(file, model) reads one"),
        (lambda: taken("steering", np.zeros(3)), "torch.from_numpy(array) makes a tensor of an array"),
        (lambda: ivlens.Guidance.preset("plian"), "'preventative'; got 'plian'; did you mean 'plain'?"),
        (lambda: ivlens.load_task("antonym").prompts(2, split="tset"), "got 'tset'; did you mean 'test'?"),
    ],
)  # fmt: skip
def test_a_typical_mistake_is_answered_with_what_to_pass(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ("count", "-1"),
        ("count", "nine"),
        ("count", "nan"),
        ("count", 1.5),
        ("heads", "20"),
        ("checkpoints", {"b", "a"}),
    ],
)
def test_nothing_is_advised_that_would_be_refused_again(hint: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        taken(hint, value)
    assert "pass" not in str(caught.value)


def test_a_model_of_hugging_face_is_answered_with_load_model(tiny_hf: Callable[..., Any]) -> None:
    source = tiny_hf("llama")
    with pytest.raises(
        ArgumentError, match=r"got a LlamaForCausalLM; load_model\(model, tokenizer=tokenizer\) makes one"
    ):
        ivlens.evaluate(source, [PROMPT])


def test_a_call_that_does_not_fit_is_pythons_own_error() -> None:
    for call in (lambda: ivlens.head_overlap([(0, 1)]), lambda: ivlens.LabConfig(layer=1)):
        with pytest.raises(TypeError, match=r"'others'|'layer'"):
            call()
    with pytest.raises(TypeError, match="an unexpected keyword argument 'c'"):
        ivlens.head_overlap([(0, 1)], [(0, 1)], c=3)


def test_a_message_does_not_print_a_model() -> None:
    with pytest.raises(ArgumentError) as caught:
        ivlens.evaluate(torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(99))), [PROMPT])
    assert "model to be a Model; got a Sequential; load_model(source) gives one" in str(caught.value)
    with pytest.raises(ArgumentError) as caught:
        ivlens.head_overlap("x" * 10**6, [])
    assert len(str(caught.value)) < 300


def test_an_interrupt_leaves_the_gradient_mode_as_it_was() -> None:
    @checked
    def interrupted() -> None:
        torch.no_grad().__enter__()
        raise KeyboardInterrupt

    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            with pytest.raises(KeyboardInterrupt):
                interrupted()
            assert torch.is_grad_enabled() is mode


def test_a_generator_is_read_once_and_kept() -> None:
    assert ivlens.head_overlap((head for head in [(0, 1), (1, 2)]), iter([(1, 2)])) == 1.0


@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(-3, 5)), max_size=4))
def test_heads_are_those_of_the_model(heads: list[tuple[int, int]]) -> None:
    good = bool(heads) and all(0 <= a < 3 and 0 <= b < 2 for a, b in heads)
    try:
        check_heads((3, 2), heads)
        assert good
    except ArgumentError:
        assert not good


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every public function and configuration, and the public methods that take options."""
    for module in (ivlens, ivlens.views):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) and not issubclass(found, BaseException):
                if name.endswith(("Config", "Guidance", "LoRA", "Ability")):
                    yield name, found
                own = {each for base in found.__mro__ if base.__module__.startswith("ivlens") for each in vars(base)}
                public = {each: getattr(found, each) for each in sorted(own) if not each.startswith("_")}
                yield from (
                    (f"{name}.{each}", method) for each, method in public.items()
                    if (inspect.isfunction(method) and len(inspect.signature(method).parameters) > 1)
                    or (inspect.ismethod(method) and inspect.signature(method).parameters)
                )  # fmt: skip
            elif inspect.isfunction(found):
                yield name, found


def test_every_public_function_has_the_door() -> None:
    without = {name for name, function in public_functions() if not hasattr(function, "__checked__")}
    by_tokenizer = ("token_ids", "encode", "token_roles", "token_classes", "show")
    given_any_tokenizer = {f"Prompt.{name}" for name in by_tokenizer}
    by_the_trainer = {name for name in without if name.startswith("ForgettingCallback.on_")}
    assert without <= given_any_tokenizer | by_the_trainer | {"list_tasks"}
