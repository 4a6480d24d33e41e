"""Kubeflow's API through its own client (kfp-server-api), with patience and in plain words.

kfp.Client is not used: it imports the whole SDK, prints, keeps state in the user's home and knows no patience. What it does over
HTTP is the same.

What may be asked again is asked again after a pause: when the connection failed, on 429 and on 5xx. What must happen once is
never sent again before a look at whether it has happened (`once`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import kfp_server_api
import urllib3

from enginepress import __version__
from enginepress.errors import ClusterError
from enginepress.run.connection import Connection

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts."""
LOOKS = (1.0, 2.0, 4.0)
"""Seconds before each look for what may have been created although the answer was lost."""
FEW = 2
"""Attempts more after a 500: the backend says it to what it cannot do at all, too."""
MOST_WAIT = 60.0
"""Seconds that a server may make us wait (Retry-After)."""
T = TypeVar("T")
Tell = Callable[[str], None]


class Trouble(Exception):
    """A request that failed.

    Attributes:
        status: of the HTTP answer; 0 if there was none.
        arrived: whether the server may have carried it out.
        wait: seconds that it asked us to wait.
        unknown_to_it: it does not know who we are; so says a login page that it sends us to.
        shown: what it was shown of us: a token, a cookie, both, or nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        arrived: bool = True,
        wait: float = 0.0,
        fatal: bool = False,
        shown: str = "",
    ) -> None:
        self.status, self.arrived, self.wait, self.shown = status, arrived, wait, shown
        self.passing = not fatal and (status in (0, 429, 500, 502, 503, 504))
        self.unknown_to_it = status == 401 or 300 <= status < 400
        super().__init__(message)


class Api:
    """The API at a connection.

    Args:
        tell: gets a line whenever something is tried again.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        tell: Tell | None = None,
        pauses: Sequence[float] = PAUSES,
        looks: Sequence[float] = LOOKS,
    ) -> None:
        self.connection = connection
        self._tell, self._pauses, self._looks = tell, pauses, looks
        configuration = kfp_server_api.Configuration(host=connection.host)
        configuration.retries = urllib3.Retry(0, redirect=0, raise_on_redirect=False)  # our own patience is below
        configuration.proxy = connection.proxy
        if connection.ca is not None:
            configuration.ssl_ca_cert = str(connection.ca)
        if connection.token is not None:
            configuration.api_key["authorization"] = ""  # there must be one for the hook to be called
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.refresh_api_key_hook = self._refresh
        self.client = kfp_server_api.ApiClient(configuration)
        self.client.user_agent = f"enginepress/{__version__}"
        self.experiments = kfp_server_api.ExperimentServiceApi(self.client)
        self.pipelines = kfp_server_api.PipelineServiceApi(self.client)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self.client)
        self.runs = kfp_server_api.RunServiceApi(self.client)
        self.recurring = kfp_server_api.RecurringRunServiceApi(self.client)
        self.health = kfp_server_api.HealthzServiceApi(self.client)

    def _refresh(self, configuration: Any) -> None:
        assert self.connection.token is not None
        configuration.api_key["authorization"] = self.connection.token.value()

    # One request ------------------------------------------------------------------------------------------------------

    def attempt(self, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """One request.

        Raises:
            Trouble: if it failed.
        """
        self.client.last_response = None
        if self.connection.cookie is not None:
            self.client.cookie = self.connection.cookie.value()
        timeouts = (self.connection.connect_s, self.connection.read_s)
        try:
            answer = method(*args, **options, _request_timeout=timeouts)
        except kfp_server_api.ApiException as error:
            raise self._trouble(error) from None
        except urllib3.exceptions.HTTPError as error:
            raise self.lost(error) from None
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            if self._is_json():
                raise _strange(str(error)) from None
            raise self._no_api() from None
        if not self._is_json():
            raise self._no_api()
        if (hole := _hole(answer)) is not None:
            raise _strange(hole)
        return answer

    def _is_json(self) -> bool:
        response = self.client.last_response
        return response is None or "json" in (response.getheader("content-type") or "json")

    def _no_api(self) -> Trouble:
        return Trouble("answers with a page for people instead of the API's JSON", fatal=True)

    def _trouble(self, error: Any) -> Trouble:
        status = int(error.status or 0)
        if not status:
            parsed = str(error.reason).startswith("Failed to parse")  # a date that is none
            return _strange(str(error.reason)) if parsed else self.lost(error.reason)
        if 300 <= status < 400:
            return self.refused("sends us to a page where people log in", status)
        headers = {str(k).lower(): str(v) for k, v in dict(error.headers or {}).items()}
        wait = headers.get("retry-after", "")
        seconds = min(float(wait), MOST_WAIT) if wait.isdigit() else 0.0
        return self.refused(_message(error.body) or str(error.reason or ""), status, wait=seconds)

    def refused(self, message: str, status: int, *, wait: float = 0.0) -> Trouble:
        """An answer that is a refusal, in the server's words."""
        used = " and ".join(one.kind for one in (self.connection.token, self.connection.cookie) if one is not None)
        return Trouble(self._without_token(message), status=status, arrived=status != 429, wait=wait, shown=used)

    def lost(self, error: Any) -> Trouble:
        reason = getattr(error, "reason", None) or error
        text = str(reason)
        if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
            return Trouble("its certificate is not one that we trust", arrived=False, fatal=True)
        never = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
        if isinstance(reason, never):
            return Trouble("cannot be reached: " + text.rpartition(": ")[2], arrived=False)
        if isinstance(reason, urllib3.exceptions.ReadTimeoutError):
            return Trouble(f"did not answer within {self.connection.read_s:g} s")
        return Trouble("the connection was cut before the answer came")

    def _without_token(self, text: str) -> str:
        """A server's words, should it repeat what it was sent."""
        token, cookie = self.client.configuration.api_key.get("authorization") or "", self.client.cookie or ""
        for secret in (token, *(pair.strip().partition("=")[2] for pair in cookie.split(";"))):
            text = text.replace(secret, "…") if secret else text
        return text

    # Patience ---------------------------------------------------------------------------------------------------------

    def call(self, doing: str, method: Callable[..., T], *args: Any, **options: Any) -> T:
        """A request that may be sent again, since that changes nothing.

        Args:
            doing: what it is for, as "list the pipelines".

        Raises:
            ClusterError: if it fails for good, or still after the last pause.
        """
        renewed = False
        pauses = list(self._pauses)
        while True:
            try:
                return self.attempt(method, *args, **options)
            except Trouble as trouble:
                if trouble.unknown_to_it and not renewed and self.renewed():
                    renewed = True
                    continue
                if trouble.status == 500:
                    pauses = pauses[:FEW]
                if not trouble.passing or not pauses:
                    raise self.explained(trouble, doing) from None
                self.pause(trouble, pauses.pop(0), doing)

    def once(
        self, doing: str, method: Callable[..., T], *args: Any, find: Callable[[], T | None], **options: Any
    ) -> tuple[T, bool]:
        """A request that must take effect once.

        After an answer that was lost, the server is looked at before anything is sent again.

        Args:
            find: what the request has made, if it has; asked with `call`.

        Returns:
            What was made, and whether an answer was lost on the way.

        Raises:
            ClusterError: if it fails for good. Its words say if it is unknown whether the request took effect.
        """
        renewed = lost = False
        pauses = list(self._pauses)
        while True:
            try:
                return self.attempt(method, *args, **options), lost
            except Trouble as trouble:
                if trouble.unknown_to_it and not renewed and self.renewed():
                    renewed = True
                    continue
                if trouble.status == 409 and (found := find()) is not None:
                    return found, lost
                if not trouble.passing:
                    raise self.explained(trouble, doing) from None
                if trouble.arrived:
                    lost = True
                    if (found := self._look(trouble, doing, find)) is not None:
                        return found, True
                if trouble.status == 500:
                    pauses = pauses[:FEW]
                if not pauses:
                    raise self.explained(trouble, doing) from None
                self.pause(trouble, pauses.pop(0), doing)

    def _look(self, trouble: Trouble, doing: str, find: Callable[[], T | None]) -> T | None:
        for pause in self._looks:
            time.sleep(pause)
            try:
                found = find()
            except ClusterError as error:
                raise ClusterError(
                    f"the answer was lost when trying to {doing}, and whether it took effect cannot be asked: {error.message}",
                    where=error.where,
                    fix="run the same command again: it looks before it sends anything",
                ) from None
            if found is not None:
                return found
        return None

    def pause(self, trouble: Trouble, seconds: float, doing: str) -> None:
        if self._tell is not None:
            self._tell(f"cannot {doing}: {self.connection.host} {said(trouble)}; trying again")
        time.sleep(max(seconds, trouble.wait))

    def renewed(self) -> bool:
        return any(one.renew() for one in (self.connection.token, self.connection.cookie) if one is not None)

    # Words ------------------------------------------------------------------------------------------------------------

    def explained(self, trouble: Trouble, doing: str) -> ClusterError:
        """The error for people: what could not be done, why, and what to do next."""
        return ClusterError(f"cannot {doing}: {said(trouble)}", where=self.connection.host, fix=self._fix(trouble))

    def _fix(self, trouble: Trouble) -> str:
        status = trouble.status
        if trouble.unknown_to_it:
            return self._get_another()
        if status == 403:
            place = f" in the namespace {self.connection.namespace}" if self.connection.namespace else ""
            return f"ask whoever runs Kubeflow for the right to do this{place}, or name your own namespace with --namespace"
        if status in FIXES:
            return FIXES[status]
        if "certificate" in str(trouble):
            return "name the file with your authority's certificate: --ca FILE"
        if "page for people" in str(trouble):
            return f"is --host the API's address? It often ends with /pipeline; if a login is before it, {self._get_another()}"
        if not trouble.arrived:
            return (
                "is the address right, and can this machine reach it? From outside a cluster: "
                "`kubectl port-forward -n kubeflow svc/ml-pipeline 8888`, then --host http://localhost:8888"
            )
        return "run the same command again in a few minutes: it looks before it sends anything"

    def _get_another(self) -> str:
        """What to do when what we showed of us is not accepted, or nothing was shown."""
        token, cookie = self.connection.token, self.connection.cookie
        ways = [f"get a new token; this one came from {token.where}"] if token is not None else []
        if cookie is not None:
            page = self.connection.ui or self.connection.host
            ways.append(
                f"get a new cookie: log in at {page} in a browser, and take NAME=VALUE of the session's cookie from its "
                f"developer tools (Storage or Application, Cookies); this one came from {cookie.where}"
            )
        return "; ".join(ways) or GIVE_TOKEN


GIVE_TOKEN = (
    "give a token: --token-file FILE, --token-command 'oc whoami -t', or KF_PIPELINES_TOKEN; where people log in on a page, the "
    "cookie of a browser that has: --cookie-file FILE, or KF_PIPELINES_COOKIE"
)
FIXES = {
    400: "its words say what is wrong; a parameter of the run is set with --set NAME=VALUE",
    404: "`enginepress status` lists the runs; if nothing is found at all, is --host the address of Kubeflow Pipelines?",
    409: "something of that name exists already: look at it in the user interface",
    429: "wait a minute and run the same command again",
}


def _strange(why: str) -> Trouble:
    return Trouble(f"answers with JSON that this client does not understand: {why}", fatal=True)


IDS = {
    "V2beta1Run": "run_id",
    "V2beta1Experiment": "experiment_id",
    "V2beta1Pipeline": "pipeline_id",
    "V2beta1PipelineVersion": "pipeline_version_id",
    "V2beta1RecurringRun": "recurring_run_id",
}
"""What has an id, without which nothing can be asked about it."""


def _hole(answer: Any) -> str | None:
    """What an answer lacks: all of it, an entry of one of its lists, or an id."""
    if answer is None:
        return "it is null"
    kind = type(answer).__name__
    if kind in IDS and not getattr(answer, IDS[kind]):
        return f"it has no {IDS[kind]}"
    for name in getattr(answer, "openapi_types", ()):
        value = getattr(answer, name)
        for part in value if isinstance(value, list) else [value] if hasattr(value, "openapi_types") else []:
            if part is None:
                return f"an entry of {name} is null"
            if (hole := _hole(part)) is not None:
                return hole
    return None


def said(trouble: Trouble) -> str:
    unknown = f"does not accept the {trouble.shown}" if trouble.shown else "wants to know who asks"
    words = {401: unknown, 403: "does not allow it", 404: "does not know it", 429: "is asked too often"}
    if trouble.status == 401 and not str(trouble):
        return words[401]
    if trouble.status in words or trouble.status >= 400:
        head = words.get(trouble.status, "refuses" if trouble.status < 500 else "fails")
        return f"{head} ({trouble.status}: {trouble})"
    return str(trouble)


def _message(body: Any) -> str:
    """The words in an error's body: the gateway's and the upload server's differ."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        data = json.loads(text)
    except ValueError:
        return "" if "<" in text else text.strip()[:300]
    if not isinstance(data, dict):
        return ""
    words = next((data[k] for k in ("message", "error_message", "error") if isinstance(data.get(k), str)), "")
    return " ".join(words.split())[:600]
