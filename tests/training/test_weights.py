from hashlib import sha256

import pytest
import torch
from torch import nn

from tests.helpers.commands import command
from xent.training import models
from xent.training.models import draw_weights

MODELS = {"mlp": (models.mlp, 128), "cnn": (models.cnn, 24), "resnet": (models.resnet, 16)}
# No machine, processor, version of PyTorch or of NumPy may change the first weights unseen.
PINNED = {
    ("mlp", 0): "d84e22e4999e2334",
    ("mlp", 1): "5469d65a8fe06495",
    ("cnn", 0): "977b7b98d1537b57",
    ("cnn", 1): "d4f7889bf651c773",
    ("resnet", 0): "b4a7f9e784aeeef2",
    ("resnet", 1): "9cbdf5828fd011d1",
}
LOGITS = """
import torch
from xent.training.models import cnn, draw_weights, mlp, resnet
images = (torch.arange(4 * 28 * 28).double() * 37 % 256 - 128).reshape(4, 1, 28, 28) / 64  # exact, unlike linspace
for model in (mlp((1, 28, 28), 10, 128), cnn((1, 28, 28), 10, 24), resnet((1, 28, 28), 10, 4)):
    draw_weights(model, seed=0)
    print([value.hex() for value in model.double().eval()(images).flatten().tolist()])
"""


def drawn(model: str, seed: int) -> list[torch.Tensor]:
    make, width = MODELS[model]
    network = make((1, 28, 28), 10, width)
    draw_weights(network, seed)
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize(("model", "seed"), PINNED)
def test_first_weights_are_the_same_bits_everywhere(model: str, seed: int) -> None:
    torch.manual_seed(torch.initial_seed() + 1)  # which is not asked
    weights = b"".join(parameter.numpy().tobytes() for parameter in drawn(model, seed))
    assert sha256(weights).hexdigest()[:16] == PINNED[model, seed]


def test_first_logits_do_not_depend_on_the_processors_instructions() -> None:
    usual, without = (command("-c", LOGITS, **env) for env in ({}, {"ATEN_CPU_CAPABILITY": "default"}))
    assert usual.returncode == without.returncode == 0, usual.stderr + without.stderr
    assert usual.stdout == without.stdout


def test_weights_are_distributed_as_pytorch_distributes_them() -> None:
    ours, theirs = nn.Conv2d(16, 64, 5), nn.Conv2d(16, 64, 5)
    draw_weights(ours, seed=0)
    for name, bound in (("weight", 1 / 20), ("bias", 1 / 20)):
        drawn, expected = (getattr(layer, name).detach() for layer in (ours, theirs))
        assert drawn.abs().max() <= bound
        assert drawn.dtype == torch.float32
        assert drawn.abs().max() > 0.95 * bound
        assert drawn.std() == pytest.approx(expected.std().item(), rel=0.2)
        assert drawn.mean() == pytest.approx(0, abs=0.1 * bound if name == "weight" else 0.3 * bound)


def test_the_seed_draws_and_no_layer_repeats_another() -> None:
    layers = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    draw_weights(layers, seed=1)
    assert not torch.equal(layers[0].weight, layers[1].weight)
    assert (layers[2].weight == 1).all(), "constants are left as they are"
    before = layers[0].weight.clone()
    draw_weights(layers, seed=2)
    assert not torch.equal(layers[0].weight, before)
    draw_weights(layers, seed=1)
    assert torch.equal(layers[0].weight, before)
