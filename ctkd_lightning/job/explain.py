"""What went wrong, in one line where the user can put it right."""

from __future__ import annotations

import errno
import re

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, MissingMandatoryValue, OmegaConfBaseException

from ctkd_lightning._words import printable
from ctkd_lightning.errors import UserError, suggest
from ctkd_lightning.job.configuration import options

USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, OSError)
"""Errors that the user can put right."""


def described(error: BaseException) -> str:
    """Any error in a line: what the user can put right as :func:`one_line` says it, others by their kind."""
    said = one_line(error) if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {error}"
    return printable(" ".join(said.split()))


def out_of_memory(error: BaseException) -> str | None:
    """What to say of an allocation that failed, on the host or a GPU; ``None`` of other errors."""
    failed = "out of memory" in str(error) or "can't allocate memory" in str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and failed):
        return None
    said = re.search(r"[Tt]ried to allocate [\d.,]+ \w+|[Uu]nable to allocate [\d.,]+ \w+", str(error))
    found = f" ({said[0][0].lower()}{said[0][1:]})" if said else ""
    return printable(
        f"there is not enough memory{found}: lower data.batch_size, data.eval_batch_size or data.image_size"
    )


def one_line(error: BaseException) -> str:
    """What is wrong in a line: the user's error at the root of the chain if there is one."""
    return printable(_in_words(error))


def _in_words(error: BaseException) -> str:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in reversed(chain):
        line = _explain(cause)
        if line:
            return " ".join(line.split())
    omegaconf = [str(cause) for cause in chain[1:2] if isinstance(cause, OmegaConfBaseException)]
    return _without_noise("\n".join([str(error), *omegaconf]))


def _explain(error: BaseException) -> str | None:
    """What an error means whose own message does not say it well; None of others."""
    if isinstance(error, OSError) and error.filename:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check its permissions"
        return f"cannot use {error.filename}: {error.strerror}; {advice} or choose another path"
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} must be given: {error.full_key}=VALUE"
    if isinstance(error, ConfigAttributeError) and error.full_key == "method.terms":
        return "method must name at least one: method=kd, or several as in method=[kd,at]"
    if isinstance(error, OverrideParseException):
        return _explain_word(error.override)
    if isinstance(error, MissingConfigException):
        return _explain_choice(error)
    if isinstance(error, InstantiationException):
        return _explain_call(error)
    return None


def _explain_word(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return f"'{word}' is no setting: settings are written KEY=VALUE, and --help lists them"
    if value.startswith(("[", "{", "'", '"')):
        return f"Hydra cannot read '{word}': look for brackets or quotes that do not close, and signs that need quotes"
    quote = "'" if '"' in value else '"'
    return (
        f"Hydra cannot read '{word}': a value of more than letters, digits, / and . needs quotes of its own, "
        f"here {key}={quote}{value}{quote} within the shell's"
    )


def _explain_choice(error: MissingConfigException) -> str | None:
    group, slash, name = (error.missing_cfg_file or "").rpartition("/")
    if not slash:
        return None
    # of a choice in a list, as in method=[kd,at], Hydra does not name the options
    return f"Could not find '{group}/{name}': {suggest(name, error.options or options(group))}"


def _explain_call(error: InstantiationException) -> str | None:
    cause, key = error.__cause__, _key(str(error))
    if cause is None:
        return None
    if str(error).startswith("Error locating target"):
        return _after_key(key, str(cause))
    called = re.match(r"Error in (?:call to target '|creating partial\()([\w.]+)", str(error))
    if called is None:
        return None
    kind = "" if isinstance(cause, TypeError | ValueError) else f"{type(cause).__name__}: "
    return _after_key(key, f"cannot make {called[1].rpartition('.')[2]}: {kind}{cause}")


def _without_noise(message: str) -> str:
    """A message of Hydra or OmegaConf in one line, without what only their authors need."""
    key = _key(message)
    message = message.partition("Config search path:")[0]
    message = re.sub(r"^\s*(full_key: |object_type=|reference_type=).*$", "", message, flags=re.MULTILINE)
    return _after_key(key, " ".join(message.split()))


def _key(message: str) -> str:
    found = re.search(r"^\s*full_key: (.+)$", message, re.MULTILINE)
    return found[1] if found else ""


def _after_key(key: str, line: str) -> str:
    return line if key in line else f"{key}: {line}"
