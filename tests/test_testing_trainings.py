"""assert_same_training: trainings that are right, wrong, or cannot be compared."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import xent
from xent.recording import Recorder
from xent.recording.errors import BadInput
from xent.report.place import begins_at
from xent.testing import Kept, assert_same_training
from xent.testing.trained import place_among

FIXED = torch.linspace(-1, 1, 32 * 6, dtype=torch.float64).view(32, 6)


def train(recorder: Recorder, dtype: torch.dtype, loss: Any = cross_entropy, **other: Any) -> None:
    """A small training; `other` may be its seed, its data_seed, its dropout or its lr."""
    torch.manual_seed(other.get("seed", recorder.seed))
    layers = nn.Linear(6, 16), nn.ReLU(), nn.Dropout(other.get("dropout", 0)), nn.Linear(16, 3)
    model = nn.Sequential(*layers).to(dtype)
    recorder.nudge(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=other.get("lr", 0.1))
    generator = torch.Generator().manual_seed(other.get("data_seed", recorder.seed))
    for _ in range(recorder.steps):
        x = torch.randn(24, 6, generator=generator, dtype=torch.float64)
        y = (x @ torch.eye(6, 3, dtype=torch.float64)).argmax(1)
        x, y = recorder.reorder(x.to(dtype), y)
        value = loss(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        recorder.step(value, probe=lambda: model(FIXED.to(dtype)))


prove = partial(assert_same_training, reference=train, steps=100)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_right_trainings_pass_in_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    prove(partial(train, loss=xent.cross_entropy), dtype=dtype)
    assert torch.equal(torch.get_rng_state(), state), "PyTorch's generator is left as it was"

    def unseeded(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, seed=int(torch.randint(100, ())), data_seed=int(torch.randint(100, ())))

    prove(unseeded, reference=unseeded, steps=40)  # what is drawn from it is the same in both


def test_a_wrong_training_is_told_with_evidence_even_if_one_seed_alone_meets_the_mistake() -> None:
    with pytest.raises(AssertionError) as told:
        prove(partial(train, loss=lambda logits, target: cross_entropy(logits, target) * (1 + 1e-9)), where=False)
    headline, *lines = str(told.value).splitlines()
    assert headline == "training is different from training with the reference"
    rows = dict(line.strip().split("  ", 1) for line in lines)
    assert list(rows)[:4] == ["decades above the floor", "left the floor at step", "loss at step 1", "expected"]
    assert list(rows)[4:] == ["relative error", "distance of the outputs there", "of those of nudged references"]
    assert 0 < float(rows["loss at step 1"]) / float(rows["expected"]) - 1 < 1e-8
    assert "same_training.py" not in str(told.getrepr()), "pytest shows the call and not our source"

    def faster_with_seed_3(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, lr=0.1 * (1.01 if recorder.seed == 3 else 1))

    with pytest.raises(AssertionError, match="training is different"):
        prove(faster_with_seed_3, dtype=torch.float32)


def begins(train: Any, **arguments: Any) -> list[str]:
    """The lines of a failing proof on where it begins."""
    with pytest.raises(AssertionError, match="\n  where  ") as told:
        prove(train, **arguments)
    lines = str(told.value).partition("\n  where")[2].splitlines()
    return [line.strip() for line in lines]


def test_a_failing_proof_names_the_step_and_the_tensor() -> None:
    def late(logits: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return cross_entropy(logits, target) * (1 + 1e-6 * (len(calls) > 10))

    def counting(recorder: Recorder, dtype: torch.dtype) -> None:
        calls.clear()
        train(recorder, dtype, loss=late)

    calls: list[int] = []
    place, before, meaning, seconds = begins(counting, steps=40)
    assert place.startswith("step 11, loss: ") and place.endswith(" decades above rounding")
    assert before.startswith("everything before it in that step is the same: 14 tensors, last output of model")
    assert meaning == "outputs are the same: look at the loss and its targets"
    assert seconds.startswith("found in ") and seconds.endswith(" s by training again; where=False skips this")


def test_where_it_begins_is_looked_for_in_float64_and_may_be_left_out() -> None:
    faster = partial(train, lr=0.101)
    assert begins(faster, dtype=torch.float32, steps=40)[0].startswith("step 1, update of 0.weight: 1")
    trained: list[torch.dtype] = []

    def counted(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, lr=0.101)
        trained.append(dtype)

    with pytest.raises(AssertionError) as told:
        prove(counted, dtype=torch.float32, steps=40, where=False)
    assert trained == [torch.float32] * 4 and "where" not in str(told.value).replace("where 1.0 are rounding", "")


class Renamed(nn.Sequential):
    """Its children have other names than those of nn.Sequential."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for number, layer in enumerate(layers):
            self.add_module(f"layer{number}", layer)


