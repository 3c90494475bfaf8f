"""Loading, replacing and unloading models while the service runs; for operators, not for users.

There is nothing at these paths but on the admin port (`PROSCALE_ADMIN_PORT`), which only this machine reaches, or for an API key with the
right `admin`. Where keys are asked for, the admin port asks for such a key, too.
"""

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from proscale_service.access.guard import ADMIN
from proscale_service.errors import InvalidParameter
from proscale_service.models import Model, Models
from proscale_service.routes.dependencies import GetPipeline
from proscale_service.settings import NamedModel


class Source(BaseModel):
    """What to load."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(
        max_length=4096, description="A model folder, empty: the model of the package; in front of Triton a model's name there."
    )


async def only_admins(request: Request) -> None:
    """Raise 404, as for any path that does not exist, unless the request came to the admin port or with an admin's key."""
    port: int | None = getattr(request.app.state, "admin_port", None)
    server = request.scope.get("server") or ("", None)
    if "caller" not in request.scope["state"] and (port is None or server[1] != port):
        raise HTTPException(404)


router = APIRouter(prefix=f"{ADMIN}/models", include_in_schema=False, dependencies=[Depends(only_admins)])


@router.get("")
async def list_models(pipeline: GetPipeline) -> dict[str, object]:
    """Every model, whether it can compute or not."""
    models = pipeline.models
    return {"models": [_entry(models, model) for model in models], "loading": models.loading}


@router.put("/{name}")
async def load_model(name: str, body: Source, pipeline: GetPipeline) -> dict[str, object]:
    """Load a model under this name, or replace the one of this name. Answers when it can compute; goes on when nobody waits."""
    try:
        asked = NamedModel(name, body.source)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error
    return _entry(pipeline.models, await pipeline.models.load(asked))


@router.delete("/{name}", status_code=204)
async def unload_model(name: str, pipeline: GetPipeline) -> Response:
    """Take a model away; what it was given is still computed."""
    pipeline.models.unload(name)
    return Response(status_code=204)


def _entry(models: Models, model: Model) -> dict[str, object]:
    return {
        "name": model.label,
        "source": model.asked.source,
        "state": models.state(model),
        "waiting": model.engine.depth,
        "users": model.users,
    }
