"""What routes are given by the application. Coroutines, because FastAPI runs plain functions on threads of its own."""

from typing import Annotated

from fastapi import Depends, Request

from proscale_service.lifecycle import Lifecycle
from proscale_service.pipeline import Pipeline


async def _pipeline(request: Request) -> Pipeline:
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


async def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


GetPipeline = Annotated[Pipeline, Depends(_pipeline)]
GetLifecycle = Annotated[Lifecycle, Depends(_lifecycle)]
