import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from gptcli.cli import run
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel

SMALL = GPTConfig(vocab_size=50, context_length=8, emb_dim=12, n_heads=3, n_layers=2)


def write_config(path, config):
    path.write_text(yaml.safe_dump(config.to_dict()), encoding="utf-8")
    return str(path)


def write_weights(path, config, **more):
    tensors = {name: t.contiguous() for name, t in GPTModel(config).state_dict().items()}
    if config.tie_weights:
        del tensors["out_head.weight"]
    save_file(tensors | more, path)
    return str(path)


def counted(capsys, *arguments):
    assert run(["count-params", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gptcli.count-params/1"
    return document["targets"]


def table(capsys, *arguments):
    """The printed table as label → values; a label that comes twice keeps the first."""
    assert run(["count-params", *arguments]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        label, *values = [part for part in line.split("  ") if part.strip()] or [""]
        rows.setdefault(label.strip(), [value.strip() for value in values])
    return rows


def test_the_numbers_people_quote_for_gpt2(capsys):
    (gpt2,) = counted(capsys, "gpt2")
    assert gpt2["parameters"]["total"] == 124_439_808
    assert gpt2["quoted"] == {
        "tied": 124_439_808,
        "untied": 163_037_184,
        "without_positions": 123_653_376,
        "without_embeddings": 85_056_000,
        "block_matrices": 84_934_656,
        "with_masks": 137_022_720,
    }


def test_the_books_numbers_side_by_side(capsys):
    names = ("gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m")
    rows = table(capsys, *names, "--details") | table(capsys, *names)
    assert rows["total"] == ["163,009,536", "406,212,608", "838,220,800", "1,637,792,000"]
    assert rows["tied"] == ["124,412,160", "354,749,440", "773,891,840", "1,557,380,800"]
    assert rows["if tied"] == rows["tied"]
    sizes = ["621.83 MiB", "1,549.58 MiB", "3,197.56 MiB", "6,247.68 MiB"]
    assert rows["weights, float32"] == sizes


def test_gpt3_from_a_config_file_without_torch(tmp_path):
    gpt3 = replace(
        SMALL, vocab_size=50257, context_length=2048, emb_dim=12288, n_heads=96, n_layers=96
    )
    path = write_config(tmp_path / "gpt3.yaml", replace(gpt3, qkv_bias=True))
    code = (
        "import sys; from gptcli.cli import run; code = run(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "count-params", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "175,221,817,344" in done.stdout
    assert "174,604,259,328" in done.stdout


def test_a_file_is_counted_with_its_masks_and_its_head(capsys, tmp_path):
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(8, 8) for i in range(2)}
    path = write_weights(tmp_path / "model.safetensors", SMALL, **masks)
    (one,) = counted(capsys, path)
    assert one["config"]["n_heads"] is None
    assert one["parameters"]["total"] == sum(p.numel() for p in GPTModel(SMALL).parameters())
    stored = one["stored"]
    assert stored["elements"] == one["quoted"]["with_masks"]
    assert (stored["parameters"], stored["masks"]) == (one["parameters"]["total"], 128)
    assert (stored["head"], stored["unexpected"]) == (50 * 12, 0)
    assert stored["size"] == (tmp_path / "model.safetensors").stat().st_size
    assert stored["dtypes"] == {"F32": 4 * stored["elements"]}
    assert one["problems"] == []


def test_a_tied_file_is_counted_as_tied(capsys, tmp_path):
    path = write_weights(tmp_path / "model.safetensors", replace(SMALL, tie_weights=True))
    (one,) = counted(capsys, path)
    assert one["config"]["tie_weights"] is True
    assert one["parameters"]["total"] == one["quoted"]["tied"] == one["stored"]["elements"]
    assert one["parameters"]["output_head"] == one["stored"]["head"] == 0


def test_what_transformers_saves_is_counted_as_transformers_counts(capsys, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=99, n_positions=17, n_embd=24, n_layer=3, n_head=2)
    model = transformers.GPT2LMHeadModel(shape)
    model.save_pretrained(tmp_path)
    (one,) = counted(capsys, str(tmp_path))
    assert one["parameters"]["total"] == one["stored"]["elements"] == model.num_parameters()
    assert one["config"]["n_heads"] == 2
    assert one["problems"] == []


def test_a_directory_with_only_a_config_is_counted(capsys, tmp_path):
    write_config(tmp_path / "config.yaml", SMALL)
    (one,) = counted(capsys, str(tmp_path))
    assert one["stored"] is None
    assert one["config"]["n_layers"] == 2


def test_files_that_do_not_fit_their_config_are_counted_and_named(capsys, tmp_path):
    weights = write_weights(tmp_path / "w.safetensors", SMALL)
    config = write_config(tmp_path / "c.yaml", replace(SMALL, qkv_bias=True))
    (one,) = counted(capsys, "--config", config, "--weights", weights)
    assert one["config"]["qkv_bias"] is True
    assert any("qkv_bias" in problem for problem in one["problems"])
    assert run(["count-params", "--config", config, "--weights", weights]) == 0
    assert "do not agree" in capsys.readouterr().out


def test_memory_and_flops_follow_from_the_config(capsys, tmp_path):
    (one,) = counted(capsys, write_config(tmp_path / "c.yaml", SMALL))
    assert one["weight_bytes"]["float32"] == 4 * one["parameters"]["total"]
    assert one["weight_bytes"]["float16"] == 2 * one["parameters"]["total"]
    assert one["cache_bytes_per_token"]["float32"] == 2 * 2 * 12 * 4
    assert one["cache_bytes_full"]["bfloat16"] == 8 * one["cache_bytes_per_token"]["bfloat16"]
    flops = one["flops_per_token"]
    assert flops["first"] == 2 * (12 * 2 * 12**2 + 50 * 12) + 4 * 2 * 12
    assert flops["training"] == 3 * flops["mean"]


def test_a_strange_name_is_shown_and_not_sent(capsys, tmp_path):
    path = write_config(tmp_path / "\x1b[31m[red]:smile:.yaml", SMALL)
    assert run(["count-params", path]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[31m[red]:smile:.yaml" in "".join(out.replace("Parameters", "").split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gpt-2"], 2, 'Did you mean "gpt2"?'),
        (["--config", "x.yaml", "gpt2", "gpt2-xl"], 2, "single target"),
        (["--config", "absent.yaml"], 3, "absent.yaml"),
    ],
)
def test_what_cannot_be_counted_says_why(capsys, arguments, code, said):
    assert run(["count-params", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
