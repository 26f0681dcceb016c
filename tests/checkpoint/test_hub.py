import errno
import json
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import COMMIT, Hub, serving
from huggingface_hub import constants

from gptcli.checkpoint.hub import cached, fetch, is_offline, is_repo
from gptcli.checkpoint.resolve import resolve
from gptcli.core.errors import InputError, RunError, UsageError

REPO = "owner/model"
FILES = {
    f"{REPO}/config.json": b"{}",
    f"{REPO}/model.safetensors": bytes(range(256)) * 4000,
    f"{REPO}/tokenizer.json": b'{"model": {}}',
    f"{REPO}/pytorch_model.bin": b"a pickle",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; nothing of this machine's own setup is read."""
    path = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with serving(FILES) as served:
        point_at(served.address, monkeypatch)
        yield served


def point_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before the client is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_model_directory_is_fetched_and_pickles_are_not(hub: Hub, cache: Path) -> None:
    directory = fetch(REPO)
    expected = {key.rpartition("/")[2]: data for key, data in FILES.items() if "bin" not in key}
    assert contents(directory) == expected
    assert directory.name == COMMIT
    assert directory.is_relative_to(cache)
    assert not any("pytorch_model" in request for request in hub.asked)


SMALL = [
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json",
]  # fmt: skip
OLD = ["vocab.json", "merges.txt", "vocab.txt", "spiece.model"]


def test_every_config_and_tokenizer_file_is_fetched_and_nothing_else(hub: Hub) -> None:
    others = ["README.md", "tf_model.h5", "training_args.bin", "onnx/model.onnx", "LICENSE"]
    for name in (*SMALL, *OLD, *others):
        hub.files[f"{REPO}/{name}"] = b"{}"
    found = set(contents(fetch(REPO)))
    assert found == {"config.json", "model.safetensors", "tokenizer.json", *SMALL}


def test_tokenizer_files_of_the_older_kind_are_fetched_where_there_is_no_other(hub: Hub) -> None:
    del hub.files[f"{REPO}/tokenizer.json"]
    for name in OLD:
        hub.files[f"{REPO}/{name}"] = b"{}"
    directory = fetch(REPO)
    assert set(contents(directory)) == {"config.json", "model.safetensors", *OLD}
    hub.asked.clear()
    assert fetch(REPO) == directory
    assert hub.asked == []


def test_shards_are_fetched_as_their_index_lists_them(hub: Hub) -> None:
    del hub.files[f"{REPO}/model.safetensors"]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    hub.files[f"{REPO}/model.safetensors.index.json"] = json.dumps(index).encode()
    for shard in shards:
        hub.files[f"{REPO}/{shard}"] = b"data"
    directory = fetch(REPO)
    assert set(contents(directory)) >= {*shards, "model.safetensors.index.json"}
    assert cached(REPO) == directory
    (directory / shards[1]).unlink()
    assert cached(REPO) is None
    assert fetch(REPO) == cached(REPO) == directory


def test_an_index_that_names_files_elsewhere_is_not_followed(hub: Hub) -> None:
    del hub.files[f"{REPO}/model.safetensors"]
    index = b'{"weight_map": {"a": "../../x.safetensors"}}'
    hub.files[f"{REPO}/model.safetensors.index.json"] = index
    with pytest.raises(RunError, match="not a plain file name"):
        fetch(REPO)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True), ("openai-community/gpt2", True), ("a/b.c_d-1", True),
        ("gpt2", False), ("a/b/c", False), ("/etc/x", False), ("./gpt2", False), ("~/x", False),
        ("../x", False), ("a/", False), ("a/b c", False), ("here/model", False), ("file/x", False),
    ],
)  # fmt: skip
def test_what_can_be_a_repository(tmp_path: Path, monkeypatch, name: str, is_one: bool) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert is_repo(name) == is_one


