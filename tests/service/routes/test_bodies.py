"""How pictures and parameters may be written, byte for byte as clients write them."""

import base64
import json

import httpx
import pytest

from ..predictors import ThresholdPredictor
from ..serving import Running, http, serving
from .asking import BOX, PICTURE, base64_of, in_json, post, problem


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    """A form of parts (headers, content) with the boundary `x`."""
    return b"".join(b"--x\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n" for headers, content in parts) + end


def send(server: Running, content: bytes, path: str = "/segment", kind: str = "multipart/form-data; boundary=x") -> httpx.Response:
    return http.post(f"{server.url}{path}", content=content, headers={"content-type": kind})


def disposition(options: str, *more: str) -> str:
    return "\r\n".join([f"Content-Disposition: form-data; {options}", *more])


def found(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert tuple(response.json()["segments"][0]["bbox"]) == BOX


@pytest.mark.parametrize(
    "options",
    [
        "name=\"image\"; filename*=UTF-8''%e2%82%ac%20rates.png",
        "name=\"image\"; filename*=utf-8'en'a.png",
        "name=\"image\"; filename*=iso-8859-1''%a3.png",
        "name=\"image\"; filename*=no-such-charset''a.png",
        'name="image"; filename*0="a"; filename*1=".png"',
        "name=\"image\"; filename*0*=UTF-8''%e2; filename*1=.png",
        "filename*=UTF-8''a.png; name=image",
        "name=image;filename=a.png",
        'NAME="image"; FileName="a.png"',
        'name="image"; filename="a; name=\\"task\\".png"',
        'name="image"; filename="C:\\pictures\\a.png"',
        'name="image" ;  filename = "a.png"',
        'name="image"; filename="größe 図.png"',
        'name="image"; filename=""',
        'name="image"; filename=a b.png',
        'name="image"; filename="a%22b.png"; x-extra=1',
        "name*=UTF-8''image; filename=a.png",
    ],
)
def test_a_part_with_any_file_name_is_a_file(server: Running, options: str) -> None:
    found(send(server, form((disposition(options, "Content-Type: image/png"), PICTURE))))


def test_a_latin_1_file_name_is_a_file_name(server: Running) -> None:
    content = form((disposition('name="image"; filename="NAMED.png"'), PICTURE)).replace(b"NAMED", b"gr\xf6\xdfe")
    found(send(server, content))


def test_parts_in_base64(server: Running) -> None:
    headers = disposition('name="image"; filename="a.png"', "Content-Transfer-Encoding: BASE64")
    found(send(server, form((headers, base64.encodebytes(PICTURE)))))
    headers = headers.replace("BASE64", "quoted-printable")
    assert "send binary" in problem(send(server, form((headers, PICTURE))), 400, "malformed")


@pytest.mark.parametrize("kind", ["image/png", "image/x-png; a=b", "application/octet-stream", "binary/octet-stream"])
def test_a_content_type_makes_a_picture_too(server: Running, kind: str) -> None:
    found(send(server, form((disposition('name="image"', f"Content-Type: {kind}"), PICTURE))))
    problem(send(server, form((disposition('name="image"', "Content-Type: text/plain"), PICTURE))), 400, "malformed")


@pytest.mark.parametrize("size", [10, 3_000, 1_500_000])
def test_a_picture_without_a_file_name_gets_a_clear_error(server: Running, size: int) -> None:
    detail = problem(send(server, form((disposition('name="image"'), b"x" * size))), 400, "malformed")
    assert "no file name" in detail
    assert "filename=" in detail
    assert "curl -F" in detail or "-F image=@" in detail


def test_a_large_text_field_is_named(server: Running) -> None:
    detail = problem(send(server, form((disposition('name="photo"'), b"x" * 1_500_000))), 400, "malformed")
    assert "'photo'" in detail
    assert "'image'" in detail


def test_a_file_input_that_nobody_used_is_left_out(server: Running) -> None:
    unused = (disposition('name="image"; filename=""', "Content-Type: application/octet-stream"), b"")
    assert "no picture" in problem(send(server, form(unused)), 400, "malformed")
    chosen = (disposition('name="image"; filename=""'), PICTURE)
    found(send(server, form(unused, chosen)))
    found(send(server, form(chosen, unused)))
    assert "more than one" in problem(send(server, form(chosen, chosen)), 400, "malformed")
    planned = send(server, form(unused, (disposition('name="width"'), b"70"), (disposition('name="height"'), b"50")), "/segment/plan")
    assert planned.json()["image"]["width"] == 70


@pytest.mark.parametrize("missing", [1, 4, 5, 9, 30, len(PICTURE) // 2, len(PICTURE)])
def test_a_cut_form_says_that_it_is_cut(server: Running, missing: int) -> None:
    whole = form((disposition('name="image"; filename="a.png"'), PICTURE), end=b"--x--")
    assert "cut off" in problem(send(server, whole[:-missing]), 400, "malformed")
    found(send(server, whole))


def test_text_behind_the_last_boundary_is_ignored(server: Running) -> None:
    found(send(server, form((disposition('name="image"; filename="a.png"'), PICTURE)) + b"\r\nepilogue"))


@pytest.mark.parametrize(
    "preamble", [b"\r\n", b"This is a message of several parts.\r\n", b"--\r\nlines, one with --x in it\r\n\r\n", b"y" * 99_999 + b"\r\n"]
)
def test_text_before_the_first_boundary_is_ignored(server: Running, preamble: bytes) -> None:
    whole = preamble + form((disposition('name="image"; filename="a.png"'), PICTURE))
    found(send(server, whole))
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)] if len(whole) < 9_999 else [whole[:99_999], whole[99_999:]]
    found(http.post(f"{server.url}/segment", content=iter(pieces), headers={"content-type": "multipart/form-data; boundary=x"}))
    assert "no line" in problem(send(server, preamble + PICTURE), 400, "malformed")


def test_a_form_without_a_boundary_gets_a_clear_error(server: Running) -> None:
    content = form((disposition('name="image"; filename="a.png"'), PICTURE))
    assert "no boundary" in problem(send(server, content, kind="multipart/form-data"), 400, "malformed")
    found(send(server, content, kind='Multipart/Form-Data; charset=utf-8; Boundary="x"'))
    assert "'y'" in problem(send(server, content, kind="multipart/form-data; boundary=y"), 400, "malformed")


def test_a_cut_json_body_says_that_it_is_cut(server: Running) -> None:
    whole = json.dumps({"image": base64_of(PICTURE), "threshold": 0.5}).encode()
    for end in (len(whole) - 1, len(whole) - 12, 100, 5):
        assert "cut off" in problem(post(server, whole[:end], kind="application/json"), 400, "malformed")
    assert "cut off" not in problem(post(server, whole.replace(b":", b";"), kind="application/json"), 400, "malformed")


@pytest.mark.parametrize(
    "kind",
    [
        "binary/octet-stream",
        "application/octet-stream; charset=binary",
        "Application/Octet-Stream",
        "application/x-octet-stream",
        "application/binary",
        "application/force-download",
        "application/x-download",
        "octet/stream",
        "image/jpg",
        "image/x-png",
        "image/*",
        "*/*",
        "",
    ],
)
def test_every_content_type_for_bytes_is_accepted(server: Running, kind: str) -> None:
    found(post(server, kind=kind))


def test_curls_default_gets_a_hint(server: Running) -> None:
    detail = problem(post(server, kind="application/x-www-form-urlencoded"), 415, "unsupported-media")
    assert "-H 'content-type: image/jpeg'" in detail


def spelled(data: bytes) -> dict[str, str]:
    """Base64 of the same bytes, as clients write it."""
    standard, url_safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    assert standard != url_safe
    return {
        "standard": standard,
        "url safe": url_safe,
        "unpadded": standard.rstrip("="),
        "url safe and unpadded": url_safe.rstrip("="),
        "in lines": base64.encodebytes(data).decode(),
        "in lines of Windows": base64.encodebytes(data).decode().replace("\n", "\r\n"),
        "white space around it": f" \t{standard}\n",
        "data URL": f"data:image/png;base64,{standard}",
        "DATA URL with a charset": f"DATA:image/png;charset=utf-8;BASE64,{url_safe}",
        "data URL without a type": f" data:;base64,{standard}",
        "percent-encoded data URL": "data:image/png;base64," + standard.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
    }


@pytest.mark.parametrize("name", spelled(b"\xff\xff\xfe"))
@pytest.mark.parametrize("behind", [b"", b"\xff", b"\xff\xfe"])
def test_every_spelling_of_base64(server: Running, name: str, behind: bytes) -> None:
    found(in_json(server, image={"base64": spelled(PICTURE + behind)[name]}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AAAA*AAA", "'*' at position 4"),
        ("AAAAA", "cut off"),
        ("AAAA=AAA", "'='"),
        ("AA=", "1 '=' instead of 2"),
        ("AAAA====", "4 '=' instead of 0"),
        ("data:image/png,AAAA", ";base64,"),
        ("AAAAé", "'é'"),
        ("\uff21AAA", "position 0"),
        ("\ud800", "position 0"),
        ("AAAA\u0000", "position 4"),
    ],
)
def test_broken_base64_says_where(server: Running, text: str, words: str) -> None:
    body = json.dumps({"image": {"base64": text}}).encode()
    assert words in problem(post(server, body, kind="application/json"), 400, "malformed").encode("utf-8", "surrogatepass").decode(
        "utf-8", "replace"
    )


def test_nothing_in_base64_is_an_empty_picture(server: Running) -> None:
    for text in ("", " ", "data:image/png;base64,"):
        assert "empty" in problem(in_json(server, image={"base64": text}), 400, "malformed")


def test_a_misnamed_image_field_gets_the_right_name(server: Running) -> None:
    picture = base64_of(PICTURE)
    for given in ({"image": picture}, {"image": [picture]}, {"image": picture, "images": [picture]}):
        assert '"images": [' in problem(in_json(server, "/segment/batch", **given), 422, "invalid-parameter")
    for path in ("/segment", "/segment/plan"):
        for given in ({"images": [picture]}, {"images": picture}):
            detail = problem(in_json(server, path, **given), 422, "invalid-parameter")
            assert '"image": {' in detail
            assert "/segment/batch" in detail
        assert "/segment/batch" in problem(in_json(server, path, image=[picture]), 400, "malformed")
    assert '"images": [' in problem(in_json(server, "/segment/batch", images=picture), 400, "malformed")
    assert "'img'" in problem(in_json(server, img=picture), 422, "invalid-parameter")
    assert "'pictures'" in problem(in_json(server, "/segment/batch", pictures=[picture]), 422, "invalid-parameter")
    for path in ("/segment", "/segment/batch"):
        assert "'image'" in problem(http.post(f"{server.url}{path}", files={"images": ("a", PICTURE)}), 422, "invalid-parameter")


NAMES = ("task", "threshold", "mask_threshold", "overlap_threshold", "labels", "max_segments", "deadline_ms")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_empty_is_left_out_everywhere(server: Running, name: str) -> None:
    found(in_json(server, image=base64_of(PICTURE), **{name: None}))
    found(in_json(server, image=base64_of(PICTURE), **{name: ""}))
    found(http.post(f"{server.url}/segment", files={"image": ("a.png", PICTURE)}, data={name: ""}))
    found(http.post(f"{server.url}/segment?{name}=&{name}", content=PICTURE, headers={"content-type": "image/png"}))
    assert in_json(server, "/segment/plan", image=base64_of(PICTURE), width=None, height="", task=None).status_code == 200
    assert http.post(f"{server.url}/segment/plan?width=&height=&task=", content=PICTURE).status_code == 200


def test_null_is_no_picture(server: Running) -> None:
    assert "no picture" in problem(in_json(server, image=None), 400, "malformed")
    assert "no picture" in problem(in_json(server, "/segment/batch", images=None), 400, "malformed")


def test_query_parameters_of_gateways_are_ignored_when_named() -> None:
    with serving(ThresholdPredictor(), ignored_query="utm_*, gclid,trace?,task") as server:
        found(post(server, utm_source="x", utm_medium="y", gclid="1", trace1="a"))
        found(http.post(f"{server.url}/segment?gclid=1&gclid=2", content=PICTURE))
        assert "unknown parameter 'gclidx'" in problem(post(server, gclidx="1"), 422, "invalid-parameter")
        assert "unknown parameter 'UTM_source'" in problem(post(server, UTM_source="1"), 422, "invalid-parameter")
        # The service's own are never ignored.
        problem(post(server, task="everything"), 422, "invalid-parameter")
        assert http.post(f"{server.url}/segment/plan?width=5&height=5&utm_x=1").is_success
        # In a body they come from the client, not from a gateway.
        problem(in_json(server, image=base64_of(PICTURE), gclid="1"), 422, "invalid-parameter")
    with serving(ThresholdPredictor()) as server:
        problem(post(server, utm_source="x"), 422, "invalid-parameter")
