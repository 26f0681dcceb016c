"""Log-probabilities of a batch: the model's own, in both shapes, whatever the batch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_jobs import SPEC, Short, bytes_tokenizer, read, tiny_book, tiny_model, write

from gptcli.batch.logprobs import TokenLogprob, as_openai
from gptcli.batch.worker import BatchWorker
from gptcli.core.errors import RunError
from gptcli.generation.decode import Generation, Prompt
from gptcli.sampling.params import SamplingParams

BODY = {"prompt": "The cat", "max_tokens": 6, "seed": 3, "temperature": 1.2, "top_p": 0.95}


def answers(tmp_path: Path, *records: object, rows: int = 4) -> list[dict[str, Any]]:
    (tmp_path / "in").write_text("".join(json.dumps(record) + "\n" for record in records))
    write(tmp_path / "in", tmp_path / f"out{rows}", rows=rows)
    return read(tmp_path / f"out{rows}")


def openai(**changes: object) -> dict[str, Any]:
    return {"custom_id": "a", "body": {**BODY, **changes}}


def logprobs_of(answer: dict[str, Any], choice: int = 0) -> dict[str, Any]:
    return answer["response"]["body"]["choices"][choice]["logprobs"]


def test_both_shapes_say_what_the_model_says(tmp_path: Path) -> None:
    own = {"prompt": "The cat", "max_new_tokens": 6, "seed": 3, "temperature": 1.2, "logprobs": 3}
    ours, theirs = answers(tmp_path, own, openai(logprobs=3))
    shown = logprobs_of(theirs)
    model, tokenizer = tiny_model(), bytes_tokenizer()
    params = SamplingParams(max_new_tokens=6, temperature=1.2)
    prompt = Prompt(model, tokenizer.encode("The cat"), 6)
    tokens = list(Generation(prompt, params, seed=3, eos_ids=frozenset({256}), n_vocab=257))
    assert [score["id"] for score in ours["logprobs"]] == [token.id for token in tokens]
    seen = tokenizer.encode("The cat")
    for number, score in enumerate(ours["logprobs"]):
        exact = tiny_book()(torch.tensor([seen])).detach().double()[0, -1].log_softmax(0)
        best = exact.topk(3)
        assert score["logprob"] == pytest.approx(exact[score["id"]].item(), abs=1e-5)
        assert [top["id"] for top in score["top"]] == best.indices.tolist()
        assert [top["logprob"] for top in score["top"]] == pytest.approx(best.values.tolist())
        assert shown["token_logprobs"][number] == score["logprob"]
        alternatives = shown["top_logprobs"][number]
        assert list(alternatives.values())[:3] == [top["logprob"] for top in score["top"]]
        assert alternatives[shown["tokens"][number]] == score["logprob"]
        seen.append(score["id"])


@pytest.mark.parametrize("prompt", ["The cat", "naïve", "x", list(b"\xc3\xa9a\xff"), "b" * 41])
def test_echo_scores_the_prompt_as_the_model_does(tmp_path: Path, prompt: str | list[int]) -> None:
    plain, echoed = answers(tmp_path, openai(prompt=prompt, logprobs=2), echo(prompt, logprobs=2))
    ids = list(prompt.encode()) if isinstance(prompt, str) else prompt
    text, shown = echoed["response"]["body"]["choices"][0]["text"], logprobs_of(echoed)
    assert shown["token_logprobs"][0] is shown["top_logprobs"][0] is None
    exact = tiny_book()(torch.tensor([ids])).detach().double()[0].log_softmax(1)
    for at, id in enumerate(ids[1:], 1):
        best = exact[at - 1].topk(2).values.tolist()
        assert shown["token_logprobs"][at] == pytest.approx(exact[at - 1, id].item(), abs=1e-5)
        assert list(shown["top_logprobs"][at].values())[:2] == pytest.approx(best, abs=1e-5)
        assert shown["top_logprobs"][at][shown["tokens"][at]] == shown["token_logprobs"][at]
    written = bytes_tokenizer().decode(ids)
    begun = len(written)
    assert text == written + plain["response"]["body"]["choices"][0]["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert shown[name][len(ids) :] == logprobs_of(plain)[name]
    assert shown["text_offset"][: len(ids)] == offsets_of(ids)
    moved = [at + begun for at in logprobs_of(plain)["text_offset"]]
    assert shown["text_offset"][len(ids) :] == moved


def offsets_of(ids: list[int]) -> list[int]:
    """Where each byte of a text begins, as characters: Python's own count."""
    return [len(bytes(ids[:at]).decode("utf-8", errors="ignore")) for at in range(len(ids))]


