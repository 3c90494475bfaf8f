import ipaddress
import random

import pytest

from proscale_service.picture_urls.addresses import is_allowed, is_public

PUBLIC = ["8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0", "169.253.1.1",
          "223.255.255.255", "2606:4700::1", "2a00:1450::8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]  # fmt: skip
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.170.2",
    "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.0.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "192.88.99.1", "203.0.113.7",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1", "2001:db8::1", "3fff::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "5f00::1", "4000::1",
    "2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_recognised(address: str) -> None:
    assert is_allowed(address)


@pytest.mark.parametrize("address", [*NOT_PUBLIC, "localhost", "", "127.1", "0x7f000001", "2130706433"])
def test_private_addresses_are_recognised(address: str) -> None:
    assert not is_allowed(address)


def test_python_agrees_on_what_is_private() -> None:
    """Where Python says private, reserved or local, so do we, for ten thousand addresses of either kind."""
    rng = random.Random(5)
    for _ in range(10_000):
        for address in (ipaddress.IPv4Address(rng.getrandbits(32)), ipaddress.IPv6Address(rng.getrandbits(128))):
            if is_public(address):
                assert address.is_global
                assert not address.is_multicast


def test_named_networks_are_allowed() -> None:
    own = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd12::/16"))
    assert is_allowed("10.1.2.3", own)
    assert is_allowed("::ffff:10.1.2.3", own)
    assert is_allowed("fd12::5", own)
    assert is_allowed("8.8.8.8", own)
    assert not is_allowed("10.2.0.1", own)
    assert not is_allowed("fd13::1", own)
