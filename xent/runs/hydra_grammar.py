"""Values as Hydra's command line reads them."""

import re


def quoted(value: str) -> str:
    """A string as a value of Hydra's grammar, where backslashes mean something before a quote or a `${` alone.

    A path of plain characters is one as it is.
    """
    if re.fullmatch(r"[\w.-]*/[\w./-]*", value):
        return value
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # for OmegaConf, which reads what Hydra has read
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return '"' + re.sub(r"(\\*)$", r"\1\1", value) + '"'
