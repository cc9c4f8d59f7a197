"""A stand-in for Google Cloud Storage on loopback: the part of its JSON API that we use.

Objects live in memory. With `failing` = n, each n-th request gets the status 503.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Bucket:
    """The objects of one server, by bucket and name, and what was asked of it."""

    def __init__(self, failing: int = 0):
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}  # content and generation
        self.uploads: dict[str, tuple[str, str, str, bytearray]] = {}
        self.failing, self.requests, self.failed = failing, 0, 0
        self.forbidden: set[str] = set()  # names of objects that cannot be read
        self.lock, self.generation = threading.Lock(), 0

    def fails(self) -> bool:
        with self.lock:
            self.requests += 1
            fails = self.failing > 0 and self.requests % self.failing == 0
            self.failed += fails
            return fails

    def put(self, bucket: str, name: str, content: bytes, match: str = "") -> dict | None:
        """Stores an object, unless its generation is not `match` ("0": there is none)."""
        with self.lock:
            _, generation = self.objects.get((bucket, name), (b"", 0))
            if match and int(match) != generation:
                return None
            self.generation += 1
            self.objects[bucket, name] = content, self.generation
        return self.describe(bucket, name)

    def describe(self, bucket: str, name: str) -> dict:
        content, generation = self.objects[bucket, name]
        hashes = google_crc32c.Checksum(content).digest(), hashlib.md5(content).digest()
        crc, md5 = (base64.b64encode(each).decode() for each in hashes)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "id": f"{bucket}/{name}/{generation}",
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
            "crc32c": crc,
            "md5Hash": md5,
            "etag": str(generation),
        }

    def list(self, bucket: str, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        most = int(query.get("maxResults") or 1000)
        items, prefixes, last = [], [], query.get("pageToken", "")
        for name in sorted(name for where, name in list(self.objects) if where == bucket):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            shown = prefix + head + delimiter if found else name
            if shown <= last or shown in prefixes:
                continue
            if len(items) + len(prefixes) == most:
                page = max([item["name"] for item in items] + prefixes)
                return {"items": items, "prefixes": prefixes, "nextPageToken": page}
            if found:
                prefixes.append(shown)
            else:
                items.append(self.describe(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": prefixes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Bucket

    def log_message(self, *arguments):
        pass

    def _answer(self, status: int, content: bytes | dict | None = b"", **headers: str):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers["Content_Type"] = "application/json"
        elif content is None:
            content = b""
        if status >= 400 and not content:
            content = json.dumps({"error": {"code": status, "message": "refused"}}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _any(self):
        body, url = self._body(), urlsplit(self.path)
        if self.store.fails():
            return self._answer(503)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path.startswith("/batch"):
            return self._batch(body)
        match = re.fullmatch(
            r"(?:/download|/upload)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+)"
            r"(?:/(rewriteTo|copyTo)/b/([^/]+)/o/([^/]+))?)?)?",
            url.path,
        )
        if match is None:
            return self._answer(404)
        bucket, name, copy, to_bucket, to_name = (part and unquote(part) for part in match.groups())
        if url.path.startswith("/upload"):
            return self._upload(bucket, query, body)
        if "/o" not in url.path[len("/storage/v1/b/") :]:
            return self._answer(200, {"kind": "storage#bucket", "name": bucket, "location": "X"})
        if name is None:
            return self._answer(200, self.store.list(bucket, query))
        if (bucket, name) not in self.store.objects:
            return self._answer(404)
        if name in self.store.forbidden:
            return self._answer(403)
        content, generation = self.store.objects[bucket, name]
        if copy:
            found = self.store.put(to_bucket, to_name, content)
            return self._answer(200, {"done": True, "resource": found, **found})
        for condition, fits in (("ifGenerationMatch", True), ("ifGenerationNotMatch", False)):
            if condition in query and (int(query[condition]) == generation) != fits:
                return self._answer(412 if fits else 304)
        if self.command == "DELETE":
            del self.store.objects[bucket, name]
            return self._answer(204)
        if query.get("alt") != "media":
            return self._answer(200, self.store.describe(bucket, name))
        about = self.store.describe(bucket, name)
        headers = {
            "X_Goog_Generation": str(generation),
            "X_Goog_Hash": f"crc32c={about['crc32c']},md5={about['md5Hash']}",
            "Content_Type": "application/octet-stream",
        }
        given = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not given or (content == b"" and not given[1]):
            return self._answer(200, content, **headers)
        first = int(given[1]) if given[1] else max(0, len(content) - int(given[2]))
        last = int(given[2]) if given[1] and given[2] else len(content) - 1
        if first >= len(content):
            return self._answer(416)
        part = content[first : last + 1]
        headers["Content_Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return self._answer(206, part, **headers)

    def _upload(self, bucket: str, query: dict[str, str], body: bytes):
        name, match = query.get("name", ""), query.get("ifGenerationMatch", "")
        kind, key = query.get("uploadType"), query.get("upload_id")
        if key:
            return self._resume(key, body)
        if kind == "resumable":
            key = f"upload-{time.monotonic_ns()}"
            name = json.loads(body or b"{}").get("name", name)
            self.store.uploads[key] = bucket, name, match, bytearray()
            host = self.headers["Host"]
            where = f"http://{host}/upload/storage/v1/b/{bucket}/o"
            return self._answer(200, Location=f"{where}?uploadType=resumable&upload_id={key}")
        if kind == "multipart":
            boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])[1]
            _, about, media, *_ = body.split(b"--" + boundary.encode())
            about = about.replace(b"\r\n", b"\n")
            name = json.loads(about.split(b"\n\n", 1)[1])["name"]
            line = b"\r\n" if b"\r\n\r\n" in media else b"\n"
            body = media.split(line * 2, 1)[1].removesuffix(b"\n").removesuffix(b"\r")
        found = self.store.put(bucket, name, body, match)
        return self._answer(412) if found is None else self._answer(200, found)

    def _resume(self, key: str, body: bytes):
        bucket, name, match, content = self.store.uploads[key]
        given = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"])
        if given[1] is not None:
            content[int(given[1]) :] = body
        if given[2] == "*" or len(content) < int(given[2]):
            headers = {"Range": f"bytes=0-{len(content) - 1}"} if content else {}
            return self._answer(308, **headers)
        found = self.store.put(bucket, name, bytes(content), match)
        return self._answer(412) if found is None else self._answer(200, found)

    def _batch(self, body: bytes):
        parts = []
        for bucket, name in re.findall(rb"DELETE /storage/v1/b/([^/ ]+)/o/([^ ?]+)", body):
            gone = self.store.objects.pop((unquote(bucket.decode()), unquote(name.decode())), None)
            status = "204 No Content" if gone else "404 Not Found"
            parts.append(f"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n")
        answer = ("".join(parts) + "\r\n--x--").encode()
        self._answer(200, answer, Content_Type="multipart/mixed; boundary=x")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any


@contextmanager
def serve(failing: int = 0):
    """The address of a running server, and its objects."""
    store = Bucket(failing)
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # a client that has gone
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        server.shutdown()
        server.server_close()


def point_at(address, monkeypatch):
    """Lets the libraries ask the stand-in, as if for the first time, and repeat without pauses."""
    import fsspec

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
    import gcsfs
    from etils.epath import backend

    sleep = asyncio.sleep
    monkeypatch.setattr("asyncio.sleep", lambda seconds, *rest: sleep(seconds / 100, *rest))
    gcsfs.GCSFileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
    fsspec.config.conf.pop("gcs", None)
