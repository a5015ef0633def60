"""Eleven training programs as others write them, each with five correct changes and ten mistakes.

A program is a function `(recorder, change)`; no change makes the reference. Casts are where their kind has them:
RMSNorm in float32, Newton-Schulz in bfloat16, a loss of float32 logits; two programs run under autocast.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from xent.recording import Recorder

STEPS, BATCH = 64, 24
CORRECT = ("optimizer of lists", "loss x 1000, gradients / 1000")  # in the usual loop
WRONG = ("lr x 1.001", "decay x 1.01", "beta2 0.998", "schedule a step late", "biases not trained")

Train = Callable[[Recorder, str], None]
Draw = Callable[[], tuple[Tensor, ...]]


class Program(NamedTuple):
    """A training, and the names of its changes."""

    train: Train
    correct: tuple[str, ...]
    wrong: tuple[str, ...]


def table(inputs: int, classes: int, samples: int = 512) -> tuple[Tensor, Tensor]:
    """Samples of random numbers, and their classes by a random map with noise."""
    x = torch.randn(samples, inputs)
    return x, (x @ torch.randn(inputs, classes) + torch.randn(samples, classes)).argmax(1)


def drawn(*data: Tensor) -> Draw:
    """A function that draws a batch of these samples."""

    def draw() -> tuple[Tensor, ...]:
        rows = torch.randint(len(data[0]), (BATCH,))
        return tuple(tensor[rows] for tensor in data)

    return draw


def nothing() -> None: ...


def fit(  # noqa: PLR0913  what programs differ in
    recorder: Recorder,
    change: str,
    model: nn.Module,
    loss: Callable[..., Tensor],
    draw: Draw,
    outputs: Callable[[], Tensor],
    autocast: bool = False,
    after: Callable[[], None] = nothing,
) -> None:
    """The usual loop: AdamW, clipped gradients, a warm-up; `loss` of a batch is a mean over its samples."""
    recorder.nudge(model)
    weights = [w for name, w in model.named_parameters() if change != "biases not trained" or "bias" not in name]
    lr, decay = 3e-3 * (1.001 if change == "lr x 1.001" else 1), 0.1 * (1.01 if change == "decay x 1.01" else 1)
    betas, foreach = (0.9, 0.998 if change == "beta2 0.998" else 0.999), change == "optimizer of lists"
    optimizer = torch.optim.AdamW(weights, lr, betas, weight_decay=decay, foreach=foreach)
    late = int(change == "schedule a step late")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1 - late) / 10))
    scale = 1000.0 if change == "loss x 1000, gradients / 1000" else 1.0
    for _ in range(recorder.steps):
        batch = recorder.reorder(tuple(draw()))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(*batch)
        (value * scale).backward()
        for weight in weights if scale > 1 else ():
            weight.grad = None if weight.grad is None else weight.grad / scale
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        after()
        recorder.step(value, outputs)


class Names(nn.Module):
    """The next letter of a name from three before it."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change, eps = change, 1.01e-5 if change == "batch norm eps x 1.01" else 1e-5
        self.letters, self.hidden = nn.Embedding(27, 8), nn.Linear(24, 48)
        self.norm, self.last = nn.BatchNorm1d(48, eps, 0.11 if change == "momentum 0.11" else 0.1), nn.Linear(48, 27)

    def forward(self, x: Tensor) -> Tensor:
        letters = self.letters.weight
        is_product = self.change == "embedding by a product"
        e = F.one_hot(x, 27).to(letters.dtype) @ letters if is_product else self.letters(x)
        h = self.norm(self.hidden(e.flatten(1)))
        if self.change == "tanh by sigmoid":
            return self.last(2 * torch.sigmoid(2 * h) - 1)
        return self.last(torch.tanh(h.clamp(-2, 2) if self.change == "activations clamped" else h))


