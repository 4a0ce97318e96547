"""What the chart makes of its values; no cluster is asked."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.settings import Settings
from tests.chart.release import CHART, ROOT, Body, Helm, HelmError, of_kind, one, values

MOCK = values({"mock.enabled": "true"})
SOCKET = values({"docker.socket.enabled": "true", "docker.socket.groupId": "999"})
REMOTE = values({"docker.host": "tcp://docker.example:2376", "docker.tls.existingSecret": "certificates"})
BACKENDS = pytest.mark.parametrize("backend", [[], MOCK, SOCKET, REMOTE], ids=["none", "mock", "socket", "remote"])
DECIDED_BY_THE_CHART = {
    "API__HOST",
    "API__METRICS_HOST",
    "API__METRICS_PORT",
    "API__PORT",
    "LOG__FORMAT",
    "LOG__LEVEL",
    "SANDBOX__DOCKER_AUTO_DETECT",
    "SANDBOX__DOCKER_REQUIRED",
    "SANDBOX__MOCK_ALLOWED",
    "SANDBOX__MOCK_MODE",
    "SANDBOX__STATE_FOLDER",
    "SECURITY__SECRET_KEY",
    "WATCH_NAMESPACES",
}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def settings_of(bodies: list[Body]) -> dict[str, str]:
    return dict(one(bodies, "ConfigMap")["data"])


def pods(bodies: list[Body]) -> list[Body]:
    """The specs of all Pods: the controller's and those of the hooks."""
    made = [body["spec"] for body in of_kind(bodies, "Pod")]
    return made + [body["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for body in of_kind(bodies, kind)]


def test_helm_finds_nothing_to_complain_about(any_helm: Helm) -> None:
    any_helm("lint", CHART, "--strict", *SOCKET)


def test_both_helms_render_the_same(any_helm: Helm, helm: Helm) -> None:
    key = values({"secretKey.existingSecret": "mine"})
    assert any_helm.render(*SOCKET, *key) == helm.render(*SOCKET, *key)


def test_the_crd_is_the_one_source_of_truth_and_outlives_the_release(helm: Helm) -> None:
    made = one(helm.render(), "CustomResourceDefinition")
    source = yaml.safe_load((ROOT / "crds" / "sandboxes.yaml").read_text())
    assert made["spec"] == source["spec"]
    assert made["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    let_go = one(helm.render("--set=crds.keep=false"), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in let_go["metadata"]["annotations"]
    assert not of_kind(helm.render("--set=crds.install=false"), "CustomResourceDefinition")


def test_a_packaged_chart_is_whole(helm: Helm, tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    key = values({"secretKey.existingSecret": "mine"})
    assert helm.render(*key, chart=package) == helm.render(*key)


@BACKENDS
def test_every_pod_meets_the_restricted_standard_but_for_the_socket(helm: Helm, backend: list[str]) -> None:
    for pod in pods(helm.render(*backend)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        is_controller = "strategy" not in pod and any(c["name"] == "controller" for c in pod["containers"])
        assert kinds <= {"emptyDir", "secret"} | ({"hostPath"} if backend is SOCKET and is_controller else set())
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in container.get("ports", ()))
            assert container["resources"]["limits"]["memory"]


@BACKENDS
def test_sandboxes_run_where_it_was_chosen_and_nowhere_else(helm: Helm, backend: list[str]) -> None:
    settings = settings_of(helm.render(*backend))
    assert settings["SANDBOX__MOCK_MODE"] == settings["SANDBOX__MOCK_ALLOWED"] == str(backend is MOCK).lower()
    assert settings["SANDBOX__DOCKER_REQUIRED"] == str(backend in (SOCKET, REMOTE)).lower()
    assert settings.get("DOCKER_HOST") == {3: "tcp://docker.example:2376"}.get(
        [[], MOCK, SOCKET, REMOTE].index(backend), "unix:///run/docker.sock" if backend is SOCKET else None
    )


@pytest.mark.parametrize(
    ("chosen", "advice"),
    [
        ([*MOCK, *SOCKET], "choose one backend"),
        ([*REMOTE, *SOCKET], "choose one backend"),
        (values({"docker.socket.enabled": "true"}), "stat -c %g"),
        (values({"docker.host": "tcp://docker.example:2375"}), "docker.tls.existingSecret"),
        (values({"mock.enable": "true"}), "enable"),
        (values({"settings.SANDBOX__MOCK_MODE": "true"}), "SANDBOX__MOCK_MODE"),
        (values({"settings.SANDBOX__TYPO": "1"}), "SANDBOX__TYPO"),
        (values({"tolerations[0].efect": "NoSchedule"}), "efect"),
        (values({"docker.host": "unix:///x"}), "/docker/host"),
    ],
)
def test_a_wrong_choice_is_refused_with_advice(helm: Helm, chosen: list[str], advice: str) -> None:
    with pytest.raises(HelmError, match=re.escape(advice)):
        helm.render(*chosen)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ([], "BACKEND: NONE. Every Sandbox will stay Pending"),
        (MOCK, "BACKEND: MOCK - NO SECURITY ISOLATION"),
        (SOCKET, "The socket is root on that node"),
        (REMOTE, "BACKEND: Docker at tcp://docker.example:2376"),
    ],
)
def test_notes_say_where_sandboxes_run_and_what_to_type_next(helm: Helm, backend: list[str], said: str) -> None:
    shown = helm("install", "box", CHART, "--dry-run=client", *backend)
    assert said in shown
    assert "kubectl --namespace default apply" in shown


def levels(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a schema, with its path."""
    if schema.get("type") == "object":
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from levels(inner, f"{path}.{name}")
    if "items" in schema:
        yield from levels(schema["items"], f"{path}[]")


def test_the_schema_is_closed_but_for_types_of_kubernetes() -> None:
    for path, level in levels(SCHEMA):
        foreign = set(level) <= {"type", "description", "required"} and level["description"]
        assert level.get("additionalProperties") is not None or foreign, f"{path} takes anything"


def test_every_value_is_in_the_schema_and_in_the_readme() -> None:
    readme = runpy.run_path(str(ROOT / "charts" / "readme.py"))
    assert readme["PAGE"].read_text() == readme["page"](), "python charts/readme.py"
    described = [path for path, _ in readme["described"]()]

    def undescribed(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
        if path in described:
            return
        if not isinstance(value, dict) or not schema.get("properties"):
            yield path
            return
        for name in value:
            yield from undescribed(value[name], schema["properties"][name], f"{path}.{name}".removeprefix("."))

    assert not list(undescribed(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA))


def test_settings_are_those_of_the_controller_but_for_what_the_chart_decides() -> None:
    groups = {name: field.annotation for name, field in Settings.model_fields.items()}
    names = {
        f"{group}__{name}".upper()
        for group, model in groups.items()
        if hasattr(model, "model_fields")
        for name in model.model_fields
    } | {group.upper() for group, model in groups.items() if not hasattr(model, "model_fields")}
    assert set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"]) == names - DECIDED_BY_THE_CHART


def test_the_controller_takes_the_settings_that_the_chart_gives(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = values(
        {"settings.SANDBOX__OUTPUT_LIMIT": "1048576", "settings.SANDBOX__CPU_LIMIT": "1.5", "watchNamespaces": "{a,b}"}
    )
    for name, value in settings_of(helm.render(*SOCKET, *chosen)).items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.sandbox.output_limit == 1048576
    assert settings.sandbox.cpu_limit == 1.5
    assert settings.watch_namespaces == ("a", "b")


def test_releases_that_share_a_daemon_never_share_an_instance(helm: Helm) -> None:
    long = "a-name-that-is-rather-long-for-a-release"
    seen = {
        settings_of(helm.on(Path("/dev/null"), namespace).render(release=release))["SANDBOX__INSTANCE"]
        for namespace in ("one", "another-namespace-with-a-long-name")
        for release in ("box", long, long + "-2")
    }
    assert len(seen) == 6
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", instance) for instance in seen)


def test_rights_are_roles_where_namespaces_are_named(helm: Helm) -> None:
    limited = helm.render("--set", "watchNamespaces={a,b}", "--set=rbac.aggregate=false")
    assert [role["metadata"]["namespace"] for role in of_kind(limited, "Role")] == ["a", "b"]
    (cluster_role,) = of_kind(limited, "ClusterRole")
    assert {resource for rule in cluster_role["rules"] for resource in rule["resources"]} == {
        "tokenreviews",
        "subjectaccessreviews",
    }
    assert not of_kind(helm.render(), "Role")


def test_alerts_and_dashboard_reach_the_cluster_as_they_are(helm: Helm) -> None:
    switched_on = values({f"{name}.enabled": "true" for name in ("serviceMonitor", "prometheusRule", "dashboard")})
    bodies = helm.render(*switched_on, "--set=prometheusRule.runbooks=https://wiki.example/runbooks/")
    rules = one(bodies, "PrometheusRule")["spec"]["groups"][0]["rules"]
    source = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert [rule["expr"] for rule in rules] == [rule["expr"] for rule in source]
    assert all(
        rule["annotations"]["runbook_url"] == f"https://wiki.example/runbooks/{rule['alert']}.md" for rule in rules
    )
    shown = one(bodies, "ConfigMap", "dashboard")["data"]["sandbox-controller.json"]
    assert json.loads(shown) == json.loads((CHART / "files" / "dashboard.json").read_text())
    monitor = one(bodies, "ServiceMonitor")["spec"]
    service = one(bodies, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_only_the_controller_is_behind_the_service(helm: Helm) -> None:
    bodies = helm.render(*SOCKET)
    selector = one(bodies, "Service")["spec"]["selector"]
    labels = {body["kind"]: body["metadata"]["labels"] for body in [*of_kind(bodies, "Pod"), *of_kind(bodies, "Job")]}
    assert all(not selector.items() <= each.items() for each in labels.values())
    assert selector.items() <= one(bodies, "Deployment")["spec"]["template"]["metadata"]["labels"].items()


def test_the_image_has_the_versions_that_are_tested() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==[^ ]+)", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements-image.lock") <= pins("requirements.lock"), "make lock"
