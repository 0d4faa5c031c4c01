"""Patching between checkpoints as figures and tables see it: made up, with a head and an MLP that restore most."""

import torch

from ivlens.records import CheckpointPatching

HEAD, MLP = (1, 2), 2  # the head and the layer's MLP that restore, and break, most


def patched(n_layers=4, n_heads=3, n=6, gap=4.0, task="country-capital", roles=("kept", "learned", "other prompt")):
    """Forgotten prompts with a gap of so many nats, and as many prompts of each of the other ``roles``."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.02 * gap * torch.randn(shape, generator=generator, dtype=torch.float64)

    own = ("forgotten", *roles)
    count, rows = n * len(own), tuple(role for role in own for _ in range(n))
    head, attention, mlp, residual = draw(2, count, n_layers, n_heads), *(draw(2, count, n_layers) for _ in range(3))
    for direction, sign in enumerate((1, -1)):
        head[direction, :n, HEAD[0], HEAD[1]] += 0.3 * sign * gap
        mlp[direction, :n, MLP] += 0.5 * sign * gap
        residual[direction, :n] += sign * torch.linspace(0, gap, n_layers, dtype=torch.float64)
    base = draw(count) - 1
    lost = torch.tensor([gap if role in ("forgotten", "other prompt") else -gap * (role == "learned") for role in rows])
    counts = {"given": 2 * n, "answered by the base": n + 2, "answered by the tuned model": 2, "forgotten": n}
    return CheckpointPatching(
        head, head / 2, attention, mlp, residual, base, base - lost,
        torch.ones(count) > 0, torch.tensor([role in ("kept", "learned") for role in rows]), rows,
        tuple(f"prompt {number}" for number in range(count)), (" an answer",) * count, counts | {"patched": n}, task,
        provenance={"model": {"source": "smollm2", "weights_sha256": "abc"}, "settings": {"shots": 2}},
    )  # fmt: skip
