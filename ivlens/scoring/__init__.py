"""How a model answers prompts, and how its answers are judged.

``tokens``: prompts and answers as ids. By likelihood: ``candidates``, what a prompt's answer is chosen from;
``judged``, where their likelihoods become an answer that is correct or not; ``likelihood``. By generated text:
``generation``, greedy decoding; ``parsing``; ``text_scores``; ``generated``, which puts these together. ``_evaluate``:
each prompt judged as it asks to be.
"""

from ._evaluate import check_answers as check_answers
from ._evaluate import evaluate as evaluate
from ._evaluate import judge_answers as judge_answers
from .candidates import Candidates as Candidates
from .candidates import Likelihoods as Likelihoods
from .candidates import candidates_of as candidates_of
from .candidates import is_choice as is_choice
from .generated import by_likelihood as by_likelihood
from .generated import is_generated as is_generated
from .generated import judge_generated as judge_generated
from .generation import decode as decode
from .generation import generate_answers as generate_answers
from .generation import text_of as text_of
from .judged import judge as judge
from .judged import mean_chance as mean_chance
from .parsing import first_line as first_line
from .tokens import all_ids as all_ids
from .tokens import ids as ids
from .tokens import listed as listed
from .tokens import prompt_ids as prompt_ids
