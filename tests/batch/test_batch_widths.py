"""A batch in 8 bits: the header says so, no resume mixes widths, replay takes it up."""

import json
from pathlib import Path

import pytest
from tiny_directory import write_tiny

from gptcli.cli import run


def test_the_width_of_a_batch_is_part_of_the_job(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, source, output = write_tiny(tmp_path / "m"), tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("one\ntwo\nthree\n", encoding="ascii")
    job = ["batch", str(source), "--text", "-o", str(output), "-m", str(model), "--seed", "1"]
    assert run([*job, "--max-new-tokens", "9", "--quantize", "int8"]) == 0
    lines = output.read_text().splitlines()
    assert json.loads(lines[0])["dtype"] == "int8"
    assert len(lines) == 4
    capfd.readouterr()
    assert run([*job, "--max-new-tokens", "9", "--resume"]) == 3
    assert "dtype" in capfd.readouterr().err
    assert output.read_text().splitlines() == lines
    assert run(["replay", str(output), "-i", str(source), "-m", str(model)]) == 0
