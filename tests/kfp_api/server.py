"""The double's HTTP side: routes of the real API, tokens, faults by script, and a record of every request."""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api as api

from tests.kfp_api.backend import Backend, Item
from tests.kfp_api.rules import Refusal
from tests.kfp_api.shapes import ShapeError, check, query_names

BASE = "/apis/v2beta1"


@dataclass(frozen=True)
class Request:
    """A request as it came, with what was answered."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str
    status: int
    cookie: str = ""


@dataclass
class Fault:
    """What goes wrong with a request, `times` times.

    Attributes:
        method, path: which requests; the path is searched for in theirs.
        status: answered instead; 0 to cut the connection without an answer.
        after: the request is carried out before: the answer is lost, not the request.
        hang: seconds that the server sleeps before.
        headers, text: of the answer.
    """

    method: str
    path: str
    status: int = 0
    times: int = 1
    after: bool = False
    hang: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


class KfpApi:
    """A server of the double on a free loopback port.

    Attributes:
        tokens: those that are accepted; empty for none wanted.
        cookies: of sessions; whoever has none is sent to a login page, as Dex does. Empty: no login page stands before it.
        forbidden: tokens of people who may look and not change anything.
        faults: what goes wrong next.
        requests: everything that came.
    """

    def __init__(self, *, multi_user: bool = False, certificate: tuple[str, str] | None = None, port: int = 0) -> None:
        self.backend = Backend(multi_user=multi_user)
        self.tokens: set[str] = set()
        self.cookies: set[str] = set()
        self.forbidden: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        double = self

        class Handler(_Handler):
            served = double

        self._server = _Server(("127.0.0.1", port), Handler)
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> KfpApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of a method whose whole path (after `/apis/v2beta1`) matches."""
        return [r for r in self.requests if r.method == method and re.fullmatch(path, r.path.removeprefix(BASE))]

    def run_names(self) -> list[str]:
        return [r.answer["display_name"] for r in self.backend.runs.values()]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


Route = tuple[str, str, type | None, str, Callable[..., Item], str, str]


