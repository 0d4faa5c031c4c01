import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import PromptError
from ivlens.tasks import Encoded, Prompt

FRANCE = Prompt("The capital of France is", " Paris")


@pytest.mark.parametrize("answers", [" Paris", [" Paris"], (" Paris",), [" Paris", " Paris"]])
def test_answers_become_a_tuple(answers):
    assert Prompt("The capital of France is", answers).answers == (" Paris",)


@pytest.mark.parametrize(
    ("text", "answers", "said"),
    [
        ("", "x", "text of a prompt"),
        (None, "x", "text of a prompt"),
        ("x", [], "one answer or more"),
        ("x", None, "one answer or more"),
        ("x", "", "every answer"),
        ("x", ["a", ""], "every answer"),
        ("x", ["a", 3], "every answer"),
    ],
)
def test_what_is_not_a_prompt(text, answers, said):
    with pytest.raises(PromptError, match=said):
        Prompt(text, answers)


def test_token_ids_are_the_tokenizers(tokenizer, bos_tokenizer):
    assert FRANCE.token_ids(tokenizer) == tokenizer(FRANCE.text)["input_ids"]
    assert FRANCE.token_ids(bos_tokenizer) == [bos_tokenizer.bos_token_id, *FRANCE.token_ids(tokenizer)]
    assert Prompt(FRANCE.text, " Paris", special_tokens=False).token_ids(bos_tokenizer) == FRANCE.token_ids(tokenizer)


def test_answer_is_the_suffix_of_both_together(bos_tokenizer):
    encoded = FRANCE.encode(bos_tokenizer)
    assert isinstance(encoded, Encoded)
    assert list(encoded.prompt_ids) == FRANCE.token_ids(bos_tokenizer)
    assert bos_tokenizer.decode(encoded.answer_ids) == " Paris"
    assert bos_tokenizer.decode(FRANCE.encode(bos_tokenizer, " Lima").answer_ids) == " Lima"


def test_appended_end_of_text_is_no_part_of_prompt_or_answer(bos_tokenizer, eos_tokenizer):
    assert eos_tokenizer("a")["input_ids"][-1] == eos_tokenizer.eos_token_id
    assert FRANCE.token_ids(eos_tokenizer) == FRANCE.token_ids(bos_tokenizer)
    assert FRANCE.encode(eos_tokenizer) == FRANCE.encode(bos_tokenizer)


def test_special_token_written_in_the_text_stays(eos_tokenizer):
    prompt = Prompt("The capital</s>", " Paris</s>")
    encoded = prompt.encode(eos_tokenizer)
    assert encoded.prompt_ids[-1] == encoded.answer_ids[-1] == eos_tokenizer.eos_token_id
    assert prompt.token_ids(eos_tokenizer).count(eos_tokenizer.eos_token_id) == 1
    assert len(Prompt("The</s></s>", " Paris").encode(eos_tokenizer).prompt_ids) == 4


def test_shared_token_at_the_seam_is_an_error_that_shows_it(tokenizer):
    with pytest.raises(PromptError, match="move a space") as caught:
        Prompt("The capital of France is ", "Paris").encode(tokenizer)
    assert "[' is', ' '] alone but reads [' is', ' Paris']" in str(caught.value)


def test_blank_first_token_is_an_error(tokenizer, llama_like):
    for one in (tokenizer, llama_like):
        with pytest.raises(PromptError, match="a blank token") as caught:
            Prompt("Answer:", " 7").encode(one)
        assert "end the prompt's text with it" in str(caught.value)
        assert len(Prompt("Answer: ", "7").encode(one).answer_ids) == 1
    assert tokenizer.decode(Prompt("a", " ").encode(tokenizer).answer_ids) == " "


def test_answers_and_prompts_without_tokens():
    class Deaf:
        all_special_ids = ()

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [7] * (text.count("a"))}

    with pytest.raises(PromptError, match="the prompt to have tokens"):
        Prompt("b", "a").encode(Deaf())
    with pytest.raises(PromptError, match="the answer to add tokens"):
        Prompt("a", "b").encode(Deaf())


def test_show_marks_the_last_prompt_token_and_the_answer(bos_tokenizer, llama_like):
    lines = FRANCE.show(bos_tokenizer).splitlines()
    encoded = FRANCE.encode(bos_tokenizer)
    assert len(lines) == len(encoded.prompt_ids) + len(encoded.answer_ids)
    assert [int(line.split()[1]) for line in lines] == [*encoded.prompt_ids, *encoded.answer_ids]
    assert "'<s>'" in lines[0]
    marked = [line for line in lines if line.endswith("<- last prompt token")]
    assert marked == [lines[len(encoded.prompt_ids) - 1]]
    assert "' is'" in marked[0]
    assert [line for line in lines if line.endswith("<- answer")] == lines[len(encoded.prompt_ids) :]
    assert "' Paris'" in FRANCE.show(llama_like)


def test_show_spells_parts_of_characters(tokenizer):
    shown = Prompt("π is", " Paris").show(tokenizer)
    assert "\ufffd" not in shown
    assert "'Ï'" in shown


ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
WORDS = ANY | st.sampled_from(["a", " Paris", "\n"])


@given(text=WORDS, answer=WORDS)
def test_encoded_is_the_joined_text_or_a_prompt_error(eos_tokenizer, bos_tokenizer, text, answer):
    prompt = Prompt(text, answer)
    for one in (eos_tokenizer, bos_tokenizer):
        try:
            encoded = prompt.encode(one)
        except PromptError:
            continue
        joined = bos_tokenizer(text + answer)["input_ids"]
        assert [*encoded.prompt_ids, *encoded.answer_ids] == joined
        assert list(encoded.prompt_ids) == prompt.token_ids(one) == bos_tokenizer(text)["input_ids"]
