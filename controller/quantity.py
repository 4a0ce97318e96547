"""Kubernetes quantities (`500m`, `512Mi`, `1e3`) as exact numbers.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import Decimal

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,2}))?")


def parse_quantity(text: str | int) -> Decimal:
    """The exact value of a non-negative Kubernetes quantity. Raises ValueError where `text` is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{str(text)[:40]!r} is not a Kubernetes quantity such as 500m, 1 or 512Mi")
    number, suffix, exponent = match.groups()
    return Decimal(number) * (_SUFFIXES[suffix or ""] if exponent is None else Decimal(10) ** int(exponent))


def format_bytes(count: int) -> str:
    """Bytes in the largest binary unit that keeps them exact: 536870912 -> `512Mi`."""
    for suffix in ("Gi", "Mi", "Ki"):
        unit = int(_SUFFIXES[suffix])
        if count >= unit and count % unit == 0:
            return f"{count // unit}{suffix}"
    return str(count)


def format_cpu(nanos: int) -> str:
    """Billionths of a core as a quantity: 1500000000 -> `1500m`, 2000000000 -> `2`."""
    for unit, suffix in ((10**9, ""), (10**6, "m"), (10**3, "u")):
        if nanos % unit == 0:
            return f"{nanos // unit}{suffix}"
    return f"{nanos}n"
