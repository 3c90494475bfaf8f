"""What of a request line the routes need not know: a proxy's path prefix, and that HEAD is GET without a body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """Takes requests with the proxy's prefix and without it: some proxies cut it off, some do not, and probes never know it.

    Inside, the path always has the prefix and `root_path` says so, as ASGI wants it; `route_path` is what lies behind it.
    """

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        """Args: root_path: such as `/segmentation`, or empty."""
        self._app, self._root = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root and scope["type"] == "http":
            path = scope["path"]
            if path == self._root:
                path += "/"
            elif not path.startswith(f"{self._root}/"):
                path = self._root + path
            scope = {**scope, "path": path, "root_path": self._root}
        await self._app(scope, receive, send)


class HeadAsGet:
    """Answers HEAD with the headers that GET would get, its length included, and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


def route_path(scope: Scope) -> str:
    """The path of a request behind the proxy's prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
