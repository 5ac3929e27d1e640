"""A small Hugging Face Hub on this machine: as much of its protocol as its client uses.

Files lie at commits, branches and tags point to commits, and the content of a file comes from
another host after a redirect, as on the real Hub: the answer to HEAD names commit, checksum and
size. What can go wrong is asked for beforehand: connections that break after so many bytes, a
status in place of an answer, content that is not the named one. Bytes of content are counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from unittest import mock
from urllib.parse import unquote, urlsplit

STEP = 1 << 16
"""How much is sent at once."""


@dataclass
class Repository:
    """Files by commit, and the commits that names point to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit, let the branch point to it, and return it."""
        made = hashlib.sha1(repr(sorted(files)).encode() + b"%d" % len(self.commits)).hexdigest()
        self.commits[made] = files
        self.branches[branch] = made
        return made


@dataclass
class Faults:
    """What goes wrong, in the order in which it is asked for."""

    breaks: list[int] = field(default_factory=list)
    """Bytes of content after which a connection breaks, one for each in turn."""
    how: Literal["end", "reset", "stall"] = "end"
    """How it breaks: by its end, by a reset that also loses what is under way, by silence."""
    statuses: list[int] = field(default_factory=list)
    """Statuses in place of the answers to the next requests; 0 lets one through."""
    meanwhile: Callable[[], object] | None = None
    """What happens at the Hub when the first connection breaks."""
    gated: bool = False
    private: bool = False
    denied: int = 0
    """Status of each request of a file, without a reason."""
    token_refused: str = ""
    """What is said to whoever sends a token, public file or not."""
    wrong: bytes | None = None
    """Content in place of the named one."""
    ignores_ranges: bool = False


class Hub(ThreadingHTTPServer):
    """The server; ``served`` counts bytes of content, ``asked`` lists method and path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.closing = threading.Event()
        self.served = 0
        self.asked: list[str] = []
        self.tokens: dict[str, int] = {"hub": 0, "content": 0}

    @property
    def endpoint(self) -> str:
        """What to set ``HF_ENDPOINT`` to."""
        return f"http://127.0.0.1:{self.server_port}"

    def repository(self, name: str) -> Repository:
        """Return a repository; it is made when it is first asked for."""
        return self.repositories.setdefault(name, Repository())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that end early are what this is for."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        faults = self.server.faults
        self.server.asked.append(f"{self.command} /{path}")
        if faults.statuses and (status := faults.statuses.pop(0)):
            return self.say(status)
        if faults.token_refused and "Authorization" in self.headers:
            return self.say(401, headers={"X-Error-Message": faults.token_refused})
        parts = path.split("/")
        where = "content" if parts[0] == "content" else "hub"
        self.server.tokens[where] += "Authorization" in self.headers
        if where == "content":
            return self.content(parts[1], parts[2])
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        found = self.server.repositories.get(f"{owner}/{name}")
        if faults.private or found is None:
            return self.say(404 if api else 401, error="RepoNotFound")
        if rest == ["refs"]:
            return self.refs(found)
        revision = rest[1] if len(rest) > 1 else "main"
        commit = found.branches.get(revision) or found.tags.get(revision) or revision
        if commit not in found.commits:
            return self.say(404, error="RevisionNotFound")
        if api:
            siblings = [{"rfilename": file} for file in found.commits[commit]]
            return self.say(200, {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings})
        if faults.gated:
            return self.say(403, error="GatedRepo")
        if faults.denied:
            return self.say(faults.denied)
        return self.resolve(found.commits[commit], commit, "/".join(rest[2:]))

    def refs(self, found: Repository) -> None:
        def told(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                for name, commit in names.items()
            ]

        self.say(
            200,
            {
                "branches": told("heads", found.branches),
                "tags": told("tags", found.tags),
                "converts": [],
            },
        )

    def resolve(self, files: dict[str, bytes], commit: str, file: str) -> None:
        if file not in files:
            return self.say(404, error="EntryNotFound", headers={"X-Repo-Commit": commit})
        content = files[file]
        checksum = hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{checksum}"',
            "X-Linked-Size": str(len(content)),
            # Another name of this host is another host to the client, as the Hub's store is.
            "Location": f"http://localhost:{self.server.server_port}/content/{commit}/{checksum}",
        }
        return self.say(302, headers=headers)

    def content(self, commit: str, checksum: str) -> None:
        server, faults = self.server, self.server.faults
        body = next(
            content
            for repository in server.repositories.values()
            for content in repository.commits.get(commit, {}).values()
            if hashlib.sha256(content).hexdigest() == checksum
        )
        body = body if faults.wrong is None else faults.wrong
        start, stop = 0, len(body)
        wanted = self.headers.get("Range")
        if wanted and not faults.ignores_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        left = faults.breaks.pop(0) if faults.breaks else stop - start
        for at in range(start, min(start + left, stop), STEP):
            piece = body[at : min(at + STEP, start + left, stop)]
            self.wfile.write(piece)
            server.served += len(piece)
        if left < stop - start:
            self.close_connection = True
            if faults.meanwhile is not None:
                faults.meanwhile()
                faults.meanwhile = None
            if faults.how == "reset":
                now = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                self.connection.close()
            elif faults.how == "stall":
                server.closing.wait(20)

    def say(
        self,
        status: int,
        body: dict[str, Any] | None = None,
        error: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        text = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve for as long as the context lasts."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def pointed_at(endpoint: str, cache: Path) -> Iterator[None]:
    """Let huggingface-hub, which reads its environment on import, use this Hub and this cache."""
    from huggingface_hub import constants

    from llm_latency.model import hub

    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    with (
        mock.patch.multiple(
            constants,
            ENDPOINT=endpoint,
            HUGGINGFACE_CO_URL_TEMPLATE=template,
            HF_HUB_CACHE=str(cache),
            HF_HUB_OFFLINE=False,
        ),
        mock.patch.object(hub, "WAIT_S", 0.0),
    ):
        yield
