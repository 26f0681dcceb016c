"""How likely each token of a prompt was, for those who ask for a prompt's log-probabilities.

A batch keeps no logits of prompts, and reads what several have in common once: here a prompt is
read by itself, so that its scores depend on nothing else. Knows no records and no files.

Shapes: T tokens of a prompt, E emb_dim, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from gptcli.batch.logprobs import Score
from gptcli.engine.attention import Span
from gptcli.engine.fast import FastGPT
from gptcli.generation.prefix_cache import BLOCK, blocks
from gptcli.sampling.filters import Row
from gptcli.sampling.sampler import log_probabilities, refuse_non_finite
from gptcli.tokenizer.tokenizer import Tokenizer


def prompt_scores(
    model: FastGPT, tokenizer: Tokenizer, ids: Sequence[int], count: int
) -> list[Score]:
    """One for each id, with `count` alternatives; not a number where nothing stands before it.

    Of a prompt that is longer than the context, the model sees the end alone.

    Raises:
        RunError: non-finite logits.
    """

    def score(id: int, logprob: float, *top: Score) -> Score:
        return Score(id, tokenizer.token_bytes(id), logprob, top)

    seen = ids[-model.config.context_length :]
    found = [score(id, math.nan) for id in ids[: len(ids) - len(seen) + 1]]
    for first, logits in _logits(model, seen, tokenizer.n_vocab):
        for id, row in zip(seen[first + 1 :], logits, strict=False):
            logprob, top = log_probabilities(row, id, count)
            found.append(score(id, logprob, *(score(*other) for other in top)))
    return found


@torch.inference_mode()
def _logits(model: FastGPT, ids: Sequence[int], n_vocab: int) -> Iterator[tuple[int, Row]]:
    """Position and (at most BLOCK, V) logits from there on, of all positions but perhaps the last.

    A product has two rows at least, as in `gptcli.generation.scheduler`: the last position, which
    is followed by no id, keeps a lonely one company.
    """
    if len(ids) < 2:
        return
    spans = [Span(0, past, length) for past, length in blocks(0, len(ids))]
    given = torch.tensor(ids, device=model.device)
    hidden = model.hidden(given, spans, model.new_cache(1, len(ids)))  # (T, E)
    for first in range(0, len(ids) - 1, BLOCK):
        logits = model.logits(hidden[first : first + BLOCK])[:, :n_vocab].float().cpu().numpy()
        refuse_non_finite(logits, position=first + 1)
        yield first, logits
