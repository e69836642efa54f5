"""The settings of the service: environment and one file, read here and nowhere else.

`GEN_SERVICE_<SECTION>__<FIELD>` in the environment goes over the YAML file that `gen-service serve --config` or
`GEN_SERVICE_CONFIG` names, which goes over the defaults. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import yaml
from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from gen_service.errors import SpecError
from gen_service.settings import EndpointSettings, Section

PREFIX = "GEN_SERVICE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SECRET_FIELDS = frozenset({"api_key", "database"})
# The password in scheme://user:password@host, whatever it holds; and one given as a parameter.
_USER_PASSWORD = re.compile(r"(://[^/\s:@]*:).*@")
_SECRET_QUERY = re.compile(r"([?&](?:password|passwd|secret|token|key|api_key)=)[^&\s]*", re.IGNORECASE)

_NO_SERVERS = (
    f"at least 1 vLLM server: --server URL, {PREFIX}ENDPOINTS__URLS, or endpoints.urls in the settings file; "
    f"or a file that lists them, {PREFIX}ENDPOINTS__FILE or endpoints.file"
)

MIB = 1024 * 1024
GIB = 1024 * MIB
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class HttpSettings(Section):
    """Where the service listens. `public_hosts` are the host names under which clients reach it, checked where no key
    is needed; `max_body_bytes` bounds every body but an upload; `wrong_keys_per_minute` is for one client address."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    public_hosts: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * MIB
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    wrong_keys_per_minute: Annotated[int, Field(ge=1)] = 60

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK_HOSTS


class FleetSettings(Section):
    """The shared pool: most requests in flight at all servers together, and at each; how each server's limit under
    them is found, as in `PoolSettings`; the grace of a stop; how many jobs run at once."""

    in_flight: Annotated[int, Field(ge=1)] = 2048
    per_server: Annotated[int, Field(ge=1)] | None = None
    limit: Literal["auto", "fixed"] = "auto"
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


class _Sources(BaseSettings):
    """Flags over environment over file over defaults."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, nested_model_default_partial_update=True
    )
    # What the file says; a subclass made for one reading sets it.
    file_values: ClassVar[dict[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The places that settings come from, the strongest first."""
        return init_settings, _Environment(settings_cls), InitSettingsSource(settings_cls, cls.file_values)


class _Environment(EnvSettingsSource):
    """A list may be written as JSON or with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: object) -> object:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return [item.strip() for item in str(value).split(",") if item.strip()]


class ServiceSettings(_Sources):
    """All settings of `gen-service serve`."""

    model_config = SettingsConfigDict(extra="forbid")

    endpoints: EndpointSettings
    http: HttpSettings = HttpSettings()
    fleet: FleetSettings = FleetSettings()
    verifier: VerifierSettings = Field(default_factory=VerifierSettings)
    data: DataSettings = DataSettings()
    uploads: UploadSettings = UploadSettings()
    quotas: QuotaSettings = QuotaSettings()
    webhooks: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()


class _DataOnly(_Sources):
    model_config = SettingsConfigDict(extra="ignore")

    data: DataSettings = DataSettings()


def load_service_settings(config: Path | None, overrides: Mapping[str, object] | None = None) -> ServiceSettings:
    """The settings of the service: flags (`overrides`, nested as the settings are) over the environment over the file
    (`config`, or what GEN_SERVICE_CONFIG names) over the defaults.

    Raises:
        SpecError: the file cannot be read, or a field is wrong; it names the field, the value and what would be right.
    """
    return _load(ServiceSettings, config, overrides)


def load_data_settings(config: Path | None, overrides: Mapping[str, object] | None = None) -> DataSettings:
    """The section `data` alone, for verbs that need no servers; `overrides` as above: `{"data": {...}}`.

    Raises:
        SpecError: as above, for fields of this section.
    """
    return _load(_DataOnly, config, overrides).data


def printable(settings: ServiceSettings) -> str:
    """The settings as YAML, as a file would say them, with keys and the passwords in URLs masked."""
    tree = settings.model_dump(mode="json")
    if settings.data.database is not None:
        # The rest of the URL says which database is used.
        tree["data"]["database"] = settings.data.database.get_secret_value()
    return yaml.safe_dump(_masked(tree), sort_keys=False, allow_unicode=True)


_Settings = TypeVar("_Settings", bound=_Sources)


def _load(kind: type[_Settings], config: Path | None, overrides: Mapping[str, object] | None) -> _Settings:
    _refuse_unknown_sections()
    values = _read_file(config or _config_of_environment())
    bound = {"file_values": values, "__module__": kind.__module__}
    reading = cast(type[_Settings], type(kind.__name__, (kind,), bound))
    try:
        read = reading(**(overrides or {}))
    except ValidationError as error:
        raise _spec_error(error) from error
    except SettingsError as error:
        raise SpecError(f"{PREFIX}...", "***", f"values of the right kind ({error})") from error
    return kind.model_construct(**dict(read))


def _config_of_environment() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


def _read_file(path: Path | None) -> dict[str, Any]:
    """The file as a mapping; a section without a value counts as left out."""
    if path is None:
        return {}
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError("config", str(path), f"a readable YAML file ({error})") from error
    if not isinstance(document, dict):
        raise SpecError("config", str(path), "a mapping with at least `endpoints`")
    return {str(section): value for section, value in document.items() if value is not None}


def _refuse_unknown_sections() -> None:
    """A misspelt section in the environment would be passed over in silence."""
    known = ServiceSettings.model_fields
    for name in os.environ:
        section, nested, _ = name.upper().removeprefix(PREFIX).partition("__")
        if name.upper().startswith(PREFIX) and nested and section.lower() not in known:
            raise SpecError(name, "***", f"a section that there is: one of {', '.join(known)}")


def _spec_error(error: ValidationError) -> SpecError:
    """The first problem pydantic found, in our words and without secrets."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    kind, message = first["type"], first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if (field, kind) == ("endpoints", "missing") or (field == "endpoints.urls" and not first["input"]):
        return SpecError(field, None, _NO_SERVERS)
    if kind == "missing":
        return SpecError(field, None, "a value: the field is required")
    if kind == "extra_forbidden":
        return SpecError(field, "***", "a field that there is: check its spelling")
    secret = SECRET_FIELDS & set(map(str, first["loc"]))
    return SpecError(field, "***" if secret else _masked(first["input"]), message[:1].lower() + message[1:])


def _masked(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: _masked(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_masked(value) for value in tree]
    if isinstance(tree, str):
        return _SECRET_QUERY.sub(r"\1***", _USER_PASSWORD.sub(r"\1***@", tree))
    return tree
