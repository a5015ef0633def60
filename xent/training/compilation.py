"""torch.compile, ahead of the training."""

import time
from copy import deepcopy

import torch
from torch import Tensor, nn

from xent.recording.device import kind
from xent.recording.errors import BadInput


def compile_ahead(
    model: nn.Module,
    loss: nn.Module,
    images: Tensor,
    target: Tensor,
    autocast: bool,
    loss_dtype: torch.dtype | None = None,
    accumulate: int = 1,
) -> float:
    """Make `model` and `loss` compile themselves, forward and backward, for batches of this shape.

    They are two graphs, so that the gradient of the logits, where they meet, can be looked at. The step that this takes
    leaves no trace in the model. On CUDA its kernels are recorded and replayed (`mode="reduce-overhead"`), unless
    gradients accumulate, which would be written over. BadInput if PyTorch cannot compile here.

    Returns:
        the seconds that it took.
    """
    start = time.perf_counter()
    torch.compiler.reset()  # a run must not depend on those before it in a sweep
    mode = kind(images.device).compile_mode if accumulate == 1 else None
    model.compile(mode=mode)
    loss.compile(mode=mode)
    before = deepcopy([model.state_dict(), loss.state_dict()])
    model.train()
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            logits = model(images)
            value = loss(logits.to(loss_dtype or logits.dtype), target)
        value.backward()
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise BadInput(f"compile=true: PyTorch cannot compile here ({reason}): train with compile=false") from error
    for module, state in zip((model, loss), before):
        module.load_state_dict(state)
        module.zero_grad()
    return time.perf_counter() - start
