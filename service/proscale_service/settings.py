"""Settings from the environment: prefix `PROSCALE_`, one field each, all described."""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticUseDefault
from pydantic_settings import BaseSettings, SettingsConfigDict

from proscale.config import Precision
from proscale.errors import CheckpointError
from proscale.runtime import DESCRIPTIONS, MAX_BATCH_PIXELS, RuntimeConfig, warmup_sizes

PREFIX = "PROSCALE_"
RENAMED = {"max_queue": "max_concurrent_pictures"}
"""Former names of settings, which are still understood."""
MIB = 1024 * 1024
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
_HOST = re.compile(r"([A-Za-z0-9._*-]+|\[[0-9A-Fa-f:.]+\])(:(\d{1,5}|\*))?")
_OWN_PATHS = {"/segment", "/models", "/health", "/metrics", "/docs", "/openapi.json"}
_ORIGIN = re.compile(r"\*|https?://(\*\.)?[A-Za-z0-9._-]+(:\d{1,5})?|https?://\[[0-9A-Fa-f:]+\](:\d{1,5})?")

DIALECTS = ("huggingface", "open_inference", "roboflow")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class NamedModel:
    """A model that is to be served."""

    name: str | None
    """What requests call it; None: what it calls itself."""
    source: str
    """Its folder, empty: the one of the package; in front of Triton its name there."""

    def __post_init__(self) -> None:
        """Raise ValueError for a name that cannot be."""
        if self.name is not None and not _MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name[:80]!r} is not a valid model name: use up to 64 letters, digits, dots, dashes and underscores")

    @property
    def folder(self) -> Path | None:
        """The model folder; None: the one of the package."""
        return Path(self.source) if self.source else None