def names(recorder: Recorder, change: str) -> None:
    """makemore: embedding, batch normalisation, tanh."""
    model = Names(change)
    letters = torch.randint(27, (512, 3))
    following = (letters[:, 0] + letters[:, 2] + torch.randint(3, (512,))) % 27
    following[7] += change == "a wrong target" and following[7] < 26

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits, smoothing = model(x), 1e-4 if change == "smoothing 1e-4" else 0.0
        if change == "loss by logsumexp":
            return (logits.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]).mean()
        return F.cross_entropy(logits, y, label_smoothing=smoothing)

    fit(recorder, change, model, loss, drawn(letters, following), lambda: model(letters[:64]))


class RMSNorm(nn.Module):
    """In float32, whatever the model computes in."""

    def __init__(self, width: int, change: str) -> None:
        super().__init__()
        self.weight, self.change = nn.Parameter(torch.ones(width)), change

    def forward(self, x: Tensor) -> Tensor:
        h, eps = x.float(), 1.001e-6 if self.change == "RMSNorm eps x 1.001" else 1e-6
        mean = h.square().mean(-1, keepdim=True) + eps
        return self.weight * (h / mean.sqrt() if self.change == "RMSNorm by a quotient" else h * mean.rsqrt()).to(x)


class Block(nn.Module):
    """Causal attention of two heads, and a gated layer."""

    def __init__(self, width: int, change: str) -> None:
        super().__init__()
        self.change, self.first, self.second = change, RMSNorm(width, change), RMSNorm(width, change)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        length, scale = x.shape[1], q.shape[-1] ** -0.5 * (1.001 if self.change == "attention scale x 1.001" else 1)
        if self.change == "scaled_dot_product_attention":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(length, length, dtype=torch.bool).tril(int(self.change == "mask sees one ahead"))
            scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, -torch.inf)
            mixed = scores.softmax(-1, dtype=torch.float32).to(v) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        a, b = self.up(self.second(x)).chunk(2, -1)
        return x + self.down(F.gelu(a, approximate="tanh" if self.change == "GELU by tanh" else "none") * b)


class Language(nn.Module):
    """Two blocks over tokens and places."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.tokens, self.places, self.change = nn.Embedding(16, 32), nn.Embedding(12, 32), change
        self.blocks, self.last = nn.ModuleList(Block(32, change) for _ in range(2)), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=False) if self.change == "checkpointed" else block(h)
        return self.last(h).float()


def text(recorder: Recorder, change: str, autocast: bool = False) -> None:
    """A language model of the Llama kind; its logits are cast to float32."""
    model = Language(change)
    tokens = torch.randint(16, (256, 13))
    tokens[:, 2::2] = (3 * tokens[:, 1:-1:2] + tokens[:, :-2:2]) % 16

    def loss(t: Tensor) -> Tensor:
        logits, y = model(t[:, :-1]), t[:, 1:].clone()
        if change == "first target ignored":
            y[:, 0] = -100
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    fit(recorder, change, model, loss, drawn(tokens), lambda: model(tokens[:32, :-1]), autocast)


def text_under_autocast(recorder: Recorder, change: str) -> None:
    text(recorder, change, autocast=True)


def pictures(recorder: Recorder, change: str) -> None:
    """A convolutional network under autocast, with batch normalisation and averaged weights, which are probed."""
    smooth = 1.01e-3 if change == "batch norm eps x 1.01" else 1e-3
    kernel = nn.Conv2d(3, 8, 3, padding=0 if change == "padded by hand" else 1)
    pad = nn.ZeroPad2d(1 if change == "padded by hand" else 0)
    norm = nn.BatchNorm2d(8, eps=smooth)
    pool = nn.MaxPool2d(2) if change == "maximum pooled" else nn.AvgPool2d(2)
    model = nn.Sequential(pad, kernel, norm, nn.SiLU(), pool, nn.Flatten(), nn.Linear(8 * 16, 10))
    if change == "activation by its formula":
        model[3] = type("SiLU", (nn.Module,), {"forward": lambda self, x: x * torch.sigmoid(x)})()
    averaged, decay = deepcopy(model), 0.899 if change == "average 0.899" else 0.9
    recorder.nudge(averaged)
    images = torch.randn(256, 3, 8, 8)
    labels = (images.mean((2, 3)) @ torch.randn(3, 10) + 0.1 * torch.randn(256, 10)).argmax(1)
    if change == "channels last":
        images = images.to(memory_format=torch.channels_last)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        x = x.flip(-1) if change == "mirrored" else x * 1.0001 if change == "images x 1.0001" else x
        return F.cross_entropy(model(x), y)

    def average() -> None:
        with torch.no_grad():
            for mean, new in zip(averaged.state_dict().values(), model.state_dict().values()):
                mean.copy_(mean * decay + new * (1 - decay) if mean.is_floating_point() else new)

    fit(
        recorder,
        change,
        model,
        loss,
        drawn(images, labels),
        lambda: averaged(images[:64]),
        autocast=True,
        after=average,
    )


class Autoencoder(nn.Module):
    """Gaussian codes of binary pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.heads, self.decoder = nn.Linear(36, 32), nn.Linear(32, 8), nn.Linear(4, 36)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.heads(torch.relu(self.encoder(x))).chunk(2, 1)
        return mean, log_variance


