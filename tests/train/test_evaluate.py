import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.train.evaluate import ValidationText, bits_per_byte

CONFIG = GPTConfig(vocab_size=20, context_length=8, emb_dim=16, n_heads=2, n_layers=1)


def held(*lengths: int) -> ValidationText:
    draw = np.random.default_rng(0)
    documents = [draw.integers(1, 20, n).astype(np.int32) for n in lengths]
    return ValidationText(documents, 3 * sum(lengths))


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary() -> None:
    model = GPTModel(CONFIG)
    torch.nn.init.zeros_(model.out_head.weight)
    text = held(1, 7, 8, 9, 40)
    targets = sum(len(document) + 1 for document in text.documents)
    expected = targets * math.log2(20) / text.size
    assert bits_per_byte(model, text, 0, 8) == pytest.approx(expected)


def test_short_documents_equal_a_loop_over_their_tokens() -> None:
    torch.manual_seed(0)
    model = GPTModel(CONFIG).eval()
    text = held(3, 1, 7, 5)
    nats = 0.0
    with torch.no_grad():
        for document in text.documents:
            whole = torch.tensor([0, *document, 0])
            for n in range(1, len(whole)):
                logits = model(whole[None, :n])[0, -1]
                nats += float(F.cross_entropy(logits, whole[n]))
    expected = nats / math.log(2) / text.size
    assert bits_per_byte(model, text, 0, 8) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [8, 9, 12, 13, 25])
def test_long_documents_have_at_least_half_a_context_behind_each_token(length: int) -> None:
    torch.manual_seed(0)
    model = GPTModel(CONFIG).eval()
    document = held(length).documents[0]
    whole = [0, *document.tolist(), 0]
    nats, counted = 0.0, 0
    with torch.no_grad():
        while counted < len(whole) - 1:
            start = max(0, counted - 4) if counted else 0
            window = torch.tensor(whole[start : start + 9])
            losses = F.cross_entropy(model(window[None, :-1])[0], window[1:], reduction="none")
            nats += float(losses[counted - start :].sum())
            counted = start + len(losses)
    found = bits_per_byte(model, ValidationText([document], 100), 0, 8)
    assert found == pytest.approx(nats / math.log(2) / 100, rel=1e-5)


def test_measuring_leaves_the_mode_and_has_no_dropout() -> None:
    model = GPTModel(GPTConfig(**{**CONFIG.to_dict(), "drop_rate": 0.5})).train()
    text = held(5, 6)
    assert bits_per_byte(model, text, 0, 8) == bits_per_byte(model, text, 0, 8)
    assert model.training