def test_modules_of_other_names_are_compared_once_they_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(recorder: Recorder, dtype: torch.dtype) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(nn, "Sequential", Renamed)
            train(recorder, dtype, loss=lambda logits, target: cross_entropy(logits, target, label_smoothing=1e-6))

    names = {f"layer{number}": str(number) for number in range(4)}
    place, *_ = begins(renamed, rename=names, steps=40)
    assert place.startswith("step 1, loss: ")
    *_, left_out, _ = begins(renamed, steps=40)
    assert re.fullmatch(r"not compared, for want of a counterpart: .* and \d\d more", left_out)


def test_other_weights_batches_or_outputs_or_nothing_learned_are_told_as_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="it got other first weights than the reference: draw weights"):
        prove(partial(train, seed=5))
    with pytest.raises(AssertionError, match="it got another sample 0 in the batch of step 1 than the reference"):
        prove(partial(train, data_seed=5))
    still = partial(train, lr=1e-15)
    with pytest.raises(AssertionError, match="nothing was proved: nothing learned\n  try more steps"):
        assert_same_training(still, still, steps=40)

    def wide(recorder: Recorder) -> None:
        train(recorder, torch.float64)
        recorder.trace.probes = {step: outputs[:2] for step, outputs in recorder.trace.probes.items()}

    with pytest.raises(BadInput, match=r"the training of seed 0: outputs of shape \[2, 3\] and the refer"):
        prove(wide, steps=40)


def test_the_defaults_are_200_steps_and_where_rounding_hides_more_more_seeds() -> None:
    def runs_of(dtype: torch.dtype, **arguments: int) -> list[tuple[int, int, int]]:
        """Seed, nudge and steps of every training of the reference, which takes no dtype but has its own."""
        runs = []

        def reference(recorder: Recorder) -> None:
            train(recorder, dtype)
            runs.append((recorder.seed, recorder.trace.settings["nudge"], recorder.steps_made))

        assert_same_training(partial(train, dtype=dtype), reference, dtype=None, **arguments)
        return runs

    assert runs_of(torch.float64) == [(0, nudge, 200) for nudge in range(5)]
    assert runs_of(torch.float32, steps=40) == [(seed, nudge, 40) for seed in range(4) for nudge in range(3)]
    assert runs_of(torch.float32, steps=40, seeds=1, nudges=1) == [(0, 0, 40), (0, 1, 40)]
    for none in ({"seeds": 0}, {"nudges": 0}):
        with pytest.raises(BadInput, match="expected 1 or more of each"):
            runs_of(torch.float64, **none)


def with_other_weights(recorder: Recorder, dtype: torch.dtype) -> None:
    train(recorder, dtype, seed=recorder.trace.settings["nudge"])


def unnudged(recorder: Recorder) -> None:
    for step in range(1, recorder.steps + 1):
        recorder.step(1 / step, probe=lambda: torch.ones(3) / (recorder.seed + recorder.steps_made))


def with_other_targets(recorder: Recorder, dtype: torch.dtype) -> None:
    """It reorders the inputs and not the targets."""
    plain = recorder.reorder
    recorder.reorder = lambda x, y: (plain(x), y)
    train(recorder, dtype)


NO_MEASURE: dict[str, Callable[..., None]] = {
    "the reference of seed 0 and nudge 1 got other first weights than the reference of seed 0": with_other_weights,
    "nudge 1 is bitwise identical to the reference of seed 0, its nudge changed nothing": unnudged,
    "not explain that in float64: turn dropout off, seed every random draw": partial(train, dropout=0.5),
    "not explain that in float32: turn dropout off": partial(train, dropout=0.02, dtype=torch.float32),
    "reorder inputs and targets alike": with_other_targets,
    "train alike: draw from recorder.seed, or give seeds=1": partial(train, dtype=torch.float32, seed=0, data_seed=0),
}


@pytest.mark.parametrize("message", NO_MEASURE)
def test_a_reference_that_is_no_measure_is_refused(message: str) -> None:
    reference = NO_MEASURE[message]
    dtype = None if "dtype" in getattr(reference, "keywords", {}) else torch.float64
    with pytest.raises(BadInput, match=message):
        assert_same_training(reference, reference, dtype=dtype, steps=40)


