"""`gptcli generate`: one or several completions of a prompt, streamed."""

from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.command import CommandFunction, was_given
from gptcli.cli.options import Greedy, Quiet, sampling
from gptcli.cli.plan import Plan
from gptcli.cli.prompt_input import parse_ids, read_prompt
from gptcli.cli.render import console
from gptcli.cli.running import run
from gptcli.core.errors import UsageError
from gptcli.core.options import Argument, Option
from gptcli.generation.model_spec import ModelSpec
from gptcli.generation.text_options import INPUT, AllowEmpty
from gptcli.sampling.params import SamplingParams


@CommandFunction
def generate(
    context: typer.Context,
    model: ModelSpec,
    params: SamplingParams,
    plan: Plan,
    prompt: Annotated[
        str | None, Argument('Text to continue; "-" reads standard input.', metavar="PROMPT")
    ] = None,
    prompt_file: Annotated[
        Path | None, Option("Read the prompt from a file.", INPUT, short="-f", metavar="FILE")
    ] = None,
    prompt_ids: Annotated[
        str | None,
        Option("The prompt as token ids, in place of text.", INPUT, metavar="IDS"),
    ] = None,
    allow_empty: AllowEmpty = False,
    greedy: Greedy = False,
    quiet: Quiet = False,
) -> None:
    """Continue a text.

    The prompt is the argument, a file, or standard input: read for "-", or when there is no
    prompt and it is not a terminal. One final newline of it is dropped.
    """
    console.Settings.quiet = quiet
    plan.refuse_unused(lambda name: was_given(context, name))
    params = sampling(context, params, model, greedy=greedy)
    if prompt_ids is None:
        run(model, params, plan, read_prompt(prompt, prompt_file, allow_empty=allow_empty))
        return
    if prompt is not None or prompt_file is not None:
        other = "PROMPT" if prompt is not None else "`prompt_file`"
        raise UsageError("prompt_ids", f"cannot be used together with {other}")
    run(model, params, plan, parse_ids(prompt_ids, "prompt_ids"))
