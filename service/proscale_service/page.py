"""The page at `/`: static files, a strict Content-Security-Policy, nothing from anywhere else."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static" / "page"
PATH = "/page"
_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Small files that change with the version: a browser asks, and the answer is mostly that nothing changed.
    "cache-control": "no-cache",
}


def serve_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`."""
    app.mount(PATH, _WithHeaders(StaticFiles(directory=FOLDER)), name="page")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        # Its links are relative, so that it works behind any prefix; they need the slash at the end.
        if not request.scope.get("raw_path", b"/").endswith(b"/"):
            return RedirectResponse(f"{request.scope.get('root_path', '')}/")
        return FileResponse(FOLDER / "index.html", headers=HEADERS)


def redirect_to_docs(app: FastAPI) -> None:
    """What `/` does without the page."""

    @app.get("/", include_in_schema=False)
    async def root(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


class _WithHeaders:
    """Adds HEADERS to every answer, a worker's script among them: it has a policy of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)
