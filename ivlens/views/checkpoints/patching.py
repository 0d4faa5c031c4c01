"""What carries a loss: maps of activations exchanged between a base and a tuned model."""

from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ...checks import Natural, checked
from ...errors import one_of
from ...records import CheckpointPatching
from ...records.patching import OF_HEADS
from ...text import plural
from ...vocabulary import PARTS, Direction, Head, PatchRole
from ..documents import Body
from ..markup import prose
from ..tables import frame_table
from .layers import LayerMap, layer_maps
from .words import interval_text

NAMES = {
    "head": "head's output", "z": "head's z alone", "attention": "attention", "mlp": "MLP", "residual": "stream",
}  # fmt: skip
OF_LAYERS = tuple(part for part in PARTS if part not in OF_HEADS)
DONE = {"restores": "restored", "breaks": "broken"}
DIRECTIONS_ARE = {
    "restores": "the base's activation put into the tuned model",
    "breaks": "the tuned model's activation put into the base",
}
ROLES_ARE = {
    "forgotten": "forgotten", "kept": "of a kept task", "learned": "of the new task",
    "other prompt": "forgotten, with the activation on another one",
}  # fmt: skip


@checked
def patching_maps(
    patching: CheckpointPatching, *, direction: Direction = "restores", role: PatchRole = "forgotten", k: Natural = 5,
    title: str | None = None,
) -> go.Figure:  # fmt: skip
    """What each part does in the other model: heads by output and by z alone, then attention, MLP and incoming stream.

    Shares of the gap, red where the part moves the patched model towards the other one; where the gap is too small for
    shares, the change of log P(answer) in nats.

    Args:
        patching: the record of ``patch_checkpoints``.
        direction: "restores", the base's activations in the tuned model, or "breaks", the reverse.
        role: of the prompts.
        k: how many of the strongest heads to outline on each map.
        title: plain text.

    Returns:
        A plotly figure; nothing is shown.

    Raises:
        ArgumentError: a role of which the record has no prompts.

    Example:
        >>> figure = iv.views.patching_maps(patching, direction="breaks")
        >>> [trace.z.shape[1] for trace in figure.data if trace.type == "heatmap"]  # heads, heads, three parts
        [4, 4, 3]
    """
    one_of("role", role, tuple(dict.fromkeys(patching.roles)))
    heading = f"{patching.task or 'Patching'}: what is {DONE[direction]}" if title is None else title
    outlined = f"\noutlined: the {k} strongest heads" if k and role == "forgotten" else ""
    gap, n = patching.gap_of(role), patching.roles.count(role)
    facts = (
        f"{DIRECTIONS_ARE[direction]} at the last prompt token; {plural(n, 'prompt')}, {ROLES_ARE[role]}\n"
        f"gap in log P(answer), base minus tuned: {interval_text(*gap)} nats{outlined}"
    )
    return layer_maps(patching_layer_maps(patching, direction, role, k), heading, facts)


def patching_layer_maps(
    patching: CheckpointPatching, direction: Direction, role: PatchRole = "forgotten", k: int = 5
) -> list[LayerMap]:
    """The maps of one direction: both of heads on one colour scale, and one of layers, to be put beside others."""
    frame = patching.to_frame()
    frame = frame[(frame["direction"] == direction) & (frame["role"] == role)]
    shown, unit = ("share", "share of the gap") if frame["share"].notna().all() else ("nats", "nats")
    of_heads = frame[frame["part"].isin(OF_HEADS)]
    largest = [float(part[shown].abs().max()) or 1.0 for part in (of_heads, frame.drop(of_heads.index))]
    n_heads, n_layers = patching.head.shape[3], patching.head.shape[2]
    maps = []
    for part in OF_HEADS:
        own = of_heads[of_heads["part"] == part]
        values = own[shown].to_numpy().reshape(n_layers, n_heads)
        hover = np.array(_hover(own, direction), object).reshape(n_layers, n_heads)
        strongest = patching.top(min(k, values.size), part, direction) if k and role == "forgotten" else []
        heads = tuple(cast("list[Head]", strongest))
        maps.append(LayerMap(NAMES[part], values, hover, (), unit, largest[0], heads))
    columns = [frame[frame["part"] == part] for part in OF_LAYERS]
    values = np.stack([own[shown].to_numpy() for own in columns], 1)
    hover = np.array([_hover(own, direction) for own in columns], object).T
    return [*maps, LayerMap("layers", values, hover, tuple(NAMES[part] for part in OF_LAYERS), unit, largest[1])]


def patching_parts(patching: CheckpointPatching) -> list[Body]:
    """What a report shows: counts and gap, the maps of both directions, and the strongest parts beside the controls."""
    table = patching.beside_controls()
    ends = table.pop("restored_low"), table.pop("restored_high")
    table["restored"] = [interval_text(*each) for each in zip(table["restored"], *ends, strict=True)]
    table["head"] = table["head"].map(str, na_action="ignore").astype(object).fillna("")
    in_nats = {f"{name}_nats": f"{name} (nats)" for name in ("restored", "kept", "learned")}
    caption = "The strongest of each part, chosen on half of the forgotten prompts and reported on the others"
    return [
        prose(_found(patching)), partial(patching_maps, patching), partial(patching_maps, patching, direction="breaks"),
        frame_table(table.rename(columns=in_nats | {"other_prompt": "other prompt"}), caption), prose(READING),
    ]  # fmt: skip


READING = """
A head whose output restores and whose z alone restores as well reads or computes otherwise than in the base; one whose
output alone restores writes otherwise. Shares do not add up to 1: parts act one after another. What carries a loss need
not be where the weights were changed.
"""


def _found(patching: CheckpointPatching) -> str:
    """Counts of prompts and the gap, in a sentence or two."""
    counts = patching.counts
    given = counts.get("given", patching.n)
    return (
        f"The base answers {counts.get('answered by the base', 0)} of {plural(given, 'prompt')}, the tuned model "
        f"{counts.get('answered by the tuned model', 0)}; {counts.get('forgotten', 0)} were forgotten. On the "
        f"{plural(patching.n, 'prompt')} that were patched log P(answer) fell by {interval_text(*patching.gap)} nats."
    )


def _hover(frame: pd.DataFrame, direction: str) -> list[str]:
    """What is said of each head or layer."""
    said = []
    for row in frame.to_dict("records"):
        head = f".{row['head']}" if row["part"] in OF_HEADS else ""
        said.append(
            f"<b>{NAMES[row['part']]} {row['layer']}{head}</b><br>"
            f"{DONE[direction]} {interval_text(row['share'], row['share_low'], row['share_high'])} of the gap<br>"
            f"{interval_text(row['nats'], row['nats_low'], row['nats_high'])} nats<br>n = {row['n']}"
        )
    return said
