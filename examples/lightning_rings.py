"""A classifier of points by Lightning: python examples/lightning_rings.py out_dir=out normalise=by_hand

It knows nothing of xent. docs/own-training.md shows the two lines that record it.
"""

from typing import Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

defaults = {"out_dir": "out", "seed": 0, "normalise": "layer", "momentum": 0.9, "max_steps": 40}
config: Any = OmegaConf.merge(defaults, OmegaConf.from_cli())
seed_everything(config.seed, verbose=False)


class ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


class Rings(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        normalise = nn.LayerNorm(32, elementwise_affine=False) if config.normalise == "layer" else ByHand()
        self.network = nn.Sequential(nn.Linear(2, 32), normalise, nn.Tanh(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        points, rings = batch
        return F.cross_entropy(self(points), rings)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=config.momentum)


points = torch.randn(600, 2)
rings = (points.norm(dim=1) > 0.8).long() + (points.norm(dim=1) > 1.5)
loader = DataLoader(TensorDataset(points, rings), batch_size=32, shuffle=True)
quiet: Any = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
trainer = Trainer(max_steps=config.max_steps, accelerator="cpu", default_root_dir=config.out_dir, **quiet)
trainer.fit(Rings(), loader)
