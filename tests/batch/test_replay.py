"""Replay: equal where nothing changed, and the right token and margin where something did."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batch_jobs import SPEC, bytes_tokenizer, prompts, read, tiny_book, tiny_model, worker, write

from gptcli.batch.io.inputs import open_file
from gptcli.batch.job import JobSpec
from gptcli.batch.output import read_output
from gptcli.batch.replay import Difference, echoed, pairs_of, replay
from gptcli.batch.request import RecordReader
from gptcli.batch.runner import RecordStream
from gptcli.core.errors import InputError
from gptcli.sampling import sampler


def replayed(
    source: Path | None, output: Path, spec: JobSpec = SPEC, wanted: tuple[int, ...] = ()
) -> list[Difference]:
    with ExitStack() as stack:
        _, done = stack.enter_context(read_output(output))
        if source is None:
            pairs: Iterator = echoed(done, spec, frozenset(wanted))
        else:
            lines = stack.enter_context(open_file(source)).lines()
            reading = RecordStream(lines, RecordReader(spec), lambda: None)
            pairs = pairs_of(done, reading, frozenset(wanted), "out")
        return list(replay(pairs, worker(spec, rows=3), tiny_model()))


def change(output: Path, line: int, completion: str, ids: list[int] | None = None) -> None:
    """Record another text for a line."""
    rows = [json.loads(row) for row in output.read_text().splitlines()]
    row = next(row for row in rows if row.get("line") == line)
    row["completion"] = completion
    if ids is not None:
        row["ids"] = ids
    output.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, ids=True, echo=True)], ids=["plain", "full"])
def test_a_job_run_again_is_equal(tmp_path: Path, spec: JobSpec) -> None:
    source = prompts(tmp_path / "in", 8)
    write(source, tmp_path / "out", spec)
    assert replayed(source, tmp_path / "out", spec) == []
    if spec.echo:
        assert replayed(None, tmp_path / "out", spec) == []


def test_the_request_in_the_output_is_all_that_a_text_job_needs(tmp_path: Path) -> None:
    spec = replace(SPEC, form="text", echo=True)
    (tmp_path / "in").write_text('first\n{"second"\n')
    write(tmp_path / "in", tmp_path / "out", spec)
    assert replayed(None, tmp_path / "out", spec) == []
    assert read(tmp_path / "out")[1]["request"] == {"prompt": '{"second"'}


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_the_first_differing_token_and_its_margin(
    tmp_path: Path, temperature: float, with_ids: bool
) -> None:
    params = replace(
        SPEC.params, temperature=temperature, logit_bias=tuple((b, 9.0) for b in range(97, 123))
    )
    spec = replace(SPEC, params=params, ids=with_ids)
    (tmp_path / "in").write_text('{"prompt": "one"}\n{"prompt": "two"}')
    write(tmp_path / "in", tmp_path / "out", spec)
    text = read(tmp_path / "out")[1]["completion"]
    assert text.islower()
    other = "q" if text[3] != "q" else "z"
    recorded = text[:3] + other + text[4:]
    change(tmp_path / "out", 2, recorded, list(recorded.encode()) if with_ids else None)
    (found,) = replayed(tmp_path / "in", tmp_path / "out", spec)
    assert (found.line, found.sample, found.token) == (2, 0, 4)
    assert found.recorded is not None
    assert found.now is not None
    assert (found.recorded.text, found.now.text) == (other, text[3])

    ids = [*bytes_tokenizer().encode("two"), *text[:3].encode()]
    logits = tiny_book()(torch.tensor([ids]), last=True)[0, -1].detach().clone().numpy()
    logits[97:123] += 9
    if temperature == 0:
        assert found.unit == "logit"
        expected = float(logits[ord(text[3])] - logits[ord(other)])
    else:
        assert found.unit == "probability"
        upper = sampler.probabilities(logits, params).cumsum()
        u = sampler.uniform(7, "2", 0, 3)
        low, high = float(upper[ord(other) - 1]), float(upper[ord(other)])
        expected = low - u if u < low else u - high
    assert found.margin == pytest.approx(expected, abs=1e-4)
    assert found.margin >= 0


def test_a_recorded_text_that_ended_earlier_differs_at_its_end(tmp_path: Path) -> None:
    params = replace(SPEC.params, logit_bias=tuple((b, 9.0) for b in range(97, 123)))
    spec = replace(SPEC, params=params)
    (tmp_path / "in").write_text('{"prompt": "one"}')
    write(tmp_path / "in", tmp_path / "out", spec)
    text = read(tmp_path / "out")[0]["completion"]
    change(tmp_path / "out", 1, text[:2])
    (found,) = replayed(tmp_path / "in", tmp_path / "out", spec)
    assert found.line == 1
    assert found.recorded is not None
    assert found.recorded.text == "end of text"
    assert found.token == 3


def test_only_the_lines_that_were_asked_for_are_run(tmp_path: Path) -> None:
    source = prompts(tmp_path / "in", 10)
    write(source, tmp_path / "out")
    change(tmp_path / "out", 1, "x")
    change(tmp_path / "out", 3, "x")
    found = replayed(source, tmp_path / "out", wanted=(3, 2))
    assert [difference.line for difference in found] == [3]


def test_a_record_that_failed_and_no_longer_does_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"prompt": ""}')
    write(tmp_path / "in", tmp_path / "out")
    spec = replace(SPEC, allow_empty=True)
    (found,) = replayed(tmp_path / "in", tmp_path / "out", spec)
    assert (found.line, found.token) == (1, None)
    assert "now ok" in found.what


def test_another_input_is_refused(tmp_path: Path) -> None:
    source = prompts(tmp_path / "in", 5)
    write(source, tmp_path / "out")
    source.write_text('{"prompt": "another"}')
    with pytest.raises(InputError, match="line 1 of the input is not the one answered here"):
        replayed(source, tmp_path / "out")
