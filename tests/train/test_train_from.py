"""`gptcli train --init-from`: a training that goes on from a model that is there."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from story_text import write_stories
from tokenizer_files import trained
from torch.testing import assert_close

from gptcli.checkpoint.load import load_model, save
from gptcli.checkpoint.resolve import resolve
from gptcli.cli import run
from gptcli.core.errors import InputError, UsageError
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import untrained
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.train.distributed import Group
from gptcli.train.evaluate import bits_per_byte
from gptcli.train.finish import finish
from gptcli.train.options import STATE, WEIGHTS, Recipe, TrainSettings
from gptcli.train.setup import PreparedTraining, prepare, write_weights
from gptcli.train.text_files import TextSource

CONFIG = GPTConfig(
    vocab_size=300,
    context_length=16,
    emb_dim=16,
    n_heads=2,
    n_layers=2,
    drop_rate=0.1,
    tie_weights=True,
)
SETTINGS = TrainSettings(steps=12, batch_size=4, lr=1e-2, warmup=2, eval_every=4, save_every=3)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("text") / "stories.txt")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A model directory that a training has made."""
    directory = tmp_path_factory.mktemp("models") / "base"
    recipe = Recipe(sources=(TextSource(text),), directory=directory, config=CONFIG)
    job = prepare(recipe, SETTINGS, Group(), resume=False)
    list(job.trainer.run())
    finish(job, [])
    return directory


def job_from(
    base: Path,
    directory: Path,
    text: Path,
    settings: TrainSettings = SETTINGS,
    *,
    resume: bool = False,
    **changes: object,
) -> PreparedTraining:
    recipe = Recipe(sources=(TextSource(text),), directory=directory, init_from=str(base))
    return prepare(replace(recipe, **changes), settings, Group(), resume=resume)


def write_huggingface(directory: Path, *, tied: bool, specials: tuple[str, ...] = ()) -> Path:
    """A GPT-2 of another library's, with a tokenizer of yet another's."""
    vocabulary = trained(300, specials)
    if not specials:
        vocabulary.add_special_tokens(["<|endoftext|>"])
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary.get_vocab_size(),
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    vocabulary.save(str(directory / "tokenizer.json"))
    return directory


def tokenizer_of(directory: Path) -> Tokenizer:
    target = resolve(str(directory))
    assert target.config is not None
    size = target.config.vocab_size
    return load_tokenizer(target.config.tokenizer, target.directory, vocab_size=size)


def test_it_starts_where_the_base_is_and_learns_from_there(
    tmp_path: Path, base: Path, text: Path
) -> None:
    job = job_from(base, tmp_path, text, replace(SETTINGS, steps=40, precision="float32"))
    model = load_model(resolve(str(base)))
    assert job.config == model.config
    before = bits_per_byte(model, job.validation, job.eos_id, CONFIG.context_length)
    assert job.trainer._validate()[0] == before
    list(job.trainer.run())
    assert finish(job, []) < before - 0.05


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_that_of_transformers(tmp_path: Path, text: Path, tied: bool) -> None:
    base = write_huggingface(tmp_path / "base", tied=tied)
    settings = replace(SETTINGS, precision="float32")
    job = job_from(base, tmp_path / "model", text, settings, drop_rate=0.0)
    assert job.config.tie_weights == tied
    ids, targets = (torch.from_numpy(part).long() for part in job.trainer._mixture.batch(0, 4))
    oracle = transformers.GPT2LMHeadModel.from_pretrained(base).eval()
    with torch.no_grad():
        logits = oracle(ids).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert next(iter(job.trainer.run())).loss == pytest.approx(float(loss), rel=1e-5)


def test_cut_anywhere_it_resumes_to_the_same_bits(tmp_path: Path, base: Path, text: Path) -> None:
    settings = replace(SETTINGS, optimizer="muon", average=0.9)
    whole = job_from(base, tmp_path / "whole", text, settings)
    list(whole.trainer.run())
    for stop in (5, 4, 20):  # whatever came after the last written state is lost
        resume = (tmp_path / "cut" / STATE).exists()
        job = job_from(base, tmp_path / "cut", text, settings, resume=resume)
        for number, _ in enumerate(job.trainer.run(), 1):
            if number == stop:
                break
    assert whole.trainer.progress.history == job.trainer.progress.history
    kept = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "cut")]
    assert kept[0] == kept[1]


