"""`gptcli batch`: a file of prompts in, a file of completions out, resumable."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gptcli.batch import output as outputs
from gptcli.batch.io.tables import is_table
from gptcli.batch.job import Form, JobSpec, OpenAIDefaults, Shard
from gptcli.cli import options as o
from gptcli.cli.batch_run import BatchPlan, run_batch, seed_of
from gptcli.cli.clustering import cluster_plan
from gptcli.cli.model_options import ModelOptions
from gptcli.cli.render import console
from gptcli.core.errors import UsageError
from gptcli.sampling.params import SamplingParams

JOB, INPUT, CLUSTER = "Job", "Input", "Cluster"
_IN = 'JSON Lines or .csv, also gzip; .parquet; a URL; "-" reads standard input.'
_OUT = 'JSON Lines, a header first; "-" is standard output.'
_RESUME = "Go on where an earlier run ended; without one, begin."
_OVERWRITE = "Replace an output that is there, once the new one is whole."
_RETRY = "Answer failed records again; their lines may have changed."
_SHARD = "Only every N-th line, from line I on; gptcli merge joins the parts."
_HASH = "Put a hash of every byte of the weights in the header."
_TRUNCATE = "Cut a prompt's beginning to make room for the new tokens."
_TOKENS = "Never hold more than N tokens at once."
_IDS = "Put the ids of the new tokens in the output."
_ENGINE = "ray: many workers, on one machine or a cluster; same output."
_ADDRESS = "A running cluster: auto, or host:port; else one begins here."
_GPUS = "With --device cuda; 1 without it, 0.5 lets two workers share one."
_ECHO = "Put each request in the output; replay then needs no input."


def batch(
    context: typer.Context,
    input: Annotated[str, typer.Argument(metavar="INPUT", help=_IN)],
    output: Annotated[Path, o.option(JOB, _OUT, "--output", "-o", metavar="FILE")],
    resume: Annotated[bool, o.option(JOB, _RESUME, "--resume")] = False,
    overwrite: Annotated[bool, o.option(JOB, _OVERWRITE, "--overwrite")] = False,
    retry_failed: Annotated[bool, o.option(JOB, _RETRY, "--retry-failed")] = False,
    shard: Annotated[str | None, o.option(JOB, _SHARD, "--shard", metavar="I/N")] = None,
    batch_size: Annotated[
        int | None, o.option(o.MACHINE, "Texts at a time.", "--batch-size", metavar="N")
    ] = None,
    max_batch_tokens: Annotated[
        int | None, o.option(o.MACHINE, _TOKENS, "--max-batch-tokens", metavar="N")
    ] = None,
    text: Annotated[
        bool, o.option(INPUT, "Each line is a prompt, as it stands.", "--text")
    ] = False,
    column: Annotated[
        str, o.option(INPUT, "A table's column of prompts.", "--column", metavar="NAME")
    ] = "prompt",
    allow_empty: o.AllowEmpty = False,
    truncate_prompt: Annotated[
        Literal["left"] | None, o.option(INPUT, _TRUNCATE, "--truncate-prompt")
    ] = None,
    id_check: Annotated[
        bool, o.option(INPUT, "Refuse an id given twice.", "--id-check/--no-id-check")
    ] = True,
    model: o.Model = None,
    config: o.Config = None,
    weights: o.Weights = None,
    offline: o.Offline = False,
    check_finite: o.CheckFinite = True,
    hash_weights: Annotated[bool, o.option(o.MODEL, _HASH, "--hash-weights")] = False,
    max_new_tokens: o.MaxNewTokens = o.DEFAULTS.max_new_tokens,
    min_new_tokens: o.MinNewTokens = o.DEFAULTS.min_new_tokens,
    ignore_eos: o.IgnoreEos = o.DEFAULTS.ignore_eos,
    stop: o.Stop = None,
    keep_stop: o.KeepStop = False,
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
    num_samples: Annotated[
        int, o.option(o.SAMPLING, "Texts for each record.", "--num-samples", metavar="N")
    ] = 1,
    ids: Annotated[bool, o.option(o.OUTPUT, _IDS, "--ids")] = False,
    echo: Annotated[bool, o.option(o.OUTPUT, _ECHO, "--echo")] = False,
    json: Annotated[bool, o.option(o.OUTPUT, "A summary on standard output.", "--json")] = False,
    quiet: o.Quiet = False,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    quantize: o.Quantize = None,
    threads: o.Threads = None,
    engine: Annotated[Literal["ray"] | None, o.option(CLUSTER, _ENGINE, "--engine")] = None,
    workers: Annotated[
        int | None, o.option(CLUSTER, "How many; 1 without it.", "--workers", metavar="N")
    ] = None,
    ray_address: Annotated[
        str | None, o.option(CLUSTER, _ADDRESS, "--ray-address", metavar="ADDRESS")
    ] = None,
    num_gpus_per_worker: Annotated[
        float | None, o.option(CLUSTER, _GPUS, "--num-gpus-per-worker", metavar="X")
    ] = None,
) -> None:
    """Continue many prompts.

    Each line of the input gets one line of the output, in order. The output is the same to the
    last byte whatever the batch size, and however often the job was killed and resumed.

    Exit codes: 0 done, 4 done but some records failed, 1 stopped, 2 usage, 3 bad file,
    130/143/129 interrupted; after 1 and an interruption --resume goes on.
    """
    console.Settings.quiet = quiet
    o.at_least("--batch-size", batch_size, 1)
    o.at_least("--max-batch-tokens", max_batch_tokens, 1)
    o.at_least("--workers", workers, 1)
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
    form = _form(input, text=text)
    spec = JobSpec(
        seed=seed_of(options),
        params=params,
        stop=o.check_stops(stop),
        keep_stop=keep_stop,
        overflow=overflow,
        num_samples=num_samples,
        form=form,
        column=column if form == "table" else None,
        allow_empty=allow_empty,
        truncate_prompt=truncate_prompt,
        check_ids=id_check,
        ids=ids,
        echo=echo,
        openai=_openai_defaults(context, params),
        shard=None if shard is None else Shard.parse(shard),
    )
    plan = BatchPlan(
        input=input,
        output=_output(output, json=json),
        mode=_mode(resume=resume, overwrite=overwrite, retry=retry_failed),
        batch_size=batch_size,
        max_batch_tokens=max_batch_tokens,
        hash_weights=hash_weights,
        json=json,
        cluster=cluster_plan(
            engine, workers, ray_address, num_gpus_per_worker, device=device, threads=threads
        ),
    )
    run_batch(options, spec, plan)


def _openai_defaults(context: typer.Context, params: SamplingParams) -> OpenAIDefaults:
    """OpenAI's, but for what the command line or the environment says."""
    usual = asdict(OpenAIDefaults())
    is_said = {name: _is_said(context, name) for name in usual}
    is_said["temperature"] |= _is_said(context, "greedy")
    values: dict[str, Any] = {
        name: getattr(params, name) if is_said[name] else usual[name] for name in usual
    }
    return OpenAIDefaults(**values)


def _is_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _form(input: str, *, text: bool) -> Form:
    has_rows = is_table(input)
    if text and has_rows:
        raise UsageError("--text", "cannot be used with a table")
    return "text" if text else "table" if has_rows else "json"


def _output(output: Path, *, json: bool) -> Path | None:
    if str(output) != "-":
        return output
    if json:
        raise UsageError("--json", "needs standard output, where --output - writes records")
    return None


def _mode(*, resume: bool, overwrite: bool, retry: bool) -> outputs.Mode:
    if retry and (resume or overwrite):
        raise UsageError("--retry-failed", "cannot be used with --resume or --overwrite")
    if overwrite:
        return "overwrite-resume" if resume else "overwrite"
    return "retry" if retry else "resume" if resume else "new"
