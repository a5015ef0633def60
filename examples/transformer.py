"""A character-level transformer under the judge.

    python examples/transformer.py
    python -m xent.compare --by variant --reference torch outputs/transformer

The first command trains it on a page of text, in float64: with each variant, over two seeds, and with the reference
nudged. It needs torch and numpy alone. The second says which variants train as `F.cross_entropy` does: `fused` and
`linear` (of newer PyTorch), which compute the same in other ways; not `wrong-mask`, in which a character sees the one
that it is to predict, nor `per-sequence`, a mean of means.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent
from xent.recording import Recorder

TEXT = topics["formatstrings"]  # a page of Python's own documentation
CHARACTERS = sorted(set(TEXT))
LENGTH, BATCH, STEPS = 48, 16, 150
IGNORED = -100  # the target where a line has ended

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # features [batch, length, width], weight, target [batch, length]


def lines() -> tuple[Tensor, Tensor]:
    """A row for each line of the text, and its targets, the next character of each: `[lines, LENGTH]`."""
    kept = [line[: LENGTH + 1] for line in TEXT.splitlines() if len(line) > 8]
    inputs, target = torch.zeros(len(kept), LENGTH, dtype=torch.long), torch.full((len(kept), LENGTH), IGNORED)
    for row, line in enumerate(kept):
        codes = torch.tensor([CHARACTERS.index(character) for character in line])
        inputs[row, : len(line) - 1], target[row, : len(line) - 1] = codes[:-1], codes[1:]
    return inputs, target


class Block(nn.Module):
    """Attention, then a perceptron for each character."""

    def __init__(self, width: int, heads: int, lookahead: int) -> None:
        super().__init__()
        self.heads, self.lookahead = heads, lookahead
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril(self.lookahead)
        parts = self.query_key_value(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Transformer(nn.Module):
    """Its last layer, whose weight is that of the embedding too, is left to the loss.

    Args:
        lookahead: how many characters ahead each sees; more than 0 is a mistake.
    """

    def __init__(self, lookahead: int = 0, width: int = 48, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(len(CHARACTERS), width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads, lookahead) for _ in range(blocks)), nn.LayerNorm(width))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.embedding(inputs) + self.position.weight)
        return features


def from_logits(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return lambda features, weight, target: loss((features @ weight.T).flatten(0, 1), target.flatten())


def linear(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """PyTorch's loss that takes the last layer too, so that all logits are never there at once."""
    return F.linear_cross_entropy(features.flatten(0, 1), weight, target.flatten())


def per_sequence(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The mean over lines of their means: a character of a short line counts more than one of a long line."""
    per_character = F.cross_entropy((features @ weight.T).transpose(1, 2), target, reduction="none")
    return (per_character.sum(1) / (target != IGNORED).sum(1)).mean()


VARIANTS: dict[str, tuple[Loss, int]] = {  # the loss, and the lookahead
    "torch": (from_logits(F.cross_entropy), 0),
    "fused": (from_logits(xent.fused_cross_entropy), 0),
    "linear": (linear, 0),
    "wrong-mask": (from_logits(F.cross_entropy), 1),
    "per-sequence": (per_sequence, 0),
}
if not hasattr(F, "linear_cross_entropy"):
    del VARIANTS["linear"]


def batches(seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, target = lines()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        yield inputs[chosen], target[chosen]


def train(recorder: Recorder, variant: str = "torch", dtype: torch.dtype = torch.float64) -> None:
    """A training as anyone writes it, and four lines that record it."""
    loss, lookahead = VARIANTS[variant]
    torch.manual_seed(recorder.seed)
    model = Transformer(lookahead).to(dtype)
    recorder.nudge(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fixed = lines()[0][:8]
    for batch in batches(recorder.seed, recorder.steps):
        inputs, target = recorder.reorder(*batch)
        value = loss(model(inputs), model.embedding.weight, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        recorder.step(value, probe=lambda: model(fixed) @ model.embedding.weight.T)
    recorder.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", metavar="VARIANT", nargs="*", default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--into", type=Path, default=Path("outputs/transformer"), metavar="FOLDER")
    given = parser.parse_args()
    torch.set_num_threads(1)  # in so small a network, threads would wait for each other
    start = time.monotonic()
    for variant in given.variants:
        for seed in range(given.seeds):
            for nudge in (0, 1, 2) if variant == "torch" else (0,):
                folder = given.into / f"variant={variant},seed={seed},nudge={nudge}"
                settings = {"variant": variant, "seed": seed}
                recorder = Recorder(folder, steps=STEPS, settings=settings, nudge=nudge)
                train(recorder, variant)
                seconds = time.monotonic() - start
                print(f"{folder.name}: loss {recorder.trace.losses[-1]:.3f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
