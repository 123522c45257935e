"""An image behind a URL is fetched from the public internet only, and nobody gains anything by a hostile URL."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import anyio
import pytest

from dedn_hf.modeling.handler import BadRequest
from dedn_hf.publish.fetching import fetch, is_public
from tests.tiny_runs import picture

PUBLIC, UNREACHABLE = "93.184.215.14", "93.184.215.99"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1"),
        *("192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1%eth0"),
        *("fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "100::1"),
    ],
)
def test_addresses_inside_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


class Pages(BaseHTTPRequestHandler):
    """A server that helps and one that does not, by path."""

    def do_GET(self):
        self.server.hits.append((self.headers["Host"], self.path))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self.reply(302, Location=unquote(rest))
        elif kind == "loop":
            self.reply(301, Location="/loop")
        elif kind == "endless":
            self.reply(200)
            self.send(bytes(2**16), 10_000)
        elif kind == "drip":
            self.send_response(200)
            self.send_header("X", "")
            self.flush_headers()
            self.send(b"x", 200, pause=0.05)
        elif kind == "drip-body":
            self.reply(200)
            self.send(b"x", 200, pause=0.05)
        elif kind == "missing":
            self.reply(404)
        else:
            self.reply(200, **{"Content-Type": "image/png"})
            self.wfile.write(picture(0, 0))

    def reply(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, data, times, pause=0.0):
        try:
            for _ in range(times):
                self.wfile.write(data)
                time.sleep(pause)
        except OSError:
            self.server.cut_off.set()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def pages():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.hits, server.cut_off = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def internet(pages, monkeypatch):
    """Host names with addresses of the test's choice; the public ones all lead to `pages`. Gives names and calls."""
    connect, look_up = anyio.connect_tcp, socket.getaddrinfo
    names, connected = {"birds.example": [[PUBLIC]]}, []
    pages.hits.clear()
    pages.cut_off.clear()

    def getaddrinfo(host, port, *args, **kwargs):
        if host not in names:
            return look_up(host, port, *args, **kwargs)
        addresses = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    async def connect_tcp(remote_host, remote_port, **kwargs):
        connected.append((remote_host, remote_port))
        if remote_host == UNREACHABLE:
            raise OSError("nobody answers")
        assert remote_host == PUBLIC, f"connected to {remote_host}"
        return await connect("127.0.0.1", pages.server_port, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(anyio, "connect_tcp", connect_tcp)  # what httpx connects with
    return names, connected


def fetched(url, max_bytes=10**6, timeout=5.0):
    return fetch(url, max_bytes, timeout)


def fetch_error(url, **limits) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        fetched(url, **limits)
    return caught.value


def test_an_image_is_fetched_from_a_public_host(internet, pages):
    assert fetched("http://birds.example:81/a bird.png?größe=1#part") == picture(0, 0)
    assert pages.hits == [("birds.example:81", "/a%20bird.png?gr%C3%B6%C3%9Fe=1")]
    assert internet[1] == [(PUBLIC, 81)]


def test_a_redirect_to_a_public_host_is_followed(internet, pages):
    assert fetched("http://birds.example/to/%2Fbird.png") == picture(0, 0)
    assert len(pages.hits) == 2


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0", "0.0.0.0"],
)
@pytest.mark.parametrize("start", ["http://{}:{}/bird.png", "http://birds.example/to/http://{}:{}/bird.png"])
def test_loopback_is_refused_by_any_name_and_after_a_redirect(host, start, internet, pages):
    assert "no public address" in str(fetch_error(start.format(host, pages.server_port)))
    assert not any(path.startswith("/bird") for _, path in pages.hits)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200"])
def test_private_hosts_are_refused_without_a_connection(host, internet):
    assert "no public address" in str(fetch_error(f"http://{host}/latest/meta-data"))
    assert internet[1] == []


def test_an_address_that_does_not_answer_is_followed_by_the_next(internet):
    internet[0]["two.example"] = [[UNREACHABLE, PUBLIC]]
    assert fetched("http://two.example/bird.png") == picture(0, 0)
    internet[0]["two.example"] = [[UNREACHABLE, UNREACHABLE]]
    assert "could not be fetched" in str(fetch_error("http://two.example/bird.png"))


def test_a_proxy_of_the_surroundings_is_not_used(internet, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://10.0.0.1:3128")
    assert fetched("http://birds.example/bird.png") == picture(0, 0)


def test_a_host_with_a_private_address_among_others_is_refused(internet):
    internet[0]["mixed.example"] = [[PUBLIC, "10.0.0.1"]]
    assert "no public address" in str(fetch_error("http://mixed.example/"))


def test_a_host_that_changes_its_address_gains_nothing(internet):
    names, connected = internet
    names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetched("http://rebind.example/bird.png") == picture(0, 0)  # one look-up: what was checked is connected to
    assert connected == [(PUBLIC, 80)]
    names["rebind.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert "no public address" in str(fetch_error("http://rebind.example/to/%2Fbird.png"))


def test_what_is_private_and_what_does_not_exist_are_refused_in_the_same_words(internet):
    internet[0]["inside.example"] = [["10.0.0.1"]]
    internet[0]["nowhere.example"] = [[]]
    assert str(fetch_error("http://inside.example/")) == str(fetch_error("http://nowhere.example/"))


@pytest.mark.parametrize(
    "url", ["ftp://birds.example/a", "file:///etc/passwd", "gopher://birds.example", "data:,a", "x"]
)
def test_a_redirect_to_another_scheme_is_refused(url, internet):
    if url != "x":
        fetch_error(f"http://birds.example/to/{url}")
    assert "begins with http://" in str(fetch_error(url))
    assert {address for address, _ in internet[1]} <= {PUBLIC}


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://birds.example:99999", "http://birds.example:x/", "http:///a"]
)
def test_a_url_that_is_none_is_refused(url, internet):
    fetch_error(url)


def test_redirects_in_a_circle_end(internet, pages):
    assert "redirects" in str(fetch_error("http://birds.example/loop"))
    assert len(pages.hits) == 4


def test_a_page_that_is_missing_is_said_to_be(internet):
    assert "404" in str(fetch_error("http://birds.example/missing"))


def test_a_response_without_end_is_broken_off(internet, pages):
    assert fetch_error("http://birds.example/endless").status == 413
    assert pages.cut_off.wait(5)


@pytest.mark.parametrize("page", ["drip", "drip-body"])
def test_a_server_that_answers_byte_by_byte_is_cut_off_at_the_deadline(page, internet, pages):
    assert_cut_off(f"http://birds.example/{page}", pages)


def assert_cut_off(url, server):
    assert "in time" in str(fetch_error(url, timeout=0.5))
    assert server.cut_off.wait(5)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed, to make a certificate with")
def test_https_checks_the_certificate_against_the_name_not_the_address(internet, pages, tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -days 2"
    names = ["-subj", "/CN=birds.example", "-addext", "subjectAltName=DNS:birds.example"]
    subprocess.run([*command.split(), *names], check=True, cwd=tmp_path, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.hits, server.cut_off = [], threading.Event()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(pages, "server_port", server.server_port)
    internet[0]["other.example"] = [[PUBLIC]]
    try:
        assert "could not be fetched" in str(fetch_error("https://birds.example/bird.png"))  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        assert fetched("https://birds.example/bird.png") == picture(0, 0)
        assert "could not be fetched" in str(fetch_error("https://other.example/bird.png"))
        assert server.hits == [("birds.example", "/bird.png")]
        assert_cut_off("https://birds.example/drip", server)
    finally:
        server.shutdown()
        server.server_close()
