"""How rows that share the beginning of a prompt lie in a model: side by side in one sequence, or as a batch.

In one sequence every row's tokens have the positions that the clean row's have, and attend to the prompt's keys and to
their own row: the prompt's keys and values are read once for all rows. Attention must take a mask of [query, key] for
that, and nothing else may mix tokens. In a batch each row is a prompt of its own, to which the cache gives the prompt's
keys and values: more memory, and any model that has such a cache. Which of them is right for a model is tried once
(``trial``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Options = dict[str, Any]


@dataclass(frozen=True)
class Arrangement:
    """One of the two ways: ``of`` takes the rows out of an activation, ``whole`` puts them back.

    ``fit`` makes what goes along fit the rows: it gets what the model hands to a layer beside the stream, which is made
    for the clean row, what the layer has cached, and the rows.
    """

    name: str
    of: Callable[[Float[Tensor, "batch pos ..."], int], Float[Tensor, "row width ..."]]
    whole: Callable[[Float[Tensor, "row width ..."]], Float[Tensor, "batch pos ..."]]
    fit: Callable[[Any, Any, Float[Tensor, "row width d"]], Any]


def _of_sequence(activation: Float[Tensor, "1 pos ..."], width: int) -> Float[Tensor, "row width ..."]:
    return activation[0].unflatten(0, (-1, width))


def _to_sequence(rows: Float[Tensor, "row width ..."]) -> Float[Tensor, "1 pos ..."]:
    return rows.flatten(0, 1)[None]


def _fit_sequence(along: Any, cached: Any, rows: Float[Tensor, "row width d"]) -> Any:
    """Positions once for each row, and a mask under which a row attends to the prompt and to itself."""
    count, width, _ = rows.shape
    if isinstance(along, dict):
        fitted = {name: _fit_sequence(value, cached, rows) for name, value in along.items()}
        if "attention_mask" in along and along["attention_mask"] is None:
            fitted["attention_mask"] = _rows_apart(_causal(cached, rows), count, width)
        return fitted
    if isinstance(along, tuple):
        return tuple(_fit_sequence(each, cached, rows) for each in along)
    if not isinstance(along, Tensor):
        return along
    if along.ndim == 4:
        return _rows_apart(along, count, width)
    if along.ndim == 1 and len(along) == width:
        return along.repeat(count)
    if along.ndim in (2, 3) and along.shape[:2] == (1, width):
        return along.repeat(1, count, *[1] * (along.ndim - 2))
    return along


def _causal(cached: Any, rows: Float[Tensor, "row width d"]) -> Float[Tensor, "1 1 width key"]:
    """The mask of a row alone: it sees the prompt, and of itself what comes no later."""
    keys = getattr(cached, "keys", None)
    before, width = 0 if keys is None else keys.shape[-2], rows.shape[1]
    later = rows.new_full((width, width), torch.finfo(rows.dtype).min).triu(1)
    return torch.cat([rows.new_zeros(width, before), later], 1)[None, None]


def _rows_apart(mask: Tensor, rows: int, width: int) -> Tensor:
    """The mask of one row, [1, head, width, key], for rows that do not see each other."""
    before = mask.shape[-1] - width
    blocked: Any = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    apart = mask.new_full((*mask.shape[:2], rows * width, before + rows * width), blocked)
    apart[..., :before] = mask[..., :before].repeat(1, 1, rows, 1)
    own = apart[..., before:].unflatten(-1, (rows, width)).unflatten(-3, (rows, width))
    every = torch.arange(rows, device=mask.device)
    own[:, :, every, :, every] = mask[..., before:]
    return apart


def _of_batch(activation: Float[Tensor, "row width ..."], width: int) -> Float[Tensor, "row width ..."]:
    return activation


def _to_batch(rows: Float[Tensor, "row width ..."]) -> Float[Tensor, "row width ..."]:
    return rows


def _fit_batch(along: Any, cached: Any, rows: Float[Tensor, "row width d"]) -> Any:
    """What goes along is the same for all rows, and so is what is cached: keys and values uncopied, states copied."""
    for name, value in vars(cached).items() if cached is not None else ():
        if isinstance(value, Tensor) and value.ndim and len(value) == 1:
            shared = value.expand(len(rows), *value.shape[1:])
            setattr(cached, name, shared if name in ("keys", "values") else shared.clone())
    return along


IN_SEQUENCE = Arrangement("one sequence", _of_sequence, _to_sequence, _fit_sequence)
IN_BATCH = Arrangement("a batch", _of_batch, _to_batch, _fit_batch)


class SweepTrial(NamedTuple):
    """How the rows of a sweep lie on a model, or where in no way rightly, what goes wrong."""

    arrangement: Arrangement | None
    trouble: str | None
