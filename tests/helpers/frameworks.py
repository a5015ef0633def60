"""The same small training in the loops of several frameworks, each recorded by ours; and all of it by torchrun."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import xent
from xent.recording import Recorder, record

X = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
POINTS = TensorDataset(X, (X[:, 0] + X[:, 1] > 0).long())
FIXED = X[:32]
Loss = Callable[..., Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def by_lightning(run: Recorder | None, loss: Loss, root: Path, parts: int = 1, **more: Any) -> None:
    from pytorch_lightning import LightningModule, Trainer

    from xent.recording.lightning import Record

    class Module(nn.Sequential, LightningModule):
        def training_step(self, batch: list[Tensor]) -> dict[str, Tensor]:
            return {"loss": loss(self(batch[0]), batch[1])}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")} | {"logger": False}
    steps = {"max_steps": run.steps if run else 24, "accumulate_grad_batches": parts}
    callback = Record(lambda module: module(FIXED), run, **more)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    parallel = {"strategy": "ddp", "devices": processes} if processes > 1 else {}
    trainer = Trainer(callbacks=[callback], accelerator="cpu", default_root_dir=root, **steps, **quiet, **parallel)
    trainer.fit(Module(*network()), DataLoader(POINTS, 16, shuffle=True))
    assert not [name for name in vars(trainer.lightning_module) if name == "training_step"]


def by_hugging_face(run: Recorder | None, loss: Loss, root: Path, parts: int = 1, **more: Any) -> None:
    from transformers import Trainer, TrainingArguments

    from xent.recording.hugging_face import Record

    class Model(nn.Sequential):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = super().forward(x)
            return {"logits": logits} if labels is None else {"loss": loss(logits, labels), "logits": logits}

    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    steps = {"max_steps": run.steps if run else 24, "gradient_accumulation_steps": parts}
    seed = {"seed": run.seed if run else 0, "per_device_train_batch_size": 16, "max_grad_norm": 0.0}
    arguments = TrainingArguments(str(root), learning_rate=0.01, **steps, **seed, **quiet)
    rows = [{"x": x, "labels": label} for x, label in POINTS]
    callback = Record(lambda model: model(FIXED)["logits"], run, **more)
    Trainer(Model(*network()), arguments, train_dataset=rows, callbacks=[callback]).train()


def by_skorch(run: Recorder | None, loss: Loss, root: Path, parts: int = 1, **more: Any) -> None:
    from skorch import NeuralNet

    from xent.recording.skorch import Record

    class Criterion(nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return loss(logits, target)

    callback = Record(lambda module: module(FIXED), run, **more)
    options = {"batch_size": 16, "iterator_train__shuffle": True, "train_split": None, "verbose": 0}
    epochs = {"max_epochs": -(-(run.steps if run else 32) // 32), "lr": 0.1}
    NeuralNet(network, Criterion, callbacks=[("record", callback)], **epochs, **options).fit(X, POINTS.tensors[1])


def by_accelerate(run: Recorder | None, loss: Loss, root: Path, parts: int = 1, **more: Any) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
    model = network()
    optimizer, loader = torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(POINTS, 16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with record(model, optimizer, probe=lambda: model(FIXED), run=run, **more) as loop:
        for _ in range(parts):
            for x, y in loop.batches(loader):
                with accelerator.accumulate(model):
                    value = loss(model(x), y)
                    accelerator.backward(value)
                    optimizer.step()
                    optimizer.zero_grad()
                    loop.loss(value)


FRAMEWORKS = {"lightning": by_lightning, "hugging_face": by_hugging_face}
FRAMEWORKS |= {"skorch": by_skorch, "accelerate": by_accelerate}


def main(framework: str, folder: str) -> None:
    """Record the reference, nudged and not, a correct change and a mistake, in the processes that torchrun started."""
    mistake = nn.CrossEntropyLoss(label_smoothing=0.01)
    losses = {"torch": nn.CrossEntropyLoss(), "fused": xent.FusedCrossEntropyLoss(), "smoothed": mistake}
    for name, nudge in (("torch", 0), ("torch", 1), ("torch", 2), ("fused", 0), ("smoothed", 0)):
        torch.manual_seed(0)
        run = Path(folder) / f"{name}_{nudge}"
        settings = {"loss": name, "nudge": nudge}
        FRAMEWORKS[framework](None, losses[name], Path(folder), folder=run, settings=settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
