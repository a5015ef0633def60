"""What a refusal of Hydra's means, in a sentence: what was given, what was expected, and what was perhaps meant."""

import re
import sys
from contextlib import suppress
from importlib import import_module
from inspect import signature

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import OmegaConf

from xent.cli.compose import CONFIGS, IMPOSTORS
from xent.cli.schema import GROUPS, nearest, not_a_setting
from xent.recording.errors import in_one_line, where_raised
from xent.recording.settings import flat_settings

SENTENCES = {  # by what is in Hydra's message
    r"Could not override '(.+?)'\. No match in the defaults": "{0} has no default: write +{0}=...",
    r"Ambiguous value for argument '(.+?)'": "{0}: a run takes one value, or a list as key=[1,2]; add -m to sweep",
    r"does not support sweep type : (\w+)": "{0}: expected values, as seed=0,1,2 or seed=range(0,3)",
}
KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def in_a_sentence(error: HydraException) -> str:
    """What an error of Hydra's means to whoever typed the command."""
    message = str(error)
    if error.__cause__ and str(error.__cause__) not in message:
        message += f": {error.__cause__}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        return _no_such_choice(error.missing_cfg_file, list(error.options))
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: expected key=value, or key=value,value with -m"
    if found := re.search(r"Error locating target '(.+?)'", message):
        return _not_found(found[1], error)
    if (found := re.search(r"Error in call to target '(.+?)'", message)) and error.__cause__:
        return _not_built(found[1], error.__cause__)
    for pattern, sentence in SENTENCES.items():
        if found := re.search(pattern, message, re.DOTALL):
            return sentence.format(found[1].strip())
    if found := re.search(r"Could not override '(.+?)'", message):
        return not_a_setting(found[1], _settings())
    if found := re.search(r"Error merging override (.+?):?\s+Invalid value .*?, (expected one of \[.+?\])", message):
        return f"{found[1]}: {found[2]}"
    if found := re.search(r"Error merging override (.+?): Value .*?(Integer|Float|bool)\b", message):
        return f"{found[1]}: expected {KINDS[found[2]]}"
    return re.sub(r"\s+full_key: .*", "", message.partition("Config search path")[0], flags=re.DOTALL)


def _not_found(target: str, error: BaseException) -> str:
    """Why there is no such class or function: its module has none of that name, or cannot be imported."""
    module, _, name = target.rpartition(".")
    with suppress(Exception):  # anyone's module may raise anything
        near = nearest(name, dir(import_module(module)))
        hint = f"did you mean {module}.{near[0]}?" if near else "expected the name of a class or function there"
        return f"{target} cannot be found, {module} has no {name}: {hint}"
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, ModuleNotFoundError) and f"{target}.".startswith(f"{error.name}."):
        return f"{target} cannot be found ({error}): expected package.module.name of a class or function"
    if isinstance(error, Exception) and not isinstance(error, SyntaxError):  # which says where it is
        return f"{module} cannot be imported ({where_raised(error)})"
    return f"{module} cannot be imported ({in_one_line(error)})"


def _not_built(target: str, cause: BaseException) -> str:
    """What a class or function raised when it was called, and the arguments that it takes."""
    reason = f"{target} cannot be built ({in_one_line(cause)})"
    with suppress(Exception):  # some have no signature
        parameters = signature(get_object(target)).parameters.values()
        takes = [one.name if one.default is one.empty else f"{one.name}={one.default}" for one in parameters]
        return f"{reason}: it takes {', '.join(takes)}"
    return reason


def _no_such_choice(given: str, options: list[str]) -> str:
    """What a group has in place of a choice that it does not have."""
    group, _, name = given.partition("/")
    if group == "loss":
        options = [*IMPOSTORS] if name.startswith("impostor") else [*options, "impostor/NAME"]
    close = nearest(name.rpartition("/")[2], [*options, *IMPOSTORS] if group == "loss" else options)
    hint = f"did you mean {close[0]}? It is" if close else "expected"
    return f"{group}={name}: {hint} one of {', '.join(options)}"


def _settings() -> list[str]:
    """All settings with the choices of this command, or with the defaults if it has none that exist."""
    GlobalHydra.instance().clear()
    choices = [word for word in sys.argv[1:] if word.startswith(tuple(f"{group}=" for group in GROUPS))]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for overrides in (choices, []):
            try:
                return [*flat_settings(OmegaConf.to_container(compose("train", overrides)))]  # type: ignore[arg-type]
            except HydraException:
                continue
    return []
