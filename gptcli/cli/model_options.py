"""From a `ModelSpec` to a model, with what a terminal shows meanwhile."""

from typing import TYPE_CHECKING

from gptcli.cli.render import console, progress
from gptcli.core.escape import shown
from gptcli.generation.model_spec import ModelSpec

if TYPE_CHECKING:
    from gptcli.checkpoint.resolve import Target
    from gptcli.generation.llm import LLM
    from gptcli.model.gpt import GPTModel


def found(spec: ModelSpec, *, need_weights: bool = True, option: str = "model") -> "Target":
    """The files of the model, downloaded if they must be; `option` is what errors name."""
    from gptcli.checkpoint.resolve import resolve

    with progress.downloads() as report:
        return resolve(
            spec.model,
            spec.config,
            spec.weights,
            offline=spec.offline,
            need_weights=need_weights,
            progress=report,
            option=option,
        )


def opened(spec: ModelSpec) -> "LLM":
    """The model, its weights not read yet."""
    from gptcli.generation.llm import LLM

    return LLM.of_target(spec, found(spec))


def ready(llm: "LLM") -> "LLM":
    """The model, its weights read, with what a user should know about it on stderr."""
    with console.waiting(f"loading {shown(llm.name, 60)} ..."):
        assert llm.engine
    for line in llm.notices:
        console.notice(line)
    return llm


def book_model(llm: "LLM") -> "GPTModel":
    """The book's network in PyTorch, rounded weights as floats: for looking inside."""
    spec = llm.spec
    with console.waiting(f"loading {shown(llm.name, 60)} ..."):
        from gptcli.checkpoint.load import load_model
        from gptcli.engine.pytorch import torch_on

        torch_on(spec.device, spec.threads)
        model = load_model(
            llm.target,
            llm.checkpoint,
            seed=spec.seed,
            device=spec.device,
            check_finite=spec.check_finite,
        )
    for line in llm.notices:
        console.notice(line)
    return model
