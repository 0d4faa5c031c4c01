"""How far ways of computing effects agree with one that is exact."""

from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ..vocabulary import Metric
from .store import Record


@dataclass(frozen=True, eq=False)
class MethodAgreement(Record):
    """Effects of all heads by several methods, each compared with those of the first, the reference.

    For each compared method and prompt, [method, prompt], ``spearman`` is the rank correlation over heads and
    ``overlap`` the fraction of the reference's ``k`` strongest heads among the method's; ``aie_spearman`` and
    ``aie_overlap`` [method] are those of the average indirect effects.
    """

    spearman: Float[Tensor, "method prompt"]
    overlap: Float[Tensor, "method prompt"]
    aie_spearman: Float[Tensor, " method"]
    aie_overlap: Float[Tensor, " method"]
    methods: tuple[str, ...] = field(metadata={"axis": "method"})
    reference: str
    metric: Metric
    k: int
    task: str = ""

    @property
    def n(self) -> int:
        """Number of corrupted prompts."""
        return self.spearman.shape[1]

    def to_frame(self) -> pd.DataFrame:
        """One row a method: method, reference, aie_spearman, aie_overlap; spearman and overlap, means over prompts;
        lowest_spearman and lowest_overlap, those of the worst prompt; k, n."""
        return pd.DataFrame({
            "method": self.methods, "reference": self.reference,
            "aie_spearman": self.aie_spearman.numpy(), "aie_overlap": self.aie_overlap.numpy(),
            "spearman": self.spearman.mean(1).numpy(), "lowest_spearman": self.spearman.amin(1).numpy(),
            "overlap": self.overlap.mean(1).numpy(), "lowest_overlap": self.overlap.amin(1).numpy(),
            "k": self.k, "n": self.n,
        })  # fmt: skip
