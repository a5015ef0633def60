import pytest
import torch

from xent.training.loop import one_cycle


def learning_rates(steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = one_cycle(optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def test_it_rises_for_a_fifth_of_the_steps_and_falls_to_zero() -> None:
    rates = learning_rates(100)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(2.0 / 80)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 10])
def test_short_runs_have_a_schedule_too(steps: int) -> None:
    assert all(0 < rate <= 2.0 for rate in learning_rates(steps))


def test_it_goes_on_from_any_step() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    one_cycle(optimizer, 100)  # as a run that began did
    for made in (1, 19, 20, 99):
        assert one_cycle(optimizer, 100, made).get_last_lr()[0] == learning_rates(100)[made]