def autoencoder(recorder: Recorder, change: str) -> None:
    """VAE: binary cross entropy and the divergence from a normal distribution."""
    model = Autoencoder()
    pictures = (torch.randn(512, 4) @ torch.randn(4, 36) > 0).to(torch.get_default_dtype())

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = model(x)
        spread = log_variance.exp().sqrt() if change == "deviation by a root" else (log_variance / 2).exp()
        spread = spread * (1.001 if change == "noise x 1.001" else 1)
        logits = model.decoder(mean + noise * (spread.detach() if change == "deviation detached" else spread))
        if change == "likelihood by softplus":
            errors = F.softplus(logits) - x * logits
        else:
            small = 0.05 if change == "probabilities clamped at 0.05" else 0
            p = torch.sigmoid(logits)
            by_p = F.binary_cross_entropy(p.clamp(small, 1 - small), x, reduction="none")
            errors = by_p if small else F.binary_cross_entropy_with_logits(logits, x, reduction="none")
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
        if change == "divergence by torch.distributions":
            normal = torch.distributions.Normal
            divergence = torch.distributions.kl_divergence(normal(mean, spread), normal(0.0, 1.0))
        weight = 1.001 if change == "divergence x 1.001" else 1.0
        weight = 4 / 36 if change == "a mean over pixels and codes" else weight
        return errors.sum(1).mean() + weight * divergence.sum(1).mean()

    def draw() -> tuple[Tensor, ...]:
        (x,) = drawn(pictures)()
        return x, torch.randn(BATCH, 4)

    fit(recorder, change, model, loss, draw, lambda: model.decoder(model(pictures[:64])[0]))


def graph(recorder: Recorder, change: str) -> None:
    """GCN: two layers over the normalised edges of a graph, most nodes without a label."""
    first, second = nn.Linear(16, 32), nn.Linear(32, 4)
    x, labels = table(16, 4, 120)
    edges = torch.rand(120, 120) < 0.05
    edges = (edges | edges.T).to(x)
    loops = edges + (2 if change == "loops twice" else 1) * torch.eye(120)
    degree = (edges if change == "degrees without loops" else loops).sum(1).clamp(min=1)
    by_rows = change == "rows normalised"
    a = loops / degree[:, None] if by_rows else degree.rsqrt()[:, None] * loops * degree.rsqrt()
    a = a.to_sparse() if change == "sparse edges" else a

    def layer(linear: nn.Linear, h: Tensor) -> Tensor:
        if change == "edges before weights":
            return F.linear(a @ h, linear.weight) + (a.sum(1)[:, None] * linear.bias)
        return a @ linear(h)

    def logits() -> Tensor:
        h = torch.relu(layer(first, x))
        h = F.dropout(h, 1e-3, training=True) if change == "forgotten dropout" else h
        return layer(second, h)

    def loss(rows: Tensor) -> Tensor:
        rows = rows.clamp(max=110) if change == "some nodes never seen" else rows
        chosen = logits()[rows]
        if change == "loss by log-softmax":
            return F.nll_loss(F.log_softmax(chosen, 1), labels[rows])
        return F.cross_entropy(chosen, labels[rows])

    fit(recorder, change, nn.ModuleList([first, second]), loss, drawn(torch.arange(120)), logits)


