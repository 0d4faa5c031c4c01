"""How a model answers prompts, and how its answers are judged."""

from ._evaluate import check_answers as check_answers
from ._evaluate import evaluate as evaluate
from ._evaluate import judge_answers as judge_answers
from .generated import by_likelihood as by_likelihood
from .generated import is_generated as is_generated
from .generated import judge_generated as judge_generated
from .generation import decode as decode
from .generation import generate_answers as generate_answers
from .generation import text_of as text_of
from .likelihood import all_ids as all_ids
from .likelihood import answers_of as answers_of
from .likelihood import ids as ids
from .likelihood import listed as listed
from .likelihood import prompt_ids as prompt_ids
from .parsing import first_line as first_line
