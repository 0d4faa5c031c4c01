"""Records of further evidence on what a checkpoint forgot: its replies, its distance in outputs, and in weights."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from .store import Record


@dataclass(frozen=True, eq=False)
class Replies(Record):
    """What one checkpoint replies to prompts, greedily.

    Args:
        texts: a reply per prompt, up to its first line break or end-of-text token, without surrounding whitespace.
    """

    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class OutputDivergence(Record):
    """KL(base || checkpoint) in nats: how far a checkpoint's next-token distributions are from its base's.

    Args:
        values: [position], at the positions from which tokens are predicted.
    """

    values: Float[Tensor, " position"]


@dataclass(frozen=True, eq=False)
class WeightSpectrum(Record):
    """The change D of each matrix of the blocks from the base's.

    Args:
        change: [matrix], the Frobenius norm of D, relative to that of the base's matrix.
        stable_rank: [matrix], |D|_F^2 / |D|_2^2, from 1 to the rank; not a number for a matrix that did not change.
        rank90: [matrix], how many singular values hold 90% of |D|_F^2; 0 for a matrix that did not change.
        squares: [matrix], the square of the Frobenius norm of D.
        base_squares: [matrix], that of the base's matrix.
        matrices: names, "layer.matrix".
    """

    change: Float[Tensor, " matrix"]
    stable_rank: Float[Tensor, " matrix"]
    rank90: Float[Tensor, " matrix"]
    squares: Float[Tensor, " matrix"]
    base_squares: Float[Tensor, " matrix"]
    matrices: tuple[str, ...] = field(metadata={"axis": "matrix"})

    @property
    def distance(self) -> float:
        """The norm of the change of all matrices together, relative to the base's."""
        return (self.squares.sum() / self.base_squares.sum()).sqrt().item()
