"""Sweeps of steering over layers, scales and numbers of heads, in one pass over the layers for each prompt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import Between, Count, checked
from ..errors import ArgumentError, refuse_odd
from ..models import Model, batches, fork_layer, provenance, rows_that_fit, runs_once, sweep_additions
from ..progress import ProgressBar
from ..records import SteeringSweep, check_finite
from ..scoring import (
    Candidates,
    Likelihoods,
    by_likelihood,
    candidates_of,
    check_answers,
    is_generated,
    judge,
    listed,
)
from ..tasks import Prompt
from ..vectors import InstructionVector, vector_values
from ..vocabulary import StreamSite, TokenizedPrompt, check_layers
from ._generated import judge_steered


@checked
@torch.no_grad()
def steering_sweep(
    model: Model,
    vector: InstructionVector,
    prompts: Iterable[Prompt] | Prompt,
    layers: Sequence[int],
    scales: Sequence[float],
    ks: Sequence[int] | None = None,
    *,
    site: StreamSite = "resid_pre",
    stream_budget: Annotated[int, Between(2)] | None = None,
) -> SteeringSweep:
    """How prompts are answered with the vector added at their last token, for each layer, scale and number of heads.

    The numbers are those of ``steer`` and ``evaluate`` for each combination, but a prompt's earlier tokens run only
    once for all of its options or accepted answers, and each combination from its layer on; where a model's cache does
    not allow that, each combination runs the whole prompt, with a FallbackWarning. Answers of prompts that are judged
    by generated text are generated for each combination. Choose on one set of prompts with ``.best()`` and report on
    another.

    Args:
        model: the model to steer.
        vector: an instruction vector.
        prompts: prompts to answer under steering.
        layers: layers to add the vector at.
        scales: factors of the vector.
        ks: numbers of the vector's first heads to sum (None: all of them).
        site: where in the layers, "resid_pre", their input, or "resid_post", their output.
        stream_budget: rows of residual streams that are computed at once; fewer need less memory (None: what fits).

    Returns:
        Answers for each layer, scale and number of heads.

    Raises:
        ArgumentError: no layers or scales, ones that do not exist or overflow, or more heads than the vector has.
        MismatchError: the vector does not fit the model.
        PromptError: see ``evaluate``.
        UnsupportedError, HookError: the model has a part that streams do not represent, or active hooks.

    Example:
        >>> sweep = iv.steering_sweep(model, vector, prompts, layers=[0, 1], scales=[1.0, 2.0])
        >>> sweep.correct.shape  # layer scale k prompt
        torch.Size([2, 2, 1, 4])
    """
    layers, scales, ks = _checked(model, vector, layers, scales, ks)
    vectors = [vector_values(model, vector.first(k) if vector.heads else vector) for k in ks]
    added = torch.stack([scale * values for scale in scales for values in vectors])  # scale*k d_model
    prompts = listed(prompts)
    check_finite("values of the vector times scale", added)
    check_answers(model, prompts)
    asked = candidates_of(model, map(by_likelihood, prompts))
    order = sorted(set(layers))
    by_layer = {fork_layer(layer, site): added for layer in order}
    found = steered_likelihoods(model, asked, by_layer, stream_budget)
    refuse_odd("probabilities at every layer, scale and k", [prompt.text for prompt in prompts], odd_ones(found))
    shape, back = (len(order), len(scales), len(ks)), [order.index(layer) for layer in layers]
    judged = [judge(*each).correct[1:] for each in zip(asked, found, strict=True)]  # without the clean stream
    logs = [of.log_likelihoods[1:, each.first] for each, of in zip(asked, found, strict=True)]
    correct, probabilities = (torch.stack(each, -1).view(*shape, -1)[back] for each in (judged, logs))
    if generated := [number for number, prompt in enumerate(prompts) if is_generated(prompt)]:
        these, vectors = [prompts[number] for number in generated], added.unflatten(0, shape[1:])
        correct[..., generated] = judge_steered(model, these, layers, vectors, site)
    settings = {"vector": vector.provenance.get("settings"), "heads": len(vector.heads)}
    return SteeringSweep(
        correct, probabilities.exp(), layers, scales, ks, vector.task, site, provenance=provenance(model, **settings)
    )


def odd_ones(found: Sequence[Likelihoods]) -> list[int]:
    """The numbers of prompts with likelihoods that are not-a-numbers."""
    return [number for number, each in enumerate(found) if each.log_likelihoods.isnan().any()]


def steered_likelihoods(
    model: Model,
    asked: Sequence[Candidates],
    added: Mapping[int, Float[Tensor, "added d_model"]],
    stream_budget: int | None = None,
    doing: str = "steering sweep",
) -> list[Likelihoods]:
    """The likelihoods of each prompt's candidates, [stream, candidate]: in the clean run, then with each vector.

    ``added`` has the vectors by the layer that the stream then enters, in order; ``doing`` is the progress bar's text.
    """
    streams = 1 + sum(map(len, added.values()))
    longest = max(len(each.tokens.prompt_ids) + max(each.n_tokens) for each in asked)
    budget = stream_budget or rows_that_fit(model, longest)
    most = max(1, (budget - longest) // streams)
    pieces = [(at, *piece) for at, each in enumerate(asked) for piece in each.tokens.pieces(most)]
    pairs = [TokenizedPrompt(piece.prompt_ids, piece.candidates[0]) for _, _, piece in pieces]
    size = max(1, budget // (longest + max(piece.width for _, _, piece in pieces) * streams))
    logs = [torch.zeros(streams, len(each.texts), dtype=torch.float64) for each in asked]
    greedy = [torch.zeros(each.shape, dtype=torch.bool) for each in logs]
    total = sum(len(each.texts) for each in asked)
    with ProgressBar(total=total, desc=doing, unit="answer", leave=False) as bar:
        for chosen, _ in batches(pairs, size, alike=runs_once(model)):
            results = sweep_additions(model, [pieces[each][2] for each in chosen], added)
            for (at, numbers, _), of_piece in zip((pieces[each] for each in chosen), results, strict=True):
                for number, (scores, its_greedy) in zip(numbers, of_piece, strict=True):
                    logs[at][:, number], greedy[at][:, number] = scores.double().sum(-1), its_greedy
                bar.update(len(numbers))
    return [Likelihoods(*each) for each in zip(logs, greedy, strict=True)]


def layer_grid(n_layers: int, low: int, high: int, step: int | None = None) -> tuple[int, ...]:
    """Layers at which vectors are tried by default, between two percentages of a model's depth.

    Neighbouring layers steer alike, so that a few are enough; vectors work best in the middle, where the last token's
    stream holds the query already and blocks that can act on the vector are still to come (2310.15213).

    Args:
        n_layers: layers of the model.
        low: percentage of the depth at which the first layer is.
        high: percentage of the depth at which layers end.
        step: layers from one to the next, below ``high``; None: a tenth of the depth, up to ``high`` itself.
    """
    first, end = n_layers * low // 100, n_layers * high // 100
    if step is None:
        return tuple(range(first, end + 1, (n_layers + 9) // 10))
    return tuple(range(first, max(end, first + 1), step))


class TriedOnLayers:
    """What configurations share that add vectors at several layers: ``layers``, or those of a ``grid`` of percentages.

    ``grid`` has the arguments of ``layer_grid`` but the number of layers.
    """

    layers: tuple[int, ...] | None
    grid: ClassVar[tuple[int, ...]]

    @checked
    def tried_layers(self, n_layers: Annotated[int, Between(1, 10_000)]) -> tuple[int, ...]:
        """The layers at which vectors are added to a model of ``n_layers`` layers.

        Args:
            n_layers: layers of the model.

        Returns:
            ``layers``, or where these are None the configuration's default.

        Raises:
            ArgumentError: no layer, or one that such a model does not have.

        Example:
            >>> iv.CheckpointConfig().tried_layers(30)
            (7, 10, 13, 16, 19)
        """
        layers = layer_grid(n_layers, *self.grid) if self.layers is None else self.layers
        check_layers(n_layers, layers)
        return layers

    @checked
    def check_model(self, n_layers: Count, n_heads: Count) -> None:
        """Refuse a model that this configuration does not fit, before anything is measured.

        Args:
            n_layers: layers of the model.
            n_heads: heads of each layer.

        Raises:
            ArgumentError: the model lacks layers to try, or heads to sum.

        Example:
            >>> iv.CheckpointConfig(k=20).check_model(n_layers=12, n_heads=12)
        """
        self.tried_layers(n_layers)
        self._check_heads(n_layers * n_heads)

    def _check_heads(self, count: int) -> None:
        """Raise ArgumentError where the configuration needs more heads than a model's ``count``."""
        raise NotImplementedError


def _checked(
    model: Model,
    vector: InstructionVector,
    layers: Sequence[int],
    scales: Sequence[float],
    ks: Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...]]:
    if not layers or not scales or ks == []:
        raise ArgumentError("at least one layer, scale and number of heads", f"{layers}, {scales}, {ks}")
    check_layers(model.cfg.n_layers, layers)
    if ks is not None and not vector.heads:
        raise ArgumentError("ks only for a vector that comes from heads", f"{vector.task!r}, which has none")
    ks = tuple(ks) if ks is not None else (len(vector.heads),)
    return tuple(layers), tuple(scales), ks
