"""Log-probabilities of a prompt's tokens, for those who ask for them.

A batch keeps no logits of prompts: here a prompt is computed by itself.
"""

import math
from collections.abc import Sequence

from gptcli.batch.logprobs import Score
from gptcli.engine.interface import Engine, Span
from gptcli.sampling.sampler import log_probabilities, refuse_non_finite
from gptcli.tokenizer.tokenizer import Tokenizer

_AT_ONCE = 64  # positions whose logits are in memory


def prompt_scores(
    engine: Engine, tokenizer: Tokenizer, ids: Sequence[int], count: int
) -> list[Score]:
    """One for each id, with `count` alternatives; not a number where nothing stands before it.

    Of a prompt that is longer than the context, the model sees the end alone.

    Raises:
        RunError: non-finite logits.
    """

    def score(id: int, logprob: float, *top: Score) -> Score:
        return Score(id, tokenizer.token_bytes(id), logprob, top)

    seen = ids[-engine.config.context_length :]
    found = [score(id, math.nan) for id in ids[: len(ids) - len(seen) + 1]]
    cache = engine.new_cache(len(seen))
    for first in range(0, len(seen) - 1, _AT_ONCE):
        part = seen[first : min(first + _AT_ONCE, len(seen) - 1)]
        logits = engine.step([Span(cache, part, len(part))])[:, : tokenizer.n_vocab]
        refuse_non_finite(logits, position=first + 1)
        for id, row in zip(seen[first + 1 :], logits, strict=False):
            logprob, top = log_probabilities(row, id, count)
            found.append(score(id, logprob, *(score(*other) for other in top)))
    return found
