import pytest
import torch

from gptcli.model.shortcut import ExampleDeepNeuralNetwork, mean_gradients, print_gradients

LAYER_SIZES = [3, 3, 3, 3, 3, 1]
PUBLISHED = {  # the book's output for seed 123 and the input 1, 0, -1
    False: [0.00020173587836325169, 0.0001201116101583466, 0.0007152041653171182,
            0.001398873864673078, 0.005049646366387606],
    True: [0.22169792652130127, 0.20694105327129364, 0.32896995544433594,
           0.2665732204914093, 1.3258540630340576],
}  # fmt: skip


@pytest.mark.parametrize("use_shortcut", [False, True])
def test_gradients_are_the_published_ones(use_shortcut: bool) -> None:
    torch.manual_seed(123)
    model = ExampleDeepNeuralNetwork(LAYER_SIZES, use_shortcut)
    gradients = mean_gradients(model, torch.tensor([[1.0, 0.0, -1.0]]))
    assert list(gradients) == [f"layers.{n}.0.weight" for n in range(5)]
    assert list(gradients.values()) == pytest.approx(PUBLISHED[use_shortcut], rel=1e-4)


def test_print_gradients_prints_a_line_for_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(123)
    print_gradients(ExampleDeepNeuralNetwork(LAYER_SIZES, True), torch.tensor([[1.0, 0.0, -1.0]]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("layers.0.0.weight has gradient mean of 0.2216979")
