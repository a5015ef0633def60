from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import composed
from xent.training import models

SHAPES = {"mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10), "cifar100": ((3, 32, 32), 100)}


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("data", SHAPES)
def test_every_model_adapts_to_every_data_set(model: str, data: str) -> None:
    shape, classes = SHAPES[data]
    network = instantiate(composed(f"model={model}")[0].model, shape, classes)
    assert network(torch.randn(4, *shape)).shape == (4, classes)


def test_no_model_draws_anything_while_it_trains() -> None:
    for model in ("mlp", "cnn", "resnet"):
        network = instantiate(composed(f"model={model}")[0].model, (1, 28, 28), 10)
        state = torch.get_rng_state()
        network(torch.ones(4, 1, 28, 28))
        assert torch.equal(torch.get_rng_state(), state), model


@pytest.mark.parametrize("width", [2, 4, 8, 16])
@pytest.mark.parametrize("model", [models.cnn, models.resnet])
def test_gradients_do_not_depend_on_the_layout(model: Callable[..., nn.Module], width: int) -> None:
    """To rounding; of a unit at the edge of firing, which rounding may push over it, too."""
    torch.manual_seed(0)
    images, target = torch.randn(50, 3, 32, 32), torch.randint(10, (50,))
    network = model((3, 32, 32), 10, width)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        each = deepcopy(network).to(memory_format=layout)
        cross_entropy(each(images), target).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None]))
    plain, innermost = gradients
    assert torch.linalg.vector_norm(plain - innermost) < 1e-2 * torch.linalg.vector_norm(plain)
