"""``generate``: what a vector does to a model's answers, seen on a prompt of one's own in one call."""

from collections.abc import Iterable, Sequence

from ..checks import Count, checked
from ..errors import at_least
from ..models import Model, provenance
from ..records import SteeredAnswers
from ..scoring import generate_answers
from ..tasks import Prompt
from ..vectors import InstructionVector
from ..vocabulary import Site
from ._steer import Tokens, Vector, steer

NO_ANSWER = ("-",)  # of a prompt that is a text alone


@checked
def generate(
    model: Model,
    prompts: Prompt | str | Iterable[Prompt | str],
    *,
    vector: Vector,
    layer: int,
    scale: float | Sequence[float] = 1.0,
    position: Tokens = "last",
    site: Site = "resid_pre",
    max_tokens: Count = 16,
    stop: str | Sequence[str] = ("\n",),
    batch_size: Count = 32,
) -> SteeredAnswers:
    """Let a model answer prompts without and with a vector, side by side: greedy decoding under ``steer``.

    Args:
        model: the model that answers.
        prompts: one text or several, or prompts.
        vector: an instruction vector, or values of your own, [d_model].
        layer: the block at which the vector is added.
        scale: factor of the vector, or several to compare.
        position: the tokens that are steered, see ``steer``.
        site: where in the block, see ``steer``.
        max_tokens: generated tokens, at most.
        stop: texts that end an answer and are not part of it.
        batch_size: prompts that run together.

    Returns:
        The answers, a small table in a notebook and in print.

    Raises:
        ArgumentError: no scale, or what ``steer`` refuses.
        MismatchError: a vector that does not fit the model.
        PromptError: no prompts, or what ``generate_answers`` refuses.

    Example:
        >>> answers = iv.generate(model, "the quick", vector=vector, layer=1, scale=[2.0, 4.0], max_tokens=3)
        >>> list(answers.to_frame().columns), len(answers.to_frame())
        (['prompt', 'scale', 'without', 'with'], 2)
    """
    scales = tuple(scale) if isinstance(scale, Sequence) else (scale,)
    at_least("the number of scales", len(scales), 1)
    given = [prompts] if isinstance(prompts, (str, Prompt)) else prompts
    asked = [Prompt(each, NO_ANSWER) if isinstance(each, str) else each for each in given]

    def answers() -> tuple[str, ...]:
        return generate_answers(model, asked, max_tokens=max_tokens, stop=stop, batch_size=batch_size)

    plain, steered = answers(), []
    for each in scales:
        with steer(model, vector, layer, each, position, site):
            steered.append(answers())
    task = vector.task if isinstance(vector, InstructionVector) else ""
    settings = {"position": position, "max_tokens": max_tokens, "stop": stop, "prompts": len(asked)}
    return SteeredAnswers(
        tuple(prompt.text for prompt in asked), plain, tuple(steered), layer, scales, task, site,
        provenance=provenance(model, **settings),
    )  # fmt: skip
