"""Directories from the field: prompts, ends and refusals as transformers has them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gptcli import cli

CASES = (
    "old-added-tokens",
    "eos-in-generation-config",
    "eos-in-special-tokens-map",
    "eos-list-in-config",
    "eos-id-outside-vocab",
    "added-tokens-in-prompt",
    "other-tokenizer",
    "add-prefix-space",
    "template-bos",
    "nanogpt-config",
)
KEYS = {"prompt_ids": "prompt_ids", "new_ids": "ids", "finish_reason": "finish_reason"}


@pytest.mark.parametrize("case", CASES)
def test_a_directory_gives_what_transformers_gives(
    shared: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "cases" / case
    if not folder.is_dir():
        pytest.skip("needs the cases in ../shared")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for run in json.loads((folder / "expect.json").read_text(encoding="utf-8"))["runs"]:
        code = cli.run(run["args"])
        captured = capsys.readouterr()
        codes = run["exit"] if isinstance(run["exit"], list) else [run["exit"]]
        assert code in codes, captured.err
        wanted = {ours: run[key] for key, ours in KEYS.items() if key in run}
        answer: dict[str, Any] = json.loads(captured.out) if wanted else {}
        assert {key: answer[key] for key in wanted} == wanted
        if "stderr" in run:
            assert re.search(run["stderr"], captured.err, re.IGNORECASE)
