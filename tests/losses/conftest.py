import pytest

from tests.helpers.drop_ins import FUNCTIONS, Loss


@pytest.fixture(scope="session", params=FUNCTIONS.values(), ids=FUNCTIONS)
def loss(request: pytest.FixtureRequest) -> Loss:
    """Each of the two that stand in for PyTorch's."""
    return request.param
