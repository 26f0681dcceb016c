import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from story_text import write_stories

from gptcli.checkpoint.load import load_model
from gptcli.checkpoint.resolve import resolve
from gptcli.core.errors import InputError, RunError, UsageError
from gptcli.engine.pytorch import wants_bfloat16
from gptcli.model.config import GPTConfig
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.train.distributed import Group
from gptcli.train.finish import finish
from gptcli.train.options import STATE, WEIGHTS, Recipe, TrainSettings
from gptcli.train.setup import PreparedTraining, new_model, prepare
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


def job_in(
    directory: Path,
    text: Path,
    settings: TrainSettings = SETTINGS,
    *,
    resume: bool = False,
    config: GPTConfig = CONFIG,
    **changes: object,
) -> PreparedTraining:
    recipe = Recipe(
        sources=(TextSource(text),), directory=directory, config=config, valid_share=0.1
    )
    return prepare(replace(recipe, **changes), settings, Group(), resume=resume)


def weights(job: PreparedTraining) -> dict[str, torch.Tensor]:
    """All that is trained, whatever was kept."""
    job.trainer.save()
    return load_file(job.recipe.directory / STATE)


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_training_learns_and_ends_in_a_directory_that_generates(tmp_path: Path, text: Path) -> None:
    job = job_in(tmp_path, text, replace(SETTINGS, steps=60))
    reports = list(job.trainer.run())
    bits = [report.bits for report in reports if report.bits is not None]
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert bits[-1] < bits[0]
    final = finish(job, ["train", "x.txt"], ["Licence: none."])
    assert final == pytest.approx(min(bits), rel=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "MODEL_CARD.md",
        "config.yaml",
        "model.safetensors",
        "tokenizer.tiktoken",
        "tokenizer_config.json",
    ]
    tokenizer = load_tokenizer("tokenizer.tiktoken", tmp_path)
    assert tokenizer.encode_prompt("A")[0] == tokenizer.eos_id  # as every text began in training
    card = (tmp_path / "MODEL_CARD.md").read_text()
    for fact in (job.texts[0].sha256, "Licence: none.", "gptcli train x.txt", f"{final:.6g}"):
        assert fact in card
    model = load_model(resolve(str(tmp_path)))
    assert model.config == job.config
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_cut_anywhere_resumes_to_the_same_bits(
    tmp_path: Path, text: Path, optimizer: str
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, average=0.9, accumulate=2)
    whole = job_in(tmp_path / "whole", text, settings)
    list(whole.trainer.run())
    job = job_in(tmp_path / "cut", text, settings)
    draw = random.Random(0)
    for _ in range(4):
        stop = draw.randint(1, 6)
        for number, _ in enumerate(job.trainer.run(), 1):
            if number == stop:  # whatever came after the last written state is lost
                break
        resume = (tmp_path / "cut" / STATE).exists()
        job = job_in(tmp_path / "cut", text, settings, resume=resume)
    list(job.trainer.run())
    assert_equal(weights(whole), weights(job))
    kept = [
        (directory / WEIGHTS).read_bytes() for directory in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert kept[0] == kept[1]
    assert whole.trainer.progress.best == job.trainer.progress.best
    assert whole.trainer.progress.history == job.trainer.progress.history


def test_one_step_equals_pytorchs_own(tmp_path: Path, text: Path) -> None:
    """The oracle: autograd on a plain loop, and torch's AdamW, clipping and cross-entropy."""
    config = replace(CONFIG, drop_rate=0.0)
    settings = replace(SETTINGS, steps=3, precision="float32", weight_decay=0.5, clip=0.3)
    job = job_in(tmp_path, text, settings, config=config)
    mixture = job.trainer._mixture
    oracle = new_model(job.config, settings.seed, "auto")
    decayed = [p for p in oracle.parameters() if p.dim() > 1]
    rest = [p for p in oracle.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=False)
    for step, report in enumerate(job.trainer.run()):
        ids, targets = (torch.from_numpy(part).long() for part in mixture.batch(4 * step, 4))
        adamw.zero_grad()
        loss = F.cross_entropy(oracle(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.3)
        for group in adamw.param_groups:
            group["lr"] = report.rate
        adamw.step()
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    state = weights(job)
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(state[f"model.{name}"], parameter.detach(), atol=1e-5, rtol=1e-4)


def test_accumulation_changes_memory_and_not_the_result(tmp_path: Path, text: Path) -> None:
    config = replace(CONFIG, drop_rate=0.0)
    states = []
    for accumulate in (1, 4):
        settings = replace(SETTINGS, steps=3, precision="float32", accumulate=accumulate)
        job = job_in(tmp_path / str(accumulate), text, settings, config=config)
        list(job.trainer.run())
        states.append(weights(job))
    for name, tensor in states[0].items():
        if name.startswith("model."):
            torch.testing.assert_close(tensor, states[1][name], atol=1e-5, rtol=1e-4)


def test_the_best_weights_are_kept_and_early_stopping_ends_it(tmp_path: Path, text: Path) -> None:
    """A learning rate this high makes things worse again, so the best is not the last."""
    settings = replace(SETTINGS, steps=80, lr=0.5, min_lr=0.99, eval_every=2, patience=2)
    job = job_in(tmp_path, text, settings)
    bits = {report.step: report.bits for report in job.trainer.run() if report.bits is not None}
    progress = job.trainer.progress
    assert progress.stopped
    assert progress.step < 80
    assert progress.best == min(bits.values())
    assert list(bits)[-3] == progress.best_step
    assert finish(job, []) == pytest.approx(progress.best, rel=0.02)


def test_dropout_matters_and_can_be_kept_out_of_the_attention(tmp_path: Path, text: Path) -> None:
    losses = {}
    for rate, attention in ((0.0, True), (0.5, True), (0.5, False)):
        settings = replace(SETTINGS, steps=1, attention_dropout=attention)
        config = replace(CONFIG, drop_rate=rate)
        job = job_in(tmp_path / f"{rate}{attention}", text, settings, config=config)
        losses[rate, attention] = next(iter(job.trainer.run())).loss
    assert len(set(losses.values())) == 3


def test_token_dropout_hides_whole_tokens_while_training_only(tmp_path: Path, text: Path) -> None:
    plain = job_in(tmp_path / "plain", text).trainer
    hiding = job_in(tmp_path / "hiding", text, replace(SETTINGS, token_dropout=0.25)).trainer
    model = hiding._model
    ids = torch.randint(0, model.config.vocab_size, (64, 16))
    embeddings = model.tok_emb.weight[ids]

    torch.testing.assert_close(model.eval().tok_emb(ids), embeddings)
    read = model.train().tok_emb(ids)
    shown = (read != 0).any(-1)
    assert 0.2 < 1 - shown.float().mean().item() < 0.3  # 0.013 is one standard deviation
    torch.testing.assert_close(read[shown], embeddings[shown] / 0.75)

    assert next(iter(plain.run())).loss != next(iter(hiding.run())).loss


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_can_be_stored_in_half_the_bytes(tmp_path: Path, text: Path, dtype: str) -> None:
    job = job_in(tmp_path, text, weights_dtype=dtype)
    list(job.trainer.run())
    stored = load_file(tmp_path / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert "out_head.weight" not in stored


def test_a_state_of_other_settings_or_text_is_refused(tmp_path: Path, text: Path) -> None:
    list(job_in(tmp_path, text).trainer.run())
    with pytest.raises(InputError, match="was made with another lr"):
        job_in(tmp_path, text, replace(SETTINGS, lr=2e-2), resume=True)
    other = write_stories(tmp_path / "other.txt", 150, seed=1)
    with pytest.raises(InputError, match="was made with another texts"):
        job_in(tmp_path, other, resume=True)


@pytest.mark.parametrize("cut", [0, 7, 500, -1])
def test_a_damaged_state_is_refused(tmp_path: Path, text: Path, cut: int) -> None:
    list(job_in(tmp_path, text).trainer.run())
    path = tmp_path / STATE
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="not the state of a training"):
        job_in(tmp_path, text, resume=True)


def test_text_shorter_than_a_context_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A cat sat.\n<|endoftext|>\nA dog ran.\n")
    with pytest.raises(InputError, match="too little text"):
        job_in(tmp_path / "out", path, config=replace(CONFIG, context_length=64))


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path, text: Path) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        job_in(tmp_path, text, replace(SETTINGS, accumulate=3))


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path: Path, text: Path) -> None:
    job = job_in(tmp_path, text)
    with torch.no_grad():
        job.trainer._model.pos_emb.weight[3] = float("inf")
    with pytest.raises(RunError, match="not finite at step 1"):
        next(iter(job.trainer.run()))


