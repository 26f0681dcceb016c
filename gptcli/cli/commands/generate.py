"""`gptcli generate`: one or several completions of a prompt, streamed."""

import typer

from gptcli.cli.command import CommandFunction, was_given
from gptcli.cli.generate_options import Plan
from gptcli.cli.generate_run import run
from gptcli.cli.options import Greedy, Quiet, sampling
from gptcli.cli.prompt_input import PromptInput
from gptcli.cli.render import console
from gptcli.generation.model_spec import ModelSpec
from gptcli.sampling.params import SamplingParams


@CommandFunction
def generate(
    context: typer.Context,
    model: ModelSpec,
    params: SamplingParams,
    plan: Plan,
    source: PromptInput,
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
    run(model, params, plan, source.read())
