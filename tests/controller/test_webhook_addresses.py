"""Which addresses a webhook may reach, and what is refused when a job is submitted."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.controller.webhook_addresses import check_webhook_url, may_be_called
from gen_service.errors import InvalidRequest
from gen_service.service_settings import WebhookSettings

NOT_PUBLIC_V4 = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9"),
    *("169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
]
PUBLIC_V4 = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1"]
NOT_PUBLIC_V6 = [
    *("::", "::1", "::7f00:1", "::8.8.8.8", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1"),
    *("ff02::1", "ff0e::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:0808:0808::1", "3fff::1"),
    *("5f00::1", "64:ff9b:1::808:808", "4000::1", "fd00:ec2::254"),
]
PUBLIC_V6 = ["2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2400:cb00::1", "2001:4860:4860::8888"]


@pytest.mark.parametrize("address", NOT_PUBLIC_V4 + NOT_PUBLIC_V6)
def test_special_addresses_are_not_called(address: str) -> None:
    assert not may_be_called(ip_address(address), ())


@pytest.mark.parametrize("address", PUBLIC_V4 + PUBLIC_V6)
def test_public_addresses_are(address: str) -> None:
    assert may_be_called(ip_address(address), ())


def wrapped(address: IPv4Address) -> list[IPv6Address]:
    """The forms of IPv6 that a host may send on to an IPv4 address."""
    return [IPv6Address(int(ip_address(prefix)) + int(address)) for prefix in ("::ffff:0:0", "64:ff9b::")]


def tunnelled(address: IPv4Address) -> list[IPv6Address]:
    """6to4, Teredo (whose client is written inverted), the old compatible form, NAT64 of one's own."""
    number = int(address)
    return [
        IPv6Address((0x2002 << 112) + (number << 80)),
        IPv6Address((0x20010000 << 96) + (int(IPv4Address("8.8.8.8")) << 64) + (number ^ 0xFFFFFFFF)),
        IPv6Address(number),
        IPv6Address(int(ip_address("64:ff9b:1::")) + number),
    ]


@given(number=st.integers(0, 2**32 - 1))
def test_an_address_in_an_address_counts_as_itself(number: int) -> None:
    address = IPv4Address(number)
    for form in wrapped(address):
        assert may_be_called(form, ()) == may_be_called(address, ())
    for form in tunnelled(address):
        assert not may_be_called(form, ())


@given(number=st.integers(0, 2**32 - 1))
def test_no_address_that_python_calls_private_is_called(number: int) -> None:
    address = IPv4Address(number)
    if may_be_called(address, ()):
        assert (address.is_global, address.is_private, address.is_multicast) == (True, False, False)
        assert (address.is_reserved, address.is_loopback, address.is_link_local) == (False, False, False)


@given(number=st.integers(0, 2**128 - 1))
def test_no_address_outside_of_global_unicast_is_called(number: int) -> None:
    address = IPv6Address(number)
    is_wrapped = address.ipv4_mapped is not None or address in ip_network("64:ff9b::/96")
    assert is_wrapped or not may_be_called(address, ()) or address in ip_network("2000::/3")


def test_the_operator_may_allow_networks() -> None:
    allow = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert may_be_called(ip_address("10.1.2.3"), allow)
    assert may_be_called(ip_address("::ffff:10.1.2.3"), allow)
    assert may_be_called(ip_address("64:ff9b::10.1.2.3"), allow)
    assert may_be_called(ip_address("fd00::1"), allow)
    assert not may_be_called(ip_address("10.2.0.1"), allow)
    assert not may_be_called(ip_address("fc00::1"), allow)


def refusal(url: str, settings: WebhookSettings | None = None) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check_webhook_url(url, settings or WebhookSettings())
    assert refused.value.field == "webhook.url"
    return str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org/done?job=1#x",
        "https://example.org:8443/done",
        "https://example.org.:8443/done",
        "https://hooks.example.org/a@b",
        "HTTPS://EXAMPLE.ORG/",
        "https://bücher.example/done",
        "https://a_b.example/",
        "https://receiver.my-namespace.svc.cluster.local/done",
        "https://receiver/done",
        "https://8.8.8.8:9/",
        "https://[2606:4700:4700::1111]/done",
    ],
)
def test_good_urls_pass(url: str) -> None:
    check_webhook_url(url, WebhookSettings())


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "//example.org/",
        "example.org",
        "https:example.org",
        "https:///done",
        "https://",
        "https://:443/",
        "https://user@example.org/",
        "https://user:password@example.org/",
        "https://@example.org/",
        "https://:@example.org/",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://example.org\\@127.0.0.1/",
        "https://exa mple.org/",
        "https://example.org/\r\nX-Evil: 1",
        "https://example.org/\x00",
        "https://exam%70le.org/",
        "https://-example.org/",
        "https://example..org/",
        "https://" + "a" * 64 + ".org/",
        "https://localhost/",
        "https://LOCALHOST.:8080/",
        "https://service.localhost/",
        *(f"https://{address}/" for address in NOT_PUBLIC_V4),
        *(f"https://[{address}]/" for address in NOT_PUBLIC_V6),
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::1]/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://127.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://0/",
        "https://0x/",
        "https://1/",
        "https://134744072/",
        "https://010.8.8.8/",
        "https://8.8.8.256/",
        "https://1.2.3.4.5/",
        "https://example.1/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127\u30020\u30020\u30021/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://\u24dbocalhost/",
        "https://%31%32%37.0.0.1/",
        "https://[::1%25lo]/",
        "https://[v1.x]/",
        "https://[::1/",
    ],
)
def test_bad_urls_are_refused(url: str) -> None:
    words = refusal(url)
    assert words.startswith("webhook.url: got ")
    assert "; expected " in words


def test_a_refusal_does_not_repeat_what_may_be_secret() -> None:
    for url in ("http://example.org/T0KEN", "https://user:T0KEN@example.org/", "https://10.0.0.1/T0KEN"):
        assert "T0KEN" not in refusal(url)


def test_allowed_networks_may_be_named() -> None:
    settings = WebhookSettings(allow=(IPv4Network("127.0.0.0/8"),))
    for url in ("https://127.0.0.1:8443/", "https://localhost/", "https://[::ffff:127.0.0.1]/"):
        check_webhook_url(url, settings)
    refusal("https://10.0.0.1/", settings)
    refusal("https://2130706433/", settings)
    refusal("http://127.0.0.1/", settings)


@given(url=st.one_of(st.text(max_size=60), st.text(max_size=60).map("https://{}/".format)))
def test_any_text_passes_or_is_refused_as_a_request(url: str) -> None:
    try:
        check_webhook_url(url, WebhookSettings())
    except InvalidRequest:
        return
    assert url.lower().startswith("https://")
