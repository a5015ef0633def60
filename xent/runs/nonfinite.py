"""What is left when the loss is no number any more."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import torch

from xent.recording.errors import Stopped
from xent.recording.files import write_whole
from xent.training.data import Split, batches
from xent.training.loop import Step, Training

FILE = "nonfinite.pt"


def stop(folder: Path, training: Training, train: Split) -> Callable[[Step], None]:
    """A function that saves the batch of the first loss that is no number as `nonfinite.pt`, and raises Stopped.

    Its message tells the logits and gradients of the step at which that was seen.
    """
    trace = training.recorder.trace
    start = trace.step  # losses before may be NaN, by on_nonfinite=continue

    def save_and_raise(seen: Step) -> None:
        losses = torch.cat([trace.losses[start : seen.number - 1], seen.loss.detach().reshape(1)])
        index = start + int(losses.isfinite().int().argmin())
        loss = losses[index - start]
        images, target = next(batches(train, training.batch_size, training.seed, index + 1, index))
        kept = {"images": images, "target": target, "logits": seen.logits, "loss": loss}
        content = BytesIO()
        torch.save({name: each.detach().cpu() for name, each in kept.items()} | {"step": index + 1}, content)
        write_whole(folder / FILE, content)
        gradients = [p.grad.abs().max().item() for p in training.model.parameters() if p.grad is not None]
        late = "" if seen.number == index + 1 else f" when seen at step {seen.number}"
        raise Stopped(
            f"the loss is {loss.item()} at step {index + 1}: learning rate {seen.lr:.4g}, largest logit "
            f"{seen.logits.abs().max().item():.4g}, largest gradient {max(gradients, default=0.0):.4g}{late}; "
            f"the batch is in {folder / FILE}; train with a smaller optimizer.lr, or with on_nonfinite=continue"
        )

    return save_and_raise
