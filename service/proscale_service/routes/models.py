"""GET /models: what is served, with its labels."""

from fastapi import APIRouter

from proscale_service.rendering import models_response
from proscale_service.responses import ModelsResponse
from proscale_service.routes.dependencies import GetPipeline
from proscale_service.routes.openapi import problems

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models and their labels", responses=problems(503))
async def models(pipeline: GetPipeline) -> ModelsResponse:
    """The models that can compute now, the one for requests without `model` first, and the labels that `labels` may name."""
    pipeline.models.any()
    return models_response(pipeline.models)
