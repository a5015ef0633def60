"""What torchrun tells the processes that it starts, in the environment: known before they come together."""

import os
import sys
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]


def started_together() -> int:
    """How many processes torchrun started with this one; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def is_silent() -> bool:
    """Whether another process says what there is to say."""
    return int(os.environ.get("RANK", 0)) > 0


def tell(message: object) -> None:
    """Print on standard error, once."""
    if not is_silent():
        print(message, file=sys.stderr)


@lru_cache
def tell_once(message: str) -> None:
    """Print on standard error what is true of many runs of a process."""
    tell(message)


def began(form: str) -> str:
    """When the run began, the same on all processes, and after torchrun has started them again."""
    now = f"{datetime.now():{form}}"
    store = agent_store()
    return store.compare_set(f"xent began {form}", "", now).decode() if store else now


def agent_store(timeout: int = 300) -> Any:
    """What torchrun's agent keeps for the processes, as long as it runs; None without one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    seconds = timedelta(seconds=timeout)
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=seconds)


def store_of_this_start(timeout: int) -> Any:
    """A part of the agent's store that is empty whenever it starts the processes again; None without an agent."""
    store = agent_store(timeout)
    return store and PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
