"""`sandbox-controller plan`: what would be done with a manifest, without doing it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.program import Failure


def plan(
    file: Annotated[Path, typer.Option("--file", "-f", help="Manifest with Sandbox objects; - for standard input.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="text, or json: with the container's whole definition.")
    ] = "text",
) -> None:
    """Print what a manifest would become: checks, backend, limits, container. Nothing is created or asked but Docker's version."""
    import asyncio
    import json

    from controller.settings import SettingsError, load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        raise Failure(str(error)) from None
    plans = asyncio.run(_plans(_documents(file), settings))
    if output == "json":
        typer.echo(json.dumps(plans, indent=2))
    else:
        for each in plans:
            typer.echo(_text(each))
    if any("refused" in each for each in plans):
        raise typer.Exit(1)


def _documents(file: Path) -> list[dict[str, Any]]:
    import sys

    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        documents = [each for each in yaml.safe_load_all(text) if each]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failure(f"{file} was not read: {error}") from None
    if not documents or not all(isinstance(each, dict) and each.get("kind") == "Sandbox" for each in documents):
        raise Failure(f"{file}: only documents of kind Sandbox can be planned")
    return documents


async def _plans(documents: list[dict[str, Any]], settings: Any) -> list[dict[str, Any]]:
    from controller.choose import docker_backend, look_for_docker

    docker = docker_backend(settings.sandbox)
    health = await look_for_docker(settings.sandbox.model_copy(update={"docker_max_retries": 0}), docker)
    if docker is not None:
        await docker.close()
    return [_plan_of(each, settings, health) for each in documents]


def _plan_of(document: dict[str, Any], settings: Any, health: Any) -> dict[str, Any]:
    from controller.admission import spec_problem
    from controller.backends.container import Defaults, Image, create_body, program, wanted_limits
    from controller.choose import offer
    from controller.model import BackendName, InvalidSpec, Sandbox, parse_spec
    from controller.status import shown_limits

    metadata = document.get("metadata") or {}
    name, namespace = metadata.get("name", "?"), metadata.get("namespace", "default")
    found: dict[str, Any] = {"sandbox": f"{namespace}/{name}"}
    try:
        spec = parse_spec(document.get("spec"))
    except InvalidSpec as error:
        return found | {"refused": str(error)}
    problem = spec_problem(spec, settings.sandbox)
    given = offer(spec, settings.sandbox, health)
    problem = problem or given.problem
    if problem is not None:
        return found | {("refused" if problem.permanent else "waits"): f"{problem.reason}: {problem.message}"}
    defaults = Defaults.of(settings.sandbox)
    sandbox = Sandbox(uid="UID", name=name, namespace=namespace, spec=spec)
    found |= {
        "backend": given.backend,
        "image": spec.image or defaults.image,
        "program": [each if len(each) <= 60 else each[:57] + "..." for each in program(sandbox)],
        "limits": shown_limits(wanted_limits(spec, defaults)),
        "timeoutSeconds": (spec.run and spec.run.timeout_seconds) or defaults.timeout,
        "maxSeconds": spec.lifetime.max_seconds,
    }
    if given.backend is BackendName.DOCKER:
        found["container"] = create_body(sandbox, defaults, Image("", True, ("(the agent)",)))
    return found


def _text(found: dict[str, Any]) -> str:
    lines = [found["sandbox"]]
    for key in ("refused", "waits"):
        if key in found:
            return "\n".join([*lines, f"  {key}: {found[key]}"])
    lines.append(f"  backend    {found['backend']}")
    lines.append(f"  image      {found['image']}")
    lines.append(f"  limits     {', '.join(f'{key} {value}' for key, value in found['limits'].items())}")
    if found["program"]:
        lines.append(f"  runs       {' '.join(found['program'])!r}, for {found['timeoutSeconds']} s at most")
    else:
        lines.append("  stays up   and waits for executions")
    lines.append(f"  ends       after {found['maxSeconds']} s")
    return "\n".join(lines)
