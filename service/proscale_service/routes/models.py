"""GET /models: what is served, with its labels."""

from fastapi import APIRouter

from proscale_service.rendering import models_response
from proscale_service.responses import ModelsResponse
from proscale_service.routes.dependencies import GetPipeline
from proscale_service.routes.openapi import problems

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models and their labels", responses=problems(503))
async def models(pipeline: GetPipeline) -> ModelsResponse:
    """The models that can compute now, with the labels for the parameter `labels`. The first one is the default."""
    pipeline.models.any()
    return models_response(pipeline.models)
