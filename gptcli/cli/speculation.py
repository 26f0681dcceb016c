"""Speculative decoding: --lookup and --draft."""

from dataclasses import replace
from typing import TYPE_CHECKING

from gptcli.cli.generate_options import Plan
from gptcli.cli.model_options import opened, ready
from gptcli.core.errors import UsageError
from gptcli.core.escape import shown

if TYPE_CHECKING:
    from gptcli.generation.decode import Prompt
    from gptcli.generation.llm import LLM
    from gptcli.generation.speculative import Drafter, Speculation
    from gptcli.tokenizer.tokenizer import Tokenizer


def drafter(llm: "LLM", plan: Plan) -> "Drafter | None":
    """The proposer of draft tokens; None without speculative decoding.

    Raises:
        UsageError: the draft model has another tokenizer.
    """
    if not plan.lookup and plan.draft is None:
        return None
    from gptcli.generation.speculative import DraftModel, PromptLookup

    if plan.draft is None:
        return PromptLookup()
    smaller = opened(replace(llm.spec, model=plan.draft, config=None, weights=None))
    _require_same(llm.tokenizer, smaller.tokenizer, plan.draft)
    return DraftModel(ready(smaller).engine)


def speculation(prompt: "Prompt", drafter: "Drafter | None") -> "Speculation | None":
    """Speculative decoding for one prompt; its samples share the proposer."""
    if drafter is None:
        return None
    from gptcli.generation.speculative import Speculation

    return Speculation(prompt, drafter)


def _require_same(ours: "Tokenizer", theirs: "Tokenizer", name: str) -> None:
    same_ends = (ours.n_vocab, ours.eos_ids) == (theirs.n_vocab, theirs.eos_ids)
    if same_ends and all(
        ours.token_bytes(id) == theirs.token_bytes(id) for id in range(ours.n_vocab)
    ):
        return
    problem = f'"{shown(name, 60)}" has another tokenizer ({theirs.name}, expected {ours.name})'
    raise UsageError("draft", problem, "A guess is a token id: both models need the same ids")
