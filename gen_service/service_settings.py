"""The settings of the service: environment and one file, read here and nowhere else.

`GEN_SERVICE_<SECTION>__<FIELD>` in the environment goes over the YAML file that `gen-service serve --config` or
`GEN_SERVICE_CONFIG` names, which goes over the defaults. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from gen_service.settings import EndpointSettings, Section

MIB = 1024 * 1024
GIB = 1024 * MIB
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class HttpSettings(Section):
    """Where the service listens. `public_hosts` are the host names under which clients reach it, checked where no key
    is needed; `max_body_bytes` bounds every body but an upload."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public_hosts: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * MIB
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK_HOSTS


class FleetSettings(Section):
    """The shared pool: most requests in flight at all servers together, and at each; the grace of a stop; how many
    jobs run at once."""

    in_flight: Annotated[int, Field(ge=1)] = 256
    per_server: Annotated[int, Field(ge=1)] | None = None
    grace_s: Annotated[float, Field(ge=0)] = 30.0
    max_running_jobs: Annotated[int, Field(ge=1)] = 256


class VerifierSettings(Section):
    """Budgets of one check, for all jobs; see `VerificationSettings`."""

    workers: Annotated[int, Field(ge=1)] = Field(default_factory=lambda: os.cpu_count() or 1)
    recycle_after: Annotated[int, Field(ge=1)] = 2000
    cpu_s: Annotated[float, Field(gt=0)] = 5.0
    wall_s: Annotated[float, Field(gt=0)] = 15.0
    memory_bytes: Annotated[int, Field(ge=256 * MIB)] = 2 * GIB


class DataSettings(Section):
    """What lies where. `folder` holds the database, uploads and traces; `database` is an SQLAlchemy URL such as
    `postgresql://user@host/name` (SQLite in `folder` by default).

    `prompt_roots` are the local folders that a job's `prompts.path` may lie in, `output_roots` those (or URL
    prefixes) of its `output.path`; `allow_hub` lets jobs name `datasets` ids. `min_free_bytes` must be free for a job
    to be taken.
    """

    folder: Path = Path("gen-service-data")
    database: SecretStr | None = None
    prompt_roots: tuple[Path, ...] = ()
    output_roots: tuple[str, ...] = ()
    allow_hub: bool = False
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 * GIB

    @property
    def uploads(self) -> Path:
        """Where files lie."""
        return self.folder / "files"

    @property
    def traces(self) -> Path:
        """Where traces lie that have no place of their own."""
        return self.folder / "traces"


class UploadSettings(Section):
    """Caps on one upload."""

    max_bytes: Annotated[int, Field(ge=1)] = 2 * GIB
    max_lines: Annotated[int, Field(ge=1)] = 5_000_000
    max_line_bytes: Annotated[int, Field(ge=1024)] = 4 * MIB
    max_expanded_bytes: Annotated[int, Field(ge=1)] = 16 * GIB


class QuotaSettings(Section):
    """What one tenant may have at a time, unless its own quotas say otherwise; None is no limit."""

    active_jobs: Annotated[int, Field(ge=0)] | None = 1000
    queued_prompts: Annotated[int, Field(ge=0)] | None = 50_000_000
    stored_bytes: Annotated[int, Field(ge=0)] | None = 200 * GIB
    requests_per_minute: Annotated[int, Field(ge=1)] | None = 6000


class WebhookSettings(Section):
    """`allow` are networks that webhooks may reach although they are private, such as an in-cluster receiver's."""

    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    timeout_s: Annotated[float, Field(gt=0)] = 10.0
    attempts: Annotated[int, Field(ge=1)] = 12
    ca_file: Path | None = None


class LogSettings(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class ServiceSettings(BaseSettings):
    """All settings of `gen-service serve`."""

    model_config = SettingsConfigDict(
        env_prefix="GEN_SERVICE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )
    config_file: ClassVar[Path | None] = None

    endpoints: EndpointSettings
    http: HttpSettings = HttpSettings()
    fleet: FleetSettings = FleetSettings()
    verifier: VerifierSettings = Field(default_factory=VerifierSettings)
    data: DataSettings = DataSettings()
    uploads: UploadSettings = UploadSettings()
    quotas: QuotaSettings = QuotaSettings()
    webhooks: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file."""
        file = YamlConfigSettingsSource(settings_cls, yaml_file=cls.config_file)
        return init_settings, env_settings, file


def load_service_settings(config: Path | None, overrides: dict[str, object] | None = None) -> ServiceSettings:
    """The settings of the service: flags (`overrides`) over the environment over the file over the defaults.

    Raises:
        SpecError: the file cannot be read, or a field is wrong; it names the field, the value and what would be right.
    """
    raise NotImplementedError
