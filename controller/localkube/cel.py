"""The CEL rules of CRDs (`x-kubernetes-validations`), with Kubernetes' own functions beside CEL's standard library.

Not known to the engine below: `?.`, `cel.bind`, `optMap`, macros with two variables. A rule that uses one is refused,
never skipped.
"""

import re
from collections.abc import Callable, Iterator
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cel
from cel.stdlib import add_stdlib_to_context

from controller.localkube import failures, formats
from controller.localkube.failures import Cause
from controller.localkube.values import ABSENT, same

# https://kubernetes.io/docs/reference/using-api/cel/#escaping
_SYMBOLS = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_KEYWORD = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void|while"
)


class RuleError(ValueError):
    """A rule that CEL cannot compile."""


@lru_cache(maxsize=1024)
def compiled(expression: str) -> cel.Program:
    """Raises RuleError, which names the expression."""
    try:
        program = cel.compile(expression)
    except ValueError as error:
        raise RuleError(f"compilation failed: {expression}: {error}") from error
    for name in program.functions():
        is_operator = not name[0].isalpha()
        if not (is_operator or _NATIVE.fullmatch(name) or name in _library()):
            raise RuleError(f"compilation failed: {expression}: undeclared reference to '{name}'")
    return program


def check(rule: dict[str, Any], value: Any, schema: dict[str, Any], path: str, old: Any = ABSENT) -> Iterator[Cause]:
    """The rule's complaint about the value, if it has one. `old` makes transition rules apply."""
    program = compiled(rule["rule"])
    transition = "oldSelf" in program.variables()
    optional = bool(rule.get("optionalOldSelf"))
    if old is ABSENT and transition and not optional:
        return
    if old is not ABSENT and not transition and same(value, old):
        return
    if schema.get("x-kubernetes-int-or-string") and isinstance(value, float):
        text = "invalid data, expected XIntOrString value to be either a string or integer"
        yield failures.invalid_value(path, value, f"{text} evaluating rule: {_message(rule, {})}")
        return
    variables = {"self": typed(value, schema)}
    if transition:
        before = None if old is ABSENT else typed(old, schema)
        if optional:
            before = cel.OptionalValue.none() if old is ABSENT else cel.OptionalValue.of(before)
        variables["oldSelf"] = before
    try:
        if program.execute(_context(variables)) is True:
            return
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, ArithmeticError, LookupError) as error:
        text = f"no such key: {error.args[0]}" if isinstance(error, KeyError) else str(error)
        yield failures.invalid_value(path, value, f"{text} evaluating rule: {_message(rule, variables)}")
        return
    yield _complaint(rule, value, path, _message(rule, variables))


def _message(rule: dict[str, Any], variables: dict[str, Any]) -> str:
    if "messageExpression" in rule:
        try:
            text = compiled(rule["messageExpression"]).execute(_context(variables))
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, ArithmeticError, LookupError):
            text = None  # as documented, the message stands in for an expression that fails
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    message: str = rule.get("message") or f"failed rule: {rule['rule']}"
    return message


def _complaint(rule: dict[str, Any], value: Any, path: str, message: str) -> Cause:
    field = path + rule.get("fieldPath", "") if path else rule.get("fieldPath", "").lstrip(".")
    match rule.get("reason", "FieldValueInvalid"):
        case "FieldValueForbidden":
            return failures.forbidden_value(field, message)
        case "FieldValueRequired":
            return failures.required(field, message)
        case "FieldValueDuplicate":
            return failures.duplicate(field, value)
        case _ if isinstance(value, dict | list):
            return Cause(field, "FieldValueInvalid", f"Invalid value: {message}")
        case _:
            return failures.invalid_value(field, value, message)


def typed(value: Any, schema: dict[str, Any]) -> Any:
    """The value with CEL's types: times and durations parsed, numbers as doubles, field names escaped."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        rest = rest if isinstance(rest, dict) else {}
        return {
            _escaped(name) if name in properties else name: typed(item, properties.get(name, rest))
            for name, item in value.items()
        }
    if isinstance(value, list):
        items = schema.get("items", {})
        return [typed(item, items) for item in value]
    if schema.get("type") == "number" and isinstance(value, int):
        return float(value)
    if isinstance(value, str):
        match schema.get("format"):
            case "date-time" | "datetime" if formats.has_format(value, "date-time"):
                return formats.date_time(value)
            case "duration" if formats.has_format(value, "duration"):
                return formats.duration(value)
    return value


def _escaped(name: str) -> str:
    if _KEYWORD.fullmatch(name):
        return f"__{name}__"
    return re.sub(r"__|[./-]", lambda found: _SYMBOLS[found[0]], name)


# What the engine brings itself, beside operators and macros: https://github.com/google/cel-spec, standard definitions.
_NATIVE = re.compile(
    "contains|endsWith|startsWith|matches|size|bool|bytes|double|duration|dyn|int|string|timestamp|type|uint"
    "|get(Date|DayOf(Month|Week|Year)|FullYear|Hours|Milliseconds|Minutes|Month|Seconds)"
    "|of|none|ofNonZeroValue|hasValue|value|or|orValue"
)


@lru_cache(maxsize=1)
def _library() -> frozenset[str]:
    """The last parts of the names of all other functions: `greatest` for `math.greatest`."""
    return frozenset(name.rpartition(".")[2] for name in _context({}).functions)


def _context(variables: dict[str, Any]) -> cel.Context:
    context = cel.Context()
    add_stdlib_to_context(context)
    for name, function in _FUNCTIONS.items():
        context.add_function(name, function)
    context.update(variables)
    return context


# https://kubernetes.io/docs/reference/using-api/cel/#cel-community-libraries: those that CRDs use most.
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
_NANO = Decimal("1e-9")
_EXACT = Context(prec=160)
_SUFFIXES = {
    **{
        unit: Decimal(10) ** (3 * power)
        for power, unit in zip((-3, -2, -1, 1, 2, 3, 4, 5, 6), "numkMGTPE", strict=True)
    },
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def quantity(text: str) -> float:
    """A Kubernetes quantity (`1500m`, `1Gi`) as a number, rounded up to billionths as there. Raises ValueError."""
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, suffix, exponent = found.groups()
    try:
        value = Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))
        return float(value.quantize(_NANO, ROUND_CEILING, _EXACT))
    except InvalidOperation as error:
        raise ValueError(f"unable to parse quantity {text!r}") from error


def _is_quantity(text: str) -> bool:
    try:
        quantity(text)
    except ValueError:
        return False
    return True


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _format(pattern: str, arguments: list[Any]) -> str:
    return re.sub(r"%([sdf])", "%s", pattern) % tuple(arguments)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantity": quantity,
    "isQuantity": _is_quantity,
    "isGreaterThan": lambda one, other: one > other,
    "isLessThan": lambda one, other: one < other,
    "compareTo": lambda one, other: (one > other) - (one < other),
    "isInteger": lambda number: float(number).is_integer(),
    "asInteger": int,
    "asApproximateFloat": float,
    "sign": lambda number: (number > 0) - (number < 0),
    "find": _find,
    "findAll": lambda text, pattern: [found[0] for found in re.finditer(pattern, text)],
    "format": _format,
    "isSorted": lambda items: all(one <= other for one, other in pairwise(items)),
}
