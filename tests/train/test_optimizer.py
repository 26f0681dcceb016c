import math

import pytest
import torch

from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.train.optimizer import (
    WeightAverage,
    build_optimizers,
    initialise_as_gpt2,
    learning_rate,
    swap_weights,
)
from gptcli.train.options import TrainSettings

CONFIG = GPTConfig(
    vocab_size=50, context_length=8, emb_dim=16, n_heads=2, n_layers=3, tie_weights=True
)


def model(seed: int = 0) -> GPTModel:
    torch.manual_seed(seed)
    return GPTModel(CONFIG)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(name: str) -> None:
    network = model()
    groups = [
        group
        for optimizer in build_optimizers(network, TrainSettings(optimizer=name, weight_decay=0.3))
        for group in optimizer.param_groups
    ]
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() == 2 else 0)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [learning_rate(step, 100, peak=1.0, warmup=10, floor=0.1) for step in range(100)]
    assert rates[:10] == [pytest.approx((i + 1) / 10) for i in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


def test_muon_lowers_the_loss_of_the_blocks_matrices() -> None:
    network = model()
    settings = TrainSettings(optimizer="muon", lr=0.02, weight_decay=0.0)
    optimizers = build_optimizers(network, settings)
    ids = torch.arange(8)[None]
    losses = []
    for _ in range(30):
        network.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(ids)[0], ids[0])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_muon_takes_the_matrices_inside_the_blocks_and_nothing_else() -> None:
    network = model()
    adamw, muon = build_optimizers(network, TrainSettings(optimizer="muon"))
    assert isinstance(adamw, torch.optim.AdamW)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    assert taken == {id(p) for p in network.trf_blocks.parameters() if p.dim() == 2}


def test_an_average_of_equal_weights_is_those_weights_and_it_follows_new_ones() -> None:
    network = model()
    average = WeightAverage(network, 0.9)
    average.update(network, 0)
    torch.testing.assert_close(average.weights["pos_emb.weight"], network.pos_emb.weight.detach())
    with torch.no_grad():
        network.pos_emb.weight.fill_(3.0)
    for step in range(200):
        average.update(network, step)
    torch.testing.assert_close(average.weights["pos_emb.weight"], network.pos_emb.weight.detach())


def test_two_swaps_change_nothing_at_all() -> None:
    network = model()
    average = WeightAverage(model(1), 0.9)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    swap_weights(network, average.weights)
    assert not torch.equal(before["tok_emb.weight"], network.tok_emb.weight)
    swap_weights(network, average.weights)
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


def test_gpt2s_initialisation_has_its_deviations() -> None:
    torch.manual_seed(0)
    wide = GPTModel(GPTConfig(vocab_size=500, context_length=8, emb_dim=128, n_heads=2, n_layers=3))
    initialise_as_gpt2(wide, 3)
    for name, parameter in wide.named_parameters():
        if parameter.dim() == 1:
            assert float(parameter.detach().std()) == 0  # zeros, and ones of the norms
            continue
        residual = "out_proj" in name or "layers.2" in name
        expected = 0.02 / math.sqrt(6) if residual else 0.02
        assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name
