"""What the texts of a spec may look like. Each check gives the text back, or raises ValueError without repeating it."""

import re
from datetime import datetime

from controller.quantity import parse_quantity

ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
NETWORK = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"
RUNTIME = r"^([a-zA-Z0-9][a-zA-Z0-9_.-]*)?$"

# https://github.com/distribution/reference, but a digest is always sha256.
_DOMAIN_PART = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_PATH_PART = r"[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(({_DOMAIN_PART}([.]{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(:[0-9]+)?/)?{_PATH_PART}(/{_PATH_PART})*"
    r"(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?"
)
_NAME = r"[^/\x00-\x1f\x7f]+"
_RELATIVE_PATH = re.compile(rf"{_NAME}(/{_NAME})*")
_ABSOLUTE_PATH = re.compile(rf"(/{_NAME})+")
_SYSTEM_FOLDER = re.compile(r"/(bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|run|sbin|sys|usr|var/run)(/|$)")
_DOTS = re.compile(r"(^|/)[.][.]?(/|$)")
_DAY = r"2[0-9]{3}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?"
_MOMENT = re.compile(rf"{_DAY}T{_CLOCK}(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])")


def image_name(name: str) -> str:
    """A reference to an image, such as `registry:5000/team/tools:1.2@sha256:…`."""
    if not _IMAGE.fullmatch(name):
        raise ValueError(
            "must be the name of an image, such as python:3.13 or registry:5000/team/tools, and nothing else"
        )
    return name


def without_nul(text: str) -> str:
    """Text that a program can be given as an argument or in its environment."""
    if "\0" in text:
        raise ValueError("must not contain a NUL character: no program can be given one")
    return text


def relative_path(path: str) -> str:
    """A path below the workspace."""
    if not _RELATIVE_PATH.fullmatch(path) or _DOTS.search(path):
        raise ValueError("must be a path below the workspace, without '..', '.', empty parts or control characters")
    return path


def host_folder(path: str) -> str:
    """A folder of the host, or an empty text. Which ones are allowed, and where symlinks lead, is not judged here."""
    if path and (not _ABSOLUTE_PATH.fullmatch(path) or _DOTS.search(path)):
        raise ValueError("must be an absolute path of a folder, without '..', '.', empty parts or control characters")
    if _SYSTEM_FOLDER.match(path):
        raise ValueError("must not be a folder of the host's operating system")
    return path


def network_name(name: str) -> str:
    """A network by its name; never the host's own, and no second word for Docker's bridge."""
    if name in ("host", "default"):
        raise ValueError("must be none, bridge, or a network that the controller's settings allow")
    return name


def moment(text: str) -> datetime:
    """RFC 3339 with a time zone, in the years 2000 to 2999."""
    try:
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:  # a day or hour that is none, such as February 30
        pass
    raise ValueError("must be a moment with a time zone, such as 2030-01-31T12:00:00Z")


def quantity_between(value: object, low: str, high: str) -> str:
    """A quantity as text. Takes an integer too, as a Pod's resources do."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a quantity: a text or an integer")
    text = str(value)
    if not parse_quantity(low) <= parse_quantity(text) <= parse_quantity(high):
        raise ValueError(f"{text} is out of range: from {low} to {high}")
    return text
