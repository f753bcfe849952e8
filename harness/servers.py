"""What is known of inference servers beside their address: API key, certificates, name of the model.

It is kept here by base URL, in this process only. No record has a key, so that nothing that is printed or written can
have one.
"""

import functools
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadInput


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is asked: with an API key, trusting the certificates in `ca_file` too, for `model` by its name.

    None is: without a key, with the system's certificates, for the first model that it serves.
    """

    key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    model: str | None = None


_accesses: dict[str, Access] = {}


def know(url: str, access: Access) -> None:
    """Ask the server at this base URL so from now on."""
    _accesses[url] = access


def access(url: str) -> Access:
    """How the server at this base URL is asked."""
    return _accesses.get(url, Access())


def hand_down(urls: Iterable[str]) -> list[dict[str, Any]]:
    """What a process that asks these servers has to know, keys included: for its standard input, and for no file."""
    known = {url: access(url) for url in urls}
    return [
        {"url": url, "key": one.key, "ca_file": one.ca_file and str(one.ca_file), "model": one.model}
        for url, one in known.items()
    ]


def take_over(handed: Iterable[Mapping[str, Any]]) -> None:
    """Know what another process has handed down."""
    for one in handed:
        know(one["url"], Access(one["key"], one["ca_file"] and Path(one["ca_file"]), one["model"]))


def headers(url: str) -> dict[str, str]:
    """The headers by which the server at this base URL knows who asks."""
    key = access(url).key
    return {"Authorization": f"Bearer {key}"} if key else {}


def tls(url: str) -> ssl.SSLContext:
    """Whose certificates are trusted of the server at this base URL.

    Raises:
        BadInput: its `ca_file` cannot be read, or holds no certificate.
    """
    return _context(access(url).ca_file)


@functools.cache
def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if type(error) is not ssl.SSLError else "it holds no certificate in PEM format"
            raise BadInput(f"ca_file = {str(ca_file)!r}: {reason or error}; give the CA's certificate") from None
    return context


def read_key(file: Path) -> str:
    """The API key in a file: its one line.

    Raises:
        BadInput: the file cannot be read, or holds something else.
    """
    try:
        key = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BadInput(f"api_key_file = {str(file)!r} cannot be read: {error.strerror}; correct it") from None
    except UnicodeDecodeError:
        key = ""
    return check_key(key, f"api_key_file = {str(file)!r}")


def check_key(key: str, source: str) -> str:
    """The key, if it can be one; else BadInput, which names its source and not the value."""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput(f"{source} holds no API key: one line of printable characters without spaces is needed")
    return key
