"""The layer that asks for a key. Pure ASGI; it judges the head of a request, before any of its body is read."""

from collections.abc import Mapping
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from proscale_service.access.keyring import Caller, Keyring
from proscale_service.access.keys import Right
from proscale_service.access.quota import UNLIMITED, Quota
from proscale_service.context import context_of, send_error
from proscale_service.errors import ErrorForm, Forbidden, ServiceError, Unauthorized, form_at
from proscale_service.request_line import route_path
from proscale_service.requests import SegmentParameters

P = TypeVar("P", bound=SegmentParameters)

OPEN = ("/health", "/metrics", "/docs", "/openapi.json", "/page")
"""For orchestrators, Prometheus and browsers, which have no keys, and that tell nothing of models and pictures."""
ADMIN = "/admin"
_RIGHTS: dict[str, Right] = {"/segment": "segment", "/segment/batch": "segment", "/segment/plan": "plan", "/models": "models"}
# The same for a key that is missing and one that is unknown: nobody learns which keys exist.
_NO_KEY = "a valid API key is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"


class Guard:
    """Lets requests with a valid key pass, within its rights and its quota of requests; the others get 401, 403 or 429."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, forms: Mapping[str, ErrorForm] | None = None) -> None:
        """Args: forms: of the dialects' errors, by their path."""
        self._app, self._keyring, self._forms = app, keyring, forms or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" else "/"
        if path != "/" and not any(path == each or path.startswith(f"{each}/") for each in OPEN):
            try:
                caller = self._admit(scope, path)
            except ServiceError as error:
                await send_error(scope, send, error, form_at(self._forms, path))
                return
            scope["state"]["caller"] = caller
            context_of(scope).key, context_of(scope).key_class = caller.key.id, caller.key.class_
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, path: str) -> Caller:
        presented = presented_key(Headers(scope=scope))
        caller = None if presented is None else self._keyring.find(presented)
        if caller is None:
            raise Unauthorized(_NO_KEY)
        right = "admin" if path == ADMIN or path.startswith(f"{ADMIN}/") else _RIGHTS.get(path)
        if right is not None and right not in caller.key.rights:
            raise Forbidden("this API key does not have the right to do this")
        caller.quota.take_request()
        return caller


def presented_key(headers: Headers) -> str | None:
    """The key that a request carries; None when it carries none, or several that differ."""
    found = set(headers.getlist("x-api-key"))
    for value in headers.getlist("authorization"):
        scheme, _, credentials = value.partition(" ")
        found.add(credentials if scheme.lower() == "bearer" else "")
    keys = {value.strip() for value in found}
    return keys.pop() or None if len(keys) == 1 else None


def check_right(scope: Scope, right: Right) -> None:
    """Raise Forbidden when the caller of a request has a key without this right."""
    caller: Caller | None = scope["state"].get("caller")
    if caller is not None and right not in caller.key.rights:
        raise Forbidden("this API key does not have the right to do this")


def with_priority(scope: Scope, parameters: P) -> P:
    """Parameters with a priority that the caller's key may ask with: what a request leaves open is the key's, where `normal` is not.

    Raises:
        Forbidden: the request names another one.
    """
    caller: Caller | None = scope["state"].get("caller")
    if caller is None or parameters.priority in caller.key.priorities:
        return parameters
    if "priority" in parameters.model_fields_set:
        raise Forbidden(f"priority: this API key may only use {' or '.join(caller.key.priorities)}")
    return parameters.model_copy(update={"priority": caller.key.priorities[0]})


def quota_of(scope: Scope) -> Quota:
    """What the caller of a request may use."""
    caller: Caller | None = scope["state"].get("caller")
    return UNLIMITED if caller is None else caller.quota
