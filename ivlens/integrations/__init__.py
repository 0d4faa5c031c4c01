"""ivlens in other people's tools, and these on its models; what needs an extra is imported when it is first used."""

from .lm_eval import LmEvalResult as LmEvalResult
from .lm_eval import LmEvalSample as LmEvalSample
from .lm_eval import run_lm_eval as run_lm_eval
from .trainer_callback import ForgettingCallback as ForgettingCallback

__all__ = ["ForgettingCallback", "LmEvalResult", "LmEvalSample", "run_lm_eval"]
