"""What the user names becomes the files of one model, or one clear error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli.checkpoint.presets import (
    BUILT_IN,
    PRESETS,
    built_in_directory,
    configs_directory,
    preset_config,
)
from gptcli.checkpoint.resolve import Target, resolve
from gptcli.core.errors import GptcliError, InputError, UsageError
from gptcli.model.config import read_config

CONFIG = {
    "vocab_size": 10, "context_length": 8, "emb_dim": 4, "n_heads": 2, "n_layers": 1,
    "drop_rate": 0.0, "qkv_bias": False,
}  # fmt: skip


def write_config(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    return path  # JSON is YAML too, so the suffix is free


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model directory; the weights are never opened here."""
    made = tmp_path / "model"
    made.mkdir()
    write_config(made / "config.yaml")
    (made / "model.safetensors").touch()
    return made


def refusal(*args: object, **options: bool) -> GptcliError:
    with pytest.raises(GptcliError) as caught:
        resolve(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_directory_gives_all_its_parts(directory: Path) -> None:
    assert resolve(str(directory)) == Target(
        name=str(directory),
        config=read_config(directory / "config.yaml"),
        config_path=directory / "config.yaml",
        weights=directory / "model.safetensors",
        directory=directory,
    )


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "config.json"])
def test_a_directory_may_hold_its_config_in_either_format(tmp_path: Path, name: str) -> None:
    write_config(tmp_path / name)
    (tmp_path / "model.safetensors.index.json").touch()
    target = resolve(str(tmp_path))
    assert target.config_path == tmp_path / name
    assert target.weights == tmp_path / "model.safetensors.index.json"


def test_a_weights_file_brings_the_config_beside_it(directory: Path) -> None:
    weights = directory / "model.safetensors"
    whole = resolve(str(directory))
    for target in (resolve(str(weights)), resolve(None, weights=weights)):
        assert target.name == str(weights)
        assert (target.config, target.config_path) == (whole.config, whole.config_path)
        assert (target.weights, target.directory) == (weights, directory)


def test_a_weights_file_alone_has_no_config(tmp_path: Path) -> None:
    weights = tmp_path / "bare.safetensors"
    weights.touch()
    target = resolve(str(weights))
    assert (target.config, target.config_path) == (None, None)
    assert (target.weights, target.directory) == (weights, tmp_path)


def test_weights_alone_in_a_directory_have_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert resolve(str(tmp_path)).config is None
    assert resolve(None, weights=tmp_path).weights == tmp_path / "model.safetensors"


def test_a_config_file_is_an_untrained_model(directory: Path) -> None:
    path = directory / "config.yaml"
    for target in (resolve(str(path)), resolve(None, path)):
        assert target.config == read_config(path)
        assert (target.weights, target.directory) == (None, directory)


def test_a_part_wins_over_the_model(directory: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "other.json", n_layers=7)
    weights = tmp_path / "other.safetensors"
    weights.touch()
    target = resolve(str(directory), config, weights)
    assert target.config == read_config(config)
    assert (target.config_path, target.weights) == (config, weights)
    assert target.name == str(directory)
    preset = resolve("gpt2", config, weights)  # no download: nothing of it is needed
    assert (preset.config, preset.weights) == (target.config, weights)


def test_a_preset_takes_the_weights_that_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    target = resolve("gpt2-124m", weights=weights)
    assert target.config == preset_config(PRESETS["gpt2-124m"])
    assert (target.weights, target.directory) == (weights, tmp_path)


@pytest.mark.parametrize("beside", ["config", "weights"])
def test_tokenizer_files_lie_where_the_config_names_one_or_else_with_the_weights(
    tmp_path: Path, beside: str
) -> None:
    for name in ("config", "weights"):
        (tmp_path / name).mkdir()
    config = write_config(tmp_path / "config" / "c.yaml", tokenizer="words.tiktoken")
    (tmp_path / beside / "words.tiktoken").touch()
    assert resolve(None, config, tmp_path / "weights" / "w").directory == tmp_path / beside


def test_a_directory_may_lack_weights_where_none_are_needed(tmp_path: Path) -> None:
    write_config(tmp_path / "config.json")
    target = resolve(str(tmp_path), need_weights=False)
    assert (target.weights, target.config_path) == (None, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("others", "hint"),
    [
        ([], "For an untrained model name the config itself"),
        (["b.safetensors", "a.safetensors"], "`weights` (a.safetensors, b.safetensors)"),
        (["pytorch_model.bin"], "never unpickles"),
    ],
)
def test_a_directory_without_weights_is_never_untrained_by_accident(
    tmp_path: Path, others: list[str], hint: str
) -> None:
    write_config(tmp_path / "config.json")
    for name in others:
        (tmp_path / name).touch()
    error = refusal(str(tmp_path))
    assert isinstance(error, InputError)
    assert error.problem == "no model.safetensors or model.safetensors.index.json in it"
    assert hint in error.hint


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_directory_with_neither_config_nor_weights_is_refused(
    tmp_path: Path, need_weights: bool
) -> None:
    assert "config.yaml" in refusal(str(tmp_path), need_weights=need_weights).hint
    assert "model.safetensors" in refusal(None, None, tmp_path).problem


