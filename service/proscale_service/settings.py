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
            raise ValueError(f"{self.name[:80]!r} is no name of a model: up to 64 letters, digits, dots, dashes and underscores")

    @property
    def folder(self) -> Path | None:
        """The model folder; None: the one of the package."""
        return Path(self.source) if self.source else None


class Settings(BaseSettings):
    """Everything that can be set. Values given to the constructor (the command line's) win over the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, protected_namespaces=())

    host: str = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0` for all of them.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")

    keys_file: Path | None = Field(default=None, description="File of API keys (`proscale keys` makes it); unset: nobody is asked for one.")
    public: bool = Field(
        default=False, description="Without keys: let everybody ask who reaches the address. Needed to listen beyond this machine."
    )
    tls_cert_file: Path | None = Field(default=None, description="Certificate with its chain (PEM), for HTTPS; read anew when it changes.")
    tls_key_file: Path | None = Field(default=None, description="The certificate's private key (PEM).")
    keep_alive_s: float = Field(
        default=75.0, gt=0, le=86_400, description="Seconds an idle connection stays open; let it be longer than the proxy's in front."
    )
    root_path: str | None = Field(
        default=None, description="Path prefix, such as `/segmentation`, under which a proxy publishes the service."
    )
    cors_origins: str | None = Field(
        default=None,
        description="Origins whose web pages may ask, comma separated, such as `https://app.example` or `https://*.example`; `*`: all.",
    )
    ignored_query: str | None = Field(
        default=None, description="Query parameters that gateways add and that are ignored, comma separated, such as `utm_*,gclid`."
    )

    engine: Literal["in_process", "triton"] = Field(
        default="in_process", description="What computes: `in_process` the server's own process, `triton` Triton servers."
    )
    triton_url: str = Field(default="127.0.0.1:8001", description="gRPC addresses HOST:PORT of Triton servers, comma separated.")
    triton_model: str = Field(default="proscale", min_length=1, description="The model's name on the Triton servers.")
    triton_check_s: float = Field(default=3.0, gt=0, le=60, description="Seconds without an answer until a Triton server is asked for one.")
    checkpoint: Path | None = Field(default=None, description=DESCRIPTIONS["checkpoint"])
    models: str | None = Field(
        default=None,
        description="Several models: `NAME=FOLDER`, comma separated; in front of Triton `NAME=MODEL` or `NAME`. The first is the default.",
    )
    device: str = Field(default="cpu", description=DESCRIPTIONS["device"])
    precision: Precision | None = Field(default=None, description=DESCRIPTIONS["precision"])
    cuda_graphs: bool = Field(default=False, description=DESCRIPTIONS["cuda_graphs"])
    compile: bool = Field(default=False, description=DESCRIPTIONS["compile"])
    threads: int | None = Field(default=None, ge=1, description=DESCRIPTIONS["threads"])
    warmup: str | None = Field(default=None, description=DESCRIPTIONS["warmup"])
    max_batch_pixels: int = Field(default=MAX_BATCH_PIXELS, ge=1, description=DESCRIPTIONS["max_batch_pixels"])
    feature_cache_bytes: int = Field(default=0, ge=0, description=DESCRIPTIONS["feature_cache_bytes"])
    decode_threads: int = Field(default=2, ge=1, le=64, description="Threads that decode pictures and write JSON.")

    page: bool = Field(default=True, description="Whether `/` is a page to try the service with; otherwise it leads to the API page.")
    dialects: str = Field(
        default="huggingface,open_inference,roboflow",
        description="Other tools' contracts that are spoken too, comma separated; empty: none.",
    )
    max_answer_bytes: int = Field(
        default=100 * MIB, ge=1, description="Most bytes of an answer in other formats than JSON, before it is packed; more is 413."
    )
    max_upload_bytes: int = Field(default=20 * MIB, ge=1, description="Largest request body in bytes; more is 413.")
    max_buffered_bytes: int = Field(default=256 * MIB, ge=1, description="Bytes of all request bodies held at once; beyond it 429.")
    upload_timeout_s: float = Field(default=30.0, gt=0, description="Seconds in which a request body must arrive; slower is 408.")
    max_pixels: int = Field(default=40_000_000, ge=1, description="Most pixels of one picture, by its header; more is 413.")
    max_concurrent_pictures: int = Field(
        default=64, ge=1, description="Pictures in the service at once, from upload to answer; beyond it 429."
    )
    max_queue_pixels: int = Field(default=160_000_000, ge=1, description="Pixels of all pictures that are decoded at once; beyond it 429.")
    max_items: int = Field(default=16, ge=1, description="Most pictures in one request to /segment/batch.")

    picture_urls: Literal["off", "https", "http"] = Field(
        default="off", description="Fetch pictures that requests name by URL: `off`, `https` alone, or `http` too."
    )
    picture_url_hosts: str | None = Field(
        default=None,
        description="Hosts to fetch from, comma separated, such as `img.example,*.cdn.example:8443`; unset: all public ones.",
    )
    picture_url_networks: str | None = Field(
        default=None, description="Networks that pictures may be fetched from although they are not public, such as `10.1.0.0/16`."
    )
    picture_url_timeout_s: float = Field(default=10.0, gt=0, description="Seconds in which a picture must come from its URL.")

    max_batch_wait_ms: float = Field(
        default=2.0, ge=0, le=1000, description="How long a picture waits for batch mates that are being decoded."
    )
    deadline_ms: int = Field(default=60_000, ge=1, description="Time a request may take when it names no `deadline_ms`; later is 504.")

    drain_delay_s: float = Field(
        default=0.0, ge=0, description="Seconds of not being ready, yet serving, before the server stops to listen."
    )
    drain_s: float = Field(default=30.0, ge=0, description="Seconds that accepted work gets to finish at shutdown.")

    admin_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port on 127.0.0.1 for loading and unloading models; unset: none."
    )
    otlp_endpoint: str | None = Field(
        default=None, description="Where spans go, such as `http://collector:4318` (OTLP over HTTP); unset: none are made."
    )
    trace_share: float = Field(default=1.0, ge=0, le=1, description="Share of the traces that begin here which is kept.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level that is logged.")
    log_format: Literal["plain", "json"] = Field(
        default="plain", description="`plain` lines for people or `json` lines for machines, and nothing else on standard error."
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
                raise ValueError(f"{address!r} is no address such as triton:8001 (Triton's gRPC port)")
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
            raise ValueError(f"the name {twice} stands for two models")
        return value

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str | None) -> str | None:
        value = (value or "").rstrip("/")
        if value and not _ROOT_PATH.fullmatch(value):
            raise ValueError("must be a path such as /segmentation: it begins with / and has no white space, query or fragment")
        if value in _OWN_PATHS:
            raise ValueError("is a path of the service's own; choose another prefix")
        return value or None

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str | None) -> str | None:
        for origin in _parts(value):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin such as https://app.example or http://localhost:3000 (scheme, host, port, no path)"
                )
        return value

    @field_validator("picture_url_networks")
    @classmethod
    def _networks(cls, value: str | None) -> str | None:
        for part in _parts(value):
            try:
                ipaddress.ip_network(part)
            except ValueError as error:
                raise ValueError(f"{part!r} is no network such as 10.1.0.0/16 ({error})") from error
        return value

    @field_validator("picture_url_hosts")
    @classmethod
    def _hosts(cls, value: str | None) -> str | None:
        for part in _parts(value):
            if not _HOST.fullmatch(part):
                raise ValueError(f"{part!r} is no host such as images.example, *.cdn.example:8443 or images.example:* (no scheme, no path)")
        return value

    @model_validator(mode="after")
    def _one_picture_fits(self) -> Self:
        if self.max_queue_pixels < self.max_pixels:
            raise ValueError("max_queue_pixels must be at least max_pixels, or the largest pictures could never be taken")
        if self.max_buffered_bytes < self.max_upload_bytes:
            raise ValueError("max_buffered_bytes must be at least max_upload_bytes, or the largest bodies could never be taken")
        return self

    @model_validator(mode="after")
    def _strangers_are_meant(self) -> Self:
        if self.keys_file is None and not self.public and not is_loopback(self.host):
            raise ValueError(
                f"others can reach the address {self.host}, and no API keys are asked for: name a file of keys with {PREFIX}KEYS_FILE "
                f"(`proscale keys` makes it), or let everybody ask with {PREFIX}PUBLIC=true"
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
                raise ValueError(f"{PREFIX}MODELS: {bare[0]!r} names no folder; write NAME=FOLDER (NAME= is the model of the package)")
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
            raise ValueError(f"no dialect {', '.join(map(repr, unknown))}; known are {', '.join(DIALECTS)}")
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
