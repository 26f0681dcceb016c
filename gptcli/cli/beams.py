"""Present beam search results as completions, so that the views can show either."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, cast

from gptcli.cli.generate_options import Plan
from gptcli.core.errors import UsageError

if TYPE_CHECKING:
    from gptcli.generation.decode import FinishReason, Token
    from gptcli.generation.llm import LLM
    from gptcli.generation.text_stream import Completion
    from gptcli.sampling.params import SamplingParams


class Found:
    """A completion that a search has found, to be read like a `Generation`."""

    is_incomplete = False

    def __init__(self, ids: Sequence[int], finish_reason: "FinishReason", seconds: float) -> None:
        self.ids, self.finish_reason, self.seconds = list(ids), finish_reason, seconds

    def __iter__(self) -> Iterator["Token"]:
        """Its tokens; all are there at once."""
        from gptcli.generation.decode import Token

        return iter([Token(id) for id in self.ids])


def completions(
    llm: "LLM", ids: Sequence[int], params: "SamplingParams", plan: Plan
) -> list["Completion"]:
    """The completions of one search, the best first.

    Raises:
        UsageError: the prompt is longer than the context.
    """
    from gptcli.generation.beam_search import beam_search
    from gptcli.generation.decode import Generation
    from gptcli.generation.text_stream import Completion

    context = llm.config.context_length
    if len(ids) > context:
        raise UsageError(
            "prompt", f"too long ({len(ids):,} tokens, expected at most {context:,}, the context)"
        )
    start = perf_counter()
    found = beam_search(
        llm.engine,
        ids,
        params,
        plan.beams or 1,
        eos_ids=llm.tokenizer.eos_ids,
        n_vocab=llm.tokenizer.n_vocab,
    )
    seconds = perf_counter() - start
    return [
        Completion(
            cast(Generation, Found(best.ids, best.finish_reason, seconds)),
            llm.tokenizer,
            plan.stop,
            plan.keep_stop,
            score=best.score,
            after=ids,
        )
        for best in found
    ]
