import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hub_server import serving
from saved_by_transformers import NEW_TOKENS, Kind, save
from story_text import write_stories

from gptcli.checkpoint import resolve as available
from gptcli.checkpoint.presets import PRESETS

ROOT = Path(__file__).parents[2]
REPO = "distilbert/distilgpt2"
CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 9}
FILES = {
    f"{REPO}/config.json": json.dumps({**CONFIG, "vocab_size": 300}).encode(),
    f"{REPO}/model.safetensors": bytes(3 << 20),
}


def python(
    code: str, cache: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, for the Hub's client reads the environment once."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().endswith("PROXY")}
    command = [sys.executable, "-c", code, *arguments]
    settings = {**kept, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60, check=False
    )


def listed(cache: Path) -> Mapping[str, dict]:
    code = "from gptcli.cli import run; raise SystemExit(run(['models', '--json']))"
    result = python(code, cache)
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["schema"] == "gptcli.models/1"
    return {model["name"]: model for model in document["models"]}


def test_a_download_through_hf_endpoint_puts_a_preset_on_this_machine(tmp_path: Path) -> None:
    before = listed(tmp_path)["distilgpt2"]
    assert (before["ready"], before["directory"]) == (False, None)
    code = "from gptcli.checkpoint.resolve import resolve; print(resolve('distilgpt2').weights)"
    with serving(FILES) as hub:
        result = python(code, tmp_path, HF_ENDPOINT=hub.address)
    assert result.stderr == ""
    after = listed(tmp_path)["distilgpt2"]
    assert after["ready"]
    assert Path(result.stdout.strip()) == Path(after["directory"]) / "model.safetensors"
    assert after["weight_bytes"] == 3 << 20
    table = python("from gptcli.cli import run; run(['models'])", tmp_path).stdout
    assert "81,912,576  3.0 MiB" in table
    again = python(code, tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.address)
    assert again.stdout == result.stdout


@pytest.mark.slow
def test_a_model_of_the_hub_is_downloaded_with_a_word_wherever_it_is_named(tmp_path: Path) -> None:
    saved, cache = tmp_path / "saved", tmp_path / "cache"
    saved.mkdir()
    (text, _) = save(Kind(), saved)
    files = {f"some/model/{path.name}": path.read_bytes() for path in saved.iterdir()}
    stories = write_stories(tmp_path / "stories.txt")
    generate = ["generate", "-m", "some/model", "--greedy", "-n", str(NEW_TOKENS), "--json"]
    train = ["train", str(stories), "-o", str(tmp_path / "out"), "--init-from", "some/model"]
    train += ["--steps", "1", "--batch-size", "2"]
    code = "import sys; from gptcli.cli import run; raise SystemExit(run(sys.argv[1:]))"
    for number, command in enumerate([[*generate, text.prompt], train]):
        with serving(files) as hub:
            environment = {"HF_ENDPOINT": hub.address}
            result = python(code, cache / str(number), *command, **environment)
        assert result.returncode == 0, result.stderr
        assert "downloading model.safetensors" in result.stderr
        if command[0] == "generate":
            assert json.loads(result.stdout)["ids"] == text.ids
    again = python(code, cache / "0", *generate, text.prompt, HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["ids"] == text.ids
    counted = python(code, cache / "0", "count-params", "some/model")
    assert counted.returncode == 0
    missing = python(code, cache / "none", "count-params", "some/model")
    assert missing.returncode == 2
    assert "hf download some/model" in missing.stderr
    train[train.index("-o") + 1] += "2"
    for command in ([*generate, text.prompt], train):
        result = python(code, cache / "none", *command, "--offline")
        assert result.returncode == 1
        assert "some/model: is not on this machine, and working offline" in result.stderr


def test_a_preset_that_cannot_be_had_ends_in_one_line(tmp_path: Path) -> None:
    with serving({}) as hub:
        pass
    command = "from gptcli.cli import run; raise SystemExit(run(['generate', '-m', 'gpt2', 'Hi']))"
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": hub.address}):
        result = python(command, tmp_path, **environment)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("gptcli: error: openai-community/gpt2: is not on this ma")
        assert result.stderr.count("\n") == 1


def test_every_preset_is_listed_with_its_parameters(tmp_path: Path) -> None:
    models = listed(tmp_path)
    assert list(models) == list(PRESETS)
    assert models["gpt2-124m"]["parameters"] == 163_009_536
    assert models["gpt2"]["parameters"] == 124_439_808
    assert models["gpt2-xl"]["config"]["n_layers"] == 48
    kinds = {name: (model["kind"], model["ready"]) for name, model in models.items()}
    assert kinds["gpt2-1558m"] == ("untrained", True)
    assert kinds["gpt2-xl"] == ("pretrained", False)


def test_the_built_in_model_is_listed_as_it_is(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    built_in = tmp_path / "gptcli" / "data" / "stories"
    monkeypatch.setattr("gptcli.checkpoint.presets._PACKAGE", tmp_path / "gptcli")
    assert not available.available_presets()[0].is_ready
    built_in.mkdir(parents=True)
    (built_in / "config.yaml").write_text(
        "vocab_size: 300\ncontext_length: 8\nemb_dim: 8\nn_heads: 2\nn_layers: 1\n"
        "drop_rate: 0.0\nqkv_bias: false\n"
    )
    (built_in / "model.safetensors").write_bytes(bytes(100))
    stories = available.available_presets()[0]
    assert (stories.is_ready, stories.directory, stories.weight_bytes) == (True, built_in, 100)


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["models", "--help"]])
def test_models_imports_no_torch_and_no_http_client(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        f"import sys; from gptcli.cli import run; code = run({arguments}); "
        "print([m for m in ('torch', 'tiktoken', 'requests') if m in sys.modules], "
        "'huggingface_hub.file_download' in sys.modules, code, file=sys.stderr)"
    )
    assert python(code, tmp_path).stderr == "[] False 0\n"
