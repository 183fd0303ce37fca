# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from monai.bundle import push_to_hf_hub

pytestmark = pytest.mark.integration

# MONAI's push to the Hugging Face Hub, to a server on this machine that answers as the hub does and keeps what it gets.

REPOSITORY = "somebody/vqprior"


class _Hub(BaseHTTPRequestHandler):
    """The five requests of a push; all files are to be sent as they are, none to the store of large files."""

    server: _Server

    def do_POST(self) -> None:
        """Keep a request and answer it."""
        body = self._body()
        path = self.path.split("?")[0]
        self.server.received.append((path, body))
        host = f"http://127.0.0.1:{self.server.server_port}"
        if path == "/api/repos/create":
            self._answer({"url": f"{host}/{REPOSITORY}"})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == f"/api/models/{REPOSITORY}/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif path == f"/api/models/{REPOSITORY}/commit/main":
            self._answer(
                {"success": True, "commitUrl": f"{host}/{REPOSITORY}/commit/{40 * 'a'}", "commitOid": 40 * "a"}
            )
        elif path == f"/api/models/{REPOSITORY}/tag/main":
            self._answer({})
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        """What was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Listens on a port of this machine that is free."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hub)
        self.received: list[tuple[str, bytes]] = []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def test_push(hub: _Server, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "vqprior")
    sent = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    push_to_hf_hub(
        repo=REPOSITORY, name="vqprior", bundle_dir=str(tmp_path), token="hf_secret", version="0.1.0",
        tag_as_latest_version=True,
    )  # fmt: skip
    bodies = dict(hub.received[:-2])
    created = json.loads(bodies["/api/repos/create"])
    assert (created["name"], created["organization"], created["visibility"]) == ("vqprior", "somebody", "private")
    tags = [json.loads(body)["tag"] for _, body in hub.received[-2:]]
    assert tags == ["0.1.0", "latest_version"]

    lines = map(json.loads, bodies[f"/api/models/{REPOSITORY}/commit/main"].splitlines())
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    card = files.pop("README.md").decode()
    assert files == sent
    assert {"LICENSE", "configs/train.json", "configs/inference.json", "models/model.pt", "models/prior.pt"} <= set(
        sent
    )
    # One header, which the hub reads, and below it the model card as it is.
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {"tags": ["monai", "medical"], "library_name": "monai", "license": "apache-2.0"}
    assert text == sent["docs/README.md"].decode()
    assert "---\n" not in text.splitlines(keepends=True)[0]
