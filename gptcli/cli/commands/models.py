"""`gptcli models`: list the presets. Never imports torch or downloads."""

from typing import Any

from gptcli.checkpoint.resolve import PresetStatus, available_presets
from gptcli.cli.command import CommandFunction
from gptcli.cli.options import Json
from gptcli.cli.render import console
from gptcli.cli.render.table import HEADING, QUIET, Report, Row
from gptcli.core.units import bytes_text

SCHEMA = "gptcli.models/1"
_TITLES = ("name", "parameters", "on disk", "")


@CommandFunction
def models(json: Json = False) -> None:
    """List the presets, and which of them are on this machine.

    The weights of a preset are downloaded at its first use, into the cache of huggingface_hub;
    this command downloads nothing.
    """
    all_models = available_presets()
    if json:
        console.print_json({"schema": SCHEMA, "models": [_document(one) for one in all_models]})
        return
    rows = [Row(_cells(one), style="" if one.is_ready else QUIET) for one in all_models]
    Report().rows([Row(_TITLES, style=HEADING), *rows], right=(1,))


def _cells(one: PresetStatus) -> tuple[str, ...]:
    return (
        one.preset.name,
        f"{one.parameters:,}" if one.parameters else "",
        _weights(one),
        one.preset.summary,
    )


def _weights(one: PresetStatus) -> str:
    if one.kind == "untrained":
        return "none needed"
    if one.directory is None:
        return "to download" if one.kind == "pretrained" else "missing"
    return bytes_text(one.weight_bytes) if one.weight_bytes else "yes"


def _document(one: PresetStatus) -> dict[str, Any]:
    """What --json prints for one preset: parameters and bytes are integers."""
    return {
        "name": one.preset.name,
        "summary": one.preset.summary,
        "kind": one.kind,
        "ready": one.is_ready,
        "parameters": one.parameters,
        "config": one.config.to_dict() if one.config else None,
        "repo": one.preset.repo,
        "directory": str(one.directory) if one.directory else None,
        "weight_bytes": one.weight_bytes,
    }