def test_a_state_that_began_elsewhere_is_refused(tmp_path: Path, base: Path, text: Path) -> None:
    other, config = tmp_path / "other", load_model(resolve(str(base))).config
    shutil.copytree(base, other)
    write_weights(other / WEIGHTS, untrained(config, 0), "float32")
    list(job_from(base, tmp_path / "model", text).trainer.run())
    with pytest.raises(InputError, match="was made with another init_from"):
        job_from(other, tmp_path / "model", text, resume=True)


def test_the_card_says_what_it_began_from(tmp_path: Path, base: Path, text: Path) -> None:
    other = write_stories(tmp_path / "other.txt", seed=1)
    job = job_from(base, tmp_path / "model", other)
    list(job.trainer.run())
    finish(job, [])
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    digest = hashlib.sha256((base / WEIGHTS).read_bytes()).hexdigest()
    assert f"Began from: base (sha256 {digest})." in card
    assert "from scratch" not in card
    own, before = card.split("## Texts of base, before")
    assert hashlib.sha256(other.read_bytes()).hexdigest() in own
    assert hashlib.sha256(text.read_bytes()).hexdigest() in before


@pytest.mark.parametrize("specials", [(), ("<|endoftext|>", "<s>")])
def test_the_new_directory_has_the_bases_tokenizer(
    tmp_path: Path, text: Path, specials: tuple[str, ...]
) -> None:
    base = write_huggingface(tmp_path / "base", tied=True, specials=specials)
    job = job_from(base, tmp_path / "model", text)
    assert job.config.tokenizer == "tokenizer.json"
    list(job.trainer.run())
    assert load_model(resolve(str(tmp_path / "model"))).config == job.config
    before, after = tokenizer_of(base), tokenizer_of(tmp_path / "model")
    assert after.encode_prompt("the cat") == [before.eos_id, *before.encode_prompt("the cat")]
    sizes = [(t.n_vocab, t.eos_ids, t.encode("a b")) for t in (before, after)]
    assert sizes[0] == sizes[1]


def test_a_named_encoding_stays_a_name(
    tmp_path: Path, text: Path, tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    wide = replace(CONFIG, vocab_size=50257, emb_dim=2, n_heads=1, n_layers=1)
    save(untrained(wide, 0), tmp_path / "base")
    job = job_from(tmp_path / "base", tmp_path / "model", text)
    assert job.config.tokenizer == "gpt2"
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == ["config.yaml", "tokenizer_config.json"]


def test_positions_can_be_cut_and_dropout_changed(tmp_path: Path, base: Path, text: Path) -> None:
    job = job_from(base, tmp_path, text, context_length=8, drop_rate=0.3)
    assert job.config == replace(job.config, context_length=8, drop_rate=0.3)
    places = load_model(resolve(str(base))).pos_emb.weight
    assert_close(job.trainer._model.pos_emb.weight, places[:8], rtol=0, atol=0)
    block = job.trainer._model.trf_blocks[0]
    assert (block.att.drop_rate, block.drop_shortcut.p) == (0.3, 0.3)
    list(job.trainer.run())
    assert finish(job, []) > 0
    with pytest.raises(UsageError, match="context_length: 17 is more than the 16 of `init_from`"):
        job_from(base, tmp_path / "longer", text, context_length=17)
    assert not (tmp_path / "longer").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BASE", "--config", "x.yaml"], "--config: cannot be used together with --init-from"),
        (["BASE", "--size", "small"], "--size: cannot be used together with --init-from"),
        (["BASE", "--vocab-size", "300"], "--vocab-size: cannot be used together with --init-from"),
        (["BASE", "--tokenizer", "gpt2"], "--tokenizer: cannot be used together with --init-from"),
        (["BASE", "--initialisation", "auto"], "--initialisation: cannot be used together with"),
        (["no-such"], "--init-from: no such file or directory"),
        (["gpt2-124m"], "--init-from: gpt2-124m has no weights to begin from"),
    ],
)
def test_mistakes_are_one_line(
    base: Path, text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [argument.replace("BASE", str(base)) for argument in arguments]
    directory = text.parent / "model"
    assert run(["train", str(text), "-o", str(directory), "--init-from", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("gptcli: error: ")
    assert not directory.exists()


def test_the_base_is_never_written_over(tmp_path: Path, base: Path, text: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(base, directory)
    with pytest.raises(UsageError, match="is what `directory` names"):
        job_from(directory, directory, text)


def test_the_command_fine_tunes(
    tmp_path: Path, base: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "model"
    options = ["-o", str(directory), "--init-from", str(base), "--steps", "3", "--batch-size", "4"]
    assert run(["train", str(text), *options]) == 0
    assert run(["generate", "-m", str(directory), "Tom saw", "-n", "3"]) == 0
    assert capsys.readouterr().out.startswith("Tom saw")