def diffusion(recorder: Recorder, change: str) -> None:
    """The noise in noisy points, from the points and the time."""
    model = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    betas = torch.linspace(1e-4, 0.02 * (1.001 if change == "largest beta x 1.001" else 1), 100)
    kept = (1 - betas).log().cumsum(0).exp() if change == "product by logarithms" else (1 - betas).cumprod(0)
    angles = 6.28 * torch.rand(512)
    points = torch.stack([angles.cos(), angles.sin()], 1)

    def predicted(x: Tensor, t: Tensor) -> Tensor:
        time = t / (99 if change == "time over 99" else 100)
        return model(torch.cat([x, time.cos()[:, None], time.sin()[:, None]], 1))

    def loss(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        share = kept[(t - 1).clamp(min=0) if change == "a time too early" else t][:, None]
        noisy = share.sqrt() * x + (1 - share).sqrt() * noise
        if change == "roots by powers":
            noisy = share**0.5 * x + (1 - share) ** 0.5 * noise
        error = predicted(noisy, t) - (noise.detach() * (0.999 if change == "noise x 0.999" else 1))
        if change == "Huber loss":
            return F.huber_loss(error, torch.zeros_like(error), delta=3.0)
        return (
            (error * error).mean() if change == "squares by a product" else F.mse_loss(error, torch.zeros_like(error))
        )

    def draw() -> tuple[Tensor, ...]:
        (x,) = drawn(points)()
        return x, torch.randint(100, (BATCH,)), torch.randn(BATCH, 2)

    times = torch.arange(64)
    fit(recorder, change, model, loss, draw, lambda: predicted(points[:64], times))


class Recurrent(nn.Module):
    """An LSTM by hand over sequences of numbers."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.gates, self.last, self.change = nn.Linear(2 + 24, 4 * 24), nn.Linear(24, 3), change

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 24)
        for step in x.flip(1).unbind(1) if self.change == "read backwards" else x.unbind(1):
            joined = torch.cat([step, h], 1)
            if self.change == "two products":
                gates = step @ self.gates.weight[:, :2].T + h @ self.gates.weight[:, 2:].T + self.gates.bias
            else:
                gates = self.gates(joined)
            i, f, g, o = gates.chunk(4, 1)
            f = f + (1e-3 if self.change == "forget gate + 0.001" else 0)
            new = torch.sigmoid(i) * torch.tanh(g)
            kept = c.detach() if self.change == "cells detached" else c
            c = torch.addcmul(new, torch.sigmoid(f), c) if self.change == "addcmul" else torch.sigmoid(f) * kept + new
            h = torch.sigmoid(o) * (c if self.change == "no tanh of the cells" else torch.tanh(c))
        return self.last(h)


def sequences(recorder: Recorder, change: str) -> None:
    """An LSTM that classifies sequences; its loss is cast to float32."""
    model = Recurrent(change)
    x, y = table(16, 3)
    x = x.unflatten(1, (8, 2))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits = model(x).float()
        if change == "loss by one-hot targets":
            return -(F.log_softmax(logits, 1) * F.one_hot(y, 3)).sum(1).mean()
        return F.cross_entropy(logits, y, torch.tensor([1, 1, 1.01]) if change == "a class x 1.01" else None)

    fit(recorder, change, model, loss, drawn(x, y), lambda: model(x[:64]))


def policy(recorder: Recorder, change: str) -> None:
    """Actor and critic on a bandit with contexts: rewards rise, the loss hovers."""
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5))  # four actions, and the value
    contexts, payoffs = torch.randn(256, 6), torch.randn(6, 4)
    ratio_limit = 0.201 if change == "ratio clipped at 0.201" else 0.2

    def loss(x: Tensor, uniform: Tensor) -> Tensor:
        outputs = model(x)
        logits, value = outputs[:, :4], outputs[:, 4]
        p = logits.softmax(1)
        action = (p.detach().cumsum(1) < uniform[:, None]).sum(1).clamp(max=3)
        reward = (x @ payoffs).gather(1, action[:, None])[:, 0]
        advantage = reward - (value if change == "value not detached" else value.detach())
        advantage = advantage + (0.01 if change == "advantage + 0.01" else 0)
        if change == "log-probability by logsumexp":
            chosen = logits.gather(1, action[:, None])[:, 0] - logits.logsumexp(1)
        elif change == "log of softmax":
            chosen = p.gather(1, action[:, None])[:, 0].log()
        else:
            chosen = F.log_softmax(logits, 1).gather(1, action[:, None])[:, 0]
        ratio = (chosen - chosen.detach()).exp().clamp(1 - ratio_limit, 1 + ratio_limit)
        gain = ratio * advantage + (0.01 * chosen if change == "a reward x chosen" else 0)
        entropy = -(p * F.log_softmax(logits, 1)).sum(1)
        if change == "entropy by torch.distributions":
            entropy = torch.distributions.Categorical(logits=logits).entropy()
        weight, of_value = (0.0101 if change == "entropy x 1.01" else 0.01), 0.505 if change == "value x 1.01" else 0.5
        return (of_value * (value - reward).square() - gain - weight * entropy).mean()

    def draw() -> tuple[Tensor, ...]:
        return drawn(contexts)()[0], torch.rand(BATCH)

    fit(recorder, change, model, loss, draw, lambda: model(contexts[:64]))


def adversaries(recorder: Recorder, change: str) -> None:
    """GAN: points on a circle; the losses of both networks hover."""
    wide = nn.LeakyReLU(0.201 if change == "slope 0.201" else 0.2)
    maker = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), wide, nn.Linear(32, 1))
    for network in (maker, critic):
        recorder.nudge(network)
    fused, twice = change == "fused optimizer", 2e-3 * (1.001 if change == "critic's lr x 1.001" else 1)
    optimizers = [
        torch.optim.Adam(maker.parameters(), 1e-3, (0.51 if change == "beta1 0.51" else 0.5, 0.999), fused=fused),
        torch.optim.Adam(critic.parameters(), twice, (0.5, 0.999), 1e-7 if change == "eps 1e-7" else 1e-8, fused=fused),
    ]
    angles, fixed = 6.28 * torch.rand(512), torch.randn(64, 4)
    points = torch.stack([angles.cos(), angles.sin() * (1.001 if change == "points x 1.001" else 1)], 1)
    smooth = 0.999 if change == "targets 0.999" else 1.0

    def judged(x: Tensor, target: float) -> Tensor:
        logits, targets = critic(x)[:, 0], torch.full((len(x),), target)
        if change == "loss by softplus":
            return (F.softplus(logits) - targets * logits).mean()
        if change == "loss by logsigmoid":
            return -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).mean()
        return F.binary_cross_entropy_with_logits(logits, targets)

    for _ in range(recorder.steps):
        real, z = recorder.reorder((*drawn(points)(), torch.randn(BATCH, 4)))
        optimizers[1].zero_grad()
        made = maker(z) if change == "maker not detached" else maker(z).detach()
        if change == "one pass for both":
            logits = critic(torch.cat([real, made]))[:, 0]
            of_critic = F.binary_cross_entropy_with_logits(logits, torch.arange(2 * BATCH).lt(BATCH).to(logits)) * 2
        else:
            of_critic = judged(real, smooth) + judged(made, 0.0) * (1.001 if change == "made points x 1.001" else 1)
        of_critic.backward()
        if change != "critic's step forgotten" or recorder.steps_made % 8:
            optimizers[1].step()
        if change != "maker's gradients kept":
            optimizers[0].zero_grad()
        of_maker = -judged(maker(z), 0.0) if change == "saturating loss" else judged(maker(z), 1.0)
        of_maker.backward()
        optimizers[0].step()
        recorder.step((of_critic + of_maker).detach(), lambda: maker(fixed))


def muon(recorder: Recorder, change: str) -> None:
    """A network by Muon: momentum made orthogonal by Newton-Schulz in bfloat16."""
    model = nn.Sequential(nn.Linear(12, 32, bias=False), nn.ReLU(), nn.Linear(32, 6, bias=False))
    recorder.nudge(model)
    x, y = table(12, 6)
    beta, lr = 0.951 if change == "beta 0.951" else 0.95, 0.02 * (1.001 if change == "lr x 1.001" else 1)
    a, b, c = 3.4445, -4.7750 * (1.001 if change == "a coefficient x 1.001" else 1), 2.0315
    velocities = [torch.zeros_like(weight) for weight in model.parameters()]

    def orthogonal(g: Tensor) -> Tensor:
        m = g.bfloat16()
        m = m / (m.norm() + (1e-3 if change == "eps 1e-3" else 1e-7))
        is_tall = (m.shape[0] > m.shape[1]) is not (change == "the other side")
        m = m.T if is_tall else m
        for _ in range(4 if change == "four iterations" else 5):
            s = m @ m.T
            if change == "addmm":
                m = torch.addmm(m, torch.addmm(s, s, s, beta=b, alpha=c), m, beta=a)
            elif change == "multiplied out":
                m = a * m + b * (s @ m) + c * (s @ (s @ m))
            else:
                m = a * m + (b * s + c * s @ s) @ m
        return (m.T if is_tall else m).to(g)

    draw = drawn(x, y)
    for step in range(recorder.steps):
        images, labels = recorder.reorder(draw())
        smoothing = 1e-4 if change == "smoothing 1e-4" else 0.0
        loss = F.cross_entropy(model(images).float(), labels, label_smoothing=smoothing)
        weights = list(model.parameters())
        with torch.no_grad():
            for weight, gradient, velocity in zip(weights, torch.autograd.grad(loss, weights), velocities):
                if change == "velocity by lerp":
                    velocity.lerp_(gradient / (1 - beta), 1 - beta)
                else:
                    velocity.mul_(beta).add_(gradient)
                update = orthogonal(velocity if change == "no Nesterov" else gradient + beta * velocity)
                shape = max(1.0, len(weight) / weight[0].numel()) ** 0.5
                factor = lr * (1.0 if change == "no factor of the shape" else shape)
                decay = lr * (1.01e-2 if change == "decay x 1.01" else 1e-2)
                if change == "decay and step at once":
                    weight.copy_(weight - decay * weight - factor * update)
                else:
                    weight.mul_(1 - decay).sub_(factor * update)
                if change == "velocity rounded" and step % 8 == 7:
                    velocity.copy_((velocity * 1000).round() / 1000)
        recorder.step(loss, lambda: model(x[:64]))


LATE_KINDS, STEPS_OF_LATE = ("mlp", "cnn", "text"), 128
LATE = (
    *("moments lost", "momentum off", "lr x 1.2", "lr x 0.8", "a batch skipped", "a batch twice", "half a batch"),
    *("decay off", "a layer frozen", "clipping off"),
)


def late_mistake(kind: str, recorder: Recorder, change: str) -> None:
    """Training by momentum, with a mistake from three quarters of the way on.

    Args:
        kind: one of LATE_KINDS.
    """
    start, limit = recorder.steps * 3 // 4 + 1, 0.2
    if kind == "text":
        model: nn.Module = Language("")
        data: tuple[Tensor, ...] = (torch.randint(16, (256, 13)),)
        data[0][:, 2::2] = (3 * data[0][:, 1:-1:2] + data[0][:, :-2:2]) % 16
    elif kind == "mlp":
        model, data = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 6)), table(12, 6)
    else:
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6)
        x, y = table(36, 6)
        model, data = nn.Sequential(*layers), (x.view(-1, 1, 6, 6), y)
    recorder.nudge(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    (group,) = optimizer.param_groups
    draw, batch = drawn(*data), drawn(*data)()
    for step in range(1, recorder.steps + 1):
        previous, batch = batch, recorder.reorder(tuple(draw()))
        group["lr"] = 0.1 * min(1.0, step / 10)
        if step >= start:
            group["lr"] *= {"lr x 1.2": 1.2, "lr x 0.8": 0.8}.get(change, 1.0)
            group["momentum"] = 0.0 if change == "momentum off" else 0.9
            group["weight_decay"] = 0.0 if change == "decay off" else 1e-3
        if step == start:
            batch = previous if change == "a batch twice" else batch
            batch = tuple(t[: BATCH // 2] for t in batch) if change == "half a batch" else batch
            optimizer.state.clear() if change == "moments lost" else None
        inputs, target = (batch[0][:, :-1], batch[0][:, 1:]) if kind == "text" else batch
        loss = F.cross_entropy(model(inputs).flatten(0, -2), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        if change == "a layer frozen" and step >= start:
            next(model.parameters()).grad = None
        if change != "clipping off" or step < start:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        if change != "a batch skipped" or step != start:
            optimizer.step()
        recorder.step(loss, lambda: model(data[0][:64, :-1] if kind == "text" else data[0][:64]))


def usual(train: Train, correct: tuple[str, str, str], wrong: tuple[str, str, str, str, str]) -> Program:
    """A program in the usual loop, whose changes it has too."""
    return Program(train, correct + CORRECT, wrong + WRONG)


OF_TEXT = (
    ("RMSNorm by a quotient", "scaled_dot_product_attention", "checkpointed"),
    ("RMSNorm eps x 1.001", "attention scale x 1.001", "mask sees one ahead", "GELU by tanh", "first target ignored"),
)
UNDER_AUTOCAST = ("text under autocast", "pictures")
PROGRAMS: dict[str, Program] = {
    "names": usual(
        names,
        ("embedding by a product", "tanh by sigmoid", "loss by logsumexp"),
        ("batch norm eps x 1.01", "momentum 0.11", "activations clamped", "a wrong target", "smoothing 1e-4"),
    ),
    "text": usual(text, *OF_TEXT),
    "text under autocast": usual(text_under_autocast, *OF_TEXT),
    "pictures": usual(
        pictures,
        ("padded by hand", "activation by its formula", "channels last"),
        ("batch norm eps x 1.01", "maximum pooled", "average 0.899", "mirrored", "images x 1.0001"),
    ),
    "autoencoder": usual(
        autoencoder,
        ("deviation by a root", "likelihood by softplus", "divergence by torch.distributions"),
        (
            *("noise x 1.001", "deviation detached", "probabilities clamped at 0.05"),
            *("divergence x 1.001", "a mean over pixels and codes"),
        ),
    ),
    "graph": usual(
        graph,
        ("sparse edges", "edges before weights", "loss by log-softmax"),
        ("loops twice", "degrees without loops", "rows normalised", "forgotten dropout", "some nodes never seen"),
    ),
    "diffusion": usual(
        diffusion,
        ("product by logarithms", "roots by powers", "squares by a product"),
        ("largest beta x 1.001", "time over 99", "a time too early", "noise x 0.999", "Huber loss"),
    ),
    "sequences": usual(
        sequences,
        ("two products", "addcmul", "loss by one-hot targets"),
        ("read backwards", "forget gate + 0.001", "cells detached", "no tanh of the cells", "a class x 1.01"),
    ),
    "policy": usual(
        policy,
        ("log-probability by logsumexp", "log of softmax", "entropy by torch.distributions"),
        ("value not detached", "advantage + 0.01", "a reward x chosen", "entropy x 1.01", "value x 1.01"),
    ),
    "adversaries": Program(
        adversaries,
        ("fused optimizer", "loss by softplus", "loss by logsigmoid", "one pass for both", "maker not detached"),
        (
            *("slope 0.201", "critic's lr x 1.001", "beta1 0.51", "eps 1e-7", "points x 1.001", "targets 0.999"),
            *("made points x 1.001", "critic's step forgotten", "maker's gradients kept", "saturating loss"),
        ),
    ),
    "muon": Program(
        muon,
        ("addmm", "multiplied out", "the other side", "velocity by lerp", "decay and step at once"),
        (
            *("beta 0.951", "lr x 1.001", "a coefficient x 1.001", "eps 1e-3", "four iterations", "no Nesterov"),
            *("no factor of the shape", "decay x 1.01", "smoothing 1e-4", "velocity rounded"),
        ),
    ),
}
