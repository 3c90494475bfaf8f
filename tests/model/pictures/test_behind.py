"""Pictures behind a picture: what the first one announces is let pass, what nothing announces is refused."""

import struct

import numpy as np
import pytest
from tests.service.pictures import encoded, gradient

from proscale.errors import UndecodablePictureError
from proscale.pictures import read_picture

LIMIT = 100_000
PRIMARY, GAIN_MAP = encoded(gradient(60, 80), "JPEG"), encoded(gradient(), "JPEG")
XMP = b"http://ns.adobe.com/xap/1.0/\0"
GAIN_MAP_XMP = b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'


def with_segment(marker: int, content: bytes, data: bytes = PRIMARY) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def container(namespace: bytes, length: int | None) -> bytes:
    item = b"" if length is None else b' Item:Length="%d"' % length
    return (
        XMP + b'<rdf:Description xmlns:Container="' + namespace + b'"><Container:Directory><rdf:Seq>'
        b'<Container:Item Item:Semantic="Primary"/><Container:Item Item:Semantic="Depth"' + item + b"/></rdf:Seq></Container:Directory>"
    )


def with_index(second: bytes, order: str = "<", count: int = 2) -> bytes:
    """A JPEG with a multi-picture index (MPF), and the second picture behind it. Args: count: pictures that the index names."""

    def block(primary: int) -> bytes:
        number, size = struct.pack(order + "I", count), 16 * count
        entries = [(0xB000, 7, 4, b"0100"), (0xB001, 4, 1, number), (0xB002, 7, size, struct.pack(order + "I", 50))]
        table = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
        offset = max(0, primary - 2 - 4 - 4)  # counted from the block's own start
        pictures = struct.pack(order + "IIIHH", 0x030000, primary, 0, 0, 0) + struct.pack(order + "IIIHH", 0, len(second), offset, 0, 0)
        return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 3) + table + bytes(4) + pictures

    size = len(with_segment(0xE2, b"MPF\0" + block(0)))
    return with_segment(0xE2, b"MPF\0" + block(size)) + second


ANNOUNCED = {
    "gain map by MPF": with_index(GAIN_MAP),
    "gain map by MPF, big endian": with_index(GAIN_MAP, ">"),
    "gain map by hdrgm": with_segment(0xE1, XMP + GAIN_MAP_XMP) + GAIN_MAP,
    "gain map by ISO 21496-1": with_segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0") + GAIN_MAP,
    "both, as Ultra HDR has them": with_segment(0xE1, XMP + GAIN_MAP_XMP, with_index(GAIN_MAP)),
    "depth map by a container": with_segment(0xE1, container(b"http://ns.google.com/photos/1.0/container/", len(GAIN_MAP))) + GAIN_MAP,
    "depth map by a device": with_segment(0xE1, container(b"http://ns.google.com/photos/dd/1.0/container/", None)) + GAIN_MAP,
    "depth map as PNG": with_segment(0xE1, container(b"http://ns.google.com/photos/1.0/container/", None)) + encoded(gradient()),
}


@pytest.mark.parametrize("data", ANNOUNCED.values(), ids=ANNOUNCED)
def test_announced_further_pictures_are_ignored(data: bytes) -> None:
    picture = read_picture(data, LIMIT)
    np.testing.assert_array_equal(picture.rgb, read_picture(PRIMARY, LIMIT).rgb)
    assert picture.header.format == "JPEG"


@pytest.mark.parametrize("name", ["gain map by MPF", "gain map by MPF, big endian", "depth map by a container"])
def test_an_unannounced_further_picture_is_refused(name: str) -> None:
    with pytest.raises(UndecodablePictureError, match="more pictures than it announces"):
        read_picture(ANNOUNCED[name] + encoded(gradient(), "JPEG"), LIMIT)


@pytest.mark.parametrize(
    "segment",
    [
        b"",
        XMP + b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="A camera"/>',
        b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0",
        b"ICC_PROFILE\0\1\1",
    ],
)
def test_other_metadata_announces_nothing(segment: bytes) -> None:
    data = with_segment(0xE1, segment) if segment else PRIMARY
    assert read_picture(data, LIMIT).rgb.shape == (60, 80, 3)
    with pytest.raises(UndecodablePictureError, match="two pictures"):
        read_picture(data + GAIN_MAP, LIMIT)


def test_an_index_of_the_first_picture_alone_announces_nothing() -> None:
    alone = with_index(b"", count=1)
    assert read_picture(alone, LIMIT).rgb.shape == (60, 80, 3)
    with pytest.raises(UndecodablePictureError, match="two pictures"):
        read_picture(alone + PRIMARY, LIMIT)
    with_gain_map = with_segment(0xE1, XMP + GAIN_MAP_XMP, alone) + GAIN_MAP
    assert read_picture(with_gain_map, LIMIT).rgb.shape == (60, 80, 3)


def test_a_broken_index_is_ignored() -> None:
    for block in (b"MPF\0", b"MPF\0II*\0\xff\xff\xff\xff", b"MPF\0MM\0*\0\0\0\x08\0\x03" + bytes(20), b"MPF\0XX"):
        np.testing.assert_array_equal(read_picture(with_segment(0xE2, block), LIMIT).rgb, read_picture(PRIMARY, LIMIT).rgb)
