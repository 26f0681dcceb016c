"""`gptcli generate`: one or several completions of a prompt, streamed."""

from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli import options as o
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.plan import Plan, Shows
from gptcli.cli.prompt_input import read_prompt
from gptcli.cli.render import console
from gptcli.cli.running import run
from gptcli.sampling.params import SamplingParams

_SAMPLES = "Write N texts of the same prompt."
_BEAMS = "Search with N beams for the likeliest text; nothing is drawn."
_SHOW = "Colour each token by its probability; without colour, a table."
_TOP = "List N likely tokens for each place, as a table or in --logprobs."


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help='Text to continue; "-" reads standard input.'),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        o.option("Input", "Read the prompt from a file.", "--prompt-file", "-f", metavar="FILE"),
    ] = None,
    allow_empty: o.AllowEmpty = False,
    model: o.Model = None,
    config: o.Config = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    check_finite: o.CheckFinite = True,
    max_new_tokens: o.MaxNewTokens = o.DEFAULTS.max_new_tokens,
    min_new_tokens: o.MinNewTokens = o.DEFAULTS.min_new_tokens,
    ignore_eos: o.IgnoreEos = o.DEFAULTS.ignore_eos,
    stop: o.Stop = None,
    keep_stop: o.KeepStop = False,
    time_limit: o.TimeLimit = None,
    overflow: o.Overflow = "stop",
    seed: o.Seed = None,
    temperature: o.Temperature = None,
    greedy: o.Greedy = False,
    top_k: o.TopK = o.DEFAULTS.top_k,
    top_p: o.TopP = o.DEFAULTS.top_p,
    min_p: o.MinP = o.DEFAULTS.min_p,
    typical_p: o.TypicalP = o.DEFAULTS.typical_p,
    repetition_penalty: o.RepetitionPenalty = o.DEFAULTS.repetition_penalty,
    presence_penalty: o.PresencePenalty = o.DEFAULTS.presence_penalty,
    frequency_penalty: o.FrequencyPenalty = o.DEFAULTS.frequency_penalty,
    no_repeat_ngram: o.NoRepeatNgram = o.DEFAULTS.no_repeat_ngram,
    logit_bias: o.LogitBias = None,
    beams: Annotated[int | None, o.option(o.SAMPLING, _BEAMS, "--beams", metavar="N")] = None,
    num_samples: Annotated[int, o.option(o.SAMPLING, _SAMPLES, "--num-samples", metavar="N")] = 1,
    echo: Annotated[
        bool, o.option(o.OUTPUT, "Print the prompt before the text.", "--echo/--no-echo")
    ] = True,
    json: o.Json = False,
    logprobs: Annotated[
        bool, o.option(o.OUTPUT, "Log-probabilities in the JSON.", "--logprobs")
    ] = False,
    show: Annotated[Shows | None, o.option(o.OUTPUT, _SHOW, "--show")] = None,
    top: Annotated[int | None, o.option(o.OUTPUT, _TOP, "--top", metavar="N")] = None,
    stats: Annotated[
        bool, o.option(o.OUTPUT, "Seed, counts and speed on stderr.", "--stats")
    ] = False,
    quiet: o.Quiet = False,
    raw: Annotated[
        bool, o.option(o.OUTPUT, "Send control characters to the terminal as they are.", "--raw")
    ] = False,
    dry_run: Annotated[
        bool, o.option(o.OUTPUT, "Tokens, room and memory; read no weights.", "--dry-run")
    ] = False,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    quantize: o.Quantize = None,
    lookup: o.Lookup = False,
    draft: o.Draft = None,
    threads: o.Threads = None,
) -> None:
    """Continue a text.

    The prompt is the argument, a file, or standard input: read for "-", or when there is no
    prompt and it is not a terminal. One final newline of it is dropped.
    """
    console.Settings.quiet = quiet
    params = SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=0.0 if greedy else o.temperature_of(temperature, model, config, weights),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        no_repeat_ngram=no_repeat_ngram,
        logit_bias=o.logit_biases(logit_bias),
        min_new_tokens=min_new_tokens,
        ignore_eos=ignore_eos,
    )
    plan = Plan(
        num_samples=num_samples,
        beams=beams,
        stop=o.check_stops(stop),
        keep_stop=keep_stop,
        time_limit=time_limit,
        overflow=overflow,
        echo=echo,
        json=json,
        logprobs=logprobs,
        show=show,
        top=top,
        stats=stats,
        raw=raw,
        dry_run=dry_run,
        lookup=lookup,
        draft=draft,
    )
    options = ModelOptions(
        model=model,
        config=config,
        weights=weights,
        offline=offline,
        seed=seed,
        device=device,
        dtype=dtype,
        threads=threads,
        check_finite=check_finite,
        quantize=quantize,
    )
    run(options, params, plan, read_prompt(prompt, prompt_file, allow_empty=allow_empty))
