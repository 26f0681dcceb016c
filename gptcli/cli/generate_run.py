"""One `generate` command from checked options to its last newline."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import typer

from gptcli.cli.generate_options import Plan
from gptcli.cli.model_options import found, opened, ready
from gptcli.cli.prompt_input import notice_special
from gptcli.cli.render import console
from gptcli.cli.render.completion_views import (
    BeamsView,
    JsonView,
    Run,
    TableView,
    TextView,
    View,
    legend,
    statistics,
)
from gptcli.cli.render.dry_run import show_dry_run
from gptcli.core import signals
from gptcli.core.errors import UsageError
from gptcli.core.units import plural
from gptcli.generation.model_spec import ModelSpec
from gptcli.sampling.params import SamplingParams

if TYPE_CHECKING:
    from gptcli.generation.llm import LLM
    from gptcli.generation.speculative import Drafter
    from gptcli.generation.text_stream import Completion


def run(spec: ModelSpec, params: SamplingParams, plan: Plan, prompt: str | tuple[int, ...]) -> None:
    """Load, generate, show. `prompt` is text, or token ids.

    Raises:
        typer.Exit: with the signal's code, if one ended the generation.
        GptcliError: whatever a user can mend.
    """
    from gptcli.generation.llm import LLM, fresh_seed

    if plan.beams is not None and params.constraint is not None:
        raise UsageError("beams", f"cannot be used together with `{params.constraint.kind}`")
    if plan.dry_run:
        llm = LLM.of_target(spec, found(spec, need_weights=False))
        ids = _ids(llm, prompt, special=plan.special)
        show_dry_run(llm.target, params, ids, dtype=llm.weight_dtype, plan=plan)
        return
    spec = replace(spec, seed=fresh_seed() if spec.seed is None else spec.seed)
    start = perf_counter()
    llm = opened(spec)
    ids = _ids(
        llm, prompt, special=plan.special
    )  # the tokenizer can refuse before the weights are read
    ready(llm)
    text = prompt if isinstance(prompt, str) else llm.tokenizer.decode(prompt)
    job = Run(llm.name, text, ids, llm.tokenizer, spec.seed or 0, perf_counter() - start)
    view, completions = _view(job, plan), []
    for sample, completion in enumerate(_completions(job, llm, params, plan)):
        if plan.num_samples > 1 and not plan.json:
            console.notice(f"sample {sample + 1} of {plan.num_samples}")
        completions.append(completion)
        with signals.patience():
            view.show(completion, sample)
        if signals.interrupted():
            break
    _finish(job, plan, completions)


def _ids(llm: "LLM", prompt: str | tuple[int, ...], *, special: bool) -> list[int]:
    """The prompt's tokens, with a word on special ones that were read as text."""
    is_text = isinstance(prompt, str) and not special
    if is_text and (spelled := llm.tokenizer.find_special_token(str(prompt))):
        notice_special(spelled)
    return llm.prompt_ids(prompt, special=special)


def _finish(job: Run, plan: Plan, completions: list["Completion"]) -> None:
    """Statistics if they were asked for, and the exit code of an interruption."""
    if plan.stats:
        console.say(statistics(job, completions))
    if signals.interrupted():
        new = sum(len(completion.generation.ids) for completion in completions)
        console.say(f"interrupted after {plural(new, 'token')}")
        raise typer.Exit(signals.exit_code())


def _completions(
    job: Run, llm: "LLM", params: SamplingParams, plan: Plan
) -> Iterator["Completion"]:
    """Completions drawn one after another from one prefill, or found by one search."""
    if plan.beams is not None:
        found = llm.beam_search(
            job.ids, params, plan.beams, stop=plan.stop, keep_stop=plan.keep_stop
        )
        yield from found[: plan.top or plan.num_samples]
        return
    drafter = _drafter(llm, plan)
    deadline = None if plan.time_limit is None else monotonic() + plan.time_limit
    prompt = llm.prefill(job.ids, params.max_new_tokens, plan.overflow)
    job.prefill_seconds = prompt.seconds
    if drafter is not None:
        from gptcli.generation.speculative import Speculation

        job.speculation = Speculation(prompt, drafter)
    for sample in range(plan.num_samples):
        yield llm.stream(
            prompt,
            params,
            seed=job.seed,
            sample=sample,
            stop=plan.stop,
            keep_stop=plan.keep_stop,
            overflow=plan.overflow,
            speculation=job.speculation,
            deadline=deadline,
            stopped=signals.interrupted,
            logprobs=plan.alternatives,
        )


def _drafter(llm: "LLM", plan: Plan) -> "Drafter | None":
    """What proposes draft tokens; None without speculative decoding."""
    from gptcli.generation.speculative import DraftModel, PromptLookup, require_same_tokens

    if plan.draft is None:
        return PromptLookup() if plan.lookup else None
    smaller = opened(replace(llm.spec, model=plan.draft, config=None, weights=None))
    require_same_tokens(llm.tokenizer, smaller.tokenizer, plan.draft)
    return DraftModel(ready(smaller).engine)


def _view(job: Run, plan: Plan) -> View:
    if plan.json:
        return JsonView(job, plan.echo, plan.logprobs)
    if plan.beams is not None and plan.top is not None:
        return BeamsView()
    if plan.top is not None or (plan.show is not None and not console.wants_color(sys.stdout)):
        return TableView(job.tokenizer)
    if plan.show is not None:
        console.notice(legend())
    prompt = job.text if plan.echo else ""
    return TextView(prompt, plan.raw, plan.show is not None, plan.wrap)
