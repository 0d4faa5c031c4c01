import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import PromptError
from ivlens.tasks import Prompt, beginning, token_text
from ivlens.vocabulary import TokenizedPrompt

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


def test_options_become_a_tuple_without_repetitions():
    prompt = Prompt("2 + 2 =", " 4", options=[" 3", " 4", " 3"])
    assert prompt.options == (" 3", " 4")
    assert hash(prompt) == hash(Prompt("2 + 2 =", " 4", options=(" 3", " 4")))
    with pytest.raises(PromptError, match="the options of a prompt to be a list of texts; got ' 3 4'"):
        Prompt("2 + 2 =", " 4", options=" 3 4")


def test_a_prompt_without_an_answer_says_how_to_give_one():
    with pytest.raises(PromptError, match=r"the prompt 'x' to have one answer or more; got none; as in Prompt\("):
        Prompt("x")


def test_token_ids_are_the_tokenizers(tokenizer, bos_tokenizer):
    assert FRANCE.token_ids(tokenizer) == tokenizer(FRANCE.text)["input_ids"]
    assert FRANCE.token_ids(bos_tokenizer) == [bos_tokenizer.bos_token_id, *FRANCE.token_ids(tokenizer)]
    assert Prompt(FRANCE.text, " Paris", special_tokens=False).token_ids(bos_tokenizer) == FRANCE.token_ids(tokenizer)


def test_answer_is_the_suffix_of_both_together(bos_tokenizer):
    encoded = FRANCE.encode(bos_tokenizer)
    assert isinstance(encoded, TokenizedPrompt)
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


def test_an_answer_that_begins_with_a_blank_token_is_whole(tokenizer, llama_like):
    for one in (tokenizer, llama_like):
        answer = Prompt("Answer:", " 7").encode(one).answer_ids
        assert [token_text(one, token) for token in answer] == [" ", "7"]
        assert beginning(one, answer) == 2
        assert len(Prompt("Answer: ", "7").encode(one).answer_ids) == 1
    assert tokenizer.decode(Prompt("a", " ").encode(tokenizer).answer_ids) == " "


@pytest.mark.parametrize(("answer", "count"), [(" Paris", 1), ("7", 1), (" 7 8", 2), (" ", 1), ("\n\n 7", None)])
def test_the_beginning_of_an_answer_ends_with_its_first_token_that_is_not_blank(tokenizer, answer, count):
    ids = Prompt("Answer:", answer).encode(tokenizer).answer_ids
    texts = [token_text(tokenizer, token) for token in ids]
    found = beginning(tokenizer, ids)
    assert count is None or found == count
    assert "".join(texts[:found]).strip()[:1] == answer.strip()[:1]
    assert not "".join(texts[: found - 1]).strip()


def test_an_answer_that_the_vocabulary_cannot_spell_is_an_error(llama_like):
    with pytest.raises(PromptError, match=r"lacks a part \(<unk>\)"):
        Prompt("Answer:", " 日本").encode(llama_like)
    assert Prompt("Answer:", " <unk>").encode(llama_like).answer_ids


TWICE = ["<s>", "<s><s>", "<s></s>"]


@pytest.mark.parametrize("special_tokens", [True, False])
def test_a_text_with_its_own_bos_gets_no_second_one(bos_tokenizer, eos_tokenizer, tokenizer, special_tokens):
    for begins in TWICE:
        prompt = Prompt(f"{begins}The capital of France is", " Paris", special_tokens)
        written = tokenizer(prompt.text)["input_ids"]
        for one in (bos_tokenizer, eos_tokenizer, tokenizer):
            assert prompt.token_ids(one) == written
            assert prompt.encode(one).prompt_ids == tuple(written)
    bare = Prompt("The capital of France is", " Paris")
    assert Prompt("<s>" + bare.text, " Paris").encode(bos_tokenizer) == bare.encode(bos_tokenizer)


def test_roles_of_a_text_with_its_own_bos(bos_tokenizer, tokenizer):
    parts = (("header", "<s>"), ("query", "The capital"), ("end", " is"))
    prompt = Prompt("<s>The capital is", " Paris", parts=parts)
    roles = prompt.token_roles(bos_tokenizer)
    assert roles == prompt.token_roles(tokenizer)
    assert len(roles) == len(prompt.token_ids(bos_tokenizer))
    assert (roles[0], roles[1], roles[-1]) == ("header", "query", "last")


def test_half_of_a_surrogate_pair_is_an_error(tokenizer):
    for text, answers in (("a\ud800", "b"), ("a", ["b", "\udfff"])):
        with pytest.raises(PromptError, match="valid unicode"):
            Prompt(text, answers)


@pytest.mark.parametrize("odd", ["\0", "\u200b", "e\u0301", "\u202eab", "👩‍👩‍👧", "\x7f", "\u2028", "x" * 100_000])
def test_odd_characters_are_text(bos_tokenizer, odd):
    encoded = Prompt(f"a{odd}:", f" {odd}b").encode(bos_tokenizer)
    assert bos_tokenizer.decode([*encoded.prompt_ids, *encoded.answer_ids]) == f"<s>a{odd}: {odd}b"


def test_errors_stay_short(tokenizer):
    long = "x" * 100_000
    for make in (
        lambda: Prompt(long, []),
        lambda: Prompt(long, "a", parts=[("role", "y")]),
        lambda: Prompt(f"{long} is ", "Paris" + long).encode(tokenizer),
        lambda: Prompt("a", [["x"] * 9999]),
    ):
        with pytest.raises(PromptError) as caught:
            make()
        assert len(str(caught.value)) < 700


def test_a_space_after_a_special_token_is_told(chat_tokenizer):
    with pytest.warns(UserWarning, match="a space stands between <\\|im_start\\|> and the answer ' Paris'"):
        Prompt("France<|im_start|>", " Paris").encode(chat_tokenizer)


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


ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), min_size=1, max_size=20)
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


@pytest.mark.parametrize("bos", ["", "<s>"])
@given(text=ANY, answer=ANY)
def test_what_is_encoded_reads_as_what_was_written(
    tokenizer, bos_tokenizer, metaspace, prefix_space, bos, text, answer
):
    """One BOS where the tokenizer adds one, and the text and the answer to the letter."""
    for one in (tokenizer, bos_tokenizer, metaspace, prefix_space):
        prompt = Prompt(bos + text, answer)
        try:
            encoded = prompt.encode(one)
        except PromptError:
            continue
        ids = [*encoded.prompt_ids, *encoded.answer_ids]
        begins = one is not tokenizer or bool(bos)
        assert ids[0] == one.bos_token_id if begins else one.bos_token_id not in ids[:1]
        written = ids[1:] if begins else ids
        assert one.bos_token_id not in written[:1]
        said = one.decode(written, clean_up_tokenization_spaces=False)
        if one in (metaspace, prefix_space):  # their decoders cannot tell the text's first space from the added one
            assert said.lstrip(" ") == (text + answer).lstrip(" ")
        else:
            assert said == text + answer