def _routes(b: Backend) -> list[Route]:
    """Method, path, generated API class and its method (for the query's names), what is done, and the models of both bodies."""
    run, experiment, recurring = api.RunServiceApi, api.ExperimentServiceApi, api.RecurringRunServiceApi
    pipeline, upload = api.PipelineServiceApi, api.PipelineUploadServiceApi
    none = "object"

    def runs(query: Item) -> Item:
        if not query.get("experiment_id"):
            b.need_namespace(query.get("namespace"), "A run")
        return b.listed("runs", [r.answer for r in b.runs.values()], query, namespace=query.get("namespace"))

    def experiments(query: Item) -> Item:
        b.need_namespace(query.get("namespace"), "An experiment")
        return b.listed("experiments", list(b.experiments.values()), query, namespace=query.get("namespace"))

    def recurring_runs(query: Item) -> Item:
        if not query.get("experiment_id"):
            b.need_namespace(query.get("namespace"), "a recurring run")
        return b.listed("recurringRuns", list(b.recurring.values()), query, namespace=query.get("namespace"))

    def pipelines(query: Item) -> Item:
        return b.listed("pipelines", list(b.pipelines.values()), query, namespace=query.get("namespace", ""))

    def versions(pipeline_id: str, query: Item) -> Item:
        if pipeline_id not in b.pipelines:
            raise Refusal(404, f"Pipeline {pipeline_id} not found")
        found = [v for v in b.versions.values() if v["pipeline_id"] == pipeline_id]
        return b.listed("pipeline_versions", found, query)

    def experiment_of(experiment_id: str) -> Item:
        if experiment_id not in b.experiments:
            raise Refusal(404, f"Experiment {experiment_id} not found")
        return b.experiments[experiment_id]

    def version_of(pipeline_id: str, version_id: str) -> Item:
        version = b.versions.get(version_id)
        if version is None or version["pipeline_id"] != pipeline_id:
            raise Refusal(404, f"PipelineVersion {version_id} not found")
        return version

    def uploaded(query: Item, package: str) -> Item:
        name = query.get("name") or query.get("display_name", "")
        created = b.create_pipeline({"name": name, **({"namespace": query["namespace"]} if query.get("namespace") else {})})
        b.create_version(created["pipeline_id"], name, package)
        return created

    def uploaded_version(query: Item, package: str) -> Item:
        name = query.get("name") or query.get("display_name", "")
        return b.create_version(query.get("pipelineid", ""), name, package, query.get("description", ""))

    def healthz() -> Item:
        return {"multi_user": b.multi_user, "pipeline_store": "database"}

    return [
        ("GET", "/healthz", None, "", lambda q: healthz(), none, "V2beta1GetHealthzResponse"),
        ("GET", "/experiments", experiment, "experiment_service_list_experiments", experiments, none,
         "V2beta1ListExperimentsResponse"),
        ("POST", "/experiments", experiment, "experiment_service_create_experiment", lambda q, d: b.create_experiment(d),
         "V2beta1Experiment", "V2beta1Experiment"),
        ("GET", "/experiments/([^/:]+)", None, "", lambda i, q: experiment_of(i), none, "V2beta1Experiment"),
        ("GET", "/pipelines", pipeline, "pipeline_service_list_pipelines", pipelines, none, "V2beta1ListPipelinesResponse"),
        ("POST", "/pipelines", pipeline, "pipeline_service_create_pipeline", lambda q, d: b.create_pipeline(d),
         "V2beta1Pipeline", "V2beta1Pipeline"),
        ("POST", "/pipelines/upload", upload, "upload_pipeline", uploaded, "file", "V2beta1Pipeline"),
        ("POST", "/pipelines/upload_version", upload, "upload_pipeline_version", uploaded_version, "file",
         "V2beta1PipelineVersion"),
        ("GET", "/pipelines/([^/:]+)/versions", pipeline, "pipeline_service_list_pipeline_versions", versions, none,
         "V2beta1ListPipelineVersionsResponse"),
        ("GET", "/pipelines/([^/:]+)/versions/([^/:]+)", None, "", lambda i, v, q: version_of(i, v), none,
         "V2beta1PipelineVersion"),
        ("GET", "/runs", run, "run_service_list_runs", runs, none, "V2beta1ListRunsResponse"),
        ("POST", "/runs", run, "run_service_create_run", lambda q, d: b.create_run(d), "V2beta1Run", "V2beta1Run"),
        ("GET", "/runs/([^/:]+)", run, "run_service_get_run", lambda i, q: b.look_at(i), none, "V2beta1Run"),
        ("POST", "/runs/([^/:]+):terminate", run, "run_service_terminate_run", lambda i, q, d: b.terminate(i), none, none),
        ("GET", "/recurringruns", recurring, "recurring_run_service_list_recurring_runs", recurring_runs, none,
         "V2beta1ListRecurringRunsResponse"),
        ("POST", "/recurringruns", recurring, "recurring_run_service_create_recurring_run", lambda q, d: b.create_recurring(d),
         "V2beta1RecurringRun", "V2beta1RecurringRun"),
        ("GET", "/recurringruns/([^/:]+)", None, "", lambda i, q: b.get_recurring(i), none, "V2beta1RecurringRun"),
        ("POST", "/recurringruns/([^/:]+):enable", None, "", lambda i, q, d: b.set_recurring(i, enabled=True), none, none),
        ("POST", "/recurringruns/([^/:]+):disable", None, "", lambda i, q, d: b.set_recurring(i, enabled=False), none, none),
        ("DELETE", "/recurringruns/([^/:]+)", recurring, "recurring_run_service_delete_recurring_run",
         lambda i, q: b.delete_recurring(i), none, none),
    ]  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other's acknowledgement
    served: KfpApi

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_GET

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        double, split = self.served, urlsplit(self.path)
        fault = self._fault(split.path)
        if self.served.cookies and self.headers.get("cookie") not in self.served.cookies:
            fault = Fault(self.command, split.path, 302, headers={"location": "/dex/auth", "content-type": "text/html"})
        if fault is not None:
            time.sleep(fault.hang)
        if fault is not None and not fault.after:
            self._fail(fault, split.path, raw)
            return
        with double.backend.lock:
            status, answer, body = self._answer(split.path, dict(parse_qsl(split.query)), raw)
            self._record(split.path, dict(parse_qsl(split.query)), body, status if fault is None else fault.status)
        if fault is not None:
            self._send_fault(fault)
        elif isinstance(answer, str):
            self._send(status, answer.encode(), {"content-type": "text/plain"})
        else:
            self._send(status, json.dumps(answer).encode(), {"content-type": "application/json"})

    def _fault(self, path: str) -> Fault | None:
        for fault in self.served.faults:
            if fault.times > 0 and fault.method == self.command and fault.path in path:
                fault.times -= 1
                return fault
        return None

    def _fail(self, fault: Fault, path: str, raw: bytes) -> None:
        self._record(path, {}, raw.decode(errors="replace"), fault.status)
        self._send_fault(fault)

    def _send_fault(self, fault: Fault) -> None:
        if not fault.status:
            self.close_connection = True
            self.connection.close()
            return
        text = fault.text or json.dumps(Refusal(fault.status, "by script").body() if fault.status in (401, 403, 404, 409, 429,
            500, 503, 504) else {"error": "by script"})  # fmt: skip
        self._send(fault.status, text.encode(), {"content-type": "application/json", **fault.headers})

    def _record(self, path: str, query: dict[str, str], body: Any, status: int) -> None:
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        self.served.requests.append(Request(self.command, path, query, body, token, status, self.headers.get("cookie") or ""))

    def _answer(self, path: str, query: dict[str, str], raw: bytes) -> tuple[int, Item | str, Any]:
        """The status, what is answered, and the request's body as it was understood."""
        double, body = self.served, None
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        try:
            if double.tokens and token not in double.tokens | double.forbidden:
                raise Refusal(401, "Request header error: there is no user identity header or token")
            if token in double.forbidden and self.command != "GET":
                raise Refusal(403, "User 'guest' is not authorized with reason: no permission to create runs")
            if log := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
                return 200, double.backend.pod_log(log[1], log[2]), None
            for method, pattern, kind, call, do, takes, gives in _routes(double.backend):
                match = re.fullmatch(BASE + pattern, path)
                if match is None or method != self.command:
                    continue
                if kind is not None and (unknown := set(query) - query_names(kind, call)):
                    raise Refusal(400, f"unknown query parameter {sorted(unknown)[0]!r}")
                arguments: list[Any] = [*map(unquote, match.groups()), query]
                if takes == "file":
                    body = _uploaded_file(self.headers["content-type"], raw)
                    arguments.append(body)
                elif method == "POST":
                    body = json.loads(raw) if raw else {}
                    check(body, takes)
                    arguments.append(body)
                answer = do(*arguments)
                check(answer, gives)
                return 200, answer, body
            raise Refusal(404, "Not Found")
        except (ShapeError, json.JSONDecodeError) as error:
            return 400, Refusal(400, f"proto: {error}").body(), body
        except Refusal as refusal:
            if takes_file(path) and refusal.status in (400, 409):
                return refusal.status, {"error_message": refusal.message, "error_details": refusal.message}, body
            return refusal.status, refusal.body(), body

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def takes_file(path: str) -> bool:
    return "/pipelines/upload" in path


def _uploaded_file(content_type: str, raw: bytes) -> str:
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + raw
    )
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            if not str(part.get_filename()).endswith((".yaml", ".yml", ".zip", ".tar.gz")):
                raise Refusal(400, "Failed to read a pipeline spec file")
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return content.decode()
    raise Refusal(400, "Failed to read pipeline from file")
