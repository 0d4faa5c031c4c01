"""A made-up record of weights put back, for the tests of figures and pages."""

import torch

from ivlens.records import WeightReverts
from ivlens.records.reverting import RevertKind, RevertPart
from ivlens.vocabulary import Head

Row = tuple[RevertKind, RevertPart, tuple[int, ...], tuple[float, float], str]


def reverted(
    n_layers: int = 4, *, gap: float = 2.0, name: str = "strongest", task: str = "old task", best: int = 1
) -> WeightReverts:
    """Two bands, of which band ``best`` has the MLPs that return all; a learned task that the bands cost a tenth of."""
    half = n_layers // 2
    rows: list[Row] = [("straight", "all", (), (each, each), "") for each in (0.0, 0.5, 1.0)]
    rows.append(("by depth", "all", (), (0.0, 1.0), ""))
    bands = [(0, half - 1), (half, n_layers - 1)]
    parts: tuple[RevertPart, ...] = ("attention", "mlp", "both")
    rows += [("layers", part, band, (0.0, 0.0), "") for band in bands for part in parts]
    rows += [("rest", "rest", (), (0.0, 0.0), ""), ("heads", "heads", (), (0.0, 0.0), name)]
    returned = [1 - sum(ends) / 2 if what in ("straight", "by depth") else 0.0 for what, _, _, ends, _ in rows]
    undone = [each if each else 0.0 for each in returned]
    for number, (what, part, band, _, _) in enumerate(rows):
        if what == "layers":
            returned[number] = float(band == bands[best] and part != "attention")
            undone[number] = 0.1
    tuned, learned = -gap - torch.tensor([1.0, 1.5, 2.0]), -torch.tensor([0.5, 1.0])
    old = tuned + gap * torch.tensor(returned)[:, None]
    new = learned - 3.0 * torch.tensor(undone)[:, None]
    what, part, layers, fractions, names = (tuple(each) for each in zip(*rows, strict=True))
    return WeightReverts(
        torch.cat([old, new], 1), torch.cat([old, new], 1) > -2.2, what, part, layers, fractions, names,
        heads=tuple((Head(0, 1),) if each == "heads" else () for each in what),
        tasks=(task,) * 3 + ("new task",) * 2, roles=("old",) * 3 + ("learned",) * 2,
        provenance={"model": {"source": "smollm2", "weights_sha256": "abc"}, "settings": {"shots": 2}},
    )  # fmt: skip
