"""``generate``: the answers are those of ``generate_answers`` without and under ``steer``, shown beside each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ivlens as iv
from ivlens import ArgumentError, Prompt, PromptError

TEXTS = ["the quick brown", "the capital of"]


@pytest.fixture(scope="module")
def model(tiny_hooked: Callable[..., Any]) -> Any:
    return tiny_hooked("llama")


@pytest.fixture(scope="module")
def vector(model: Any) -> torch.Tensor:
    return torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))


def test_answers_are_those_without_and_under_steer(model: Any, vector: torch.Tensor) -> None:
    scales, prompts = [0.0, 40.0], [Prompt(text, "-") for text in TEXTS]
    found = iv.generate(model, TEXTS, vector=vector, layer=1, scale=scales, max_tokens=4, stop=())
    plain = iv.generate_answers(model, prompts, max_tokens=4, stop=())
    with iv.steer(model, vector, layer=1, scale=40.0):
        steered = iv.generate_answers(model, prompts, max_tokens=4, stop=())
    assert plain != steered
    assert (found.prompts, found.without, found.steered) == (tuple(TEXTS), plain, (plain, steered))
    frame = found.to_frame()
    assert frame["scale"].tolist() == scales * 2
    assert frame["with"].tolist() == [plain[0], steered[0], plain[1], steered[1]]
    assert not iv.models.active_edits(model)


def test_a_text_a_prompt_and_lists_of_both_are_asked_alike(model: Any, vector: torch.Tensor) -> None:
    options = {"vector": vector, "layer": 1, "scale": 4, "max_tokens": 2}
    given = [TEXTS[0], Prompt(TEXTS[0], " fox"), [TEXTS[0]], (Prompt(TEXTS[0], " fox"),)]
    found = [iv.generate(model, each, **options) for each in given]
    assert len({(each.without, each.steered) for each in found}) == 1


def test_it_is_shown_as_a_table_with_its_layer_scale_and_task() -> None:
    answers = iv.SteeredAnswers(
        ("Input: sit\nOutput:",), (" <b>sit",), ((" sat",), (" sat\n",)), 12, (2.0, 4.0), "past"
    )
    assert str(answers).splitlines() == [
        "vector of past at layer 12",
        "prompt               without vector  scale 2  scale 4",
        "Input: sit\\nOutput:   <b>sit          sat      sat\\n",
    ]
    html = answers._repr_html_()
    assert "vector of past at layer 12" in html
    assert "&lt;b&gt;sit" in html
    assert html.count("<tr>") == 2


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        (TEXTS, {"scale": []}, ArgumentError, "the number of scales"),
        ([], {}, PromptError, "at least one prompt"),
        (TEXTS, {"layer": "1"}, ArgumentError, "layer to be a whole number; got '1'; pass 1"),
        (TEXTS, {"layer": 9}, ArgumentError, "layer to be from 0 to 1"),
        (TEXTS, {"vector": "past"}, ArgumentError, "load_vector"),
    ],
)  # fmt: skip
def test_what_cannot_be_steered_is_refused(
    model: Any, vector: torch.Tensor, prompts: Any, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        iv.generate(model, prompts, **{"vector": vector, "layer": 1, "max_tokens": 1} | options)
