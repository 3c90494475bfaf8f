"""The Python client: pictures in, masks out, the service's own errors raised. It needs neither torch nor the gateway's packages.

    from proscale_service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        answer = client.segment("cells.png", task="instance", threshold=0.5)
        for segment in answer.segments:
            print(segment.label, segment.score, segment.mask.sum())

        for outcome in client.segment_many(Path("photos").glob("*.jpg"), progress=True):
            print(outcome.picture, outcome.error or len(outcome.answer.segments))

`AsyncClient` is the same for asyncio. Both keep connections open; one client may be shared by all threads, or by all tasks of a loop.
"""

from proscale_service.client.answers import Answer, Files, Segment
from proscale_service.client.asking import FileOptions, SegmentOptions
from proscale_service.client.asynchronous import AsyncClient
from proscale_service.client.many import Outcome
from proscale_service.client.pictures import FetchedByServer, Picture, picture_bytes
from proscale_service.client.retries import NO_RETRIES, Retries
from proscale_service.client.sync import Client

__all__ = [
    "NO_RETRIES",
    "Answer",
    "AsyncClient",
    "Client",
    "FetchedByServer",
    "FileOptions",
    "Files",
    "Outcome",
    "Picture",
    "Retries",
    "Segment",
    "SegmentOptions",
    "picture_bytes",
]
