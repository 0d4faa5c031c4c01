"""The data dictionary: every column of every public frame, with its type, its unit, and what it means.

The page "Reading every column" of the documentation is this mapping; a test builds each frame and compares it.
"""

from typing import NamedTuple


class Column(NamedTuple):
    """A column: its type (int, float, text, bool, or list), its unit, and its meaning."""

    type: str
    unit: str
    meaning: str


def _int(unit: str, meaning: str) -> Column:
    return Column("int", unit, meaning)


def _float(unit: str, meaning: str) -> Column:
    return Column("float", unit, meaning)


def _text(meaning: str) -> Column:
    return Column("text", "", meaning)


LAYER = _int("index", "Layer, from 0.")
HEAD = _int("index", "Query head in its layer, from 0.")
TASK = _text("Name of the task.")
CHECKPOINT = _text("Name of the checkpoint; the base is the first.")
RANK = _int("rank", "Rank by effect, the strongest is 1.")
AIE = _float("the metric's", "Average indirect effect: the mean over prompts of the change of the metric.")
STDERR = _float("the metric's", "Standard error of the average indirect effect; prompts are the unit.")
N = _int("prompts", "Number of prompts.")
ACCURACY = _float("0 to 1", "Fraction of prompts that are answered correctly, as their scoring says.")
PROBABILITY = _float("0 to 1", "Mean probability of the whole first accepted answer, teacher forced.")
PROBABILITY_STDERR = _float("0 to 1", "Standard error of that probability; prompts are the unit.")
TOKEN_PROBABILITY = _float("0 to 1", "Geometric mean of the probabilities of the answer's tokens.")
INTERVAL = {
    "low": _float("0 to 1", "Lower end of the accuracy's 95% Wilson interval."),
    "high": _float("0 to 1", "Upper end of the accuracy's 95% Wilson interval."),
}
ANSWERS = {
    "accuracy": ACCURACY, **INTERVAL, "probability": PROBABILITY, "probability_stderr": PROBABILITY_STDERR, "n": N,
}  # fmt: skip


def _bounds(name: str, unit: str, how: str) -> dict[str, Column]:
    """The two ends of a column's 95% interval."""
    return {
        f"{name}_low": _float(unit, f"Lower end of its 95% interval ({how})."),
        f"{name}_high": _float(unit, f"Upper end of its 95% interval ({how})."),
    }


POSITION = _text("Part of the prompt that was patched, or the position counted from the end.")
POSITIONS_BY = _text(
    'How positions are aligned: "role", one mean for each role; "token-class", one for each aligned token; "position".'
)
PART = {
    "part": _text('What was patched: "head", "attention", "mlp" or "residual".'),
    "layer": LAYER,
    "head": _int("index", "Query head in its layer, from 0; missing but for heads."),
}

HEAD_EFFECTS = {"layer": LAYER, "head": HEAD, "aie": AIE, "stderr": STDERR, "rank": RANK}

REVERTS = {
    "what": _text('What is put back: "straight", "by depth", "layers", "rest", or "heads".'),
    "part": _text('"attention", "mlp" or "both" of these layers; "rest": embeddings and norms; "heads"; or "all".'),
    "layers": _text("The first to the last layer of a band; empty where none is singled out."),
    "name": _text("Name of the set of heads; empty where none is put back."),
    "fraction": _float("0 to 1", "Of the change that is kept there, in the first layer; 0 is the base."),
    "last_fraction": _float("0 to 1", "The same in the last layer."),
    "role": _text('Of the task: "old", or "learned" by the tuned model.'),
    "n": N,
    "nats": _float("nats", "Mean change of log P(answer) against the tuned model."),
    **_bounds("nats", "nats", "Student's t over prompts"),
    "share": _float("ratio", "The same, of the mean gap to the base; unknown below a gap of 0.5 nats."),
    **_bounds("share", "ratio", "Fieller's, over prompts"),
    "accuracy": ACCURACY,
    "gain": _float("accuracy", "Accuracy minus the tuned model's, on the same prompts."),
    **_bounds("gain", "accuracy", "paired over prompts"),
}

GAINS = {
    "model": _text('"base", "tuned", "repaired", or a control with its seed.'),
    "role": _text('Of the task: "keep" (chosen on), "other" (an ability that nothing was chosen on), or "learned".'),
    "accuracy": ACCURACY,
    "of_base": _float("ratio", "Accuracy, relative to the base's."),
    "of_tuned": _float("ratio", "Accuracy, relative to the tuned model's."),
    "gain": _float("accuracy", "Accuracy minus the tuned model's, on the same prompts."),
    **_bounds("gain", "accuracy", "paired over prompts"),
    "forgetting": _float("accuracy", "The base's accuracy minus this one, on the same prompts."),
    **_bounds("forgetting", "accuracy", "paired over prompts"),
    "n": N,
}

