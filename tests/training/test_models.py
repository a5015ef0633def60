from collections.abc import Callable
from copy import deepcopy
from hashlib import sha256

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.nn.functional import cross_entropy

from tests.helpers.commands import command, composed
from xent.training.models import cnn, draw_weights, mlp, resnet


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_every_model_adapts_to_every_data_set_and_draws_nothing_while_it_trains(name: str) -> None:
    for shape, classes in (((1, 28, 28), 10), ((3, 32, 32), 100)):
        network, state = instantiate(composed(f"model={name}")[0].model, shape, classes), torch.get_rng_state()
        assert network(torch.ones(4, *shape)).shape == (4, classes)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("width", [2, 4, 8, 16])
@pytest.mark.parametrize("model", [cnn, resnet])
def test_gradients_do_not_depend_on_the_layout(model: Callable[..., nn.Module], width: int) -> None:
    """To rounding; of a unit at the edge of firing, which rounding may push over it, too."""
    torch.manual_seed(0)
    images, target = torch.randn(50, 3, 32, 32), torch.randint(10, (50,))
    plain = model((3, 32, 32), 10, width)
    innermost = deepcopy(plain).to(memory_format=torch.channels_last)
    for network in (plain, innermost):
        cross_entropy(network(images), target).backward()
    gradients, others = (torch.cat([p.grad.flatten() for p in x.parameters()]) for x in (plain, innermost))  # type: ignore
    assert (gradients - others).norm() < 1e-2 * gradients.norm()


def test_first_weights_are_the_same_bits_everywhere() -> None:
    """No machine, processor, version of PyTorch or of NumPy may change them unseen."""
    hashes = [
        (mlp, 128, "d84e22e4999e2334", "5469d65a8fe06495"),
        (cnn, 24, "977b7b98d1537b57", "d4f7889bf651c773"),
        (resnet, 16, "b4a7f9e784aeeef2", "9cbdf5828fd011d1"),
    ]
    for model, width, *of_seeds in hashes:
        network = model((1, 28, 28), 10, width)
        for seed, pinned in enumerate(of_seeds):
            draw_weights(network, seed)
            weights = b"".join(parameter.detach().numpy().tobytes() for parameter in network.parameters())
            assert sha256(weights).hexdigest()[:16] == pinned, (model, seed)


def first_logits() -> list[str]:
    images = (torch.arange(4 * 28 * 28).double() * 37 % 256 - 128).reshape(4, 1, 28, 28) / 64  # exact, unlike linspace
    networks = [model((1, 28, 28), 10, width) for model, width in ((mlp, 128), (cnn, 24), (resnet, 4))]
    for network in networks:
        draw_weights(network, seed=0)
    return [value.hex() for network in networks for value in network.double().eval()(images).flatten().tolist()]


def test_first_logits_do_not_depend_on_the_processors_instructions() -> None:
    script = f"from {__name__} import first_logits; print(first_logits())"
    with_basic_ones = command("-c", script, ATEN_CPU_CAPABILITY="default")
    assert with_basic_ones.stdout.strip() == str(first_logits()), with_basic_ones.stderr


def test_weights_are_distributed_as_pytorch_distributes_them() -> None:
    ours, theirs, bound = nn.Conv2d(16, 64, 5), nn.Conv2d(16, 64, 5), 1 / 20
    draw_weights(ours, seed=0)
    for drawn, expected, most in ((ours.weight, theirs.weight, 0.1), (ours.bias, theirs.bias, 0.3)):
        assert drawn.dtype == torch.float32 and 0.95 * bound < drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(expected.std().item(), rel=0.2)
        assert drawn.mean().abs() < most * bound
