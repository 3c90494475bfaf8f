"""What the first bytes of a JPEG lack when its header is not among them: metadata of any length may stand in front of the size."""

_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


def more_of_header(data: bytes) -> str:
    """How many bytes are needed at least, in words for the caller; empty when the data is no JPEG or nothing is known to lack."""
    if not data.startswith(b"\xff\xd8"):
        return ""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return ""
        marker = data[position + 1]
        if marker in _SIZES or marker == _START_OF_SCAN:
            break
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    needed = max(position + 20, len(data) + 1)
    return f"the {len(data)} bytes that came end in the metadata before the size: send at least {needed} bytes, or the whole file"