def echo(prompt: str | list[int], **more: object) -> dict[str, Any]:
    return {**openai(prompt=prompt, echo=True, **more), "custom_id": "echo"}


def test_a_text_is_scored_where_no_token_is_wanted(tmp_path: Path) -> None:
    scored, whole, nothing = answers(
        tmp_path,
        echo("The cat", logprobs=1, max_tokens=0, n=2),
        {**echo("The cat", logprobs=0), "custom_id": "b"},
        {**echo("The cat"), "custom_id": "c"},
    )
    first, second = scored["response"]["body"]["choices"]
    assert first["text"] == "The cat"
    assert first["logprobs"] == second["logprobs"]
    assert len(first["logprobs"]["tokens"]) == len(first["logprobs"]["top_logprobs"]) == 7
    assert logprobs_of(whole)["token_logprobs"][:7] == first["logprobs"]["token_logprobs"]
    assert logprobs_of(whole)["top_logprobs"] is None
    assert logprobs_of(nothing) is None


def test_what_is_cut_from_a_prompt_has_no_score(tmp_path: Path) -> None:
    context, prompt = tiny_model().config.context_length, "x" * 30 + "é" * 20
    record = echo(prompt, logprobs=1, max_tokens=4)
    (tmp_path / "in").write_text(json.dumps(record))
    write(tmp_path / "in", tmp_path / "cut", replace(SPEC, truncate_prompt="left"))
    write(tmp_path / "in", tmp_path / "slid", replace(SPEC, overflow="slide"))
    (cut,), (slid,) = read(tmp_path / "cut"), read(tmp_path / "slid")
    shown = logprobs_of(cut)
    assert cut["truncated"] == 70 - (context - 4)
    assert len(shown["tokens"]) == context
    assert prompt[shown["text_offset"][0] :].startswith("xxxxé")
    assert shown["text_offset"][-4] == len(prompt)
    values = logprobs_of(slid)["token_logprobs"]
    assert [at for at, value in enumerate(values) if value is None] == list(range(70 - context + 1))
    exact = tiny_book()(torch.tensor([list(prompt.encode())[-context:]])).detach().double()[0]
    last = exact.log_softmax(1)[-2, prompt.encode()[-1]].item()
    assert values[69] == pytest.approx(last, abs=1e-5)


def test_no_batch_changes_a_value(tmp_path: Path) -> None:
    records = [openai(logprobs=n % 6, prompt="x" * (1 + n % 9), n=1 + n % 2) for n in range(12)]
    records += [{"prompt": "y" * (n + 1), "logprobs": n} for n in range(7)]
    records += [openai(logprobs=n, echo=True, prompt="z" * (n + 1)) for n in range(5)]
    records = [{**one, "custom_id" if "body" in one else "id": n} for n, one in enumerate(records)]
    expected = answers(tmp_path, *records, rows=1)
    assert {answer["status"] for answer in expected} == {"ok"}
    for rows in (3, 19):
        assert answers(tmp_path, *records, rows=rows) == expected
        assert (tmp_path / f"out{rows}").read_bytes() == (tmp_path / "out1").read_bytes()


def of_echoes(tmp_path: Path) -> bytes:
    """The answers to prompts that are scored, some with texts of their own, some amid others."""
    records = [
        {**echo("z" * (n + 1), logprobs=n % 3, max_tokens=n % 7, n=1 + n % 2), "custom_id": str(n)}
        for n in range(20)
    ]
    texts = [{"prompt": "x" * (n + 1), "max_new_tokens": 3 + n % 5} for n in range(20)]
    answers(tmp_path, *(one for pair in zip(records, texts, strict=True) for one in pair), rows=3)
    return (tmp_path / "out3").read_bytes()


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_memory_that_runs_out_while_prompts_are_scored_changes_no_bytes(
    tmp_path: Path, rows: int
) -> None:
    expected, said = of_echoes(tmp_path), []
    short = Short(tiny_model(), torch.OutOfMemoryError("CUDA out of memory"), beside=1)
    scored = BatchWorker(short, bytes_tokenizer(), SPEC, rows=rows)
    scored.on_fewer = said.append
    write(tmp_path / "in", tmp_path / "out", answers=lambda: scored)
    assert (tmp_path / "out").read_bytes() == expected
    assert said == [fewer for fewer in (4, 2, 1) if fewer < rows]
    assert scored.active == scored.held_tokens == 0


