"""The loss that a configuration names, a class or a function, with its arguments."""

import inspect
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from torch import nn

from xent.cli.torchrun import tell_once
from xent.losses.function import FunctionLoss
from xent.recording.errors import BadInput

OF_PYTORCH = inspect.signature(nn.CrossEntropyLoss).parameters


def build_loss(config: dict[str, Any]) -> nn.Module:
    """The loss of `config`: its `_target_`, a class or a function, with arguments. BadInput if it is none."""
    arguments = _with_tensors(config)
    target = None
    with suppress(Exception):  # what cannot be found is said by `instantiate`
        target = get_object(str(config["_target_"]))
    if isinstance(target, nn.Module):
        return deepcopy(target)
    if callable(target) and not isinstance(target, type):
        named = instantiate(arguments | {"_partial_": True}, _convert_="all")
        return FunctionLoss(named.func, **named.keywords)
    loss = instantiate(arguments, _convert_="all")
    if not callable(loss):
        kind = type(loss).__name__
        raise BadInput(f"loss._target_ made a {kind}: expected a torch.nn.Module, or a function (logits, target)")
    return loss if isinstance(loss, nn.Module) else FunctionLoss(loss)


def build_reference(config: dict[str, Any], classes: int) -> nn.Module:
    """PyTorch's loss with those of the arguments that it knows, or without any if they mean another thing to it."""
    arguments = {name: value for name, value in _with_tensors(config).items() if name in OF_PYTORCH}
    try:
        loss = instantiate({"_target_": "torch.nn.CrossEntropyLoss", **arguments}, _convert_="all")
        assert isinstance(loss, nn.Module)
        deepcopy(loss).float()(torch.zeros(2, classes), torch.tensor([0, classes - 1])).item()
        return loss
    except Exception as error:  # of a loss of one's own, whose arguments may be of any type
        reason = " ".join(str(error.__cause__ or error).split())
        given = ", ".join(f"{name}={config[name]}" for name in arguments)
        tell_once(f"train_parity is against PyTorch's loss without {given}, which it does not take so ({reason})")
        return nn.CrossEntropyLoss()


def _with_tensors(config: dict[str, Any]) -> dict[str, Any]:
    """The weights of classes, a list in a configuration, as PyTorch takes them."""
    weight = config.get("weight")
    if not isinstance(weight, list):
        return dict(config)
    if not all(isinstance(each, int | float) for each in weight):
        raise BadInput(f"loss.weight={weight}: expected a list of numbers, one for each class")
    return config | {"weight": torch.tensor(weight, dtype=torch.float32)}
