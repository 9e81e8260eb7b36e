"""Configuration of the service: command-line flag > `ELBOD_*` variable > `elbod.toml` > default."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from elbod.errors import StartupError

CONFIG_FILE = "elbod.toml"

# A wait in seconds. A longer one than a day is a mistake, and an endless one no timer takes.
_Seconds = Annotated[float, Field(gt=0, le=24 * 3600, allow_inf_nan=False)]

# In a variable, separated by commas.
_Texts = Annotated[tuple[str, ...], NoDecode]
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")
# As browsers send it: in lower case, so that it can be compared.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9_.:\[\]-]+")


class Settings(BaseSettings):
    """Everything that can be configured, once. Limits are per worker process."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="ELBOD_", toml_file=CONFIG_FILE, extra="forbid", frozen=True
    )

    store: str = Field(
        "./elbod-store", description="model store: a folder, file:///path, s3://bucket/prefix, or memory://"
    )
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free port")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    model: str | None = Field(None, description="model reference of requests that name none")
    insecure: bool = Field(False, description="listen beyond this machine without keys")
    root_path: str = Field("", description="path prefix that a proxy in front strips")
    workers: int | None = Field(
        None, ge=1, le=1024, description="processes; default: usable cores, at most 8, or 1 on a GPU"
    )

    keys_file: Path | None = Field(None, description="hashed keys, see `elbod keys`; without it nobody needs a key")
    admin: bool = Field(False, description="let keys of scope admin move aliases; on loopback without keys, anybody")
    allowed_hosts: _Texts = Field((), description="names that this server goes by, *.example.com too; empty: any")
    cors_origins: _Texts = Field((), description="origins whose pages may ask from a browser; empty: none, *: all")

    max_body_bytes: int = Field(256 * 1024**2, gt=0)
    max_json_bytes: int = Field(32 * 1024**2, gt=0, description="of a JSON body: safetensors are far cheaper to read")
    max_rows: int = Field(65_536, gt=0)
    max_num_samples: int = Field(1_024, gt=0)
    max_importance_samples: int = Field(16_384, gt=0)
    max_queue_rows: int = Field(1_048_576, gt=0, description="row-draws; of models with levels network passes")
    max_queue_bytes: int = Field(512 * 1024**2, gt=0, description="of jobs in the queue; of bodies and answers as well")
    request_timeout: _Seconds = Field(60.0, description="seconds; also for head, body and unread answer")
    max_loaded_bytes: int = Field(4 * 1024**3, gt=0)
    poll_interval: _Seconds = Field(1.0, description="seconds between looks at the store")
    drain_timeout: _Seconds = Field(30.0, description="seconds to finish what was admitted at shutdown")

    @field_validator("host", "store")
    @classmethod
    def _not_empty(cls, value: str, field: ValidationInfo) -> str:
        # An empty host would listen on every interface, an empty store would be the working folder.
        if not value.strip():
            raise ValueError(f"{field.field_name} must not be empty")
        return value

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return [text.strip() for text in value.split(",") if text.strip()] if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host: names and addresses go without scheme and port")
        return tuple(host.strip("[]").lower() for host in hosts)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: an origin is https://host or https://host:port, no more")
        return origins

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, root_path: str) -> str:
        if root_path and not root_path.startswith("/"):
            raise ValueError(f"root_path must begin with '/', got {root_path!r}")
        return root_path.rstrip("/")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**flags: Any) -> Settings:
    """The settings with the given command-line flags (None: not given). Raises StartupError naming the key."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise StartupError(f"configuration (flags, ELBOD_* variables, {Path(CONFIG_FILE)}): {problems}") from error
    except ValueError as error:
        raise StartupError(f"{CONFIG_FILE}: {error}") from error
