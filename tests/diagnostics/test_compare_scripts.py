"""The comparison with other engines still runs: with the peer that the tests have anyway."""

import subprocess
import sys
from pathlib import Path

import pytest
from batch_jobs import tiny_directory

from gptcli.checkpoint.resolve import resolve

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--shape", "tiny", "--threads", "1", "--rounds", "2"]


def ran(script: str, directory: Path, *arguments: str) -> list[list[str]]:
    """The cells of the tables that a script prints."""
    only = ["--only", "gptcli:float32", "--only", "transformers:float32", "--only", "no-such"]
    command = [sys.executable, str(BENCHMARKS / script), *TINY, *only, *arguments]
    command += ["--directory", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return cells(done.stdout)


def endured(measure: str, directory: Path, *arguments: object) -> list[dict[str, str]]:
    """The rows that `endurance.py` prints, of a tiny model."""
    model = tiny_directory(directory / "model")
    script = BENCHMARKS / "endurance.py"
    command = [sys.executable, script, measure, "--model", model, "--directory", directory]
    command += ["--records", 24, "--new-tokens", 4, *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    names, _, *rows = cells(done.stdout)
    return [dict(zip(names, row, strict=True)) for row in rows]


def cells(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_the_engines_write_the_same_tokens_and_are_set_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = ["--new-tokens", "8", "--prefill", "16", "--rows", "2", "--row-tokens", "3"]
    rows = ran("compare.py", tmp_path, *sizes)
    agreed = {row[0]: row[-1] for row in rows if row[1] == "float32"}
    assert agreed == {"gptcli": "8 of 8", "transformers": "8 of 8"}
    (ratios,) = [row for row in rows if row[0] == "32"]
    assert ratios[1:3] == ["transformers float32", "float32"]
    assert all(float(ratio) > 0 for ratio in ratios[3:])


@pytest.mark.slow
def test_batches_are_set_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = ["--prompts", "3", "--in-tokens", "2", "9", "--out-tokens", "2", "5"]
    rows = ran("compare_batch.py", tmp_path, *sizes)
    assert [row[0] for row in rows[2:]] == ["gptcli float32", "transformers float32"]
    assert rows[2][2] == "1.00"


@pytest.mark.slow
def test_batch_sizes_are_set_below_each_other(tmp_path: Path) -> None:
    sizes = ["--prompts", "3", "--in-tokens", "2", "9", "--out-tokens", "2", "5", "--sizes", "1"]
    names, _, *rows = ran("rows.py", tmp_path, *sizes, "2", "--width", "float32")
    assert names == ["texts at once", "float32"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(float(row[1].split()[0].replace(",", "")) > 0 for row in rows)


@pytest.mark.slow
def test_what_a_busy_core_leaves_is_set_beside_a_quiet_one(tmp_path: Path) -> None:
    rows = ran("busy.py", tmp_path, "--new-tokens", "4", "--rounds", "1")
    assert [row[0] for row in rows[2:]] == ["gptcli float32", "transformers float32"]
    assert all(row[3].endswith("%") for row in rows[2:])


@pytest.mark.slow
def test_a_killed_job_is_held_against_one_left_alone(tmp_path: Path) -> None:
    (row,) = endured("kills", tmp_path, "--kills", 1)
    assert (row["records of a job"], row["outputs that differ"]) == ("24", "0")
    assert int(row["kills"]) >= int(row["jobs"]) >= 1


@pytest.mark.slow
def test_memory_is_that_of_whole_jobs(tmp_path: Path) -> None:
    rows = endured("memory", tmp_path, "--plain", 2, "--lines", 2, 40_000)
    assert [(row["lines"], row["ids"]) for row in rows] == [
        ("2", "none"),
        ("2", "all differ"),
        ("40,000", "all differ"),
    ]
    assert all(int(row["peak MB"]) > 20 for row in rows)  # Python and NumPy are in it
    assert int(rows[2]["MB over the fewest lines"]) < 40


@pytest.mark.slow
def test_workers_are_set_beside_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, the extra `ray`")
    rows = endured("workers", tmp_path, "--workers", 1)
    assert [row[""] for row in rows] == ["one process", "Ray, workers: 1"]
    assert [row["same bytes"] for row in rows] == ["yes", "yes"]


def test_rounded_weights_read_stories_nearly_as_well(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are those of the whole text, which `quality.py` measures in a minute."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from quality import perplexities

    text = shared / "data" / "tinystories" / "valid.txt.gz"
    exact, eight, four = perplexities(resolve(None), text, documents=12)
    assert abs(eight / exact - 1) < 0.002
    assert abs(four / exact - 1) < 0.03
