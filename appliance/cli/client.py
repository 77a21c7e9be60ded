"""Asking the API of a node: where it is, with which token, and what its errors mean."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from appliance.cli.options import Failure, Misuse

F = TypeVar("F", bound=Callable[..., Any])

LOCAL_TOKEN = Path("/run/tandem-api/local.token")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECONDS = 5.0


class NotReachable(Failure):
    """The API does not answer: exit status 2."""

    exit_code = 2


class Refused(Failure):
    """The API answered that it will not; the message says why."""


def api_options(command: F) -> F:
    """``--url``, ``--token-file`` and ``--ca``."""
    for option in (
        click.option(
            "--ca",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Certificate of the authority that an https URL is to be trusted by.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="File with the token; else TANDEM_TOKEN, else this node's own token.",
        ),
        click.option(
            "--url",
            envvar="TANDEM_URL",
            default="http://127.0.0.1:8080",
            show_default=True,
            help="The API of any node (or TANDEM_URL).",
        ),
    ):
        command = option(command)
    return command


class Client:
    """The API at ``url``."""

    def __init__(self, url: str, token_file: Path | None, ca: Path | None) -> None:
        import httpx2

        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise Misuse(f"{url!r} is no URL; use one such as https://192.0.2.10:8443")
        self._url = url
        token = _token(url, token_file)
        self._http = httpx2.Client(
            base_url=url,
            verify=_trust(ca),
            timeout=_SECONDS,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def get(self, path: str, **parameters: str) -> Any:
        """The document at ``path``; raises a Failure."""
        return self._ask("GET", path, parameters)

    def text(self, path: str, **parameters: str) -> str:
        """What is at ``path``, which is no JSON; raises a Failure."""
        return str(self._ask("GET", path, parameters, as_text=True))

    def change(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Make a request that changes something; raises a Failure."""
        return self._ask(method, path, parameters or {}, body, headers)

    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        as_text: bool = False,
    ) -> Any:
        import httpx2

        try:
            answer = self._http.request(
                method, path, params=dict(parameters), json=body, headers=dict(headers or {})
            )
            document = (
                answer.json() if answer.content and not (as_text and answer.is_success) else {}
            )
        except httpx2.TimeoutException:
            raise NotReachable(
                f"the API at {self._url} does not answer within {_SECONDS:g} s; "
                "ask another node: --url"
            ) from None
        except httpx2.HTTPError as error:
            raise NotReachable(f"the API at {self._url} cannot be reached: {error}; "
                               f"{_remedy(str(error))}") from None  # fmt: skip
        except ValueError:
            raise NotReachable(f"what answers at {self._url} is no API of Tandem") from None
        if answer.status_code == 401:
            raise NotReachable(
                f"the API at {self._url} wants a token ({document.get('detail', '')}): give it "
                "with --token-file or TANDEM_TOKEN, or run the command as root on a node"
            )
        if not answer.is_success:
            title, detail = (document.get(key, "") for key in ("title", "detail"))
            raise Refused(f"{title}: {detail}" if title else f"status {answer.status_code}")
        return answer.text if as_text else document


def _remedy(error: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "give the authority's certificate with --ca, and a name or address that is in it"
    return "say where it is with --url, or start it: systemctl start tandem-api, or tandem run"


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise Misuse(f"{ca} cannot be used as --ca: {error}") from None


def _token(url: str, token_file: Path | None) -> str:
    """The token to send, if there is one. This node's own never leaves it."""
    if token_file is not None:
        try:
            return token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise Misuse(f"{token_file} cannot be read: {error}") from None
    if token := os.environ.get("TANDEM_TOKEN", "").strip():
        return token
    if urlsplit(url).hostname in _LOOPBACK:
        try:
            return LOCAL_TOKEN.read_text().strip()
        except OSError:
            pass
    return ""
