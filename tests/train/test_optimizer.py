import math

import pytest
import torch

from gptcli.engine.precision import has_bfloat16
from gptcli.model.config import GPTConfig
from gptcli.model.gpt import GPTModel
from gptcli.train.muon import Muon, orthogonal
from gptcli.train.optimizer import Average, build, initialise_as_gpt2, rate, swap
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
        for optimizer in build(network, TrainSettings(optimizer=name, weight_decay=0.3))
        for group in optimizer.param_groups
    ]
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.dim() == 2 else 0)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [rate(step, 100, peak=1.0, warmup=10, floor=0.1) for step in range(100)]
    assert rates[:10] == [pytest.approx((i + 1) / 10) for i in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_an_update_is_nearly_orthogonal_and_keeps_the_singular_vectors(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix, dtype) @ vt.T  # the singular values, on the diagonal
    assert found.diagonal().min() > 0.3
    assert found.diagonal().max() < 1.3
    assert (found - found.diagonal().diag()).abs().max() < 0.1


def test_muon_descends() -> None:
    torch.manual_seed(0)
    wanted, weight = torch.randn(8, 16), torch.nn.Parameter(torch.zeros(8, 16))
    optimizer = Muon([weight], lr=0.2, weight_decay=0.0, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (weight - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_an_average_of_equal_weights_is_those_weights_and_it_follows_new_ones() -> None:
    network = model()
    average = Average(network, 0.9)
    average.update(network, 0)
    torch.testing.assert_close(average.weights["pos_emb.weight"], network.pos_emb.weight.detach())
    with torch.no_grad():
        network.pos_emb.weight.fill_(3.0)
    for step in range(200):
        average.update(network, step)
    torch.testing.assert_close(average.weights["pos_emb.weight"], network.pos_emb.weight.detach())


def test_two_swaps_change_nothing_at_all() -> None:
    network = model()
    average = Average(model(1), 0.9)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    swap(network, average.weights)
    assert not torch.equal(before["tok_emb.weight"], network.tok_emb.weight)
    swap(network, average.weights)
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


def test_an_updates_precision_is_what_the_device_computes_itself() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(16, 32)
    own = torch.bfloat16 if has_bfloat16("cpu") else torch.float32
    assert torch.equal(orthogonal(matrix), orthogonal(matrix, own))
