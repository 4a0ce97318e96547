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


def _valid_cpu(cpus: float) -> float:
    if not 0.01 <= cpus <= 512:  # Docker: below 10^7 NanoCpus fails or means unlimited
        raise ValueError("must be from 0.01 to 512 cores")
    return cpus


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_separated)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SandboxSettings(Group):
    """SANDBOX__*"""

    enabled: bool = True
    mock_mode: bool = False
    mock_allowed: bool = True
    """Whether anything may run without isolation; false in the chart, unless it is asked for."""
    docker_auto_detect: bool = True
    docker_required: bool = False
    docker_connection_timeout: Seconds = 5
    docker_max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    image: Annotated[str, Field(min_length=1)] = "agent-sandbox:latest"
    memory_limit: Annotated[int, BeforeValidator(memory_bytes), Field(ge=6 * 2**20)] = 512 * 2**20
    """Bytes. Docker takes 6 MiB at least."""
    cpu_limit: Annotated[float, AfterValidator(_valid_cpu)] = 1.0
    pids_limit: Annotated[int, Field(ge=4, le=32768)] = 128
    timeout: Annotated[int, Field(ge=1, le=86400)] = 30
    """Seconds."""
    network_disabled: bool = True
    networks: Names = ()
    """Docker networks, besides none, that a spec may name (and `bridge` only where network_disabled is false)."""
    workspace_roots: Names = ()
    instance: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$")] = "default"
    """Which installation: only containers labelled with it are touched."""
    start_concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    max_executions: Annotated[int, Field(ge=1, le=256)] = 16
    """At once, per sandbox."""
    output_limit: Annotated[int, BeforeValidator(memory_bytes), Field(ge=1024, le=64 * 2**20)] = 2**20
    """Bytes kept of each stream of an execution."""
    state_folder: Path | None = None
    """Where mock sandboxes live; default: a folder of this user below the temporary folder."""
    pull_images: bool = True


class ApiSettings(Group):
    """API__*"""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    max_body: Annotated[int, BeforeValidator(memory_bytes), Field(ge=2**16)] = 16 * 2**20
    max_file: Annotated[int, BeforeValidator(memory_bytes), Field(ge=2**16)] = 256 * 2**20


class SecuritySettings(Group):
    """SECURITY__*"""

    secret_key: SecretStr | None = None

    def usable_key(self) -> SecretStr | None:
        """The key, unless it is unset or a well-known placeholder."""
        key = self.secret_key
        return None if key is None or key.get_secret_value().strip().lower() in PLACEHOLDER_KEYS else key


class LogSettings(Group):
    """LOG__*"""

    format: Literal["text", "json"] = "text"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(BaseSettings):
    """Everything that can be set; see docs/settings.md."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True)

    sandbox: SandboxSettings = SandboxSettings()
    api: ApiSettings = ApiSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    watch_namespaces: Names = ()
    """WATCH_NAMESPACES: comma-separated; empty: all."""


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
