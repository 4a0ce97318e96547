"""Settings: environment variables, or the same lines in `.env`, checked at the start."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from controller.quantity import parse_quantity

PLACEHOLDER_KEYS = frozenset(
    {"", "change-me", "changeme", "secret", "your-secret-key-change-in-production", "your-secret-key-here"}
)
"""Well-known placeholders: with one of these, as with none, the API serves loopback only."""


class SettingsError(Exception):
    """A setting is wrong; the text names the environment variable."""


def memory_bytes(text: object) -> object:
    """Bytes of a Kubernetes quantity or of Docker's `512m`, `1g`, `64k`, `100b` (Docker's units are powers of 1024)."""
    if not isinstance(text, str):
        return text
    docker = text.strip().lower()
    if docker[:-1].isdigit() and docker[-1] in "bkmg" and text.strip()[-1] not in "MG":
        return int(docker[:-1]) * 1024 ** "bkmg".index(docker[-1])
    return int(parse_quantity(text.strip()))


def comma_separated(text: object) -> object:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


def _fits_a_header(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()  # files often end with a line break
    if any(not "!" <= char <= "~" for char in text):
        raise ValueError("must be visible ASCII without spaces: a request could not carry anything else as its token")
    return SecretStr(text)


def _valid_cpu(cpus: float) -> float:
    if not 0.01 <= cpus <= 512:  # Docker: below 10^7 NanoCpus fails or means unlimited
        raise ValueError("must be from 0.01 to 512 cores")
    return cpus


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_separated)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SandboxSettings(Group):
    """SANDBOX__*"""

    enabled: bool = True
    """false: nothing is started; objects stay Pending and say so."""
    mock_mode: bool = False
    """true: new sandboxes run on mock, WITHOUT ISOLATION, even where Docker is there."""
    mock_allowed: bool = True
    """false: nothing ever runs without isolation, whatever an object asks for."""
    docker_auto_detect: bool = True
    """false: no daemon is looked for, so `auto` means mock."""
    docker_required: bool = False
    """true: the controller does not start without Docker, is not ready while it is lost, and never falls to mock."""
    docker_connection_timeout: Seconds = 5
    """Seconds for one answer to a health question."""
    docker_max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further tries to reach the daemon at the start, and to pull an image."""
    image: Annotated[str, Field(min_length=1)] = "agent-sandbox:latest"
    """The image of sandboxes that name none."""
    pull_images: bool = True
    """false: an image that is not on the daemon is an error at once."""
    memory_limit: Annotated[int, BeforeValidator(memory_bytes), Field(ge=6 * 2**20)] = 512 * 2**20
    """Memory of sandboxes that name no limit: bytes, `512Mi`, or Docker's `512m`. At least 6 MiB, as Docker wants it."""
    cpu_limit: Annotated[float, AfterValidator(_valid_cpu)] = 1.0
    """Cores of sandboxes that name no limit, from 0.01 to 512."""
    pids_limit: Annotated[int, Field(ge=4, le=32768)] = 128
    """Processes and threads of sandboxes that name no limit."""
    timeout: Annotated[int, Field(ge=1, le=86400)] = 30
    """Seconds for `run` and for executions that name none."""
    network_disabled: bool = True
    """false: specs may name the network `bridge`, which reaches the outside."""
    networks: Names = ()
    """Docker networks that specs may name besides, comma-separated."""
    workspace_roots: Names = ()
    """Folders of the host below which `workspace.hostPath` may lie, comma-separated; none: nowhere."""
    instance: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")] = "default"
    """Which installation this is: only containers labelled with it are ever touched."""
    start_concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Sandboxes started at once."""
    max_executions: Annotated[int, Field(ge=1, le=32)] = 16
    """Executions at once in one sandbox, at most the agent's 32; the next is refused (429)."""
    output_limit: Annotated[int, BeforeValidator(memory_bytes), Field(ge=1024, le=8 * 2**20)] = 2**20
    """Bytes kept of each output stream of an execution; the rest is dropped and counted."""
    state_folder: Path | None = None
    """Where mock sandboxes live; default: a folder of this user below the temporary folder."""


class ApiSettings(Group):
    """API__*"""

    host: str = "127.0.0.1"
    """Address of the HTTP API. Beyond loopback it needs SECURITY__SECRET_KEY."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0: any free one."""
    metrics_host: str = "127.0.0.1"
    """Address of `/metrics`, `/healthz` and `/readyz`."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: any free one."""
    max_body: Annotated[int, BeforeValidator(memory_bytes), Field(ge=2**16)] = 16 * 2**20
    """Bytes of a request's body; more is refused (413)."""
    max_file: Annotated[int, BeforeValidator(memory_bytes), Field(ge=2**16)] = 256 * 2**20
    """Bytes of a file put into a sandbox or taken out of it."""


class SecuritySettings(Group):
    """SECURITY__*"""

    secret_key: Annotated[SecretStr, AfterValidator(_fits_a_header)] | None = None
    """Bearer token that may do everything. Unset, or a well-known placeholder, it does not count."""

    def usable_key(self) -> SecretStr | None:
        """The key, unless it is unset or a well-known placeholder."""
        key = self.secret_key
        return None if key is None or key.get_secret_value().lower() in PLACEHOLDER_KEYS else key


class LogSettings(Group):
    """LOG__*"""

    format: Literal["text", "json"] = "text"
    """json: one object a line, with the sandbox's namespace, name and uid."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of the controller's own lines; libraries log from WARNING on."""


class Settings(BaseSettings):
    """Everything that can be set; see docs/settings.md."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    sandbox: SandboxSettings = SandboxSettings()
    api: ApiSettings = ApiSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    watch_namespaces: Names = ()
    """Namespaces whose objects are looked after, comma-separated; none: all."""


def load_settings() -> Settings:
    """Read and check the environment. Raises SettingsError, which names each wrong variable and never its value."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{'__'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_input=False)
        ]
        raise SettingsError("these settings are wrong:\n  " + "\n  ".join(lines)) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