def test_a_repositorys_name_is_a_model(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.files[f"{REPO}/config.json"] = b'{"model_type": "gpt2", "n_layer": 3}'
    with pytest.raises(UsageError, match="no such file or directory, and no such model was downl"):
        resolve(REPO, need_weights=False, option="TARGET")
    assert hub.asked == []
    target = resolve(REPO)
    assert (target.name, target.config and target.config.n_layers) == (REPO, 3)
    assert target.weights == cached(REPO) / "model.safetensors"
    assert resolve(REPO, need_weights=False) == resolve(REPO, offline=True) == target
    (tmp_path / "owner" / "model").mkdir(parents=True)  # a path here is never the Hub's
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        resolve(REPO)


@pytest.mark.parametrize("name", ["a/config.json", "a/model.safetensors", "a/x.bin", "a/c.yaml"])
def test_the_name_of_a_file_is_never_asked_of_the_hub(
    hub: Hub, tmp_path, monkeypatch, name
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no such file or directory"):
        resolve(name)
    assert hub.asked == []


def test_what_is_cached_is_used_without_asking(hub: Hub) -> None:
    assert cached(REPO) is None
    directory = fetch(REPO)
    hub.asked.clear()
    assert fetch(REPO) == cached(REPO) == fetch(REPO, offline=True) == directory
    assert hub.asked == []


def test_the_librarys_own_downloads_are_found(hub: Hub) -> None:
    for name in ("config.json", "model.safetensors"):
        assert cached(REPO) is None
        path = huggingface_hub.hf_hub_download(REPO, name)
    assert cached(REPO) == Path(path).parent
    assert "tokenizer.json" in contents(fetch(REPO))  # only that was lacking
    assert sum("GET owner/model/model.safetensors" in request for request in hub.asked) == 1


def test_progress_counts_every_byte_of_every_file(hub: Hub, capfd) -> None:
    last: dict[str, tuple[int, int]] = {}
    fetch(REPO, progress=lambda name, done, total: last.update({name: (done, total)}))
    sizes = {key.rpartition("/")[2]: len(data) for key, data in FILES.items() if "bin" not in key}
    assert last == {name: (size, size) for name, size in sizes.items()}
    assert capfd.readouterr() == ("", "")


def test_a_download_that_was_cut_off_goes_on_to_the_whole_file(hub: Hub, capfd) -> None:
    for name in ("config.json", "tokenizer.json"):
        huggingface_hub.hf_hub_download(REPO, name)
    hub.cut = 100_000
    capfd.readouterr()
    assert contents(fetch(REPO))["model.safetensors"] == FILES[f"{REPO}/model.safetensors"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_says_so_and_asks_nobody(hub: Hub, monkeypatch, by_environment: bool) -> None:
    if by_environment:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline() == by_environment
    with pytest.raises(RunError, match="owner/model: is not on this machine, and working offline"):
        fetch(REPO, offline=not by_environment)
    assert hub.asked == []


def test_an_unknown_model_is_named(hub: Hub) -> None:
    with pytest.raises(RunError, match="owner/other: there is no such model on the Hub"):
        fetch("owner/other")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_repository_without_a_model_says_what_it_lacks(hub: Hub, name: str) -> None:
    del hub.files[f"{REPO}/{name}"]
    with pytest.raises(RunError, match=r"has no config\.json or no model\.safetensors"):
        fetch(REPO)
    assert cached(REPO) is None


def test_a_server_in_trouble_is_reported_with_its_status(hub: Hub) -> None:
    hub.status = 418
    with pytest.raises(RunError, match=r"the Hub answered with status 418\. Run it once"):
        fetch(REPO)


def test_without_a_network_the_error_says_what_to_do(monkeypatch) -> None:
    with serving({}) as gone:
        point_at(gone.address, monkeypatch)
    with pytest.raises(RunError, match=r"cannot be downloaded.*name a directory that holds"):
        fetch(REPO)


def test_a_full_disk_is_reported_as_such(hub: Hub, monkeypatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    monkeypatch.setattr("os.makedirs", full)
    with pytest.raises(RunError, match="the disk is full"):
        fetch(REPO)


def test_a_broken_reference_in_the_cache_is_no_model(hub: Hub, cache: Path) -> None:
    directory = fetch(REPO)
    reference = directory.parent.parent / "refs" / "main"
    for content in (b"", b"../../..", b"\xff"):
        reference.write_bytes(content)
        assert cached(REPO) is None
