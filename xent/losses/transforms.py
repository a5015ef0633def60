"""Who else looks on while a loss is computed: torch.compile, torch.func, autograd's forward mode."""

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _ask(name: str) -> Callable[..., bool]:
    """A private function of torch._C; in a PyTorch without it, one that always says yes: slower, and never wrong."""
    try:
        found: Callable[..., bool] = attrgetter(name)(torch._C)
    except AttributeError:
        return lambda *_: True
    return found


# Is torch.func looking on (grad, vmap, jvp)? It cannot see into a forward pass that makes its gradient itself.
is_under_torch_func = _ask("_are_functorch_transforms_active")
is_jit_traced = _ask("_is_tracing")
# Which mode sees the operations, of a kind? An answer that is not None makes a call slower, and never wrong.
_dispatch_mode = _ask("_get_dispatch_mode")
PROXY = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "PROXY", None)
# Will this backward pass be asked for again (retain_graph)? A yes keeps the gradient that the forward pass made.
graph_is_kept = _ask("_autograd._get_current_graph_task_keep_graph")
# Are many gradients asked for at once (is_grads_batched)? They do not fit into the one that is kept, so a yes keeps it.
is_batch_of_gradients = _ask("_functorch.is_legacy_batchedtensor")


def is_recorded() -> bool:
    """Whether operations are recorded as a graph (make_fx, torch.func.linearize)."""
    return _dispatch_mode(PROXY) is not None


def is_traced() -> bool:
    """Whether the call is compiled, recorded or transformed, so that tensors have no values yet."""
    return torch.compiler.is_compiling() or is_under_torch_func() or is_jit_traced() or is_recorded()


def may_look(tensor: Tensor) -> bool:
    """Whether to branch on values: on the CPU, where nobody waits for them, in a call that is not traced."""
    return tensor.is_cpu and type(tensor) is Tensor and not is_traced()


def is_transformed(*tensors: Tensor | None) -> bool:
    """Whether something other than autograd's backward pass is looking on, or holds the tensors."""
    if is_traced():
        return True
    given = [tensor for tensor in tensors if tensor is not None]
    return any(is_split(tensor) or forward_ad.unpack_dual(tensor).tangent is not None for tensor in given)


def is_split(tensor: Tensor) -> bool:
    """Whether it is split over processes: a DTensor."""
    return hasattr(tensor, "placements")


def must_keep_saved(grad: Tensor) -> bool:
    """Whether a backward pass must leave what was saved for it as it is, as the tensors may be asked for again."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return True
    return graph_is_kept() or is_batch_of_gradients(grad) or is_under_torch_func()
