"""`inspect --prompt`, `--gradients` and `--svg`, through the command line."""

import json
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from emission import forbidden, on_terminal
from emission import run as process
from tiny_directory import tiny_model, write_tiny

from gptcli.cli import run
from gptcli.cli.render import console
from gptcli.cli.render.heatmap import bar, cell, color, pooled, shade, thumbnail
from gptcli.interpret.activations import record_activations
from gptcli.interpret.gradients import gradients

TEXT = "once upon a time"
IDS = list(TEXT.encode())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    yield
    console.reset()


def document(capsys, *arguments):
    assert run(["inspect", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def report(capsys, *arguments):
    assert run(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def found(tiny, capsys):
    return document(capsys, tiny, "--prompt", TEXT, "--attention", "1.0", "--attention", "2.1")


def test_tokens_and_loss_are_those_of_the_models_logits(found):
    with torch.no_grad():
        logprobs = F.log_softmax(tiny_model()(torch.tensor([IDS]))[0], dim=-1)
    assert [token["id"] for token in found["tokens"]] == IDS
    assert bytes.fromhex("".join(token["bytes"] for token in found["tokens"])) == TEXT.encode()
    assert found["tokens"][0]["logprob"] is found["tokens"][0]["rank"] is None
    for position, token in enumerate(found["tokens"]):
        row = logprobs[position]
        entropy = -(row.exp() * row).sum().item()
        assert token["entropy"] == pytest.approx(entropy, abs=1e-4)
        if position:
            given = logprobs[position - 1]
            assert token["logprob"] == pytest.approx(given[token["id"]].item(), abs=1e-4)
            assert token["rank"] == 1 + int((given > given[token["id"]]).sum())
    loss = F.nll_loss(logprobs[:-1], torch.tensor(IDS[1:])).item()
    assert found["prompt"]["loss"] == pytest.approx(loss, abs=1e-4)
    assert found["prompt"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-3)


def test_the_next_table_is_the_distribution(tiny, capsys):
    following = document(capsys, tiny, "--prompt", TEXT, "--top", "256")["prompt"]["next"]
    with torch.no_grad():
        row = F.log_softmax(tiny_model()(torch.tensor([IDS]))[0, -1], dim=-1)
    assert [one["rank"] for one in following["top"]] == list(range(1, 257))
    assert [one["id"] for one in following["top"]] == row.argsort(descending=True).tolist()
    assert sum(one["probability"] for one in following["top"]) == pytest.approx(1, abs=1e-5)
    for one in following["top"]:
        assert one["logprob"] == pytest.approx(row[one["id"]].item(), abs=1e-4)
        assert math.log(one["probability"]) == pytest.approx(one["logprob"], abs=1e-5)
    best = row.topk(2).values
    assert following["margin"] == pytest.approx((best[0] - best[1]).item(), abs=1e-4)


def test_blocks_and_maps_are_those_of_the_probe(found):
    library = record_activations(tiny_model(), IDS, attention_of=range(3))
    for block, theirs in zip(found["prompt"]["blocks"], library.blocks, strict=True):
        assert block["suppressed"] == pytest.approx(theirs.suppressed.mean().item())
        assert block["norm1"]["name"] == theirs.norm1.name
        variance = theirs.norm2.after.variance.mean().item()
        assert block["norm2"]["after"]["variance"] == pytest.approx(variance)
        assert [head["entropy"] for head in block["heads"]] == pytest.approx(
            theirs.heads.entropy.tolist()
        )
        assert len(block["by_position"]["attention_adds"]) == len(IDS)
    blocks = found["prompt"]["blocks"]
    for one, after in pairwise(blocks):
        assert one["leaving"] == pytest.approx(after["norm1"]["before"]["norm"], rel=1e-5)
    assert [(m["layer"], m["head"]) for m in found["prompt"]["maps"]] == [(1, 0), (2, 1)]
    for given in found["prompt"]["maps"]:
        theirs = library.blocks[given["layer"]].attention[given["head"]]
        for i, row in enumerate(given["weights"]):
            assert row == pytest.approx(theirs[i, : i + 1].tolist(), abs=1e-6)


def test_the_last_of_the_lens_is_what_may_come_next(found):
    lens = found["prompt"]["lens"]
    assert (lens["first_position"], len(lens["readings"])) == (0, 4)
    assert {len(row) for row in lens["readings"]} == {len(IDS)}
    following = found["prompt"]["next"]["top"][:5]
    last = dict(lens["readings"][-1][-1]["top"])
    assert last == pytest.approx({one["id"]: one["logprob"] for one in following}, abs=1e-5)
    assert all(lens["vocabulary"][str(one["id"])] == one["text"] for one in following)


def test_all_heads_are_all_heads(tiny, capsys):
    maps = document(capsys, tiny, "--prompt", TEXT, "--all-heads")["prompt"]["maps"]
    assert [(m["layer"], m["head"]) for m in maps] == [(i, j) for i in range(3) for j in range(2)]
    out = report(capsys, tiny, "--prompt", TEXT, "--all-heads")
    assert all(f"{i}.{j}" in out for i in range(3) for j in range(2))


def test_gradients_are_those_of_the_library(tiny, capsys):
    found = document(capsys, tiny, "--prompt", TEXT, "--gradients")["gradients"]
    model = tiny_model()
    for key, shortcuts in (("with_shortcuts", True), ("without_shortcuts", False)):
        theirs = gradients(model, IDS, shortcuts=shortcuts)
        assert found["loss"][key] == pytest.approx(theirs.loss, rel=1e-5)
        ours = {one["name"]: one[key] for one in found["parameters"]}
        assert ours == pytest.approx(theirs.mean_absolute, rel=1e-4)
        shown = found["demonstration"][key]
        assert shown["computed"] == pytest.approx(shown["published"], rel=1e-4)
    text = report(capsys, tiny, "--gradients")
    for published in ("0.00020174", "0.00504965", "0.2216979", "1.325854"):
        assert published in text


def test_the_schema_is_named_and_what_was_not_asked_for_is_null(tiny, capsys):
    found = document(capsys, tiny, "--gradients")
    assert list(found) == [
        "schema", "name", "config", "seed", "text", "tokens", "prompt", "gradients",
    ]  # fmt: skip
    assert (found["schema"], found["prompt"], found["seed"]) == ("gptcli.probe/1", None, None)
    assert found["text"] == "Every effort moves you"
    assert document(capsys, tiny, "--prompt", "ab")["gradients"] is None


def test_an_untrained_model_is_the_books(tmp_path, capsys):
    directory = write_tiny(tmp_path / "u", trained=False)
    config = ["--config", directory / "config.json", "--prompt", "ab"]
    found = document(capsys, *config)
    assert found["seed"] == 123
    assert found == document(capsys, *config, "--seed", "123")
    assert found["prompt"] != document(capsys, *config, "--seed", "4")["prompt"]


@pytest.mark.slow
def test_the_chapters_prompt_goes_on_as_in_the_chapter(tiktoken_cache):
    done = process(
        "inspect", "gpt2-124m", "--prompt", "Hello, I am", "--json",
        TIKTOKEN_CACHE_DIR=str(tiktoken_cache),
    )  # fmt: skip
    found = json.loads(done.out)
    assert [token["id"] for token in found["tokens"]] == [15496, 11, 314, 716]
    assert found["prompt"]["next"]["top"][0]["id"] == 27018


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_of_any_width_gets_whole_lines(tiny, columns):
    text = "a\x1b]0;x\x07 naïve 東京\t\u202e!"
    done = on_terminal(
        "inspect", tiny, "--prompt", text, "--attention", "0.1", "--gradients", size=(24, columns)
    )
    assert done.code == 0
    received = re.sub(rb"loading [^\r]*\r\x1b\[2K|\x1b\[[0-9;]*m", b"", done.out)
    assert forbidden(received) == []
    assert max(map(len, received.decode().splitlines())) <= columns
    assert b"\x1b[" in done.out


def test_on_a_pipe_there_is_no_colour_unless_it_is_asked_for(tiny, capsys):
    arguments = ["--prompt", TEXT, "--attention", "2.0"]
    out = report(capsys, tiny, *arguments)
    assert "\x1b" not in out
    assert re.search(r"\n    0 o +██\n    1 n +[·░▒▓█]{2,4}", out)
    assert "\x1b[" in report(capsys, tiny, *arguments, "--color", "always")


def test_the_prompt_can_come_from_standard_input(tiny):
    done = process("inspect", tiny, "--prompt", "-", "--json", stdin=b"ab\n")
    assert [token["id"] for token in json.loads(done.out)["tokens"]] == [97, 98]


def test_a_long_text_shows_its_end(tiny, capsys):
    out = report(capsys, tiny, "--prompt", "abcdefgh" * 4, "--details")
    assert "Tokens (32 of at most 32)" in out


REFUSED = [
    (["--prompt", ""], 2, "--prompt: is empty"),
    (["--prompt", "x" * 33], 2, "is longer than the context (33 tokens, expected at most 32)"),
    (["--attention", "0.0"], 2, "--attention: needs --prompt"),
    (["--all-heads"], 2, "--all-heads: needs --prompt"),
    (["--prompt", "x", "--attention", "3.0"], 2, "no head 3.0 (expected 0.0 to 2.1)"),
    (["--prompt", "x", "--attention", "0.2"], 2, "no head 0.2 (expected 0.0 to 2.1)"),
    (["--prompt", "x", "--attention", "1"], 2,
     '--attention: must be LAYER.HEAD, such as 0.0, got "1"'),
    (["--prompt", "x", "--attention", "-1.0"], 2, "must be LAYER.HEAD"),
    (["--prompt", "x", "--gradients"], 2, "--prompt: has one token"),
    (["--prompt", "x", "--top", "0"], 2, "--top: must be an integer >= 1, got 0"),
    (["--prompt", "x", "--seed", "-1"], 2, "--seed: must be an integer >= 0"),
    (["--prompt", "x", "--stats"], 2,
     "--stats: needs --html when used together with --prompt or --gradients"),
    (["--prompt", "x", "--html", "."], 2, "--html: is a directory"),
    (["--svg", "no/such/file.svg"], 3, "no such directory"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_looked_at_is_refused(tiny, capsys, arguments, code, said):
    assert run(["inspect", str(tiny), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gptcli: error: ")
    assert said in captured.err


def test_a_name_that_means_nothing_is_the_targets_fault(capsys):
    assert run(["inspect", "no-such-model", "--prompt", "x"]) == 2
    assert capsys.readouterr().err.startswith("gptcli: error: TARGET: no such file")


def test_weights_that_are_not_finite_still_make_json(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    directory = write_tiny(tmp_path / "broken")
    weights = load_file(directory / "model.safetensors")
    weights["trf_blocks.1.norm1.scale"][0] = math.nan
    save_file(weights, directory / "model.safetensors")
    assert run(["inspect", str(directory), "--prompt", "ab"]) == 3
    capsys.readouterr()
    found = document(capsys, directory, "--prompt", "ab", "--gradients", "--no-check-finite")
    assert found["prompt"]["blocks"][1]["norm1"]["after"]["norm"] is None
    assert found["prompt"]["next"]["entropy"] is None
    assert report(capsys, directory, "--prompt", "ab", "--gradients", "--no-check-finite")


@pytest.mark.parametrize("arguments", [[], ["--stats"], ["--prompt", TEXT, "--all-heads"]])
def test_a_picture_is_the_terminals_view_in_one_file(tiny, tmp_path, capsys, arguments):
    path = tmp_path / "view.svg"
    assert run(["inspect", str(tiny), *arguments, "--svg", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "wrote" in captured.err
    text = path.read_text(encoding="utf-8")
    drawn = "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    assert "trf_blocks" in drawn or "logit lens" in drawn
    addresses = re.findall(r"https?://[^\"]*|url\([^#][^)]*\)|@import", text)
    assert addresses == ["http://www.w3.org/2000/svg"]


def test_with_json_a_file_is_written_too(tiny, tmp_path, capsys):
    path = tmp_path / "p.html"
    assert document(capsys, tiny, "--prompt", "ab", "--html", path)["text"] == "ab"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_colours_and_shades_grow_with_the_number():
    values = [i / 50 for i in range(51)]
    brightness = [sum(int(color(v)[i : i + 2], 16) for i in (1, 3, 5)) for v in values]
    assert brightness == sorted(brightness)
    assert [shade(v) for v in (0, 0.05, 0.2, 1)] == [" ", "·", "░", "█"]
    assert cell(None, "ab", colored=True) == ("  ", "")
    assert color(math.nan) == color(0)
    assert bar(1, 3) == "███"
    assert [bar(share, 1) for share in (0, 0.25, 0.5)] == ["", "▎", "▌"]


def test_a_large_map_is_pooled_by_its_largest():
    matrix = [[float(i * 4 + j) if j <= i else None for j in range(4)] for i in range(4)]
    assert pooled(matrix, 4) == matrix
    assert pooled(matrix, 2) == [[5.0, None], [13.0, 15.0]]
    lines = thumbnail([[1.0, None], [0.5, 0.5]], 3, colored=False)
    assert ["".join(text for text, _ in line) for line in lines] == ["█▓ "]