def test_an_interrupted_training_has_written_its_state(tmp_path: Path, text: Path) -> None:
    job = job_in(tmp_path, text)
    reports = list(job.trainer.run(lambda: job.trainer.progress.step == 5))
    assert len(reports) == 5
    assert job_in(tmp_path, text, resume=True).trainer.progress.step == 5


def test_fewer_steps_than_were_done_end_it_with_what_there_is(tmp_path: Path, text: Path) -> None:
    job = job_in(tmp_path, text)
    list(job.trainer.run(lambda: job.trainer.progress.step == 3))
    assert not (tmp_path / WEIGHTS).exists()
    job = job_in(tmp_path, text, replace(SETTINGS, steps=2), resume=True)
    assert list(job.trainer.run()) == []
    assert finish(job, []) == pytest.approx(job.trainer.progress.best, rel=0.02)


def test_a_validation_file_is_measured_whole_and_not_learnt_from(
    tmp_path: Path, text: Path
) -> None:
    valid = tmp_path / "valid.txt"
    valid.write_text("Tom saw a cat.\n<|endoftext|>\n" * 3)
    job = job_in(tmp_path / "model", text, valid=valid)
    assert len(job.validation.documents) == 3
    assert job.validation.size == 3 * len("Tom saw a cat.")
    assert job.rows == (SETTINGS.steps * SETTINGS.batch_size,)
    list(job.trainer.run())
    assert finish(job, []) > 0
    assert job.texts[0].sha256 in (card := (tmp_path / "model" / "MODEL_CARD.md").read_text())
    assert "valid.txt (3 documents of 42 bytes, sha256 " in card


def test_epochs_become_steps(tmp_path: Path, text: Path) -> None:
    job = job_in(tmp_path, text, replace(SETTINGS, steps=0), epochs=3.0)
    assert job.settings.steps * 4 * 16 == pytest.approx(3 * job.tokens, abs=64)


def test_initialisations_are_the_books_and_gpt2s() -> None:
    untied = replace(CONFIG, tie_weights=False)
    assert float(new_model(untied, 0, "auto").tok_emb.weight.detach().std()) > 0.9
    assert float(new_model(CONFIG, 0, "auto").tok_emb.weight.detach().std()) < 0.03
    assert float(new_model(CONFIG, 0, "book").tok_emb.weight.detach().std()) > 0.9


def test_precision_can_be_forced() -> None:
    assert wants_bfloat16("bfloat16", "cpu")
    assert not wants_bfloat16("float32", "cpu")
