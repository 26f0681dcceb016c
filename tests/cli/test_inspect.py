import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from gptcli.cli import run
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.model.parameters import count

SMALL = GPTConfig(vocab_size=50, context_length=8, emb_dim=12, n_heads=3, n_layers=2)


def weights_of(config):
    return {name: tensor.contiguous() for name, tensor in GPTModel(config).state_dict().items()}


def inspected(capsys, *arguments):
    assert run(["inspect", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gptcli.inspect/1"
    return document


def report(capsys, *arguments):
    assert run(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def leaves(part, prefix=""):
    """Every tensor of the tree in JSON, with the parameters it stands for."""
    for copy in range(part.get("copies", 1)):
        own = f"{part['name']}.{copy}" if part.get("kind") == "TransformerBlock" else part["name"]
        name = "" if own == "model" else f"{prefix}{own}"
        if "shape" in part:
            yield name, tuple(part["shape"])
        for inner in part.get("parts", []):
            yield from leaves(inner, f"{name}." if name else "")


def test_the_tree_is_the_models(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL.to_dict()), encoding="utf-8")
    tree = inspected(capsys, tmp_path / "c.yaml")["architecture"]
    assert dict(leaves(tree)) == {n: tuple(t.shape) for n, t in weights_of(SMALL).items()}
    assert tree["parameters"] == count(SMALL).total
    assert sum(part["share"] for part in tree["parts"]) == pytest.approx(1)


def test_the_tree_of_the_smallest_gpt2(capsys):
    lines = report(capsys, "gpt2-124m", "--details").splitlines()
    by_name = {line.split()[1]: line for line in lines if line.startswith(("├", "└", "│"))}
    assert by_name["tok_emb"].split()[-2:] == ["38,597,376", "23.68%"]
    assert by_name["trf_blocks"].split()[-2:] == ["85,026,816", "52.16%"]
    assert "12 equal blocks" in by_name["trf_blocks"]
    assert "50257 x 768" in by_name["out_head"]


def test_a_shared_head_counts_nothing(capsys):
    tree = inspected(capsys, "gpt2")["architecture"]
    (head,) = tree["parts"][-1]["parts"]
    assert (head["shared"], head["parameters"], tree["parameters"]) == (True, 0, 124_439_808)
    assert "is tok_emb" in report(capsys, "gpt2")


def test_every_tensor_is_listed_as_safetensors_reads_it(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = weights_of(SMALL) | {"pos_emb.weight": torch.randn(8, 12, dtype=torch.bfloat16)}
    save_file(tensors, path, metadata={"format": "pt"})
    weights = inspected(capsys, path)["weights"]
    data = path.read_bytes()
    with safe_open(path, "pt") as theirs:
        assert {tensor["name"] for tensor in weights["tensors"]} == set(theirs.keys())
        for tensor in weights["tensors"]:
            value = theirs.get_tensor(tensor["name"])
            assert tuple(tensor["shape"]) == tuple(value.shape)
            raw = bytes(value.contiguous().view(torch.uint8).flatten().tolist())
            assert data[tensor["start"] : tensor["end"]] == raw
            assert tensor["bytes"] == len(raw)
    assert weights["files"][0]["metadata"] == {"format": "pt"}
    assert weights["layout"] == "book"


def test_the_implied_config_and_what_it_cannot_tell(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights_of(SMALL), path)
    found = inspected(capsys, path)
    assert found["weights"]["implied_config"] == {
        "vocab_size": 50,
        "context_length": 8,
        "emb_dim": 12,
        "n_layers": 2,
        "qkv_bias": False,
        "tie_weights": False,
    }
    assert found["config"]["n_heads"] is None
    assert re.search(r"n_heads +not in the weights", report(capsys, path, "--details"))
    assert "heads not in the weights" in report(capsys, path)


def test_what_transformers_saves_is_recognised_whole(capsys, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=99, n_positions=17, n_embd=24, n_layer=3, n_head=2)
    transformers.GPT2LMHeadModel(shape).save_pretrained(tmp_path)
    found = inspected(capsys, tmp_path)
    weights = found["weights"]
    assert (weights["layout"], weights["prefix"]) == ("huggingface", "transformer.")
    assert weights["problems"] == weights["oddities"] == []
    assert found["config"]["n_heads"] == 2
    assert weights["stored"]["elements"] == found["architecture"]["parameters"]


def test_shards_are_listed_each_by_itself(capsys, tmp_path):
    tensors = weights_of(SMALL)
    first = {name: tensors.pop(name) for name in list(tensors)[:5]}
    save_file(first, tmp_path / "one.safetensors")
    save_file(tensors, tmp_path / "two.safetensors")
    weight_map = dict.fromkeys(first, "one.safetensors") | dict.fromkeys(tensors, "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    weights = inspected(capsys, index)["weights"]
    assert [file["path"].rsplit("/")[-1] for file in weights["files"]] == [
        "one.safetensors",
        "two.safetensors",
    ]
    assert {t["name"]: t["file"] for t in weights["tensors"]} == weight_map
    out = report(capsys, index, "--details")
    assert out.index("Tensors of one.safetensors") < out.index("Tensors of two.safetensors")


def test_a_preset_that_was_fetched_comes_with_its_files(tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(vocab_size=99, n_positions=17, n_embd=24, n_layer=3, n_head=2)
    repository = tmp_path / "models--openai-community--gpt2"
    transformers.GPT2LMHeadModel(shape).save_pretrained(repository / "snapshots" / "0a1b")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0a1b", encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "gptcli", "inspect", "gpt2", "--json"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["name"], found["config"]["vocab_size"]) == ("gpt2", 99)
    assert found["weights"]["layout"] == "huggingface"


def odd(tensors, capsys, path):
    save_file(tensors, path)
    return " ".join(inspected(capsys, path)["weights"]["oddities"])


def test_odd_things_are_named(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    tied = weights_of(replace(SMALL, tie_weights=True))
    del tied["out_head.weight"]
    assert odd(tied, capsys, path) == ""
    assert "600 parameters are in the file twice" in odd(weights_of(SMALL), capsys, path)
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(8, 8) for i in range(2)}
    assert "2 mask buffers" in odd(tied | masks, capsys, path)
    padded = weights_of(replace(SMALL, vocab_size=50304))
    assert "last 47 ids" in odd(padded, capsys, path)
    mixed = tied | {"pos_emb.weight": torch.zeros(8, 12, dtype=torch.float64)}
    assert "F64" in odd(mixed, capsys, path)
    ints = {name: tensor.to(torch.int8) for name, tensor in tied.items()}
    assert "in I8" in odd(ints, capsys, path)
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in tied.items()}
    assert "torch.compile" in odd(compiled, capsys, path)


def test_missing_and_unexpected_tensors_are_named(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = weights_of(SMALL) | {"trf_blocks.0.att.extra": torch.zeros(2)}
    del tensors["final_norm.shift"]
    save_file(tensors, path)
    out = report(capsys, path, "--details")
    problem = out[out.index("Missing or wrong") :]
    assert "final_norm.shift" in problem
    assert "trf_blocks.0.att.extra" in problem
    assert "Architecture" in out


def test_weights_that_tell_no_size_still_list_their_tensors(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"tok_emb.weight": torch.zeros(5, 4)}, path)
    found = inspected(capsys, path)
    assert found["config"] is None
    assert [tensor["name"] for tensor in found["weights"]["tensors"]] == ["tok_emb.weight"]
    assert "context_length" in found["weights"]["problems"][0]


def test_another_models_file_is_shown_and_said_to_be_no_gpt2(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"layers.0.mlp.gate_proj.weight": torch.zeros(3, 4)}, path)
    assert "layers.0.mlp.gate_proj.weight  3 x 4  F32\n" in report(capsys, path)
    out = report(capsys, path, "--details")
    assert "layers.0.mlp.gate_proj.weight  3 x 4  F32  48" in out
    assert "not one of a GPT-2" in out
    assert "no weights of a GPT-2" in out


def test_names_and_metadata_are_shown_and_not_sent(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    name = "\x1b[31m[/red]:smile:\u202e"
    save_file({name: torch.zeros(1)}, path, metadata={"a\nb": "\x1b]0;title\x07", "c": "x" * 500})
    out = report(capsys, path, "--details")
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert r"\x1b[31m[/red]:smile:\u202e" in out
    assert r"a\nb  \x1b]0;title\x07" in out
    assert "... (+300 more)" in out
    weights = inspected(capsys, path)["weights"]
    assert weights["tensors"][0]["name"] == name
    assert weights["files"][0]["metadata"]["c"] == "x" * 500


def test_the_data_is_never_read(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    rows = 1 << 30
    size = rows * 256 * 4  # a tebibyte, and not a byte of it on the disk
    header = {"tok_emb.weight": {"dtype": "F32", "shape": [rows, 256], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        try:
            file.truncate(8 + len(raw) + size)
        except OSError:
            pytest.skip("the file system holds no sparse file of a tebibyte")
    (tensor,) = inspected(capsys, path)["weights"]["tensors"]
    assert tensor["bytes"] == size


def test_ten_thousand_tensors_are_a_line_each(capsys, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"layer.{i}.weight": torch.zeros(1) for i in range(10_000)}, path)
    assert "  layer.0-9999.weight  1  F32\n" in report(capsys, path)
    out = report(capsys, path, "--details")
    assert len(re.findall(r"^  layer\.\d+\.weight +1  F32  4 ", out, re.MULTILINE)) == 10_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(capsys, tmp_path, content, said):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert run(["inspect", str(path)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def on_terminal(columns, *arguments):
    """What a terminal of this width is sent, without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "gptcli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # Linux's word for: the other side has closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = sent.decode()
    assert "\x1b[" in text
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", ["inspect", "count-params"])
def test_a_terminal_of_any_width_gets_whole_lines(columns, command, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights_of(SMALL), path)
    lines = on_terminal(columns, command, "gpt2-xl", "--weights", str(path))
    assert max(map(len, lines)) <= columns
    assert any("1,638,022,400" in line for line in lines) == (command == "count-params")
    assert any("80,411,200" in line for line in lines)


def test_looking_needs_no_torch(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights_of(SMALL), path)
    code = (
        "import sys; from gptcli.cli import run; code = run(sys.argv[1:]);"
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "inspect", str(path)]
    subprocess.run(command, capture_output=True, check=True)
