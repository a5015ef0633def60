"""All that a run needs to go on as if it had never stopped."""

import shlex
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from xent.recording.device import random_state, set_random_state
from xent.recording.errors import BadInput
from xent.recording.files import write_whole
from xent.recording.trace import NO_EFFECT
from xent.training.loop import Training

VERSION = 4
FILE = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
STATES = ("model", "loss", "optimizer", "recorder")
# What may change when a run goes on, and where it is noted what it was before. Such a run is matched with none that was
# always as it is now.
NOTED = {f"{key}_before": key for key in ("epochs", "processes", "accumulate", "device", "machine.processor")}


def save(folder: Path, training: Training, overrides: list[str], log: dict[str, Any]) -> None:
    """Write `checkpoint.pt`, whole or not at all, and keep the one before it. Stopped if it cannot be written.

    Args:
        overrides: the command line of the run.
        log: the position of its event file.
    """
    content = {name: getattr(training, name).state_dict() for name in STATES} | {
        "version": VERSION,
        "overrides": overrides,
        "random": {str(device): random_state(device) for device in _devices(training)},
        "log": log,
    }
    whole = BytesIO()
    torch.save(content, whole)
    write_whole(folder / FILE, whole, previous=folder / PREVIOUS)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, newer ones put aside; None without any. BadInput if all are damaged."""
    damaged: dict[Path, str] = {}
    for file in (folder / FILE, folder / PREVIOUS):
        if not file.exists():  # the newest has no name yet if the run was killed while it was to get one
            continue
        try:
            saved = _read(file)
        except BadInput as error:
            damaged[file] = str(error)
            continue
        for newer, fault in damaged.items():
            aside = newer.rename(newer.with_suffix(".damaged"))
            step = len(saved["recorder"]["losses"])
            print(f"{fault}: it is now {aside.name}, going back to step {step}, {file.name}", file=sys.stderr)
        return saved
    if damaged:
        raise BadInput(f"{'; '.join(damaged.values())}: train the run again in another folder")
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            if broken := archive.testzip():  # torch.load does not look at the checksums
                raise ValueError(f"wrong checksum of {broken}")
        saved = torch.load(file, map_location="cpu", weights_only=True)  # which runs nothing that the file holds
        version = saved["version"]
    except Exception as error:  # a file that anyone may have written raises anything
        reason = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise BadInput(f"{file} is damaged ({reason})") from error
    if version != VERSION:
        raise BadInput(f"{file} is of version {version}, this xent reads {VERSION}")
    assert isinstance(saved, dict)
    return saved


def check_same_run(saved: dict[str, Any], settings: dict[str, Any], folder: Path) -> None:
    """Refuse, as BadInput, settings that a run was not begun with, but for those without effect, and the noted."""
    old = saved["recorder"]["settings"]
    may_change = {*NO_EFFECT, *NOTED, *NOTED.values(), "data.content"} - {"epochs"}
    if old.get("processes") != settings.get("processes"):
        may_change.add("machine.threads")
    if any(old.get(key) != settings.get(key) for key in ("device", "machine.processor")):
        may_change |= {key for key in settings if key.startswith("machine.")}
    changed = [
        f"{key}={old.get(key)}, not {settings.get(key)}"
        for key in old | settings
        if key not in may_change and old.get(key) != settings.get(key)
        if key != "epochs" or settings["epochs"] < old["epochs"]
        if old.get(group := key.partition(".")[0]) == settings.get(group) or key == group  # another choice says it all
    ]
    if changed:
        raise BadInput(f"{folder} holds a run with {', '.join(changed)}: give its settings, or another folder")


def restore(saved: dict[str, Any], training: Training) -> None:
    """Put a training, set up from the same settings, where a checkpoint says, and the generators of random numbers.

    More epochs, another number of parts and another device are noted in its settings. Do this last. BadInput if there
    are other parameters.
    """
    settings, state = training.recorder.trace.settings, saved["recorder"]
    for note, key in NOTED.items():
        before = state["settings"].get(note, [])
        if state["settings"][key] != settings[key]:
            before = [*before, state["settings"][key]]
        if before:
            settings[note] = before
    as_now = state | {"settings": settings, "steps": training.recorder.steps}  # whether it may be so was checked before
    for name in STATES:
        try:
            getattr(training, name).load_state_dict((saved | {"recorder": as_now})[name])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"the {name} is not what it was when the run began ({reason})") from error
    for device in _devices(training):
        if str(device) in saved["random"]:  # a run that goes on elsewhere draws from its seed there
            set_random_state(device, saved["random"][str(device)])


def _devices(training: Training) -> set[torch.device]:
    """Those that it may draw random numbers on."""
    return {torch.device("cpu"), next(training.model.parameters()).device}


def how_to_resume(folder: str, *again: str) -> str:
    """The command that goes on with a run, with what it has to be given again."""
    return shlex.join(["python", "train.py", *again, f"resume={folder}"])
