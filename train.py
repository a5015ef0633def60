"""Train a classifier with a loss of your choice: python train.py loss=scratch device=cuda"""

import gc

gc.disable()  # while importing: all of it stays, and looking for garbage in it would take a fifth of the time

import os
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from xent import config
from xent.errors import BadInput, Stopped
from xent.resume import how_to_resume, resumed
from xent.run import run

gc.enable()
TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"

config.register()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        keep_own_target(cfg, HydraConfig.get())
        run(cfg, HydraConfig.get().runtime.choices, list(HydraConfig.get().overrides.task), folder)
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        discard(folder)
        refuse(error)
    except Stopped as error:
        print(f"{error}; what was trained is kept, to go on: {how_to_resume(folder)}", file=sys.stderr)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # when the other runs of the sweep are trained
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        discard(folder)
        kept = f"to go on: {how_to_resume(folder)}" if folder.exists() else "before training began"
        print(f"stopped; {kept}", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:  # a mistake, ours or in what was named as loss._target_
        traceback.print_exception(error)
        raise SystemExit(1) from None


def keep_own_target(cfg: DictConfig, hydra_config: HydraConf) -> None:
    """Let `loss._target_=...` mean loss=custom alone: in a sweep over several losses, Hydra sets it for all of them."""
    own = config.own_target(hydra_config.runtime.choices["loss"])
    if "_target_" not in list(cfg.loss):  # not in cfg.loss: it counts a value of ??? as not there
        raise BadInput(f"configs/loss/{hydra_config.runtime.choices['loss']}.yaml has no _target_: get it back")
    if own and cfg.loss._target_ != own:
        if hydra_config.mode is not RunMode.MULTIRUN:
            raise BadInput(f"loss._target_={cfg.loss._target_}: expected beside loss=custom, add that")
        cfg.loss._target_ = own


def discard(folder: Path) -> None:
    """Take back the folder that Hydra made for a run, and for its sweep, if nothing was written there."""
    with suppress(OSError):  # it holds something, or is gone
        folder.rmdir()
    if [path.name for path in folder.parent.iterdir()] == ["multirun.yaml"]:
        shutil.rmtree(folder.parent)


def unreadable_yaml() -> Path | None:
    """The file of configs/ that is damaged."""
    for file in (Path(__file__).parent / "configs").rglob("*.yaml"):
        try:
            OmegaConf.load(file)
        except (YAMLError, UnicodeDecodeError):
            return file
    return None


def refuse(error: Exception) -> NoReturn:
    """End with the error in one line, or with all of it where HYDRA_FULL_ERROR=1 asks for that."""
    if TRACEBACK_WANTED:
        raise error
    message = str(error)
    if isinstance(error, HydraException) and error.__cause__ and str(error.__cause__) not in message:
        message += f": {error.__cause__}"
    print(" ".join(message.partition("Config search path")[0].split()), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it finds, for us to say in one line
    try:
        sys.argv[1:] = resumed(sys.argv[1:])
        main()
    except (YAMLError, UnicodeDecodeError) as error:
        refuse(BadInput(f"{unreadable_yaml()} cannot be read ({error}): get it back"))
    except Stopped:
        print("not compared: a run had to stop", file=sys.stderr)
        raise SystemExit(1) from None
    except HydraException as error:  # some of which are OSErrors too
        refuse(error)
    except OSError as error:
        refuse(BadInput(f"cannot write {error.filename} ({error.strerror}): give another folder as hydra.run.dir=..."))
    except Exception as error:  # Hydra could make nothing of the command line, which it says in many ways
        refuse(error)
