"""Other people's tools on ivlens' models: each needs an extra, which is imported when it is first used."""

from .lm_eval import LmEvalResult as LmEvalResult
from .lm_eval import LmEvalSample as LmEvalSample
from .lm_eval import run_lm_eval as run_lm_eval

__all__ = ["LmEvalResult", "LmEvalSample", "run_lm_eval"]
