"""Specs that are nearly right: a full spec with a part or two replaced, removed, doubled or spoilt by a letter."""

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from tests.model.corpus import Spec

FULL: Spec = {
    "backend": "docker",
    "isolation": "required",
    "image": "registry.example:5000/team/tool:V1.2",
    "run": {"language": "python", "code": "print(1)", "stdin": "in", "timeoutSeconds": 30},
    "env": [{"name": "A", "value": "b"}, {"name": "B_1", "value": ""}],
    "files": [{"path": "data/in.csv", "content": "1,2\n"}, {"path": "other", "content": ""}],
    "workspace": {"size": "256Mi", "hostPath": "/srv/sandboxes/x"},
    "resources": {"limits": {"cpu": "500m", "memory": "512Mi", "pids": 128}},
    "network": "team_a",
    "runtime": "runsc",
    "operatingMode": "Suspended",
    "lifetime": {
        "maxSeconds": 3600,
        "idleSeconds": 60,
        "shutdownTime": "2030-01-31T12:00:00.5+02:00",
        "ttlSecondsAfterFinished": 300,
        "shutdownPolicy": "Retain",
    },
}
COMMAND: Spec = FULL | {"run": {"command": ["ls", "-l"]}}

_LETTERS = st.sampled_from("aZ0./:-_@=+,% \\$()[]\0\n\t\x7f\x85\u2028éЖ値٣😀")
_QUANTITIES = st.from_regex(
    r"[+-]?[0-9]{0,10}(\.[0-9]{0,10})?(n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|[eE][+-]?[0-9]{1,3})?", fullmatch=True
)
_VALUES = st.one_of(
    st.sampled_from([None, True, False, "", "0", [], {}, [None], ["a"], {"name": "X"}, 0, -1, 1.0, 0.5, 1e30]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 40000),
    st.text(_LETTERS, max_size=12),
    st.text(max_size=12),
    _QUANTITIES,
).map(deepcopy)


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a document."""
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    return [place for key in keys for place in [(node, key), *_places(node[key])]]


@st.composite
def mutated_specs(draw: st.DrawFn) -> Spec:
    """A spec after one or two mutations, sometimes still a good one."""
    spec = deepcopy(draw(st.sampled_from([FULL, COMMAND])))
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(_places(spec)))
        old = container[key]
        match draw(st.sampled_from(["replace", "remove", "double", "unknown", "spoil", "spoil"])):
            case "spoil" if isinstance(old, str):
                at, skip = draw(st.integers(0, len(old))), draw(st.integers(0, 1))
                container[key] = old[:at] + draw(_LETTERS) + old[at + skip :]
            case "remove":
                del container[key]
            case "double" if isinstance(container, list):
                container.append(deepcopy(old))
            case "unknown" if isinstance(old, dict):
                old[draw(st.sampled_from(["privileged", "Run", "timeout_seconds", ""]))] = draw(_VALUES)
            case _:
                container[key] = draw(_VALUES)
        if not spec:
            break
    return spec
