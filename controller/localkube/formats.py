"""String formats that CRD schemas may ask for; unknown ones allow anything.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/ lists them.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

_DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_MICROSECONDS = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9}
_DURATION = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+")


def date_time(text: str) -> datetime:
    """An RFC 3339 time. Raises ValueError."""
    if not _DATE_TIME.fullmatch(text):
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    parsed = datetime.fromisoformat(text.upper())
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def duration(text: str) -> timedelta:
    """A Go duration such as `1h30m`. Raises ValueError."""
    if text in ("0", "+0", "-0"):
        return timedelta()
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text!r}")
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text)
    total = timedelta(microseconds=sum(float(number) * _MICROSECONDS[unit] for number, unit in parts))
    return -total if text.startswith("-") else total


def _uri(text: str) -> None:
    if not urlsplit(text).scheme:
        raise ValueError(f"not an absolute URI: {text!r}")


def _byte(text: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


_PARSERS: dict[str, Callable[[str], object]] = {
    "date-time": date_time,
    "datetime": date_time,
    "date": date.fromisoformat,
    "duration": duration,
    "byte": _byte,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": ipaddress.ip_network,
    "uri": _uri,
    "uuid": UUID,
}


def has_format(text: str, name: str) -> bool:
    parser = _PARSERS.get(name)
    if parser is None:
        return True
    try:
        parser(text)
    except ValueError:
        return False
    return True