PATCHED_PART = {
    "part": _text(
        '"head": a head\'s output; "z": before W_O; "attention" or "mlp" of a block; "residual": what enters it.'
    ),
    "layer": LAYER,
    "head": _int("index", "Query head in its layer, from 0; missing for a part that is the whole layer's."),
}

EVIDENCE_ON_TASKS = {
    "lost": _int("prompts", "Prompts that the base answers correctly and the checkpoint does not (1 to 0)."),
    "won": _int("prompts", "Prompts that the checkpoint answers correctly and the base does not (0 to 1)."),
    "mcnemar": _float("0 to 1", "McNemar's exact two-sided p-value that as many were lost as won."),
    "lost_adjusted": _float(
        "0 to 1", "Fraction lost, minus what guessing among the task's options would lose; nan without options."
    ),
    "won_adjusted": _float("0 to 1", "Fraction won, minus what guessing among the task's options would win."),
    "probability_fall": _float("0 to 1", "The base's mean probability of the answer minus the checkpoint's."),
    **_bounds("probability_fall", "0 to 1", "bootstrap over prompts"),
    "first_token_change": _float("nats", "Mean change from the base of the log-probability of the first answer token."),
    "rest_change": _float("nats", "The same of the answer's other tokens together, where answers have them."),
    "subtracted": _float(
        "0 to 1", "Accuracy on clean prompts with the checkpoint's vector of the task that it learned subtracted."
    ),
    "subtracted_random": _float("0 to 1", "The same with random vectors of the same norm, mean over seeds."),
    "subtracted_gain": _float("accuracy", "Accuracy with the new task's vector subtracted, minus that without."),
    **_bounds("subtracted_gain", "accuracy", "paired over prompts"),
    "subtracted_fraction": _float("ratio", "That gain, relative to the accuracy that was lost."),
    **_bounds("subtracted_fraction", "ratio", "bootstrap over prompts"),
    "subtracted_fraction_p": _float("ratio", "The same of the answer's mean probability instead of accuracy."),
    **_bounds("subtracted_fraction_p", "ratio", "bootstrap over prompts"),
    "subtracted_layer": _float("index", "Layer whose input it is subtracted from, chosen on validation prompts."),
    "subtracted_scale": _float("factor", "How many times it is subtracted, chosen on validation prompts."),
    "spillover": _float(
        "0 to 1", "Of the wrong answers, the fraction that the new task would give, or that copy the input."
    ),
    **_bounds("spillover", "0 to 1", "Wilson"),
    "spillover_base": _float("0 to 1", "The same fraction of the base's wrong answers."),
    "copied": _float("0 to 1", "Of the wrong answers, the fraction that copy the input."),
    "copied_base": _float("0 to 1", "The same fraction of the base's wrong answers."),
    "kl_new": _float("nats", "KL(base || checkpoint) at the answers of the new task's prompts, mean over tokens."),
    "kl_text": _float("nats", "KL(base || checkpoint) on a bundled English text, mean over tokens."),
    "weight_distance": _float("ratio", "Norm of the change of all of the blocks' matrices, relative to the base's."),
    "relearned": _float("0 to 1", "Accuracy after a few steps on a few examples, see relearning_probe."),
    "relearned_gain": _float("accuracy", "What these steps add to the accuracy."),
    **_bounds("relearned_gain", "accuracy", "paired over prompts"),
    "relearned_fraction": _float("ratio", "That gain minus anew_gain, relative to the accuracy that was lost."),
    **_bounds("relearned_fraction", "ratio", "MOVER; nan where the interval of what was lost holds 0"),
    "relearned_n": _float("prompts", "Test prompts of the relearning probe."),
    "anew_gain": _float("accuracy", "What as many steps add on a task that the base never had."),
}

