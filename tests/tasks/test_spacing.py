"""Answers without the space that their text needs are warned of, once a call; legitimate ones are not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest

import ivlens as iv
from ivlens import Prompt
from ivlens.tasks.spacing import lacks_space


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Callable[..., Any]) -> Any:
    return tiny_tokenizer()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is", "Paris"), ("Input: sit\nOutput:", "sat"), ("1 + 1 =", "2"), ("Q: why?", "Because"),
        ("cat ->", "chat"), ("(a) yes (b) no\nAnswer:", "a"), ("Столица:", "Париж"), ("수도는", "서울"),
    ],
)  # fmt: skip
def test_a_word_right_after_a_word_or_a_colon_lacks_its_space(tokenizer: Any, text: str, answer: str) -> None:
    assert lacks_space(tokenizer, Prompt(text, answer))
    assert not lacks_space(tokenizer, Prompt(text, f" {answer}"))
    assert not lacks_space(tokenizer, Prompt(text, [answer, f" {answer}"]))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Input: sit\nOutput:\n", "sat"), ("Output: ", "sat"), ("法国的首都是", "巴黎"), ("首都：", "巴黎"),
        ("日本の首都は", "東京"), ("ประเทศไทย", "กรุงเทพ"), ("The answer is (", "B"), ('She said "', "yes"),
        ("3.", "14"), ("12", "5"), ("at 12:", "30"), ("numpy.", "array"), ("x=", "5"), ('{"a":', "1"),
        ("France is", ", I think, Paris"), ("a/", "b"), ("[INST] hi [/INST]", "yes"),
        ("答案:", "A"), ("日本の首都は?", "Tokyo"), ("ﾊﾝｶｸ", "ｶﾅ"), ("std::", "vector"),
    ],
)  # fmt: skip
def test_legitimate_prompts_do_not(tokenizer: Any, text: str, answer: str) -> None:
    assert not lacks_space(tokenizer, Prompt(text, answer))


def test_chat_templates_and_special_tokens_do_not(tokenizer: Any) -> None:
    assert not lacks_space(tokenizer, Prompt("user: hi assistant:", "yes", special_tokens=False))
    assert not lacks_space(tokenizer, Prompt(f"hi{tokenizer.eos_token}", "yes"))


def test_a_tokenizer_that_drops_spaces_does_not(tokenizer: Any) -> None:
    class Dropping:
        all_special_ids: tuple[int, ...] = ()

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text if letter != " "]}

    assert not lacks_space(Dropping(), Prompt("France is", "Paris"))


def test_evaluate_warns_once_with_the_right_spelling(tiny_hooked: Callable[..., Any]) -> None:
    model = tiny_hooked("llama")
    prompts = [Prompt("the quick brown:", "fox"), Prompt("the capital of:", "fox"), Prompt("the quick", " fox")]
    with pytest.warns(UserWarning, match="2 of 3 prompts .* should be written ' fox'") as caught:
        iv.evaluate(model, prompts)
    assert len([each for each in caught if "written" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iv.evaluate(model, prompts[2])


def test_one_prompt_has_no_standard_error(tiny_hooked: Callable[..., Any]) -> None:
    answers = iv.evaluate(tiny_hooked("llama"), Prompt("the quick", " fox"))
    assert "nan" not in str(answers)
    assert str(answers).endswith("n = 1")
    assert "±" not in str(answers)
