"""One file from the first mirror that has it: believed when its SHA-256 agrees, given up when it stalls or floods.

A bad answer (no such host, 404, a page of HTML with status 200, half a file, no end) means the next mirror.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_lightning.errors import UserError

TIMEOUT = 10  # seconds without a byte before a mirror is given up
SLOWEST = 1000  # bytes per second, after the first 10 s, before a mirror is given up; a modem had 5,000
MAX_SIZE = 16 << 20  # bytes before a mirror is given up; MNIST's largest file has 9.9 million


class DownloadError(UserError):
    """No mirror gave the right bytes."""


def fetch(name: str, sha256: str, folder: Path, mirrors: Sequence[str]) -> None:
    """Downloads one file into a folder.

    Args:
        name: Of the file, here and below each mirror's address.
        sha256: Of its bytes.
        folder: Where to.
        mirrors: Base addresses, tried in order.

    Raises:
        DownloadError: No mirror had the right bytes; the message says what each one did.
    """
    import pooch  # 0.2 s, and most runs never download
    import requests
    import urllib3

    answers = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        try:
            pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=_http_get)
            return
        # A wrong hash is pooch's ValueError, and what goes wrong after the headers is urllib3's HTTPError.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            answers.append(f"{url}: {_in_short(error)}")
    raise DownloadError(f"no mirror gave {name} ({'; '.join(answers)}); put the four files into a folder by hand")


def _http_get(url: str, path: str, _: object) -> None:
    """Downloads a file as pooch's HTTPDownloader does, but no more than a file can have, and as it was sent.

    requests would unpack what has the header Content-Encoding: gzip, which fills a disk where a mirror is malicious,
    and is wrong where it only says of a .gz file what it is.
    """
    import requests
    from tqdm import tqdm

    name = url.rsplit("/", 1)[-1]
    headers = {"Accept-Encoding": "identity"}
    hooks = {"response": _drop_redirect}
    with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True, hooks=hooks) as response:
        response.raise_for_status()
        bar = tqdm(desc=name, total=response.raw.length_remaining, unit="B", unit_scale=True)
        begun = time.monotonic()
        with Path(path).open("wb") as file, bar as progress:
            while piece := response.raw.read1(1 << 16, decode_content=False):  # what is there, however little
                progress.update(file.write(piece))
                if (size := file.tell()) > MAX_SIZE:
                    raise DownloadError(f"it sent more than {MAX_SIZE:,} bytes, and the file has fewer")
                if time.monotonic() - begun > TIMEOUT + size / SLOWEST:
                    raise DownloadError(f"it sent fewer than {SLOWEST:,} bytes per second")


def _drop_redirect(response: Any, **_: object) -> None:
    if response.is_redirect:
        response.close()  # or requests reads all of its body, which may have no end


def _in_short(error: Exception) -> str:
    """Says in a few words what went wrong with a download."""
    import requests
    import urllib3

    if isinstance(error, DownloadError):
        return str(error)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer within {TIMEOUT} s"
    if isinstance(error, requests.HTTPError):
        return f"status {error.response.status_code}"
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects in a circle"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection, as where a certificate, perhaps of a proxy, is not trusted"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection broke off"
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):  # the address is wrong
        return str(error)
    return "the bytes it sent are not MNIST's (wrong SHA-256)"
