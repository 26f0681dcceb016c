"""gptcli batch, merge and replay as processes: kills, signals, streams, exit codes."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from batch_jobs import prompts, tiny_directory
from emission import Result, command, environment, run, shell
from engines import needs_kernels
from tiny_directory import tiny_config, write_tiny

from gptcli.batch.io.journal import Journal

SAMPLING = ("--seed", "3", "-n", "5", "-t", "1.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an input and its output."""
    path = tmp_path_factory.mktemp("process")
    tiny_directory(path / "model")
    prompts(path / "in", 200)
    done = batch(path, "whole")
    assert done.code == 4
    assert done.out == b""
    return path


def arguments(folder: Path, output: object, *more: object) -> list[object]:
    out = output if output == "-" else folder / str(output)
    return ["batch", folder / "in", "-o", out, "-m", folder / "model", *SAMPLING, *more]


def batch(folder: Path, output: object, *more: object, **changes: str | None) -> Result:
    return run(*arguments(folder, output, *more), **changes)


def start(folder: Path, output: object, *more: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments(folder, output, *more)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def wait_for_bytes(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.stat().st_size >= count:
            return
        time.sleep(0.005)


def test_kills_at_any_moment_lose_and_change_nothing(folder: Path) -> None:
    whole, output, rng = (folder / "whole").read_bytes(), folder / "killed", random.Random(1)
    kills = 0
    for _ in range(5):
        process = start(folder, "killed", "--resume", "--batch-size", rng.randrange(1, 9), "-q")
        size = output.stat().st_size if output.exists() else 0
        wait_for_bytes(output, size + rng.randrange(1, len(whole) // 4), process)
        kills += process.poll() is None
        process.kill()
        process.communicate()
        assert whole.startswith(output.read_bytes())
    assert kills >= 3
    assert batch(folder, "killed", "--resume", "-q").code == 4
    assert output.read_bytes() == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_job_with_its_code_and_it_resumes(
    folder: Path, number: int, code: int
) -> None:
    output = folder / f"signal{code}"
    process = start(folder, output.name, "--batch-size", 2)
    wait_for_bytes(output, 10_000, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    whole = (folder / "whole").read_bytes()
    assert process.returncode == code
    assert b"continue with --resume" in err
    assert b"Traceback" not in err
    assert whole.startswith(output.read_bytes())
    assert output.read_bytes().endswith(b"\n")
    assert batch(folder, output.name, "--resume").code == 4
    assert output.read_bytes() == whole


def test_two_processes_do_not_write_one_output(folder: Path) -> None:
    beginning = (folder / "whole").read_bytes()[:9000]
    (folder / "both").write_bytes(beginning)
    held = Journal.reopen(folder / "both")
    done = batch(folder, "both", "--resume")
    assert (done.code, b"another process is writing it" in done.err) == (1, True)
    assert (folder / "both").read_bytes() == beginning
    held.close()


def test_streams_carry_the_same_bytes(folder: Path) -> None:
    whole = (folder / "whole").read_bytes()
    done = batch(folder, "-", "-q")
    assert (done.code, done.out) == (4, whole)
    piped = ["batch", "-", "-o", "-", "-m", folder / "model", *SAMPLING, "-q"]
    assert run(*piped, stdin=(folder / "in").read_bytes()).out == whole


def test_standard_input_is_left_alone_unless_asked_for(folder: Path) -> None:
    script = 'printf "kept\\n" | { "$@"; cat; }'
    done = shell(script, *arguments(folder, "/dev/null", "-q"))
    assert done.out == b"kept\n"


def test_a_producer_that_waits_for_an_answer_gets_it(folder: Path) -> None:
    """A record is answered while the next has not come."""
    with subprocess.Popen(
        command("batch", "-", "-o", "-", "-m", folder / "model", *SAMPLING),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b'"gptcli": "batch"' in process.stdout.readline()
        for prompt in ("one", "two"):
            process.stdin.write(json.dumps({"prompt": prompt}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["status"] == "ok"
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_csv_that_comes_row_by_row_is_answered_so_and_can_be_interrupted(
    folder: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "in.csv"
    os.mkfifo(pipe)
    with (
        subprocess.Popen(
            command("batch", pipe, "-o", "-", "-m", folder / "model", *SAMPLING, "-q"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as process,
        pipe.open("wb", buffering=0) as writer,
    ):
        assert process.stdout is not None
        writer.write(b"id,prompt\n")
        assert b'"gptcli": "batch"' in process.stdout.readline()
        for row in (b'1,"one"\n', b'2,"two, in\ntwo lines"\n'):
            writer.write(row)
            assert json.loads(process.stdout.readline())["status"] == "ok"
        writer.write(b'3,"begun')
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"interrupted after line 2\n"


@pytest.mark.parametrize("output", ["-", "/dev/full"])
def test_a_full_disk_is_exit_1(folder: Path, output: str) -> None:
    script = '"$@" > /dev/full' if output == "-" else '"$@"'
    done = shell(script, *arguments(folder, output, "-q"))
    assert done.code == 1
    assert b"No space left on device" in done.err


def test_the_input_and_the_model_are_never_written_over(folder: Path) -> None:
    for name in ("in", "model/config.json", "model/model.safetensors"):
        before = (folder / name).read_bytes()
        done = batch(folder, name, "--overwrite")
        assert (done.code, b"is a file that the job reads" in done.err) == (2, True)
        assert (folder / name).read_bytes() == before


def test_what_differs_from_the_recorded_job_is_said(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    whole = (folder / "whole").read_bytes()
    output.write_bytes(whole)
    done = run(*arguments(folder, output, "--resume", "-t", "1.1"))
    assert done.code == 3
    assert b"made with --temperature 1.2 instead of 1.1" in done.err
    other = tiny_directory(tmp_path / "other")
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    for more in ((), ("--hash-weights",)):
        output.write_bytes(whole)
        done = run(*arguments(folder, output, "--resume", "-m", other, *more))
        assert (done.code, b"made with other weights" in done.err) == (3, True)
        assert output.read_bytes() == whole


def test_the_seed_of_a_job_that_was_given_none_is_in_its_header(folder: Path) -> None:
    fixed = ["batch", folder / "in", "-m", folder / "model", "-n", "5", "-q"]
    assert run(*fixed, "-o", folder / "fresh").code == 4
    first = (folder / "fresh").read_bytes()
    (folder / "fresh").write_bytes(first[:9000])
    assert run(*fixed, "-o", folder / "fresh", "--resume").code == 4
    assert (folder / "fresh").read_bytes() == first


def as_format_1(data: bytes) -> bytes:
    """An output as it was when every record was named by its line: no word of OpenAI requests."""
    first, _, rest = data.partition(b"\n")
    header = json.loads(first)
    assert header["format"] == 2
    header["format"] = 1
    del header["options"]["openai"], header["options"]["special"]
    return json.dumps(header).encode() + b"\n" + rest


def test_an_output_of_format_1_is_resumed_and_replayed_as_it_began(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "model")
    records = [{"id": f"r{n}", "prompt": "x"} for n in range(6)]
    (tmp_path / "in").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "plain").write_text("x\n" * 6)  # without ids, named by their lines in both formats
    common = ["-m", tmp_path / "model", *SAMPLING, "-q"]
    assert run("batch", tmp_path / "plain", "--text", "-o", tmp_path / "lines", *common).code == 0
    assert run("batch", tmp_path / "in", "-o", tmp_path / "ids", *common).code == 0
    header = as_format_1((tmp_path / "ids").read_bytes()).split(b"\n")[0] + b"\n"
    (tmp_path / "old").write_bytes(header)
    assert run("batch", tmp_path / "in", "-o", tmp_path / "old", *common, "--resume").code == 0
    assert (tmp_path / "old").read_bytes().startswith(header)

    def texts(name: str) -> list[str]:
        lines = (tmp_path / name).read_text().splitlines()[1:]
        return [json.loads(line)["completion"] for line in lines]

    assert texts("old") == texts("lines") != texts("ids")
    for name in ("old", "ids"):
        again = run("replay", tmp_path / name, "-i", tmp_path / "in", "-m", tmp_path / "model")
        assert (again.code, again.out) == (0, b"6 records run again, 0 differ\n")
    (tmp_path / "new").write_bytes(header.replace(b'"format": 1', b'"format": 3'))
    resumed = run("batch", tmp_path / "in", "-o", tmp_path / "new", "--resume", *common[:2])
    again = run("replay", tmp_path / "new", "-i", tmp_path / "in", *common[:2])
    for done in (resumed, again):
        assert (done.code, b"unknown format (3, expected 1 to 2)" in done.err) == (3, True)


@needs_kernels
@pytest.mark.parametrize("format", [1, 2])
def test_an_output_is_resumed_by_the_engine_that_wrote_it(tmp_path: Path, format: int) -> None:
    tiny_directory(tmp_path / "model")
    (tmp_path / "in").write_text('{"prompt": "x"}\n' * 3)
    job = ["batch", tmp_path / "in", "-m", tmp_path / "model", *SAMPLING, "-q"]
    assert run(*job, "-o", tmp_path / "out", "--engine", "torch").code == 0
    whole = (tmp_path / "out").read_bytes()
    recorded = as_format_1(whole) if format == 1 else whole
    started = recorded[: recorded.index(b'{"line": 2')]
    (tmp_path / "out").write_bytes(started)
    refused = run(*job, "-o", tmp_path / "out", "--resume")
    assert refused.code == 3
    assert refused.err.count(b"\n") == 1
    assert b"made with PyTorch (cpu, " in refused.err
    assert b" instead of the native engine. Resume with" in refused.err
    assert b"--engine torch" in refused.err
    assert (tmp_path / "out").read_bytes() == started
    assert run(*job, "-o", tmp_path / "out", "--resume", "--engine", "torch").code == 0
    assert (tmp_path / "out").read_bytes() == recorded


def test_a_header_holds_options_of_the_environment_and_nothing_of_speed(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "model")
    (tmp_path / "in").write_text('{"prompt": "x"}\n' * 3)
    job = ["batch", tmp_path / "in", "-o", "-", "-m", tmp_path / "model", "-n", "4", "-q"]
    said = run(*job, "--seed", "5", "-t", "0.3", "--stop", "a", "--no-id-check").out
    variables = {
        "GPTCLI_BATCH_SEED": "5",
        "GPTCLI_BATCH_TEMPERATURE": "0.3",
        "GPTCLI_BATCH_STOP": "a",
        "GPTCLI_BATCH_ID_CHECK": "0",
    }
    speed = ("--batch-size", "2", "--threads", "1", "--max-batch-tokens", "60")
    assert run(*job, *speed, **variables).out == said
    options = json.loads(said.splitlines()[0])["options"]
    assert (options["seed"], options["temperature"], options["stop"]) == (5, 0.3, ["a"])
    assert not options["check_ids"]
    assert not {"batch_size", "threads", "workers", "max_batch_tokens"} & set(options)


def test_what_is_said_goes_before_openais_defaults(tmp_path: Path) -> None:
    tiny_directory(tmp_path / "model")
    (tmp_path / "in").write_text('{"custom_id": "a", "body": {"prompt": "x"}}\n')
    job = ["batch", tmp_path / "in", "-o", "-", "-m", tmp_path / "model", "--seed", "1", "-q"]

    def defaults(*more: object) -> dict[str, float]:
        return json.loads(run(*job, *more).out.splitlines()[0])["options"]["openai"]

    assert defaults() == {"max_new_tokens": 16, "temperature": 1.0, "top_p": 1.0}
    said = defaults("-n", "3", "--greedy", "--top-p", "0.5")
    assert said == {"max_new_tokens": 3, "temperature": 0.0, "top_p": 0.5}
    answer = json.loads(run(*job, "-n", "3").out.splitlines()[1])
    assert answer["response"]["body"]["usage"]["completion_tokens"] <= 3


def test_the_summary_counts_what_was_read_once_for_several(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", trained=False)
    (model / "config.json").write_text(json.dumps(tiny_config(context_length=96)))
    record = {"prompt": "x" * 70, "num_samples": 3}
    (tmp_path / "in").write_text(json.dumps(record) + "\n")
    files = [tmp_path / "in", "-o", tmp_path / "out", "-m", model / "config.json"]
    done = run("batch", *files, *SAMPLING, "--json")
    assert (done.code, json.loads(done.out)["shared_tokens"]) == (0, 138)
    assert b"138 prompt tokens from the prefix cache" in done.err


def test_summaries_exit_codes_and_silence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good").write_text('{"prompt": "a"}\n')
    common = ["-m", folder / "model", *SAMPLING]
    done = run("batch", tmp_path / "good", "-o", tmp_path / "out", *common, "--json", "-q")
    summary = json.loads(done.out)
    assert (done.code, done.err) == (0, b"")
    assert (summary["ok"], summary["failed"], summary["seed"]) == (1, 0, 3)
    assert summary["shared_tokens"] == 0
    done = run("batch", tmp_path / "good", "-o", tmp_path / "out", *common)
    assert (done.code, b"exists already" in done.err) == (2, True)
    (tmp_path / "bad").write_text("{\n" * 30)
    done = run("batch", tmp_path / "bad", "-o", tmp_path / "out2", *common)
    assert done.code == 4
    assert done.err.count(b"\n") == 22
    assert b"0 ok, 30 failed (first: line 1: invalid_json" in done.err
    assert (
        run("batch", tmp_path / "bad", "-o", tmp_path / "o3", *common, "-q").err.count(b"\n") == 1
    )
    assert run("batch", tmp_path / "none", "-o", tmp_path / "o4", *common).code == 3
    assert not (tmp_path / "o4").exists()


def test_shards_merge_and_replay(folder: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        batch(folder, tmp_path / f"part{index}", "--shard", f"{index}/2", "-q")
    parts = [tmp_path / "part1", tmp_path / "part2"]
    done = run("merge", *parts, "--input", folder / "in", "-o", tmp_path / "all", "--json")
    assert (done.code, json.loads(done.out)["records"]) == (0, 202)
    assert (tmp_path / "all").read_bytes() == (folder / "whole").read_bytes()
    done = run("merge", parts[0], "--input", folder / "in", "-o", tmp_path / "half")
    assert (done.code, b"missing: 2/2" in done.err) == (2, True)
    assert not (tmp_path / "half").exists()
    again = ("replay", tmp_path / "all", "-i", folder / "in", "-m", folder / "model")
    done = run(*again, "--line", "1", "--line", "3")
    assert (done.code, done.out) == (0, b"2 records run again, 0 differ\n")
    text = (tmp_path / "all").read_text()
    (tmp_path / "all").write_text(text.replace('"completion": "', '"completion": "#', 1))
    done = run(*again, "--line", "1")
    assert done.code == 1
    assert done.out.startswith(b"line 1, sample 0, token 1: recorded ")
    done = run("replay", tmp_path / "all", "-i", folder / "in")
    assert (done.code, b"--model: is missing" in done.err) == (2, True)


def test_a_reader_that_leaves_is_141(folder: Path) -> None:
    done = shell('{ "$@"; echo $? >&2; } | head -c 9', *arguments(folder, "-", "-q"))
    assert done.err == b"141\n"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(folder: Path, tmp_path: Path) -> None:
    """Peak memory of 200,000 bad lines is that of none, within 20 MB."""

    def peak(lines: int) -> int:
        (tmp_path / "in").write_bytes(b"{\n" * lines)
        process = subprocess.Popen(
            command("batch", tmp_path / "in", "-o", "/dev/null", "-m", folder / "model", "-q"),
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 4
        return usage.ru_maxrss

    assert peak(200_000) - peak(1) < 20_000