@pytest.mark.parametrize(
    ("extra", "option"),
    [("config.json", "`config`"), ("model.safetensors.index.json", "`weights`")],
)
def test_two_candidates_are_refused_until_one_is_named(
    directory: Path, extra: str, option: str
) -> None:
    write_config(directory / extra)
    error = refusal(str(directory))
    assert f"and {extra} (expected one)" in error.problem
    assert option in error.hint
    resolve(str(directory), directory / "config.yaml", directory / "model.safetensors")


@pytest.mark.parametrize("name", [p.name for p in PRESETS.values() if p.config])
def test_a_presets_config_needs_no_download(name: str) -> None:
    target = resolve(name, need_weights=False)
    assert target.config == preset_config(PRESETS[name])
    assert (target.name, target.weights, target.directory) == (name, None, None)


def test_an_untrained_preset_says_where_its_config_was_read() -> None:
    target = resolve("gpt2-355m")
    assert target.config_path == configs_directory() / "gpt2-355m.yaml"


def test_a_presets_name_is_the_preset_and_dot_slash_the_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.rename(directory.parent / "gpt2-124m")
    monkeypatch.chdir(directory.parent)
    assert resolve("gpt2-124m").weights is None
    assert resolve("./gpt2-124m").weights == Path("gpt2-124m/model.safetensors")


@pytest.mark.parametrize(
    ("name", "ask"),
    [("gtp2", 'Did you mean "gpt2"?'), ("GPT2-XL", 'Did you mean "gpt2-xl"?'), ("zzz", "")],
)
def test_an_unknown_name_is_a_usage_error_with_the_nearest_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ask: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(name)
    assert isinstance(error, UsageError)
    assert error.where == "model"
    assert "no such file or directory" in error.problem
    assert error.hint.startswith(ask)
    assert "gptcli models" in error.hint


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "\x1b[31m", "file/below"])
def test_a_name_that_can_be_nothing_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    error = refusal(name)
    assert isinstance(error, UsageError)
    assert len(str(error)) < 500
    assert str(error).isprintable()


def test_an_unknown_target_is_blamed_on_where_it_was_given() -> None:
    with pytest.raises(UsageError, match=r"^TARGET: no such file or directory"):
        resolve("gtp2", option="TARGET")


def test_nothing_named_is_the_built_in_model_or_a_word_that_there_is_none() -> None:
    if built_in_directory().is_dir():
        assert resolve(None) == resolve(BUILT_IN)
        assert resolve(None).weights
        return
    for name in (None, BUILT_IN):
        error = refusal(name)
        assert isinstance(error, InputError)
        assert "no built-in model" in error.problem
        assert "preset" in error.hint


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert 'cannot tell the format from ".txt"' in refusal(str(tmp_path / "notes.txt")).problem


@pytest.mark.parametrize("name", ["pytorch_model.bin", "m.gguf", "m.PT"])
def test_other_kinds_of_weights_go_to_the_reader_that_can_name_them(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()
    assert resolve(str(tmp_path / name)).weights == tmp_path / name


def test_a_broken_config_beside_the_weights_is_not_passed_over(directory: Path) -> None:
    write_config(directory / "config.yaml", n_heads=3)
    for name in (directory, directory / "model.safetensors"):
        error = refusal(str(name))
        assert error.where == str(directory / "config.yaml")
        assert error.problem == "emb_dim 4 is not divisible by n_heads 3"


def test_a_fifo_as_config_is_refused_without_waiting(directory: Path) -> None:
    (directory / "config.yaml").unlink()
    os.mkfifo(directory / "config.yaml")
    assert "not a regular file" in refusal(str(directory)).problem


def test_counting_a_pretrained_model_loads_neither_torch_nor_the_client_of_the_hub() -> None:
    code = (
        "import sys; from gptcli.checkpoint.resolve import resolve; "
        "resolve('gpt2-xl', need_weights=False); "
        "print(*{'torch', 'numpy', 'huggingface_hub.file_download', 'tiktoken'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "\n"


def test_a_downloaded_preset_is_its_snapshot_and_needs_no_network(tmp_path: Path) -> None:
    commit = "0" * 40
    repo = tmp_path / "models--distilbert--distilgpt2"
    snapshot = repo / "snapshots" / commit
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "x").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/x"))  # as the cache has it
    write_config(snapshot / "config.json", n_layers=3)
    code = (
        "from gptcli.checkpoint.resolve import resolve; t = resolve('distilgpt2', offline=True); "
        "print(t.name, t.config.n_layers, t.config_path, t.weights, t.directory, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "distilgpt2",
        "3",
        str(snapshot / "config.json"),
        str(snapshot / "model.safetensors"),
        str(snapshot),
    ]
