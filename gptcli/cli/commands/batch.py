"""`gptcli batch`: a file of prompts in, a file of completions out, resumable."""

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from gptcli.batch.io.tables import is_table
from gptcli.batch.job import Form, JobSpec, OpenAIDefaults
from gptcli.cli.batch_run import BatchPlan, run_batch, seed_of
from gptcli.cli.command import CommandFunction, Without, was_given
from gptcli.cli.options import Greedy, Quiet, sampling
from gptcli.cli.ray_cluster import ClusterOptions
from gptcli.cli.render import console
from gptcli.core.errors import UsageError
from gptcli.core.options import Option
from gptcli.generation.model_spec import ModelSpec
from gptcli.generation.text_options import INPUT
from gptcli.sampling.params import SamplingParams


@CommandFunction
def batch(
    context: typer.Context,
    plan: BatchPlan,
    spec: JobSpec,
    model: Annotated[ModelSpec, Without("engine")],
    cluster: ClusterOptions,
    text: Annotated[bool, Option("Each line is a prompt, as it stands.", INPUT)] = False,
    greedy: Greedy = False,
    quiet: Quiet = False,
) -> None:
    """Continue many prompts.

    Each line of the input gets one line of the output, in order. The output is the same to the
    last byte whatever the batch size, and however often the job was killed and resumed.

    Exit codes: 0 done, 4 done but some records failed, 1 stopped, 2 usage, 3 bad file,
    130/143/129 interrupted; after 1 and an interruption --resume goes on.
    """
    console.Settings.quiet = quiet
    params = sampling(context, spec.params, model, greedy=greedy)
    model = replace(model, engine="auto" if cluster.engine == "ray" else cluster.engine)
    form = _form(plan.input, text=text)
    spec = replace(
        spec,
        seed=seed_of(model),
        params=params,
        form=form,
        column=(spec.column or "prompt") if form == "table" else None,
        openai=_openai_defaults(context, params),
    )
    run_batch(model, spec, replace(plan, cluster=cluster.plan(model)))


def _openai_defaults(context: typer.Context, params: SamplingParams) -> OpenAIDefaults:
    """OpenAI's defaults, except where the command line or the environment sets a value."""
    usual = asdict(OpenAIDefaults())
    is_given = {name: was_given(context, name) for name in usual}
    is_given["temperature"] |= was_given(context, "greedy")
    values: dict[str, Any] = {
        name: getattr(params, name) if is_given[name] else usual[name] for name in usual
    }
    return OpenAIDefaults(**values)


def _form(input: str, *, text: bool) -> Form:
    has_rows = is_table(input)
    if text and has_rows:
        raise UsageError("text", "cannot be used with a table")
    return "text" if text else "table" if has_rows else "json"
