"""Scores of texts, against transformers' losses, written-out loops and NumPy's statistics."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from gpt2_oracle import copy_weights, lively_gpt2
from hypothesis import given
from hypothesis import strategies as st

from gptcli.core.errors import InputError
from gptcli.diagnostics.score import Model, Score, Text, WindowSpec, score, windows
from gptcli.engine.pytorch import TorchEngine

END, LENGTH = 256, 16
SHAPE = {"vocab_size": 257, "n_positions": LENGTH, "n_embd": 24, "n_head": 3, "n_layer": 2}
SHORT = Text("short", ["one two", "a", "three four", "the end of it", "naïve"])
LONG = Text("long", ["a document that is longer than a context of sixteen tokens, by far. " * 2])
WINDOWS = WindowSpec(length=LENGTH, stride=LENGTH // 2)


class Bytes:
    """A token for each byte, and perhaps the end of text."""

    name, n_vocab = "bytes", 257

    def __init__(self, end: int | None = END) -> None:
        self.eos_id, self.eos_ids = end, frozenset() if end is None else frozenset({end})

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < END else b""

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str, _limit: int | None = None) -> list[int]:
        return list(text.encode())


@pytest.fixture(scope="module")
def oracles() -> list:
    return [lively_gpt2(seed=seed, **SHAPE) for seed in (1, 2)]


@pytest.fixture(scope="module")
def models(oracles) -> list[Model]:
    return [
        Model(f"model {n}", TorchEngine(copy_weights(oracle)), Bytes())
        for n, oracle in enumerate(oracles)
    ]


def scored(text: Text, models: Sequence[Model], **changes: object) -> list[Score]:
    return score(text, models, WindowSpec(**{"length": LENGTH, "stride": LENGTH // 2, **changes}))


def whole(document: str) -> torch.Tensor:
    return torch.tensor([[END, *document.encode(), END]])


def test_short_documents_have_the_loss_of_transformers(oracles, models) -> None:
    (found,) = scored(SHORT, models[:1])
    with torch.no_grad():
        losses = [
            float(oracles[0](whole(text), labels=whole(text)).loss) for text in SHORT.documents
        ]
    lengths = [len(text.encode()) + 1 for text in SHORT.documents]
    assert found.document_tokens.tolist() == lengths
    nats = np.multiply(losses, lengths)
    assert found.document_nats == pytest.approx(nats, rel=1e-5)
    assert found.nats_per_token == pytest.approx(nats.sum() / sum(lengths), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats.sum() / sum(lengths)), rel=1e-5)
    size = sum(len(text.encode()) for text in SHORT.documents)
    assert found.bits_per_byte == pytest.approx(nats.sum() / math.log(2) / size, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 5, 8, 16])
def test_a_long_document_is_read_by_a_sliding_window(oracles, models, stride: int) -> None:
    (found,) = scored(LONG, models[:1], stride=stride)
    ids = whole(LONG.documents[0])
    nats, stop = 0.0, 1
    while stop < ids.shape[1]:  # targets up to here are done
        begin = 0 if stop == 1 else stop - 1 - (LENGTH - stride)
        window = ids[:, begin : begin + LENGTH + 1]
        with torch.no_grad():
            logprobs = oracles[0](window[:, :-1]).logits[0].double().log_softmax(dim=-1)
        further = window.shape[1] - (stop - begin)
        targets = window[0, -further:]
        nats -= float(logprobs[-further:].gather(1, targets[:, None]).sum())
        stop += further
    assert found.tokens == ids.shape[1] - 1
    assert float(found.document_nats.sum()) == pytest.approx(nats, rel=1e-5)


@given(
    st.lists(st.text("ab", min_size=1, max_size=60), min_size=1, max_size=4),
    st.integers(1, 9),
    st.data(),
    st.booleans(),
)
def test_every_token_is_predicted_once_after_as_many_as_the_stride_leaves(
    documents, length, data, ends
) -> None:
    stride = data.draw(st.integers(1, length))
    spec = WindowSpec(length=length, stride=stride, count_end=ends)
    targets: list[list[int]] = [[] for _ in documents]
    for window in windows(Text("", documents), Bytes(), spec):
        assert 1 <= len(window.targets) <= len(window.ids) <= length
        assert list(window.ids[len(window.ids) - len(window.targets) + 1 :]) == list(
            window.targets[:-1]
        )
        if targets[window.document]:
            assert len(window.ids) - len(window.targets) == length - stride
        targets[window.document] += window.targets
    assert targets == [[*text.encode(), *([END] if ends else [])] for text in documents]


def test_two_models_are_compared_place_by_place(oracles, models) -> None:
    first, second = scored(SHORT, models)
    assert first.comparison is None
    found = second.comparison
    assert found is not None
    apart, kl, same, tokens = [], 0.0, 0, 0
    for document in SHORT.documents:
        ids = whole(document)
        with torch.no_grad():
            a, b = (o(ids[:, :-1]).logits[0].double().log_softmax(dim=-1) for o in oracles)
        apart.append(float((a - b).gather(1, ids[0, 1:, None]).sum()))
        kl += float((a.exp() * (a - b)).sum())
        same += int((a.argmax(dim=-1) == b.argmax(dim=-1)).sum())
        tokens += ids.shape[1] - 1
    assert found.nats_per_token == pytest.approx(sum(apart) / tokens, abs=1e-5)
    assert found.kl == pytest.approx(kl / tokens, abs=1e-5)
    assert found.same_choice == same / tokens
    difference = second.bits_per_byte - first.bits_per_byte
    assert found.bits_per_byte == pytest.approx(difference, abs=1e-9)


def test_a_model_beside_itself_does_not_differ(models) -> None:
    found = scored(SHORT, [models[0], models[0], models[1]])[1].comparison
    assert found is not None
    assert (found.nats_per_token, found.stderr, found.same_choice) == (0, 0, 1)
    assert found.kl == pytest.approx(0, abs=1e-6)


def test_errors_are_those_of_the_mean_over_documents_of_equal_length(models) -> None:
    draw = np.random.default_rng(0)
    documents = ["".join(draw.choice(list("abcdef"), 9)) for _ in range(40)]
    first, second = scored(Text("", documents), models)
    means = first.document_nats / 10
    assert first.stderr == pytest.approx(means.std(ddof=1) / 40**0.5)
    apart = (second.document_nats - first.document_nats) / 10
    assert second.comparison is not None
    assert second.comparison.stderr == pytest.approx(apart.std(ddof=1) / 40**0.5)
    per_byte = 10 / 9 / math.log(2)
    assert second.comparison.bits_per_byte_stderr == pytest.approx(
        per_byte * apart.std(ddof=1) / 40**0.5
    )


def test_a_single_document_has_the_errors_of_its_windows_or_tokens(oracles, models) -> None:
    (found,) = scored(LONG, models[:1])
    assert found.stderr is not None
    assert found.stderr > 0
    first, second = scored(Text("", ["short"]), models)
    ids = whole("short")
    nats = []
    for oracle in oracles:
        with torch.no_grad():
            logprobs = oracle(ids[:, :-1]).logits[0].double().log_softmax(dim=-1)
        nats.append(-logprobs.gather(1, ids[0, 1:, None]))
    assert first.stderr == pytest.approx(float(nats[0].std()) / 6**0.5, rel=1e-4)
    assert second.comparison is not None
    apart = float((nats[1] - nats[0]).std()) / 6**0.5
    assert second.comparison.stderr == pytest.approx(apart, rel=1e-4)


def test_other_tokens_are_compared_by_the_bytes_of_documents(models) -> None:
    class Halves:
        """Two ids a byte: another tokenizer of the same texts."""

        name, n_vocab, eos_id, eos_ids = "halves", 33, 32, frozenset({32})
        token_bytes = staticmethod(lambda id: bytes([id]))
        encode_prompt = staticmethod(lambda _text: [])

        @staticmethod
        def encode(text: str, _limit: object) -> list[int]:
            return [half for byte in text.encode() for half in (byte >> 4, 16 + (byte & 15))]

    other = Model(
        "halves", TorchEngine(copy_weights(lively_gpt2(**{**SHAPE, "vocab_size": 33}))), Halves()
    )
    first, second = scored(SHORT, [models[0], other])
    found = second.comparison
    assert found is not None
    assert (found.nats_per_token, found.kl, found.same_choice) == (None, None, None)
    assert found.bits_per_byte == pytest.approx(second.bits_per_byte - first.bits_per_byte)
    assert second.tokens == 2 * first.bytes + len(SHORT.documents)
    assert scored(LONG, [models[0], other])[1].comparison.bits_per_byte_stderr is None


def test_steps_of_many_documents_and_of_long_contexts_change_nothing(models) -> None:
    shape = {**SHAPE, "n_positions": 1200}
    long = Model("long", TorchEngine(copy_weights(lively_gpt2(**shape))), Bytes())
    documents = ["x" * 700, "short", "y" * 1150, "z" * 2500, *["some more"] * 200]
    together = score(Text("", documents), [long], WindowSpec(length=1200, stride=600))[0]
    alone = [
        score(Text("", [document]), [long], WindowSpec(length=1200, stride=600))[0]
        for document in documents[:5]
    ]
    for n, one in enumerate(alone):
        assert together.document_nats[n] == pytest.approx(float(one.document_nats[0]), rel=1e-5)


def test_a_text_without_anything_to_predict_is_an_error(models) -> None:
    endless = Model("endless", models[0].engine, Bytes(None))
    with pytest.raises(InputError, match="no token that could be predicted"):
        scored(Text("one", ["a"]), [endless])
    assert scored(Text("two", ["ab"]), [endless])[0].tokens == 1
