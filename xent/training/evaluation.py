"""What a model says of images that it is not trained on."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from xent.recording.recorder import evaluating
from xent.training.data import Split

PROBE = 256  # the first images of the test set, on which runs are compared
CHUNK = 500  # images that evaluation takes at once


def evaluate(model: nn.Module, split: Split, autocast: bool = False) -> tuple[float, float]:
    """Loss and accuracy (between 0 and 1) on the whole split.

    The loss is PyTorch's cross entropy in float64, whatever the run trains with: one yardstick for every run.
    """
    logits = predict(model, split, len(split), autocast).cpu().double()
    labels = split.labels.cpu()
    return cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).double().mean().item()


@torch.no_grad()
def predict(model: nn.Module, split: Split, count: int, autocast: bool = False) -> Tensor:
    """The logits `[count, classes]` of the first `count` images, in evaluation mode."""
    eager = torch.compiler.set_stance("force_eager")  # a compiled model would be compiled anew for evaluation
    with evaluating(model), eager, torch.autocast(split.labels.device.type, torch.bfloat16, enabled=autocast):
        logits = [model(split.normalised(images)) for images in torch.split(split.images[:count], CHUNK)]
    return torch.cat(logits).to(split.mean.dtype)