class Rounding(nn.Linear):
    """A layer in `narrow`, with a mistake of so much, which may be 0."""

    def __init__(self, narrow: torch.dtype = torch.float32, mistake: float = 0.0) -> None:
        super().__init__(16, 16)
        self.narrow, self.mistake = narrow, mistake

    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x).to(self.narrow)
        return (h / (h.square().mean(-1, keepdim=True) + 1e-6 + self.mistake).sqrt()).to(x.dtype)


class ByRsqrt(Rounding):
    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(x, self.weight, self.bias).to(self.narrow)
        return (h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def train_with(recorder: Recorder, layer: Callable[[], nn.Module] = Rounding, autocast: bool = False) -> None:
    """A training that is written for float32, by one who has heard of no dtype."""
    model = nn.Sequential(nn.Linear(6, 16), layer(), nn.Linear(16, 3))
    recorder.nudge(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    fixed = torch.linspace(-1, 1, 32 * 6).view(32, 6)
    for _ in range(recorder.steps):
        x = torch.randn(24, 6)
        x, y = recorder.reorder(x, (x[:, :3] + torch.randn(24, 3)).argmax(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, probe=lambda: model(fixed))


def with_layer(layer: type[Rounding] = Rounding, autocast: bool = False, **arguments: Any) -> Callable[..., None]:
    return partial(train_with, layer=partial(layer, **arguments), autocast=autocast)


prove_function = partial(assert_same_training, reference=train_with, steps=40)


def test_casts_and_autocast_are_seen_through_unless_another_dtype_is_asked_for() -> None:
    for train in (with_layer(ByRsqrt), with_layer(narrow=torch.bfloat16), with_layer(autocast=True)):
        prove_function(train)
    for train in (with_layer(mistake=1e-9), with_layer(mistake=1e-9, autocast=True)):
        with pytest.raises(AssertionError, match="is different(.*\\n)*.*casts seen through .*float32"):
            prove_function(train)
    prove_function(with_layer(mistake=1e-9), dtype=None)  # which float32 hides
    with pytest.raises(AssertionError, match="is different"):
        prove_function(with_layer(narrow=torch.bfloat16), dtype=torch.float32)


def test_both_precisions_together_tell_coarser_rounding_from_a_mistake_and_name_a_half_type() -> None:
    both = partial(prove_function, dtype=(torch.float64, None))
    both(with_layer(ByRsqrt))
    both(with_layer(ByRsqrt, narrow=torch.bfloat16), reference=with_layer(narrow=torch.bfloat16))
    with pytest.raises(AssertionError, match="^the same function, computed in bfloat16$"):
        both(with_layer(narrow=torch.bfloat16))
    with pytest.raises(AssertionError, match="is different(.*\\n)*.*precision +float64"):
        both(with_layer(narrow=torch.bfloat16, mistake=1e-9))
    with pytest.raises(BadInput, match="expected one type, or torch.float64 and another type or None"):
        prove_function(train_with, dtype=(None, torch.float32))


def test_a_training_that_carries_state_from_batch_to_batch_is_no_measure_if_it_is_reordered() -> None:
    def stateful(recorder: Recorder) -> None:
        weights, state = nn.Linear(2, 1), torch.zeros(6, 1)
        recorder.nudge(weights)
        for _ in range(recorder.steps):
            (x,) = recorder.reorder((torch.randn(6, 1),))
            state = torch.tanh(weights(torch.cat([x, state.detach()], 1)))
            loss = (state - x).square().mean()
            gradients = torch.autograd.grad(loss, list(weights.parameters()))
            with torch.no_grad():
                for weight, gradient in zip(weights.parameters(), gradients):
                    weight -= 0.1 * gradient
            recorder.step(loss, lambda: weights(torch.ones(3, 2)))

    message = "the outputs of .* nudge 1 are .* at step 2, and rounding .*; leave reorder out, where batches"
    with pytest.raises(BadInput, match=message):
        assert_same_training(stateful, stateful, steps=20)


def test_a_late_mistake_is_told_in_full_whether_or_not_the_outputs_before_the_first_step_were_recorded() -> None:
    def smoothed_late(recorder: Recorder, dtype: torch.dtype) -> None:
        recorder.begin(lambda: torch.ones(32, 3))

        def loss(logits: Tensor, target: Tensor) -> Tensor:
            return cross_entropy(logits, target, label_smoothing=1e-2 * (recorder.steps_made >= 97))

        train(recorder, dtype, loss=loss)

    with pytest.raises(
        AssertionError, match="left the floor at step +112(.*\\n)*.*distance of the outputs at step 128"
    ):
        assert_same_training(smoothed_late, train, steps=128, dtype=torch.float32, seeds=1)
    assert_same_training(train, train, steps=20)


@pytest.mark.extra
@pytest.mark.slow
def test_hugging_faces_llama_is_compared_tensor_by_tensor() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    text = torch.randint(64, (4, 12), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(text).tril(8)

    def llama(recorder: Recorder, attention: str = "eager", eps: float = 1e-6, clip: float = 1.0, **wrong: Any) -> None:
        config = transformers.LlamaConfig(**sizes, **heads, rms_norm_eps=eps, attn_implementation=attention)
        model = transformers.LlamaForCausalLM(config)
        if "activation" in wrong:
            model.model.layers[1].mlp.act_fn = wrong["activation"]
        recorder.nudge(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(recorder.steps):
            loss = model(input_ids=text, attention_mask=wrong.get("mask", seen), labels=text).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            recorder.step(loss, lambda: model(input_ids=text).logits)

    def place(**change: Any) -> str | None:
        found = place_among(partial(llama, **change), llama, [1, 2], 4, {}, torch.float64)
        assert found is not None
        return begins_at(found)

    act = "step 1, output of model.layers.1.mlp.act_fn (SiLUActivation)"
    assert place(attention="sdpa") is None, "whose mask has another form"
    assert place(eps=1.1e-6) == "step 1, output of model.layers.0.input_layernorm (LlamaRMSNorm)"
    assert place(activation=nn.GELU()) == place(activation=nn.GELU(), attention="sdpa") == act
    no_mask = "in model.layers.0.self_attn, between v_proj, which is the same, and o_proj"
    assert place(mask=None) == f"step 1, {no_mask}"
    assert place(clip=0.99) == "step 1, gradient of model.embed_tokens.weight"


def test_a_kept_reference_trains_once_for_many_changes() -> None:
    trainings: list[tuple[int, int]] = []

    def counted(recorder: Recorder, dtype: torch.dtype) -> None:
        trainings.append((recorder.trace.settings["nudge"], recorder.steps))
        train(recorder, dtype)

    reference = Kept(counted)
    for loss in (xent.cross_entropy, xent.fused_cross_entropy):
        assert_same_training(partial(train, loss=loss), reference, steps=40)
    for _ in range(2):
        with pytest.raises(AssertionError, match="training is different(.*\n)*.*where +step 1, loss"):
            assert_same_training(partial(train, loss=lambda z, t: 1.1 * cross_entropy(z, t)), reference, steps=40)
    assert len(trainings) == 5 + 5, "of nudges 0 to 4, and once more with captured steps"
    assert_same_training(train, reference, steps=20)
    assert len(trainings) == 15, "with other steps it is another training"


def test_trainings_that_end_by_themselves_are_compared_over_the_steps_that_all_made() -> None:
    def until(loss_is: float, recorder: Recorder, factor: float = 1.0, at_most: int = 300) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        recorder.nudge(model)
        x = torch.randn(24, 6, dtype=torch.float64)
        y = x[:, :3].argmax(1)
        for _ in range(at_most):
            inputs, target = recorder.reorder(x, y)
            loss = factor * cross_entropy(model(inputs), target)
            for weight, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()])):
                weight.data -= 0.5 * gradient
            recorder.step(loss, lambda: model(x))
            if loss < loss_is:
                break

    train_until = partial(until, 0.3)
    assert_same_training(train_until, train_until, steps=None)
    with pytest.raises(AssertionError, match=r"^training ends after another number of steps: \d+, expected \d+$"):
        assert_same_training(partial(until, 0.4), train_until, steps=None)
    with pytest.raises(AssertionError, match="training is different(.*\n)*.*where +step 1, "):
        assert_same_training(partial(train_until, factor=1.01), train_until, steps=None)


def test_an_error_of_a_training_is_no_verdict_and_is_told_in_a_line_with_its_source() -> None:
    def failing(recorder: Recorder, dtype: torch.dtype) -> None:
        train(recorder, dtype, loss=lambda z, t: 1 / 0 if recorder.steps_made == 5 else cross_entropy(z, t))

    source = r"tests/test_testing_trainings.py:\d+: train.recorder, dtype, loss=lambda"
    with pytest.raises(BadInput, match=f"^the training of seed 0 stopped after 5 steps .ZeroDivis.*; {source}") as told:
        prove(failing)
    assert "same_training.py" not in str(told.getrepr()) and "trained.py" not in str(told.getrepr())
