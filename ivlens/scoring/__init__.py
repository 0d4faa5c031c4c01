"""How a model answers prompts, and how its answers are judged."""

from ._evaluate import evaluate as evaluate
from .likelihood import all_ids as all_ids
from .likelihood import answers_of as answers_of
from .likelihood import ids as ids
from .likelihood import listed as listed
from .likelihood import prompt_ids as prompt_ids
from .likelihood import score_answers as score_answers
