import pytest
from hypothesis import given
from hypothesis import strategies as st

from proscale_service.errors import UnfetchablePicture
from proscale_service.picture_urls.rules import UrlRules, checked_url

ANY = UrlRules(schemes=("https", "http"))

REFUSED = [
    "gopher://example.org:6379/_SET%20a%20b",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.org/a.png",
    "dict://example.org:11211/stat",
    "ldap://example.org/",
    "data:image/png;base64,AAAA",
    "jar:http://example.org!/",
    "unix:///var/run/docker.sock",
    "//example.org/a.png",
    "example.org/a.png",
    "/a.png",
    "",
    "https:example.org/a.png",
    "https:///a.png",
    "https://",
    "https://user@example.org/",
    "https://user:password@example.org/",
    "https://:@example.org/",
    "https://example.org@127.0.0.1/",
    "https://exam ple.org/",
    "https://example.org\\@127.0.0.1/",
    "https:\\\\example.org\\a.png",
    "https://example.org/a\r\nHost: internal/",
    "https://example.org\r\n\r\nGET / HTTP/1.1/",
    "https://exa%0d%0ample.org/",
    "https://example.org%00.internal/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.0.0.1./",
    "https://127.0.0.256/",
    "https://1.2.3.4.5/",
    "https://0x/",
    "https://①②⑦.⓪.⓪.①/",
    "https://[::1/",
    "https://[::1]x/",
    "https://[fe80::1%25eth0]/",
    "https://[::ffff:127.0.0.1.]/",
    "https://example.org:0/",
    "https://example.org:99999/",
    "https://example.org:x/",
    "https://example.org:22/",
    "https://example.org:80/",
    "https://-example.org/",
    "https://example..org/",
    "https://.example.org/",
    "https://example.org/" + "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_bad_urls_are_refused_before_any_connection(url: str) -> None:
    with pytest.raises(UnfetchablePicture) as caught:
        checked_url(url, ANY)
    assert "password" not in url or "password@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.org/a.png", "example.org"),
        ("HTTPS://EXAMPLE.ORG./a%20b.png?x=1#y", "example.org."),
        ("https://example.org:443/", "example.org"),
        ("http://example.org:80/", "example.org"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://127。0。0。1/", "127.0.0.1"),  # an ordinary address after all, judged like any other
        ("https://8.8.8.8/a.png", "8.8.8.8"),
        ("https://[2606:4700::1]/a.png", "2606:4700::1"),
        ("https://my_bucket.s3.example/", "my_bucket.s3.example"),
        ("https://example.org/größe.png", "example.org"),
        ("  https://example.org/  ", "example.org"),
    ],
)
def test_good_urls_are_accepted(url: str, host: str) -> None:
    assert checked_url(url, ANY).raw_host.decode() == host


def test_only_https_unless_allowed() -> None:
    with pytest.raises(UnfetchablePicture, match="by https only"):
        checked_url("http://example.org/", UrlRules())


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://images.example.org/", True),
        ("https://IMAGES.example.org./", True),
        ("https://images.example.org:8443/", False),
        ("https://a.cdn.example:8443/", True),
        ("https://a.b.cdn.example:8443/", True),
        ("https://cdn.example:8443/", False),
        ("https://a.cdn.example/", False),
        ("https://any.example:1234/", True),
        ("https://[2606:4700::1]:444/", True),
        ("https://evil.example/", False),
        ("https://images.example.org.evil.example/", False),
        ("https://images.example.org:443/", True),
    ],
)
def test_only_listed_hosts_are_allowed(url: str, taken: bool) -> None:
    rules = UrlRules(hosts=("Images.example.org", "*.cdn.example:8443", "any.example:*", "[2606:4700::1]:444"))
    if taken:
        checked_url(url, rules)
    else:
        with pytest.raises(UnfetchablePicture, match="is not allowed here"):
            checked_url(url, rules)


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "https://example.org"]))
def test_no_text_raises_another_error(text: str, prefix: str) -> None:
    try:
        url = checked_url(prefix + text, ANY)
    except UnfetchablePicture:
        return
    assert url.scheme in ("http", "https")
    assert url.host
