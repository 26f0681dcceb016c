"""Config and weight files' headers of a TARGET; no tensor is read and nothing is downloaded."""

from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.checkpoint.header import Header, read_headers
from gptcli.checkpoint.layouts import Layout, detect_layout, implied_config
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.core.errors import InputError
from gptcli.core.escape import shown
from gptcli.interpret.weight_summary import implied_model, oddities, problems
from gptcli.model.config import GPTConfig


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files of one model.

    Attributes:
        layout: None if the tensors are not a GPT-2's; `error` says why.
        implied: config keys that the shapes imply, with their values.
        problems: what is missing or does not fit, a sentence each.
        oddities: what is worth knowing but no error, a sentence each.
        error: why the files imply no config.
    """

    path: Path
    headers: list[Header]
    layout: Layout | None
    implied: dict[str, object]
    problems: list[str]
    oddities: list[str]
    error: InputError | None = None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Config and weights of one TARGET.

    Attributes:
        config: of the config file, else the one that the weights imply; None if they do not.
        knows_heads: whether a config file gives n_heads and drop_rate, which weights cannot imply.
        weights: None for a config alone.
    """

    target: Target
    config: GPTConfig | None
    knows_heads: bool
    weights: WeightFiles | None


def read_model_files(name: str | None, config: Path | None, weights: Path | None) -> ModelFiles:
    """Read the config and the headers of a TARGET.

    Raises:
        UsageError: `name` is no preset, and no file or directory.
        InputError: a file or directory is not what it should be.
    """
    target = resolve(name, config, weights, need_weights=False, option="TARGET")
    if target.weights is None:
        if target.config is None:
            raise InputError(shown(target.name), "neither a config nor weights in it")
        return ModelFiles(target, target.config, True, None)
    found = _weight_files(target.weights, target.config)
    known = target.config
    if known is None and found.layout:
        try:
            known = implied_model(found.headers, found.layout)
        except InputError as error:
            found = replace(found, error=error)
    return ModelFiles(target, known, target.config is not None, found)


def _weight_files(path: Path, config: GPTConfig | None) -> WeightFiles:
    headers = read_headers(path)
    try:
        layout = detect_layout(headers)
    except InputError as error:
        return WeightFiles(path, headers, None, {}, [error.problem], [], error)
    wrong = problems(headers, layout, config)
    odd = oddities(headers, layout)
    return WeightFiles(path, headers, layout, implied_config(headers, layout), wrong, odd)
