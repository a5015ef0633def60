import pytest
import torch
from conftest import composed
from hydra.utils import instantiate

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
