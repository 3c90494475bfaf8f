"""Which IP addresses are public, by IANA's registries of special-purpose addresses.

A list of our own, for `ipaddress.is_global` differs between versions of Python, and lets multicast and addresses inside addresses pass.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; some clouds' metadata
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "168.63.129.16/32",  # a cloud's own server for its machines
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# ISATAP: the lower half is 0000:5efe or 0200:5efe, then an IPv4 address.
_ISATAP = {0x00005EFE, 0x02005EFE}


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet. One that holds an IPv4 address (mapped, NAT64) is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _MAPPED or address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return False
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


def is_allowed(text: str, also: Sequence[Network] = ()) -> bool:
    """Whether an address may be connected to.

    Args:
        text: as a resolver gives it.
        also: networks that are allowed without being public.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address in _MAPPED:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return is_public(address) or any(address in network for network in also if network.version == address.version)
