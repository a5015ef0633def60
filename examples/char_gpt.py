"""A small GPT of characters, as nanoGPT trains one: python examples/char_gpt.py out_dir=out attention=manual

It knows nothing of xent. docs/own-training.md shows the two lines that record it.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

defaults: dict[str, Any] = {"out_dir": "out", "seed": 1337, "attention": "flash", "scale": 1.0, "max_iters": 40}
defaults |= {
    "batch_size": 6,
    "block_size": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "gradient_accumulation_steps": 2,
}
config: Any = OmegaConf.merge(defaults, OmegaConf.from_cli())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.c_attn, self.c_proj = nn.Linear(config.n_embd, 3 * config.n_embd), nn.Linear(config.n_embd, config.n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd), nn.GELU(), nn.Linear(4 * config.n_embd, config.n_embd)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

    def attend(self, x: Tensor) -> Tensor:
        heads = self.c_attn(x).unflatten(-1, (3, config.n_head, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads[0] * config.scale, heads[1], heads[2]
        if config.attention == "flash":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            y = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, config.n_embd), nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block() for _ in range(config.n_layer))
        self.ln_f, self.lm_head = nn.LayerNorm(config.n_embd), nn.Linear(config.n_embd, vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


text = (Path(__file__).parents[1] / "docs" / "cross-entropy.md").read_text()
characters = sorted(set(text))
data = torch.tensor([characters.index(character) for character in text])


def get_batch() -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(data) - config.block_size, (config.batch_size,)).tolist()
    rows = [data[start : start + config.block_size + 1] for start in starts]
    return torch.stack([row[:-1] for row in rows]), torch.stack([row[1:] for row in rows])


os.makedirs(config.out_dir, exist_ok=True)
torch.manual_seed(config.seed)
model = GPT(len(characters))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
X, Y = get_batch()
for iter_num in range(config.max_iters):
    for _ in range(config.gradient_accumulation_steps):
        logits, loss = model(X, Y)
        loss = loss / config.gradient_accumulation_steps
        X, Y = get_batch()  # while the device computes
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if iter_num % 10 == 0:
        print(f"iter {iter_num}: loss {loss.item() * config.gradient_accumulation_steps:.4f}")
