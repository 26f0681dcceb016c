"""One `generate` command from checked options to its last newline."""

import sys
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import typer

from gptcli.cli import beaming, guessing
from gptcli.cli.model_options import ModelOptions, fresh_seed
from gptcli.cli.plan import Plan
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
from gptcli.sampling.params import SamplingParams

if TYPE_CHECKING:
    from gptcli.engine.fast import FastGPT
    from gptcli.generation.text_stream import Completion
    from gptcli.tokenizer.tokenizer import Tokenizer


def run(
    options: ModelOptions, params: SamplingParams, plan: Plan, prompt: str | tuple[int, ...]
) -> None:
    """Load, generate, show. `prompt` is text, or token ids.

    Raises:
        typer.Exit: with the signal's code, if one ended the generation.
        GptcliError: whatever a user can mend.
    """
    if plan.beams is not None and params.constraint is not None:
        raise UsageError("beams", f"cannot be used together with `{params.constraint.kind}`")
    target = options.target(need_weights=not plan.dry_run)
    # Cheap to dear: the tokenizer can refuse before the weights are read.
    tokenizer = options.tokenizer(target, target.config) if target.config else None
    if plan.dry_run:
        ids = read_ids(tokenizer, prompt, special=plan.special) if tokenizer else None
        numbers = options.settled(target).numbers
        show_dry_run(target, params, ids, dtype=numbers, plan=plan)
        return
    seed = fresh_seed() if options.seed is None else options.seed
    start = perf_counter()
    settled = options.settled(target)
    single = plan.is_single(quantized=settled.quantize is not None)
    model = settled.load_fast(target, seed, single=single)
    loaded = perf_counter() - start
    tokenizer = tokenizer or options.tokenizer(target, model.config)
    ids = read_ids(tokenizer, prompt, special=plan.special)
    text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
    job = Run(target.name, text, ids, tokenizer, seed, loaded)
    job.drafter = guessing.drafter(options, plan, tokenizer)
    finish(job, plan, show_all(job, model, params, plan))


def show_all(job: Run, model: "FastGPT", params: SamplingParams, plan: Plan) -> list["Completion"]:
    """Show every sample in turn → what was shown."""
    view = _view(job, plan)
    shown = []
    for sample, completion in enumerate(_completions(job, model, params, plan)):
        if plan.num_samples > 1 and not plan.json:
            console.notice(f"sample {sample + 1} of {plan.num_samples}")
        shown.append(completion)
        with signals.patience():
            view.show(completion, sample)
        if signals.interrupted():
            break
    return shown


def finish(job: Run, plan: Plan, completions: list["Completion"]) -> None:
    """Statistics if they were asked for, and the exit code of an interruption."""
    if plan.stats:
        console.say(statistics(job, completions))
    if signals.interrupted():
        new = sum(len(completion.generation.ids) for completion in completions)
        console.say(f"interrupted after {new:,} tokens")
        raise typer.Exit(signals.exit_code())


def read_ids(tokenizer: "Tokenizer", prompt: str | tuple[int, ...], *, special: bool) -> list[int]:
    """The prompt's tokens; of an empty one what texts begin with, at least the end of another.

    Raises:
        UsageError: it has no tokens, or some that the model does not have.
    """
    if not isinstance(prompt, str):
        if max(prompt) >= tokenizer.n_vocab:
            found = f"{max(prompt)}, expected below {tokenizer.n_vocab}"
            raise UsageError("prompt_ids", f"a token id is not in the vocabulary ({found})")
        return list(prompt)
    ids = tokenizer.prompt(prompt, special=special)
    if not special and (spelled := tokenizer.spelled_special(prompt)):
        notice_special(spelled)
    if ids:
        return ids
    if tokenizer.eos_id is None:
        raise UsageError("allow_empty", "the tokenizer has no end-of-text token to begin at")
    return [tokenizer.eos_id]


def _completions(
    job: Run, model: "FastGPT", params: SamplingParams, plan: Plan
) -> Iterator["Completion"]:
    if plan.beams is None:
        yield from _samples(job, model, params, plan)
        return
    found = beaming.completions(
        model, job.ids, params, plan.beams, job.tokenizer, plan.stop, plan.keep_stop
    )
    yield from found[: plan.top or plan.num_samples]


def _samples(
    job: Run, model: "FastGPT", params: SamplingParams, plan: Plan
) -> Iterator["Completion"]:
    """Completions drawn one after another from one reading of the prompt."""
    from gptcli.generation.decode import Generation, Prompt
    from gptcli.generation.text_stream import Completion
    from gptcli.sampling.constraint import matcher

    deadline = None if plan.time_limit is None else monotonic() + plan.time_limit
    prompt = Prompt(model, job.ids, params.max_new_tokens, plan.overflow)
    job.prefill_seconds = prompt.seconds
    job.speculation = guessing.speculation(prompt, job.drafter)
    for sample in range(plan.num_samples):
        generation = Generation(
            prompt,
            params,
            seed=job.seed,
            sample=sample,
            eos_ids=job.tokenizer.eos_ids,
            constraint=matcher(params.constraint, job.tokenizer),
            n_vocab=job.tokenizer.n_vocab,
            overflow=plan.overflow,
            speculation=job.speculation,
            deadline=deadline,
            stopped=signals.interrupted,
            logprobs=plan.alternatives,
        )
        yield Completion(generation, job.tokenizer, plan.stop, plan.keep_stop, after=job.ids)


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
