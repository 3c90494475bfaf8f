"""GET /models: what is served, with its labels."""

from fastapi import APIRouter

from proscale_service.routes.openapi import problems
from proscale_service.routes.segment import GetPipeline
from proscale_service.schemas import ModelsResponse, models_response

router = APIRouter(tags=["models"])


@router.get("/models", summary="Models and their labels", responses=problems(503))
async def models(pipeline: GetPipeline) -> ModelsResponse:
    """The served models and the labels that `labels` may name."""
    return models_response([pipeline.engine().info])
