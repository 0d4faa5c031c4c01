"""What tokens are, by how the prompt was composed: parts, roles, and positions by name."""

import pickle
from typing import Any

import pytest

from ivlens.errors import PromptError
from ivlens.tasks import Prompt, Task, positions_by_name

TASK = Task(
    "past",
    [("go", "went"), ("dream", "dreamed"), ("sing", "sang"), ("walk", "walked"), ("talk", "talked"), ("be", "was")],
    instructions=("Write the past tense.",),
    labels=("Verb", "Past tense"),
)


class Slow:
    """A tokenizer that does not know where in the text its tokens are."""

    all_special_ids = ()

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1, 2]}


def texts(tokenizer: Any, prompt: Prompt) -> dict[str | None, str]:
    """The text of all tokens of each role."""
    found: dict[str | None, str] = {}
    for token, role in zip(prompt.token_ids(tokenizer), prompt.token_roles(tokenizer), strict=True):
        found[role] = found.get(role, "") + tokenizer.decode([token])
    return found


@pytest.mark.parametrize("template", [None, "<s> $A", "<s> $A </s>"])
def test_tokens_have_the_roles_of_the_parts_that_they_are_of(tiny_tokenizer: Any, template: str | None) -> None:
    tokenizer = tiny_tokenizer(template) if template else tiny_tokenizer()
    prompt = TASK.prompts(1, shots=2, seed=1)[0]
    found = texts(tokenizer, prompt)
    one, two = _shots(prompt)
    assert found["instruction"] == "Write the past tense."
    assert found["demonstration input"].split() == [one[0], two[0]]
    assert found["demonstration output"].split() == [one[1], two[1]]
    assert found["query input"] == f" {prompt.input}"
    assert found["query input name"] == "Verb:"
    assert found["query output name"] == "\nPast tense"
    assert found["last"] == ":"
    assert found["separator"] == "\n\n" * 3
    assert (None in found) == (template is not None)


def test_roles_hold_where_tokenizers_put_a_space_or_bytes(metaspace: Any, prefix_space: Any) -> None:
    task = Task("past", [("wálk  日", "walked"), ("été", "was"), ("a\u200bb", "x"), ("👩‍👧", "y"), ("e\u0301", "z")])
    for tokenizer in (metaspace, prefix_space):
        for prompt in task.prompts(shots=1, instruction=False):
            ids, roles = prompt.token_ids(tokenizer), prompt.token_roles(tokenizer)
            asked = [token for token, role in zip(ids, roles, strict=True) if role == "query input"]
            assert tokenizer.decode(asked).strip() == prompt.input
            assert (roles[0], roles[-1]) == (None, "last")
            assert roles.count(None) == 1


def _shots(prompt: Prompt) -> list[tuple[str, str]]:
    blocks = [block.split("\n") for block in prompt.text.split("\n\n")[1:-1]]
    return [(asked.removeprefix("Verb: "), answered.removeprefix("Past tense: ")) for asked, answered in blocks]


@pytest.mark.parametrize("format", ["labelled", "plain", "qa"])
@pytest.mark.parametrize("corruption", [None, "no-instruction", "other-instruction", "shuffled-labels"])
def test_parts_make_up_the_text_in_every_format_and_corruption(format: str, corruption: str | None) -> None:
    for prompt in TASK.prompts(3, format=format, corruption=corruption):
        assert "".join(text for _, text in prompt.parts) == prompt.text
        assert type(prompt.text) is str
        assert ("instruction" in dict(prompt.parts)) == (corruption in (None, "other-instruction"))
        assert dict(prompt.parts)["query input"] == f" {prompt.input}"
        assert pickle.loads(pickle.dumps(prompt)) == prompt


def test_a_token_that_straddles_parts_belongs_to_the_one_in_which_it_ends(tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    (token,) = tokenizer(" the")["input_ids"]
    prompt = Prompt("fox the", " lazy", parts=[("animal", "fox t"), ("article", "he")])
    ids = prompt.token_ids(tokenizer)
    assert ids[-1] == token
    assert prompt.token_roles(tokenizer) == (*["animal"] * (len(ids) - 1), "last")
    longer = Prompt(
        "fox the dog", " lazy", parts=(("animal", "fox t"), ("article", "he"), ("", ""), ("object", " dog"))
    )
    roles = dict(zip(longer.token_ids(tokenizer), longer.token_roles(tokenizer), strict=True))
    assert roles[token] == "article"


def test_prompts_without_parts_and_slow_tokenizers_are_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(PromptError, match=r"a prompt that knows its parts.*got 'the fox' without; pass parts="):
        Prompt("the fox", " is").token_roles(tiny_tokenizer())
    with pytest.raises(PromptError, match="a fast tokenizer"):
        TASK.prompts(1)[0].token_roles(Slow())


@pytest.mark.parametrize("parts", ["text", [("role",)], [("role", 1)], 5, [("role", "the fo")]])
def test_parts_that_do_not_make_up_the_text_are_refused(parts: Any) -> None:
    with pytest.raises(PromptError, match="the parts of a prompt to"):
        Prompt("the fox", " is", parts=parts)


def test_positions_are_gathered_by_role_or_counted_from_the_end(tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer("<s> $A")
    made = Prompt("the fox:", " is", parts=(("article", "the"), ("animal", " fox"), ("colon", ":")))
    (by_role,) = positions_by_name(tokenizer, [made], "role")
    count = len(made.token_ids(tokenizer))
    assert by_role["article"][0] == 1
    assert by_role["last"] == (count - 1,)
    assert "colon" not in by_role
    assert sorted(at for positions in by_role.values() for at in positions) == list(range(1, count))
    found = positions_by_name(tokenizer, [Prompt("the fox", "a"), Prompt("the dog", "a")], "position")
    assert found[0] == found[1]
    assert found[0]["-1"] == (len(found[0]) - 1,)
    with pytest.raises(PromptError, match=r"prompts of one length.*by='role'"):
        positions_by_name(tokenizer, [Prompt("the fox", "a"), Prompt("the lazy dog", "a")], "position")
