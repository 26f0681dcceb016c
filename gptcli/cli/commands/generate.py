"""`gptcli generate`: one or several completions of a prompt, streamed."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import typer

from gptcli.cli.command import CommandFunction, was_given
from gptcli.cli.generate_options import GenerateOptions
from gptcli.cli.model_loading import find_model, load_weights, open_model
from gptcli.cli.options import Greedy, Quiet, sampling
from gptcli.cli.prompt_input import PromptInput, notice_special
from gptcli.cli.render import console
from gptcli.cli.render.completion_views import (
    BeamsView,
    JsonView,
    Run,
    TableView,
    TextView,
    View,
    probability_legend,
    stats_text,
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

Prompt = str | tuple[int, ...]  # text, or token ids


@CommandFunction
def generate(
    context: typer.Context,
    model: ModelSpec,
    params: SamplingParams,
    options: GenerateOptions,
    source: PromptInput,
    greedy: Greedy = False,
    quiet: Quiet = False,
) -> None:
    """Continue a text.

    The prompt is the argument, a file, or standard input: read for "-", or when there is no
    prompt and it is not a terminal. One final newline of it is dropped.
    """
    console.Settings.quiet = quiet
    options.refuse_unused(lambda name: was_given(context, name))
    params, recommended = sampling(context, params, model, greedy=greedy)
    params = params.with_recommended(recommended)
    prompt = source.read()
    if options.beams is not None and params.constraint is not None:
        raise UsageError("beams", f"cannot be used together with `{params.constraint.kind}`")
    if options.dry_run:
        _dry_run(model, params, options, prompt)
    else:
        _generate(model, params, options, prompt)


def _dry_run(
    spec: ModelSpec, params: SamplingParams, options: GenerateOptions, prompt: Prompt
) -> None:
    from gptcli.generation.llm import LLM

    llm = LLM.of_target(spec, find_model(spec, need_weights=False))
    show_dry_run(llm.target, params, options, _ids(llm, prompt, options), llm.weight_dtype)


def _generate(
    spec: ModelSpec, params: SamplingParams, options: GenerateOptions, prompt: Prompt
) -> None:
    """Load the model, generate, show.

    Raises:
        typer.Exit: with the signal's code, if one ended the generation.
    """
    from gptcli.generation.llm import fresh_seed

    spec = replace(spec, seed=fresh_seed() if spec.seed is None else spec.seed)
    start = perf_counter()
    llm = open_model(spec)
    ids = _ids(llm, prompt, options)  # the tokenizer can refuse before the weights are read
    load_weights(llm)
    text = prompt if isinstance(prompt, str) else llm.tokenizer.decode(prompt)
    run = Run(llm.name, text, ids, llm.tokenizer, spec.seed or 0, perf_counter() - start)
    view, completions = _view(run, options), []
    for sample, completion in enumerate(_completions(run, llm, params, options)):
        if options.num_samples > 1 and not options.json:
            console.notice(f"sample {sample + 1} of {options.num_samples}")
        completions.append(completion)
        with signals.deferred():
            view.show(completion, sample)
        if signals.interrupted():
            break
    if options.stats:
        console.say(stats_text(run, completions))
    if signals.interrupted():
        new = sum(len(completion.generation.ids) for completion in completions)
        console.say(f"interrupted after {plural(new, 'token')}")
        raise typer.Exit(signals.exit_code())


def _ids(llm: "LLM", prompt: Prompt, options: GenerateOptions) -> list[int]:
    """The prompt's token ids, with a notice of a special token that is read as text."""
    is_text = isinstance(prompt, str) and not options.special
    if is_text and (spelled := llm.tokenizer.find_special_token(str(prompt))):
        notice_special(spelled)
    return llm.prompt_ids(prompt, special=options.special)


def _completions(
    run: Run, llm: "LLM", params: SamplingParams, options: GenerateOptions
) -> Iterator["Completion"]:
    """Samples that continue one prefill, or the completions of one beam search."""
    if options.beams is not None:
        found = llm.beam_search(
            run.ids, params, options.beams, stop=options.stop, keep_stop=options.keep_stop
        )
        yield from found[: options.top or options.num_samples]
        return
    drafter = _drafter(llm, options)
    deadline = None if options.time_limit is None else monotonic() + options.time_limit
    prompt = llm.prefill(run.ids, params.max_new_tokens, options.overflow)
    run.prefill_seconds = prompt.seconds
    if drafter is not None:
        from gptcli.generation.speculative import Speculation

        run.speculation = Speculation(prompt, drafter)
    for sample in range(options.num_samples):
        yield llm.stream(
            prompt,
            params,
            seed=run.seed,
            sample=sample,
            stop=options.stop,
            keep_stop=options.keep_stop,
            overflow=options.overflow,
            speculation=run.speculation,
            deadline=deadline,
            stopped=signals.interrupted,
            logprobs=options.alternatives,
        )


def _drafter(llm: "LLM", options: GenerateOptions) -> "Drafter | None":
    """What proposes draft tokens; None without speculative decoding."""
    from gptcli.generation.speculative import DraftModel, PromptLookup, require_same_tokens

    if options.draft is None:
        return PromptLookup() if options.lookup else None
    smaller = open_model(replace(llm.spec, model=options.draft, config=None, weights=None))
    require_same_tokens(llm.tokenizer, smaller.tokenizer, options.draft)
    return DraftModel(load_weights(smaller).engine)


def _view(run: Run, options: GenerateOptions) -> View:
    if options.json:
        return JsonView(run, options.echo, options.logprobs)
    if options.beams is not None and options.top is not None:
        return BeamsView()
    if options.top is not None or (
        options.show is not None and not console.wants_color(sys.stdout)
    ):
        return TableView(run.tokenizer)
    if options.show is not None:
        console.notice(probability_legend())
    prompt = run.text if options.echo else ""
    return TextView(prompt, options.raw, options.show is not None, options.wrap)
