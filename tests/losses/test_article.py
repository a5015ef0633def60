import torch
from torch.nn.functional import cross_entropy

from xent import ArticleCrossEntropyLoss


def test_the_example_of_the_article_holds() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    value = ArticleCrossEntropyLoss()(logits, target)
    assert f"{value:.4f}" == "1.4412"
    assert torch.isclose(value, cross_entropy(logits, target))


def test_logits_of_1000_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]])
    assert ArticleCrossEntropyLoss()(logits, torch.tensor([0, 0])) == 500
