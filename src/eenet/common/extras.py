"""Libraries that the light installation lacks: imported when they are needed, asked for in one line."""

from importlib import import_module
from types import ModuleType

NAMES = {"sklearn": "scikit-learn"}  # where a package is called otherwise


def require(module: str, what: str, extra: str = "train") -> ModuleType:
    """Import a module, or say what needs it and how to install it.

    Args:
        module: such as `scipy.special`.
        what: needs it, at the start of a sentence.
        extra: of eenet, which brings it.

    Raises:
        ValueError: its package isn't installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ValueError(
            f"{what} needs {NAMES.get(package, package)}; pip install 'eenet[{extra}]'"
        ) from error
