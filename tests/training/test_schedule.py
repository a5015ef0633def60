import pytest
import torch

from xent.training.schedule import one_cycle


def learning_rates(steps: int, warm_up: float = 0.2) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = one_cycle(optimizer, steps, warm_up=warm_up)
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


@pytest.mark.parametrize("warm_up", [0.01, 0.5, 0.99])
def test_it_rises_for_as_long_as_one_asks_for(warm_up: float) -> None:
    rates = learning_rates(100, warm_up)
    top = round(100 * warm_up)
    assert max(rates) == rates[top - 1] == 2.0
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 10])
def test_short_runs_have_a_schedule_too(steps: int) -> None:
    assert all(0 < rate <= 2.0 for rate in learning_rates(steps))
