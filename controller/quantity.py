"""Kubernetes quantities (`500m`, `512Mi`, `1e3`) as exact numbers.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import ROUND_CEILING, Context, Decimal

_SUFFIXES = {"": Decimal(1)}
_SUFFIXES |= {suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("num", start=-3)}
_SUFFIXES |= {suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", start=1)}
_SUFFIXES |= {f"{suffix}i": Decimal(2) ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)}
_NANO = Decimal("1e-9")
_EXACT = Context(prec=160, rounding=ROUND_CEILING)
_QUANTITY = re.compile(
    r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
    r"(?:(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,2}))?"
)


def parse_quantity(text: str | int) -> Decimal:
    """The value of a non-negative Kubernetes quantity, in whole billionths, rounded up as Kubernetes does.

    At most 18 digits before the point and 9 after it are taken, so that the number is exact.
    Raises ValueError where `text` is none.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError("must be a Kubernetes quantity, such as 500m, 1 or 512Mi")
    number, suffix, exponent = match.groups()
    factor = _SUFFIXES[suffix or ""] if exponent is None else Decimal(10) ** int(exponent)
    return _EXACT.quantize(_EXACT.multiply(Decimal(number), factor), _NANO)


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