@pytest.mark.parametrize("step", range(1, 50, 3))
def test_memory_that_is_short_at_any_step_changes_no_bytes(tmp_path: Path, step: int) -> None:
    expected, short = of_echoes(tmp_path), Short(tiny_model(), MemoryError(), at_step=step)
    scored, said = BatchWorker(short, bytes_tokenizer(), SPEC, rows=6), []
    scored.on_fewer = said.append
    write(tmp_path / "in", tmp_path / "out", answers=lambda: scored)
    assert (tmp_path / "out").read_bytes() == expected
    assert said == [3]


def test_a_prompt_that_cannot_be_scored_ends_a_job_that_can_be_resumed(tmp_path: Path) -> None:
    expected, short = of_echoes(tmp_path), Short(tiny_model(), MemoryError(), beside=0)
    scored, said = BatchWorker(short, bytes_tokenizer(), SPEC, rows=4), []
    scored.on_fewer = said.append
    with pytest.raises(RunError, match="memory: exhausted for one sequence"):
        write(tmp_path / "in", tmp_path / "out", answers=lambda: scored)
    assert said == [2, 1]
    assert expected.startswith((tmp_path / "out").read_bytes())
    write(tmp_path / "in", tmp_path / "out", mode="resume")
    assert (tmp_path / "out").read_bytes() == expected


def test_no_alternatives_are_asked_for_with_0_and_nothing_without(tmp_path: Path) -> None:
    none, chosen, own = answers(
        tmp_path, openai(), {**openai(logprobs=0), "custom_id": "b"}, {"prompt": "a", "logprobs": 0}
    )
    assert logprobs_of(none) is None
    assert logprobs_of(chosen)["top_logprobs"] is None
    assert len(logprobs_of(chosen)["token_logprobs"]) == 6
    assert [score["top"] for score in own["logprobs"]] == [[]] * SPEC.params.max_new_tokens


def test_offsets_are_characters_of_the_text_and_end_with_it() -> None:
    pieces = [b"na", b"\xc3", b"\xaf", b"ve", b" no", b"w"]
    scores = [TokenLogprob(n, piece, -1.0, ()) for n, piece in enumerate(pieces)]
    shown = as_openai(scores, 1, None)
    assert shown["text_offset"] == [0, 2, 2, 3, 5, 8]
    assert shown["tokens"] == ["na", "bytes:\\xc3", "bytes:\\xaf", "ve", " no", "w"]
    assert shown["top_logprobs"][0] == {"na": -1.0}
    assert as_openai(scores, 1, len("naïve n"))["tokens"][-1] == " no"
    assert as_openai(scores, 1, 0)["tokens"] == []


def test_a_value_that_is_no_number_is_null() -> None:
    score = TokenLogprob(1, b"a", float("-inf"), (TokenLogprob(2, b"b", float("nan")),))
    shown = as_openai([score], 1, None)
    assert shown["token_logprobs"] == [None]
    assert shown["top_logprobs"] == [{"b": None, "a": None}]


def test_tokens_past_a_stop_string_are_left_out(tmp_path: Path) -> None:
    (whole,) = answers(tmp_path, openai(logprobs=1, max_tokens=12), rows=1)
    text = whole["response"]["body"]["choices"][0]["text"]
    stop = next(letter for letter in text[2:] if letter not in text[:2])
    (ended,) = answers(tmp_path, openai(logprobs=1, max_tokens=12, stop=[stop]), rows=2)
    choice = ended["response"]["body"]["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == [at for at in logprobs_of(whole)["text_offset"] if at < len(choice["text"])]
