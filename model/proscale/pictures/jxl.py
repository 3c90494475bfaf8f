"""The size in a JPEG XL's header: its plugin for Pillow decodes when it opens, so the size must be known before (ISO 18181-1, D.2)."""

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels as stored; None where the header cannot be read."""
    start = _codestream(data)
    if start is None or len(data) < start + 12:
        return None
    bits = int.from_bytes(data[start + 2 : start + 18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return height, side()
    numerator, denominator = _RATIOS[ratio - 1]
    return height, height * numerator // denominator


def _codestream(data: bytes) -> int | None:
    """Offset of the codestream, bare or in a container's `jxlc` or first `jxlp` box."""
    if data[:2] == b"\xff\x0a":
        return 0
    position = 0
    while position + 16 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = position + head + (4 if kind == b"jxlp" else 0)
            return start if data[start : start + 2] == b"\xff\x0a" else None
        if length < head:  # 0: to the end of the file
            return None
        position += length
    return None
