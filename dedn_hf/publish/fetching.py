"""The image behind a URL that a stranger has sent: fetched from public addresses only, and within limits.

Every address is checked, also after a redirect, and the connection goes to the address that was checked: a host that
changes its address in between gains nothing. No proxy is used, because it would look up the host on its own.
"""

import asyncio
import ipaddress
import socket

import httpx

from dedn_hf.modeling.handler import BadRequest

MAX_REDIRECTS = 3
GLOBAL_UNICAST, NAT64 = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("64:ff9b::/96")
CLOUD_SERVICES = [ipaddress.ip_network(inside) for inside in ("192.0.0.0/24", "168.63.129.16/32")]  # look public
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}  # a compressed body could grow beyond the limit


def fetch(url: str, max_bytes: int, timeout: float) -> bytes:
    """The bytes behind a public http or https URL, within `timeout` seconds and a few redirects.

    Raises:
        BadRequest: no public address, no answer of status 200 in time, or more than `max_bytes`.
    """
    try:
        return asyncio.run(asyncio.wait_for(_get(url, max_bytes), timeout))
    except (asyncio.TimeoutError, TimeoutError):
        raise BadRequest("The image could not be fetched from its URL in time.") from None
    except httpx.TooManyRedirects:
        raise BadRequest(f"The URL of the image redirects more than {MAX_REDIRECTS} times.") from None
    except BadRequest:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        raise BadRequest("The image could not be fetched from its URL.") from None


async def _get(url: str, max_bytes: int) -> bytes:
    """See `fetch`; without an end to its patience."""
    client = httpx.AsyncClient(
        transport=PublicTransport(limits=httpx.Limits(max_keepalive_connections=0)),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=None,
        trust_env=False,
    )
    async with client, client.stream("GET", url, headers=HEADERS) as response:
        if response.status_code != 200:
            raise BadRequest(f"The URL of the image answers with status {response.status_code}.")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > max_bytes:
                raise BadRequest(f"The image behind the URL is larger than {max_bytes} bytes.", 413)
        return bytes(content)


class PublicTransport(httpx.AsyncHTTPTransport):
    """Sends each request to a public address of its host; a certificate is still checked against the host's name.

    Without connections that are kept alive: they are told apart by address, and hosts may share one.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, port = request.url.host, request.url.port or 0
        if request.url.scheme not in ("http", "https") or not host or port > 65535:
            raise BadRequest("The URL of an image begins with http:// or https:// and a host.")
        addresses = await public_addresses(host)
        for address in addresses:
            sent = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # in which Host is the name
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await super().handle_async_request(sent)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
        raise AssertionError("a host has an address")


async def public_addresses(host: str) -> list[str]:
    """The IP addresses of a host. Raises BadRequest if one is not public, in the words used if there are none."""
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        entries = []
    found = [str(entry[4][0]) for entry in entries]
    if not found or not all(is_public(address) for address in found):
        raise BadRequest("The host of the URL has no public address.")
    return found


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and not to a machine, a site or a cloud's inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if ip in NAT64:  # how a machine without IPv4 reaches it
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip not in GLOBAL_UNICAST or ip.sixtofour or ip.teredo:
            return False
    inside = ip.is_multicast or ip.is_reserved or any(ip in network for network in CLOUD_SERVICES)
    return ip.is_global and not inside
