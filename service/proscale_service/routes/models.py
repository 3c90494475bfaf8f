"""GET /models: what is served, with its labels."""

from fastapi import APIRouter

from proscale_service.rendering import models_response
from proscale_service.responses import ModelsResponse
from proscale_service.routes.dependencies import GetLifecycle
from proscale_service.routes.openapi import problems

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models and their labels", responses=problems(503))
async def models(lifecycle: GetLifecycle) -> ModelsResponse:
    """The served models and the labels that `labels` may name."""
    return models_response([lifecycle.engine().info])