CHECKPOINT_ROWS = {
    "checkpoint": CHECKPOINT,
    "task": TASK,
    "n": _int("prompts", "Clean test prompts that were answered."),
    "n_available": _int("prompts", "Examples in the test split, from which the prompts are."),
    "accuracy": ACCURACY,
    **_bounds("accuracy", "0 to 1", "Wilson"),
    "chance": _float("0 to 1", "Accuracy of guessing among options, listed items or few labels; 0 without a choice."),
    "probability": PROBABILITY,
    "probability_stderr": PROBABILITY_STDERR,
    "token_probability": TOKEN_PROBABILITY,
    "knowledge": _float("0 to 1", "Mean probability of the same answers after the cloze, without any instruction."),
    "knowledge_stderr": _float("0 to 1", "Standard error of the knowledge; prompts are the unit."),
    "forgetting": _float("accuracy", "The base's accuracy minus the checkpoint's, on the same prompts."),
    **_bounds("forgetting", "accuracy", "paired over prompts"),
    "knowledge_fraction": _float("ratio", "Knowledge as a fraction of the base's."),
    **_bounds("knowledge_fraction", "ratio", "bootstrap over prompts"),
    "cosine": _float("-1 to 1", "Cosine of the vector with the base's, both from the base's heads."),
    **_bounds("cosine", "-1 to 1", "jackknife over groups of prompts"),
    "reselected_cosine": _float("-1 to 1", "The same, with as many heads chosen anew on the checkpoint."),
    **_bounds("reselected_cosine", "-1 to 1", "jackknife over groups of prompts"),
    "norm": _float("residual stream", "Euclidean norm of the vector from the base's heads."),
    "norm_ratio": _float("ratio", "That norm, relative to the base's."),
    "reselected_norm_ratio": _float("ratio", "The same, with heads chosen anew on the checkpoint."),
    "centred_cosine": _float(
        "-1 to 1", "Cosine with the base's vector after subtracting each model's mean over tasks."
    ),
    "z_cosine": _float("-1 to 1", "Cosine with the base of the heads' mean outputs before W_O."),
    "alignment": _float("-1 to 1", "Cosine of the hidden state with the base's vector, where that vector is added."),
    "alignment_change": _float("-2 to 2", "Alignment minus the base's."),
    "aie_correlation": _float("-1 to 1", "Spearman's correlation over all heads of the effects with the base's."),
    "overlap": _float("0 to 1", "Fraction of the strongest heads that the base's strongest heads share."),
    "heads_gained": Column("list", "(layer, head)", "Heads among the strongest here that were not in the base."),
    "heads_lost": Column("list", "(layer, head)", "Heads among the base's strongest that are not here."),
    "weight_change_top": _float(
        "ratio",
        "Mean relative change of the weights of the base's strongest heads; of W_O alone where others are joint.",
    ),
    "weight_change_rest": _float("ratio", "The same, of all other heads."),
    "bare": _float("0 to 1", "Accuracy on bare prompts, without a vector."),
    "recovered": _float("0 to 1", "Accuracy on bare prompts with the base's vector added."),
    "recovered_own": _float("0 to 1", "Accuracy on bare prompts with the checkpoint's own vector added."),
    "recovered_random": _float("0 to 1", "The same with random vectors of the same norm, mean over seeds."),
    "recovered_fraction": _float("ratio", "What the base's vector adds here, relative to what it adds on the base."),
    **_bounds("recovered_fraction", "ratio", "bootstrap over prompts"),
    "recovered_fraction_p": _float("ratio", "The same of the answer's mean probability instead of accuracy."),
    **_bounds("recovered_fraction_p", "ratio", "bootstrap over prompts"),
    **EVIDENCE_ON_TASKS,
    "verdict": _text("What became of the ability, by the documented rule."),
    "because": _text("The numbers that decided the verdict, in a sentence."),
    "prompts_to_decide": _float(
        "prompts", "About how many would decide a verdict that is open, if the values stayed; nan where none would."
    ),
}

MEASURED_ABILITY = {
    "step": _int("steps", "Optimiser steps taken when it was measured."),
    "role": _text('"new" for the task that is learned, "keep" for an ability to keep.'),
    "ability": _text("Name of the ability."),
    **ANSWERS,
    "token_probability": TOKEN_PROBABILITY,
    "correct": _text("Prompt by prompt, 1 where the answer is accepted and 0 where it is not."),
    "cosine": _float("-1 to 1", "Cosine with the base's vector of the vector that the same heads give now."),
    "norm_ratio": _float("ratio", "Norm of that vector, relative to the base's."),
    "alignment": _float("-1 to 1", "Mean cosine of the hidden state at the last token with the base's vector."),
    "forgetting": _float("accuracy", "Accuracy before the first step minus accuracy now, on the same prompts."),
    **_bounds("forgetting", "accuracy", "paired by prompt, Agresti and Min"),
}
OF_VECTORS = ("cosine", "norm_ratio", "alignment")
ONLY_OF_SOME = {*OF_VECTORS, "forgetting", "forgetting_low", "forgetting_high"}