class Settings(BaseSettings):
    """Everything that can be set. Values given to the constructor (the command line's) win over the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, protected_namespaces=())

    host: str = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0`: all interfaces.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")

    keys_file: Path | None = Field(default=None, description="File of API keys (made by `proscale keys`); unset: requests need no key.")
    public: bool = Field(default=False, description="Accept requests without API keys on an address that other machines can reach.")
    tls_cert_file: Path | None = Field(default=None, description="TLS certificate with chain (PEM), reloaded on change; unset: HTTP.")
    tls_key_file: Path | None = Field(default=None, description="Private key of the certificate (PEM).")
    keep_alive_s: float = Field(
        default=75.0, gt=0, le=86_400, description="Seconds that an idle connection stays open; keep it longer than a proxy's timeout."
    )
    root_path: str | None = Field(
        default=None, description="Path prefix under which a proxy publishes the service, such as `/segmentation`."
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins of web pages that may send requests, comma separated: `https://app.example`, `https://*.example`, `*` (all).",
    )
    ignored_query: str | None = Field(
        default=None, description="Unknown query parameters to ignore instead of refusing them, comma separated, such as `utm_*,gclid`."
    )

    engine: Literal["in_process", "triton"] = Field(
        default="in_process", description="Where the network runs: `in_process` in the server's own process, `triton` on Triton servers."
    )
    triton_url: str = Field(default="127.0.0.1:8001", description="gRPC addresses HOST:PORT of the Triton servers, comma separated.")
    triton_model: str = Field(default="proscale", min_length=1, description="The model's name on the Triton servers.")
    triton_check_s: float = Field(default=3.0, gt=0, le=60, description="Seconds without an answer after which a Triton server is tested.")
    checkpoint: Path | None = Field(default=None, description=DESCRIPTIONS["checkpoint"])
    models: str | None = Field(
        default=None,
        description="Several models, comma separated: `NAME=FOLDER`; for Triton `NAME=MODEL` or `NAME`. The first is the default.",
    )
    device: str = Field(default="cpu", description=DESCRIPTIONS["device"])
    precision: Precision | None = Field(default=None, description=DESCRIPTIONS["precision"])
    cuda_graphs: bool = Field(default=False, description=DESCRIPTIONS["cuda_graphs"])
    compile: bool = Field(default=False, description=DESCRIPTIONS["compile"])
    threads: int | None = Field(default=None, ge=1, description=DESCRIPTIONS["threads"])
    warmup: str | None = Field(default=None, description=DESCRIPTIONS["warmup"])
    max_batch_pixels: int = Field(default=MAX_BATCH_PIXELS, ge=1, description=DESCRIPTIONS["max_batch_pixels"])
    feature_cache_bytes: int = Field(default=0, ge=0, description=DESCRIPTIONS["feature_cache_bytes"])
    decode_threads: int = Field(default=2, ge=1, le=64, description="Threads that decode pictures and write answers.")

    page: bool = Field(default=True, description="Serve the web page at `/`; otherwise `/` redirects to `/docs`.")
    dialects: str = Field(
        default="huggingface,open_inference,roboflow",
        description="APIs of other tools that are served too, comma separated; empty: none.",
    )
    max_answer_bytes: int = Field(
        default=100 * MIB, ge=1, description="Largest answer in bytes in formats other than JSON, before compression; a larger one is 413."
    )
    max_upload_bytes: int = Field(default=20 * MIB, ge=1, description="Largest request body in bytes; a larger one is 413.")
    max_buffered_bytes: int = Field(default=256 * MIB, ge=1, description="Most bytes of all request bodies at once; beyond that 429.")
    upload_timeout_s: float = Field(default=30.0, gt=0, description="Seconds within which a request body must arrive; a slower one is 408.")
    max_pixels: int = Field(default=40_000_000, ge=1, description="Most pixels of one picture, from its header; more is 413.")
    max_concurrent_pictures: int = Field(default=64, ge=1, description="Most pictures between upload and answer at once; beyond that 429.")
    max_queue_pixels: int = Field(default=160_000_000, ge=1, description="Most pixels of all decoded pictures at once; beyond that 429.")
    max_items: int = Field(default=16, ge=1, description="Most pictures in one request to /segment/batch.")

    picture_urls: Literal["off", "https", "http"] = Field(
        default="off", description="Fetch pictures that requests name by URL: `off`, `https` only, or `http` (both)."
    )
    picture_url_hosts: str | None = Field(
        default=None,
        description="Hosts to fetch pictures from, comma separated, such as `img.example,*.cdn.example:8443`; unset: all public hosts.",
    )
    picture_url_networks: str | None = Field(
        default=None, description="Private networks to fetch pictures from, comma separated, such as `10.1.0.0/16`; unset: none."
    )
    picture_url_timeout_s: float = Field(default=10.0, gt=0, description="Seconds within which a picture must be fetched from its URL.")

    max_batch_wait_ms: float = Field(
        default=2.0, ge=0, le=1000, description="Milliseconds that a picture waits for others of its batch that are being decoded."
    )
    deadline_ms: int = Field(default=60_000, ge=1, description="Default of a request's `deadline_ms`, in ms; a later answer is 504.")

    drain_delay_s: float = Field(
        default=0.0, ge=0, description="At shutdown: seconds of serving while not ready, before the server stops listening."
    )
    drain_s: float = Field(default=30.0, ge=0, description="At shutdown: most seconds for accepted requests to finish.")

    admin_port: int | None = Field(default=None, ge=0, le=65535, description="Port on 127.0.0.1 for loading and unloading models.")
    otlp_endpoint: str | None = Field(
        default=None, description="Collector for tracing spans (OTLP over HTTP), such as `http://collector:4318`; unset: no tracing."
    )
    trace_share: float = Field(default=1.0, ge=0, le=1, description="Share (0 to 1) of the traces beginning here that is kept.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level that is logged.")
    log_format: Literal["plain", "json"] = Field(
        default="plain", description="`plain` lines for people, or `json`: one JSON object per line, and nothing else on standard error."
    )

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, values: Any) -> Any:
        for former, name in RENAMED.items():
            text = os.environ.get(PREFIX + former.upper(), "")
            if text and name not in values and PREFIX + name.upper() not in os.environ:
                values[name] = text
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        # Manifests can often only leave a variable empty, not unset it. No sizes at all is a value of warmup; no address is a mistake.
        if value == "" and info.field_name not in ("warmup", "triton_url", "dialects"):
            raise PydanticUseDefault
        return value

    @field_validator("warmup")
    @classmethod
    def _sizes(cls, value: str | None) -> str | None:
        warmup_sizes(value, "cpu")
        return value

    @field_validator("triton_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        addresses = _parts(value)
        for address in addresses:
            host, colon, port = address.rpartition(":")
            if not colon or not host or "/" in address or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{address!r} is not an address such as triton:8001 (Triton's gRPC port)")
        if not addresses:
            raise ValueError("name at least one address such as triton:8001")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
            raise ValueError("must be an address such as http://collector:4318")
        return value

    @field_validator("models")
    @classmethod
    def _models_are_named(cls, value: str | None) -> str | None:
        models = parse_models(value)
        names = [model.name for model in models]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the name {twice} is used for two models")
        return value

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str | None) -> str | None:
        value = (value or "").rstrip("/")
        if value and not _ROOT_PATH.fullmatch(value):
            raise ValueError("must be a path such as /segmentation: it starts with / and has no white space, query or fragment")
        if value in _OWN_PATHS:
            raise ValueError("is one of the service's own paths; choose another prefix")
        return value or None

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str | None) -> str | None:
        for origin in _parts(value):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin such as https://app.example or http://localhost:3000 (scheme, host, port, no path)"
                )
        return value

    @field_validator("picture_url_networks")
    @classmethod
    def _networks(cls, value: str | None) -> str | None:
        for part in _parts(value):
            try:
                ipaddress.ip_network(part)
            except ValueError as error:
                raise ValueError(f"{part!r} is not a network such as 10.1.0.0/16 ({error})") from error
        return value

    @field_validator("picture_url_hosts")
    @classmethod
    def _hosts(cls, value: str | None) -> str | None:
        for part in _parts(value):
            if not _HOST.fullmatch(part):
                raise ValueError(
                    f"{part!r} is not a host such as images.example, *.cdn.example:8443 or images.example:* (no scheme, no path)"
                )
        return value

    @model_validator(mode="after")
    def _one_picture_fits(self) -> Self:
        if self.max_queue_pixels < self.max_pixels:
            raise ValueError("max_queue_pixels must be at least max_pixels, or the largest pictures could never be accepted")
        if self.max_buffered_bytes < self.max_upload_bytes:
            raise ValueError("max_buffered_bytes must be at least max_upload_bytes, or the largest bodies could never be accepted")
        return self

    @model_validator(mode="after")
    def _strangers_are_meant(self) -> Self:
        if self.keys_file is None and not self.public and not is_loopback(self.host):
            raise ValueError(
                f"other machines can reach the address {self.host}, but requests need no API key: set a keys file with {PREFIX}KEYS_FILE "
                f"(`proscale keys` makes it), or allow requests without keys with {PREFIX}PUBLIC=true"
            )
        return self

    @model_validator(mode="after")
    def _certificate_with_its_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE belong together: set both or neither")
        return self

    @model_validator(mode="after")
    def _models_have_sources(self) -> Self:
        if self.models and self.engine == "in_process":
            if self.checkpoint is not None:
                raise ValueError(f"{PREFIX}MODELS and {PREFIX}CHECKPOINT exclude each other: name the folder among the models")
            if bare := [part for part in _parts(self.models) if "=" not in part]:
                raise ValueError(f"{PREFIX}MODELS: {bare[0]!r} has no folder; write NAME=FOLDER (NAME= is the model in the package)")
        return self

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        if self.engine == "in_process":
            try:
                _ = self.runtime
            except CheckpointError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def cors_origin_list(self) -> list[str]:
        """The origins in `cors_origins`."""
        return _parts(self.cors_origins)

    @property
    def ignored_query_names(self) -> list[str]:
        """The names and patterns in `ignored_query`."""
        return _parts(self.ignored_query)

    @property
    def picture_url_host_list(self) -> list[str]:
        """The hosts in `picture_url_hosts`."""
        return _parts(self.picture_url_hosts)

    @property
    def picture_url_network_list(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks in `picture_url_networks`."""
        return tuple(ipaddress.ip_network(part) for part in _parts(self.picture_url_networks))

    @field_validator("dialects")
    @classmethod
    def _known_dialects(cls, value: str) -> str:
        if unknown := [name for name in _parts(value) if name not in DIALECTS]:
            raise ValueError(f"unknown dialect {', '.join(map(repr, unknown))}; known are {', '.join(DIALECTS)}")
        return value

    @property
    def dialect_list(self) -> list[str]:
        """The names in `dialects`, each once."""
        return _parts(self.dialects)

    @property
    def triton_urls(self) -> list[str]:
        """The addresses in `triton_url`, each once."""
        return _parts(self.triton_url)

    @property
    def model_list(self) -> tuple[NamedModel, ...]:
        """The models to serve, at least one."""
        source = self.triton_model if self.engine == "triton" else str(self.checkpoint or "")
        return parse_models(self.models) or (NamedModel(None, source),)

    def for_model(self, model: NamedModel) -> "Settings":
        """The settings of one model's engine."""
        if self.engine == "triton":
            return self.model_copy(update={"triton_model": model.source or model.name, "models": None})
        return self.model_copy(update={"checkpoint": Path(model.source) if model.source else None, "models": None})

    @property
    def runtime(self) -> RuntimeConfig:
        """What the engine in process loads, and how it runs."""
        return RuntimeConfig(
            checkpoint=self.checkpoint,
            device=self.device,
            precision=self.precision,
            cuda_graphs=self.cuda_graphs,
            compile=self.compile,
            threads=self.threads,
            warmup=warmup_sizes(self.warmup, self.device),
            max_batch_pixels=self.max_batch_pixels,
            feature_cache_bytes=self.feature_cache_bytes,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _parts(text: str | None) -> list[str]:
    """The comma separated parts, each once."""
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def parse_models(text: str | None) -> tuple[NamedModel, ...]:
    """The models in a setting `models`.

    Raises:
        ValueError: a name that cannot be.
    """
    parts = (part.partition("=") for part in _parts(text))
    return tuple(NamedModel(name.strip(), source.strip()) for name, _, source in parts)


def former_variables(names: Iterable[str]) -> dict[str, str]:
    """Of these environment variables those that have a new name, and that name."""
    renamed = {PREFIX + former.upper(): PREFIX + name.upper() for former, name in RENAMED.items()}
    return {name: renamed[name.upper()] for name in sorted(names) if name.upper() in renamed}


CLIENT_KEY = PREFIX + "API_KEY"
"""What commands read that ask a service; no setting of the service itself."""


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Environment variables with our prefix that no setting reads: most often a misspelling."""
    known = {PREFIX + name.upper() for name in (*Settings.model_fields, *RENAMED)} | {CLIENT_KEY}
    return sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)


def describe_invalid(error: ValidationError, given: Mapping[str, Any]) -> str:
    """One line per wrong setting, named as the user named it.

    Args:
        given: values that came from the command line; all others came from the environment.
    """
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else ""
        named = f"--{name.replace('_', '-')}" if name in given else PREFIX + name.upper()
        value = f" (it is {problem['input']!r})" if name else ""
        lines.append(f"{named + ': ' if name else ''}{problem['msg']}{value}")
    return "\n".join(lines)
