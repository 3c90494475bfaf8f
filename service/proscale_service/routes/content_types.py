"""Which content types stand for a picture's bytes."""

BYTES = frozenset(
    {
        "",  # none at all
        "application/octet-stream",
        "application/octetstream",
        "application/x-octet-stream",
        "application/binary",
        "application/x-binary",
        "application/download",
        "application/x-download",
        "application/force-download",
        "application/unknown",
        "application/x-unknown",
        "binary/octet-stream",  # Amazon S3's
        "octet/stream",
        "unknown/unknown",
        "*/*",
    }
)
"""Content types that say no more than "bytes"; storage and older clients have many names for it."""


def is_bytes(kind: str) -> bool:
    """Whether a content type, in lower case and without parameters, says "a picture", or no more than "bytes"."""
    return kind.startswith("image/") or kind in BYTES