STAGE = _int("tasks", "How many tasks of the sequence were learned before it was measured; 0 is the base.")
CONTINUAL_MEASURE = _text(
    '"learned", the tasks learned so far; "AP" and "FP", tasks of the sequence right after each and at the end; '
    '"Forget", what they have lost since; "kept" and "retained", old abilities, and relative to the base; '
    '"still right", of their prompts that the base answers; '
    '"GP" and "IP", general abilities without and with '
    "demonstrations; the probabilities of answers with and without an instruction; or a measure of vectors."
)

FRAMES: dict[str, dict[str, Column]] = {
    "HeadEffects.to_frame": HEAD_EFFECTS,
    "RacedEffects.to_frame": HEAD_EFFECTS
    | {
        "aie": _float(
            "the metric's", "Mean change of the metric over the head's prompts; too low where it dropped out."
        ),
        "low": _float("the metric's", "Lower end of its 95% interval, which holds whenever the head dropped out."),
        "high": _float("the metric's", "Upper end of that interval."),
        "n": _int("prompts", "Prompts that the head was measured on before it dropped out, or all of them."),
        "rank": _int("rank", "Rank among the heads that the race was for, the strongest is 1; missing for the others."),
    },
    "PartEffects.to_frame": PART
    | {"aie": AIE, "stderr": STDERR, "rank": _int("rank", "Rank by effect over all parts, the strongest is 1.")},
    "PositionPartEffects.to_frame": PART
    | {
        "position": POSITION,
        "by": POSITIONS_BY,
        "aie": AIE,
        "stderr": STDERR,
        "rank": _int("rank", "Rank by effect over all parts and positions, the strongest is 1."),
    },
    "UniversalEffects.to_frame": HEAD_EFFECTS
    | {
        "aie": _float("the metric's", "Mean over tasks of the tasks' average indirect effects."),
        "stderr": _float("the metric's", "Its standard error over the prompts within tasks, tasks held fixed."),
    },
    "PositionEffects.to_frame": {
        "layer": LAYER,
        "head": HEAD,
        "position": POSITION,
        "by": POSITIONS_BY,
        "aie": AIE,
        "stderr": STDERR,
        "rank": _int("rank", "Rank by effect over heads and parts, the strongest is 1."),
    },
    "Stability.to_frame": {
        "layer": LAYER,
        "head": HEAD,
        "probability": _float("0 to 1", "Fraction of bootstrap resamples that have the head among their k strongest."),
    },
    "prompts_needed": {
        "prompts": _int("prompts", "Prompts in each of the two disjoint sets."),
        "overlap": _float("0 to 1", "Fraction of the k strongest heads that the sets share, mean over resamples."),
        "low": _float("0 to 1", "The overlap's 5% quantile over resamples."),
        "high": _float("0 to 1", "The overlap's 95% quantile over resamples."),
    },
    "MethodAgreement.to_frame": {
        "method": _text("The compared method."),
        "reference": _text("The method that it is compared with."),
        "aie_spearman": _float("-1 to 1", "Spearman's correlation over heads of the average indirect effects."),
        "aie_overlap": _float("0 to 1", "Fraction of the reference's k strongest heads among the method's."),
        "spearman": _float("-1 to 1", "Rank correlation over heads on one prompt, mean over prompts."),
        "lowest_spearman": _float("-1 to 1", "The same on the prompt where it is lowest."),
        "overlap": _float("0 to 1", "Overlap of the k strongest heads on one prompt, mean over prompts."),
        "lowest_overlap": _float("0 to 1", "The same on the prompt where it is lowest."),
        "k": _int("heads", "How many of the strongest heads the overlaps compare."),
        "n": N,
    },
    "InstructionVector.to_frame": {
        "layer": LAYER,
        "head": HEAD,
        "norm": _float("residual stream", "Euclidean norm of what the head adds to the vector."),
        "cosine": _float("-1 to 1", "Cosine of that part with the whole vector; nan where one of them is zero."),
    },
    "list_vectors": {
        "file": _text("Path below the folder."),
        "task": TASK,
        "heads": _int("heads", "Number of heads summed into the vector; 0 where it does not come from heads."),
        "norm": _float("residual stream", "Euclidean norm of the vector."),
        "model": _text("What the model was loaded from."),
        "dtype": _text("Data type of the model's weights."),
        "weights": _text("First twelve digits of the hash of the model's weights."),
    },
    "logit_lens": {
        "of": _text('"vector", or the head as "layer.head".'),
        "rank": _int("rank", "Rank of the token, the highest is 1."),
        "token": _text("The token as text."),
        "value": _float("logits, or -1 to 1", "Logit above the vocabulary's mean, or cosine with the unembedding."),
    },
    "Evaluation.to_frame": {
        "prompt": _text("Text of the prompt."),
        "answer": _text("The first accepted answer."),
        "probability": _float("0 to 1", "Probability of the whole answer, teacher forced."),
        "token_probability": TOKEN_PROBABILITY,
        "first_token_probability": _float("0 to 1", "Probability of its first token (with the blanks before it)."),
        "correct": Column("bool", "", "Whether the answer that the prompt's scoring takes is an accepted one."),
        "score": _float("0 to 1", "Metric of that answer; 1 or 0, as in correct, where it has no finer one."),
        "text": _text("The answer: the chosen option or what was generated, blank where it is not known."),
        "chance": _float("0 to 1", "How often a guess among the options is accepted, 0 where there are none."),
    },
    "SteeredAnswers.to_frame": {
        "prompt": _text("Text of the prompt."),
        "scale": _float("factor", "What the vector is multiplied by."),
        "without": _text("What is generated without the vector."),
        "with": _text("What is generated with the vector added."),
    },
    "SteeringSweep.to_frame": {
        "layer": _int("index", "Layer at which the vector is added."),
        "site": _text("Where in the layer: resid_pre, its input, or resid_post, its output."),
        "scale": _float("factor", "What the vector is multiplied by."),
        "k": _int("heads", "Number of the vector's first heads that were summed."),
        **ANSWERS,
    },
    "ConditionComparison.to_frame": {
        "task": TASK,
        "condition": _text("What was done to the prompts or the model."),
        **ANSWERS,
    },
    "TransferMatrix.to_frame": {
        "source": _text("Task that the vector comes from."),
        "target": _text("Task whose bare prompts are answered."),
        "overlap": _float("0 to 1", "Fraction of the two tasks' strongest heads that they share."),
        "cosine": _float("-1 to 1", "Cosine of the two tasks' vectors."),
        "accuracy": _float("0 to 1", "Accuracy on the target's bare prompts with the source's vector added."),
        **INTERVAL,
        "n": N,
    },
    "Laboratory.controls_frame": {
        "task": TASK,
        "layer": _int("index", "Layer whose input the vector is added to, chosen on validation prompts."),
        "scale": _float("factor", "What the vector is multiplied by, chosen on validation prompts."),
        "k": _int("heads", "Number of heads summed, chosen on validation prompts."),
        "bare": _float("0 to 1", "Accuracy on bare prompts."),
        "bare + vector": _float("0 to 1", "Accuracy on bare prompts with the task's vector added."),
        "clean": _float("0 to 1", "Accuracy on clean prompts."),
        "clean + vector": _float("0 to 1", "Accuracy on clean prompts with the task's vector added."),
        "bare + mean difference": _float(
            "0 to 1", "On bare prompts with the mean of clean minus bare residual streams added."
        ),
        "bare + random vector": _float(
            "0 to 1", "On bare prompts with random vectors of the same norm, mean over seeds."
        ),
        "bare + random heads": _float(
            "0 to 1", "On bare prompts with vectors of as many random heads, mean over seeds."
        ),
        "bare + vector of another task": _float(
            "0 to 1", "On bare prompts with other tasks' vectors, mean over those tasks."
        ),
        "n": N,
    },
    "Laboratory.necessity_frame": {
        "task": TASK,
        "clean": _float("0 to 1", "Accuracy on clean prompts."),
        "zero-ablated, own": _float("0 to 1", "On clean prompts with the task's heads set to zero at the last token."),
        "zero-ablated, others": _float("0 to 1", "The same with other tasks' heads, mean over those tasks."),
        "mean-ablated, own": _float(
            "0 to 1", "On clean prompts with the task's heads at their mean over bare prompts."
        ),
        "mean-ablated, others": _float("0 to 1", "The same with other tasks' heads, mean over those tasks."),
        "vector subtracted, own": _float("0 to 1", "On clean prompts with the task's vector subtracted."),
        "vector subtracted, others": _float("0 to 1", "The same with other tasks' vectors, mean over those tasks."),
        "random heads zeroed": _float("0 to 1", "On clean prompts with as many random heads at zero, mean over seeds."),
        "n": N,
    },
    "CheckpointComparison.to_frame": CHECKPOINT_ROWS,
    "CheckpointComparison.replies_frame": {
        "checkpoint": CHECKPOINT,
        "task": TASK,
        "prompt": _int("index", "Number of the test prompt."),
        "text": _text("The clean prompt."),
        "bare": _text("The same query without instruction and demonstrations."),
        "answer": _text("The first accepted answer."),
        "reply": _text("What the checkpoint answers the clean prompt: the option it takes, or its first line."),
        "correct": Column("bool", "", "Whether that is judged right."),
        "steered": _text("What it answers the bare prompt with the base's vector added."),
        "steered_correct": Column("bool", "", "Whether that is judged right."),
    },
    "CheckpointComparison.recovery_frame": {
        "checkpoint": CHECKPOINT,
        "task": TASK,
        "condition": _text("Bare or clean prompts, and the vector that is added to bare ones."),
        "accuracy": ACCURACY,
        **INTERVAL,
        "probability": PROBABILITY,
        "probability_stderr": PROBABILITY_STDERR,
        "n": N,
    },
    "CheckpointComparison.evidence_frame": {
        "checkpoint": CHECKPOINT,
        "task": TASK,
        "kind": _text("Kind of evidence on whether a lost ability is still there."),
        "value": _float("0 to 1", "What it restores, keeps, or explains, as a fraction."),
        "low": _float("0 to 1", "Lower end of its 95% interval."),
        "high": _float("0 to 1", "Upper end of its 95% interval."),
        "threshold": _float("0 to 1", "What the verdict's rule holds it to."),
        "opinion": _text('"still there", "not there", "undecided" or "not measured".'),
        "prompts": _int("prompts", "Prompts that the interval is from; wrong answers, for spillover."),
        "prompts_needed": _float(
            "prompts", "About how many would decide it, where it is undecided; nan where no number would."
        ),
    },
    "CheckpointComparison.spectrum_frame": {
        "checkpoint": CHECKPOINT,
        "layer": LAYER,
        "matrix": _text("Name of the matrix in its block."),
        "change": _float("ratio", "Frobenius norm of the matrix' change, relative to the base's matrix."),
        "stable_rank": _float("rank", "Squared Frobenius norm of the change over its squared largest singular value."),
        "rank90": _int("rank", "How many singular values hold 90% of that squared norm; 0 without a change."),
    },
    "CheckpointComparison.general_frame": {
        "checkpoint": CHECKPOINT,
        "task": _text("Name of the general ability, a built-in task."),
        "n": N,
        "accuracy": ACCURACY,
        **INTERVAL,
        "chance": _float("0 to 1", "Accuracy of guessing among the options; 0 without options."),
        "forgetting": _float("accuracy", "The base's accuracy minus the checkpoint's, on the same prompts."),
        **_bounds("forgetting", "accuracy", "paired over prompts"),
    },
    "CheckpointComparison.layers_frame": {
        "checkpoint": CHECKPOINT,
        "task": TASK,
        "layer": LAYER,
        "alignment": _float("-1 to 1", "Cosine of the hidden state entering the layer with the base's vector."),
        "stream_cosine": _float("-1 to 1", "Mean over prompts of the hidden state's cosine with the base's."),
        "cka": _float("0 to 1", "Linear CKA of the hidden states with the base's."),
    },
    "CheckpointComparison.heads_frame": {
        "checkpoint": CHECKPOINT,
        "task": TASK,
        "layer": LAYER,
        "head": HEAD,
        "rank": RANK,
        "aie": AIE,
        "stderr": STDERR,
        "change_W_Q": _float("ratio", "Norm of the change of the head's W_Q, relative to the base's."),
        "change_W_K": _float("ratio", "The same of W_K; query heads that share keys show the same number."),
        "change_W_V": _float("ratio", "The same of W_V; query heads that share values show the same number."),
        "change_W_O": _float("ratio", "The same of W_O."),
    },
    "CheckpointComparison.matrix": {
        "TASK": _float("0 to 1", "Accuracy on that task; one column per task, one row per checkpoint."),
    },
    "CheckpointComparison.sequence": {
        "task": TASK,
        "base": _float("0 to 1", "Accuracy of the base."),
        "final": _float("0 to 1", "Accuracy of the last checkpoint."),
        "fall_from_best": _float("accuracy", "Best accuracy before the last checkpoint minus the final one."),
        "backward_transfer": _float("accuracy", "Final accuracy minus that right after the task was learned."),
        "plasticity": _float("accuracy", "Accuracy right after the task was learned minus the base's."),
    },
    "Repair.to_frame": {
        "model": GAINS["model"],
        "role": GAINS["role"],
        "task": TASK,
        "accuracy": ACCURACY,
        **INTERVAL,
        "probability": PROBABILITY,
        "n": N,
    },
    "Repair.gains": GAINS,
    "Repair.task_gains": GAINS | {"task": TASK},
    "Repair.trials_frame": {
        "step": _text('"tuned", "interpolation", "by depth", "bands" or "greedy", in the order of trying.'),
        "what": _text("The mixture of weights that was tried."),
        "undone": _float("ratio", "Norm of the change that it undoes, relative to the norm of the whole change."),
        "learned": _float("0 to 1", "Accuracy on validation prompts of the learned tasks."),
        "allowed": Column("bool", "", "Whether the guard let it pass."),
        "kept": _float("0 to 1", "Accuracy on validation prompts of the tasks to keep; unmeasured where refused."),
        "probability": _float("0 to 1", "Mean probability of the answers to these prompts."),
        "divergence": _float("nats", "KL divergence from the base's predictions on a plain text, mean per token."),
        "chosen": Column("bool", "", "Whether it was chosen."),
    },
    "WeightReverts.to_frame": REVERTS,
    "WeightReverts.tasks_frame": REVERTS | {"task": TASK},
    "CheckpointPatching.to_frame": {
        "direction": _text('"restores": the base\'s activation in the tuned model; "breaks": the reverse.'),
        "role": _text(
            'Of the prompts: "forgotten", "kept", "learned", or "other prompt": forgotten, with another\'s activation.'
        ),
        **PATCHED_PART,
        "nats": _float("nats", "Mean change of log P(answer) in the patched model."),
        **_bounds("nats", "nats", "Student's t over prompts"),
        "share": _float("ratio", "What is restored, or broken, of the mean gap; unknown below a gap of 0.5 nats."),
        **_bounds("share", "ratio", "Fieller's, over prompts"),
        "n": N,
    },
    "CheckpointPatching.beside_controls": {
        **PATCHED_PART,
        "restored": _float("ratio", "Share of the gap that the base's activation restores, on prompts not chosen on."),
        **_bounds("restored", "ratio", "Fieller's, over prompts"),
        "restored_nats": _float("nats", "The same as a mean change of log P(answer)."),
        "broken": _float("ratio", "Share of the gap that the tuned model's activation breaks in the base."),
        "other_prompt": _float("ratio", "Share that the base's activation on another prompt restores."),
        "kept_nats": _float("nats", "Change of log P(answer) of kept prompts with the base's activation put in."),
        "learned_nats": _float("nats", "The same of prompts of the new task."),
    },
    "findings": {
        "claim": _text("The claim that is tested."),
        "measure": _text("The number that decides it."),
        "value": _float("the measure's", "That number: a mean over tasks, or a correlation over all pairs."),
        "low": _float("the measure's", "Lower end of its 95% interval (tasks, and checkpoints, are the sample)."),
        "high": _float("the measure's", "Upper end of its 95% interval."),
        "pairs": _int("pairs", "Pairs of a checkpoint and a task that the number is computed from."),
        "tasks": _int("tasks", "Tasks among these pairs."),
        "checkpoints": _int("checkpoints", "Checkpoints among these pairs."),
        "finding": _text("confirmed, refuted, or undecided."),
    },
    "ContinualRun.to_frame": {
        "stage": STAGE,
        "role": _text(
            '"new" for tasks of the sequence, "keep" for old abilities, "knowledge" for these without an instruction, '
            '"zero-shot" and "in-context" for general abilities.'
        ),
        **{name: MEASURED_ABILITY[name] for name in ("ability", *ANSWERS, "token_probability", *OF_VECTORS)},
        "chance": _float("0 to 1", "Accuracy that guesses among options would have; 0 without options."),
    },
    "ContinualRun.matrix": {
        "TASK": _float("0 to 1", "Mean score of the task after the row's stage, or probability of its answer."),
    },
    "ContinualRun.curves": {
        "stage": STAGE,
        "measure": CONTINUAL_MEASURE,
        "value": _float("the measure's", "Mean over tasks of the mean over prompts, after that stage."),
        "low": _float("the measure's", "Lower end of its 95% interval (over prompts)."),
        "high": _float("the measure's", "Upper end of its 95% interval (over prompts)."),
        "tasks": _int("tasks", "How many tasks it is a mean of."),
    },
    "ContinualRun.summary": {
        "measure": CONTINUAL_MEASURE,
        "before": _float("the measure's", "Before: of FP right after each task was learned (AP), else the base's."),
        "after": _float("the measure's", "After: of AP right after each task was learned, else at the end."),
        "change": _float("the measure's", "After minus before; of FP, minus what the papers call Forget."),
        "low": _float("the measure's", "Lower end of the change's 95% interval (bootstrap over prompts)."),
        "high": _float("the measure's", "Upper end of the change's 95% interval (bootstrap over prompts)."),
        "tasks": _int("tasks", "How many tasks it is a mean of."),
    },
    "compare_variants": {
        "variant": _text("Name of the variant, without its seed."),
        "measure": _text('"FP", "kept", "GP" or "IP", as in the summary of a sequence.'),
        "value": _float("0 to 1", "Mean score at the end of the sequence, over tasks and seeds."),
        "difference": _float("0 to 1", "That minus the first variant's, of the same seeds."),
        "low": _float("0 to 1", "Lower end of its 95% interval (bootstrap over prompts within tasks)."),
        "high": _float("0 to 1", "Upper end of that interval."),
        "tasks": _int("tasks", "How many abilities it is a mean of."),
        "seeds": _int("seeds", "How many runs of the variant there are."),
    },
    "compare_sequences": {
        "run": _text("Name of the run."),
        "AP": _float("0 to 1", "Mean score on the tasks of the sequence right after each was learned."),
        "FP": _float("0 to 1", "The same at the end of the sequence."),
        "kept": _float("0 to 1", "Mean score on old abilities at the end."),
        "retained": _float("ratio", "That relative to the base's."),
        "Forget": _float("accuracy", "AP minus FP: what the tasks of the sequence have lost at the end."),
        "still_right": _float(
            "0 to 1", "Share answered at the end of the old abilities' prompts that the base answers."
        ),
        "GP": _float("0 to 1", "Mean score on general abilities without demonstrations, at the end."),
        "IP": _float("0 to 1", "The same with demonstrations."),
        "kept_change": _float("0 to 1", "Kept minus the base's score on the same abilities."),
        "kept_low": _float("0 to 1", "Lower end of the 95% interval of kept minus the base's (bootstrap)."),
        "kept_high": _float("0 to 1", "Upper end of that interval."),
    },
    "Relearning.to_frame": {
        "task": TASK,
        "role": _text('"lost" for the lost ability, "control" for a task that the base never had.'),
        "before": _float("0 to 1", "Accuracy on test prompts before the steps."),
        "after": _float("0 to 1", "Accuracy on the same prompts after the steps."),
        "gain": _float("accuracy", "The second minus the first."),
        "low": _float("accuracy", "Lower end of the gain's 95% interval (paired over prompts)."),
        "high": _float("accuracy", "Upper end of the gain's 95% interval (paired over prompts)."),
        "n": N,
    },
    "TrainingRun.to_frame": {
        "step": _int("index", "Optimiser step, from 0."),
        "supervised": _float("nats", "Cross-entropy of the answer's tokens."),
        "kl_last": _float("nats", "KL to the base with the vector, at the last prompt token."),
        "kl_answer": _float("nats", "KL to the base with the vector, over the answer."),
        "kl_sequence": _float("nats", "KL to the base with the vector, summed over each prompt's and answer's tokens."),
        "kl_base": _float("nats", "KL to the base without a vector, over the answer."),
        "consistency": _float("activation squared", "Squared distance of the vector's heads' outputs to the base's."),
        "rehearsal": _float("nats", "KL to the base on the new inputs under other instructions."),
        "replay": _float("nats", "Cross-entropy on old examples."),
        "loss": _float("nats", "Sum of the terms, each times its weight; what is descended."),
        "learning_rate": _float("per step", "Learning rate of the step."),
        "gradient_norm": _float("", "Norm of all gradients before clipping."),
        "seconds": _float("s", "Wall-clock time of the step."),
    },
    "TrainingRun.abilities": MEASURED_ABILITY,
    "TrainingRun.final": MEASURED_ABILITY,
}

# Columns that a frame has only where they apply or were requested.
OPTIONAL = {
    "TrainingRun.to_frame": {
        "kl_last",
        "kl_answer",
        "kl_sequence",
        "kl_base",
        "consistency",
        "rehearsal",
        "replay",
    },
    "ContinualRun.to_frame": {*OF_VECTORS, "chance"},
    "TrainingRun.abilities": ONLY_OF_SOME,
    "TrainingRun.final": ONLY_OF_SOME,
}
