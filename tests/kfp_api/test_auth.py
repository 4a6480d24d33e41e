"""Tokens: where they come from, that they are renewed, and that nobody sees them."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.errors import ClusterError, EnginepressError, UsageError
from enginepress.run.api import Api
from enginepress.run.auth import CommandToken, FileToken, GivenToken, choose_token
from enginepress.run.cluster import ClusterRun
from enginepress.run.connection import Connection, connect
from enginepress.run.pod_logs import log_of
from enginepress.run.run_state import Step
from tests.kfp_api.conftest import Submit
from tests.kfp_api.server import Fault, KfpApi


def _healthy(connection: Connection) -> None:
    api = Api(connection, pauses=(), looks=())
    api.call("ask", api.health.healthz_service_get_healthz)


def test_a_token_comes_from_what_was_asked_for_then_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("in-file\n")
    environment = {"KF_PIPELINES_TOKEN": "in-environment", "KF_PIPELINES_SA_TOKEN_PATH": str(file)}
    values = [
        choose_token("given", environment=environment),
        choose_token(None, file, environment=environment),
        choose_token(None, None, "echo printed", environment=environment),
        choose_token(environment=environment),
        choose_token(environment={"KF_PIPELINES_TOKEN_COMMAND": "echo printed"}),
        choose_token(environment={"KF_PIPELINES_SA_TOKEN_PATH": str(file)}),
    ]
    assert [one.value() for one in values if one] == ["given", "in-file", "printed", "in-environment", "printed", "in-file"]
    assert choose_token(environment={}) is None
    with pytest.raises(UsageError, match="three ways to one token"):
        choose_token("given", file, environment={})


@pytest.mark.parametrize("text", ["", "\n", "two words", "a\r\nX-Evil: 1", "schlüssel", "a\x00b"])
def test_what_is_no_token_is_never_sent(kfp_api: KfpApi, text: str) -> None:
    with pytest.raises(ClusterError, match="no token"):
        _healthy(connect(kfp_api.url, token=text or " ", environment={}))
    assert kfp_api.requests == []


def test_a_projected_token_is_read_again_when_it_has_rotated(kfp_api: KfpApi, tmp_path: Path, send: Submit) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    kfp_api.tokens = {"first"}
    run = send(Api(connect(kfp_api.url, token_file=file, environment={}), pauses=(), looks=()))
    kfp_api.tokens = {"second"}
    file.write_text("second")
    assert run.wait(poll_s=0).state == "SUCCEEDED"
    assert {r.token for r in kfp_api.requests if r.status == 200} == {"first", "second"}


def test_a_token_that_rotates_between_reading_and_asking_is_read_once_more(kfp_api: KfpApi, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    kfp_api.tokens = {"second"}
    token = FileToken(file)
    read = token.value

    def value() -> str:
        text = read()
        file.write_text("second")
        return text

    token.value = value  # type: ignore[method-assign]
    _healthy(Connection(kfp_api.url, token=token))
    assert [r.status for r in kfp_api.requests] == [401, 200]


def test_a_command_is_asked_again_when_its_token_has_expired(kfp_api: KfpApi, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    kfp_api.tokens = {"first"}
    connection = connect(kfp_api.url, token_command=f"cat {shlex.quote(str(file))}", environment={})
    _healthy(connection)
    file.write_text("second")
    _healthy(connection)
    kfp_api.tokens = {"second"}
    _healthy(connection)
    assert [r.token for r in kfp_api.requests] == ["first", "first", "first", "second"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"{sys.executable} -c \"import sys; sys.exit('error: You must be logged in')\"", "You must be logged in"),
        ("no-such-command-at-all whoami", "No such file"),
        ("echo", "holds no token"),
        ("echo 'unbalanced", "No closing quotation"),
    ],
    ids=["fails", "missing", "empty", "unbalanced"],
)
def test_a_command_that_gives_no_token_says_why(command: str, said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        CommandToken(command).value()


def test_a_refused_token_is_told_with_its_place_and_not_with_its_value(kfp_api: KfpApi) -> None:
    kfp_api.tokens = {"right"}
    with pytest.raises(ClusterError) as caught:
        _healthy(connect(kfp_api.url, environment={"KF_PIPELINES_TOKEN": "wrong-one"}))
    error = caught.value
    assert error.fix == "get a new token; this one came from the environment variable KF_PIPELINES_TOKEN"
    assert "wrong-one" not in str(error)
    with pytest.raises(ClusterError) as caught:
        _healthy(connect(kfp_api.url, environment={}))
    assert "--token-file" in str(caught.value.fix)


def test_a_server_that_repeats_a_token_does_not_get_it_shown(kfp_api: KfpApi) -> None:
    kfp_api.faults = [Fault("GET", "/healthz", status=400, text='{"message": "who is Bearer sesame?"}')]
    with pytest.raises(ClusterError, match="who is Bearer …") as caught:
        _healthy(connect(kfp_api.url, token="sesame", environment={}))
    assert "sesame" not in str(caught.value)


def test_no_token_is_in_a_representation_or_a_log(kfp_api: KfpApi, caplog: pytest.LogCaptureFixture, send: Submit) -> None:
    caplog.set_level(logging.DEBUG)
    kfp_api.tokens = {"sesame"}
    connection = connect(kfp_api.url, token="sesame", environment={})
    run = send(Api(connection))
    run.wait(poll_s=0)
    shown = [repr(connection), repr(run), repr(GivenToken("sesame")), repr(CommandToken("echo", "sesame")), caplog.text]
    assert not [one for one in shown if "sesame" in one]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("http://kubeflow.example.org", False),
        ("http://192.0.2.7:8888", False),
        ("https://kubeflow.example.org", True),
        ("http://localhost:8888", True),
        ("http://127.0.0.1:8888", True),
        ("http://ml-pipeline.kubeflow.svc.cluster.local:8888", True),
        ("http://ml-pipeline.kubeflow.svc:8888", True),
        ("http://ml-pipeline:8888", True),
    ],
)
def test_a_token_travels_encrypted_or_not_at_all(host: str, allowed: bool) -> None:
    def attempt() -> Connection:
        return connect(host, token="sesame", environment={})

    if allowed:
        assert attempt().host == host
    else:
        with pytest.raises(UsageError, match="unencrypted"):
            attempt()


def test_a_browsers_cookie_opens_what_stands_behind_a_login_page(kfp_api: KfpApi, tmp_path: Path, send: Submit) -> None:
    """Dex, IAP: the session's cookie, read anew for each request, so that a new one is taken when the session has ended."""
    file = tmp_path / "cookie"
    file.write_text("Cookie: authservice_session=first; other=1\n")
    kfp_api.cookies = {"authservice_session=first; other=1"}
    run = send(Api(connect(kfp_api.url, cookie_file=file, environment={}), pauses=(), looks=()))
    kfp_api.cookies = {"authservice_session=second"}
    file.write_text("authservice_session=second")
    assert run.wait(poll_s=0).state == "SUCCEEDED"
    assert {r.cookie for r in kfp_api.requests} == {"authservice_session=first; other=1", "authservice_session=second"}
    _healthy(connect(kfp_api.url, environment={"KF_PIPELINES_COOKIE": "authservice_session=second"}))


def test_a_logs_request_has_the_cookie_too(kfp_api: KfpApi, tmp_path: Path, send: Submit) -> None:
    kfp_api.cookies = {"session=sesame-open"}
    run = send(Api(connect(kfp_api.url, environment={"KF_PIPELINES_COOKIE": "session=sesame-open"}), pauses=(), looks=()))
    state = run.wait(poll_s=0)
    log_of(run, state.steps[0])
    assert {r.cookie for r in kfp_api.requests if "/log" in r.path} == {"session=sesame-open"}


def test_a_session_that_has_ended_is_told_without_its_cookie(kfp_api: KfpApi) -> None:
    kfp_api.cookies = {"session=another"}
    connection = connect(kfp_api.url, environment={"KF_PIPELINES_COOKIE": "session=sesame-open"})
    with pytest.raises(ClusterError, match="sends us to a page where people log in") as caught:
        _healthy(connection)
    assert str(caught.value.fix).startswith(f"get a new cookie: log in at {kfp_api.url} in a browser")
    assert str(caught.value.fix).endswith("this one came from the environment variable KF_PIPELINES_COOKIE")
    assert "sesame-open" not in repr(connection) + str(caught.value)
    with pytest.raises(ClusterError) as caught:
        _healthy(connect(kfp_api.url, environment={}))
    assert "--cookie-file FILE" in str(caught.value.fix)
    kfp_api.cookies = set()
    kfp_api.faults = [Fault("GET", "/healthz", status=400, text='{"message": "what is sesame-open?"}')]
    with pytest.raises(ClusterError, match="what is …"):
        _healthy(connection)


@pytest.mark.parametrize(
    ("given", "said", "next_step"),
    [
        (
            {"KF_PIPELINES_COOKIE": "session=old"},
            "does not accept the cookie (401",
            "get a new cookie: log in at https://ui.example",
        ),
        ({"KF_PIPELINES_TOKEN": "old"}, "does not accept the token (401", "get a new token; this one came from"),
        ({"KF_PIPELINES_COOKIE": "session=old", "KF_PIPELINES_TOKEN": "old"}, "the token and cookie (401", "; get a new cookie"),
        ({}, "wants to know who asks (401", "give a token"),
    ],
    ids=["cookie", "token", "both", "neither"],
)
def test_what_is_not_accepted_is_called_what_it_is_with_the_way_to_a_new_one(
    kfp_api: KfpApi, send: Submit, given: dict[str, str], said: str, next_step: str
) -> None:
    """A gateway may refuse a session that has ended by 401, where another sends people to its login page."""
    run = send()
    connection = connect(kfp_api.url, environment={**given, "KF_PIPELINES_UI_ENDPOINT": "https://ui.example"})
    kfp_api.faults = [Fault("GET", "/", status=401, text='{"message": "Unauthenticated old"}', times=99)]
    with pytest.raises(ClusterError) as caught:
        _healthy(connection)
    assert said in str(caught.value)
    assert next_step in str(caught.value.fix)
    assert not given or "old" not in str(caught.value)
    api = Api(connection, pauses=(), looks=())
    mine = ClusterRun(api, run.id, run.name, run.url)
    with pytest.raises(ClusterError) as caught:
        mine.wait(poll_s=0)
    assert said in str(caught.value)
    assert f"enginepress status {run.id} --follow" in str(caught.value.fix)
    with pytest.raises(ClusterError) as caught:
        log_of(mine, Step("build", "FAILED", nodes=("pod-1",)))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "novalue", "a=b\r\nX-Evil: 1", "a=schlüssel", "two words=b"])
def test_what_is_no_cookie_is_never_sent(kfp_api: KfpApi, text: str, tmp_path: Path) -> None:
    file = tmp_path / "cookie"
    file.write_text(text)
    with pytest.raises(ClusterError, match="no cookie"):
        _healthy(connect(kfp_api.url, cookie_file=file, environment={}))
    assert kfp_api.requests == []
    with pytest.raises(UsageError, match="a cookie would travel unencrypted"):
        connect("http://kubeflow.example.org", cookie_file=file, environment={})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("kubeflow.example.org/pipeline/", "https://kubeflow.example.org/pipeline"),
        ("https://kubeflow.example.org/pipeline/#/runs", "https://kubeflow.example.org/pipeline"),
        ("http://localhost:8888/apis/v2beta1/", "http://localhost:8888"),
        (" http://localhost:8888 ", "http://localhost:8888"),
    ],
)
def test_an_address_is_understood_as_people_paste_it(written: str, meant: str) -> None:
    assert connect(written, environment={}).host == meant


@pytest.mark.parametrize("written", ["ftp://x", "https://", "https://two words", "https://alice:hunter2@kubeflow.example.org"])
def test_an_address_that_is_none_is_refused_without_its_secrets(written: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(written, environment={})
    assert "hunter2" not in str(caught.value)


def test_without_a_host_it_asks_which() -> None:
    with pytest.raises(UsageError, match="which Kubeflow Pipelines"):
        connect(None, environment={})
    assert connect(None, environment={"KF_PIPELINES_ENDPOINT": "http://localhost:1"}).host == "http://localhost:1"


# Certificates ---------------------------------------------------------------------------------------------------------


def test_a_certificate_of_an_authority_of_ones_own_is_trusted_if_it_is_named(certificate: tuple[str, str]) -> None:
    with KfpApi(certificate=certificate) as server:
        with pytest.raises(ClusterError, match="certificate is not one that we trust") as caught:
            _healthy(connect(server.url, environment={}))
        assert "--ca FILE" in str(caught.value.fix)
        assert server.requests == []
        _healthy(connect(server.url, ca=Path(certificate[0]), environment={}))
        _healthy(connect(server.url, environment={"SSL_CERT_FILE": certificate[0]}))
        assert len(server.requests) == 2
    with pytest.raises(UsageError, match="no file with certificates"):
        connect(server.url, ca=Path("/nowhere.pem"), environment={})


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    import datetime
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(pem), str(secret)


# Words ----------------------------------------------------------------------------------------------------------------

Make = Callable[[KfpApi], None]


@pytest.mark.parametrize(
    ("status", "said", "next_step"),
    [
        (401, "wants to know who asks", "give a token"),
        (403, "does not allow it", "ask whoever runs Kubeflow"),
        (404, "does not know it", "enginepress status"),
        (409, "refuses", "exists already"),
        (429, "is asked too often", "wait a minute"),
        (500, "fails", "run the same command again"),
        (503, "fails", "run the same command again"),
        (504, "fails", "run the same command again"),
        (302, "a page where people log in", "give a token"),
        (0, "the connection was cut", "run the same command again"),
    ],
)
def test_a_fault_that_stays_is_explained_with_what_to_do(
    kfp_api: KfpApi, send: Submit, status: int, said: str, next_step: str
) -> None:
    kfp_api.faults = [Fault("GET", "/experiments", status=status, times=99, headers={"location": "/login"})]
    with pytest.raises(ClusterError) as caught:
        send()
    assert said in str(caught.value)
    assert next_step in str(caught.value.fix)
    assert str(caught.value).startswith(kfp_api.url)
    assert kfp_api.backend.runs == {}


def test_a_login_page_instead_of_the_api_is_seen(kfp_api: KfpApi, send: Submit) -> None:
    page = "<html><body>multi_user experiments runs: please log in</body></html>"
    kfp_api.faults = [Fault("GET", "/healthz", status=200, text=page, headers={"content-type": "text/html"}, times=9)]
    with pytest.raises(ClusterError, match="a page for people instead of the API's JSON") as caught:
        send()
    assert "/pipeline" in str(caught.value.fix)


STRANGE = (
    *("null", "[]", "42", '{"runs": [', "[" * 100_000, '{"runs": 5}', '{"runs": [null]}', '{"runs": [{}]}', '{"run_id": "x"}'),
    '{"run_id": "x", "created_at": "yesterday", "runs": [{"created_at": "never"}], "experiments": [{"created_at": "once"}]}',
)


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: text[:20])
@pytest.mark.parametrize("where", [("GET", "/runs"), ("POST", "/runs"), ("GET", "/experiments")], ids=str)
def test_json_that_is_none_of_the_apis_ends_in_words_and_the_same_command_again_submits_once(
    kfp_api: KfpApi, send: Submit, where: tuple[str, str], text: str
) -> None:
    kfp_api.faults = [Fault(*where, status=200, text=text, times=99, after=True)]
    errors: list[ClusterError] = []
    try:
        send()
    except ClusterError as error:
        errors.append(error)
    assert all(str(error).startswith(kfp_api.url) and error.fix for error in errors)
    assert kfp_api.faults[0].times > 90, "it is not asked again and again"
    kfp_api.faults = []
    kfp_api.backend.script.stands = True
    send()
    assert len(kfp_api.backend.runs) == 1


def test_who_may_only_look_is_told_so(kfp_api: KfpApi, send: Submit) -> None:
    kfp_api.forbidden = {"a-guests-token"}
    kfp_api.tokens = {"other"}
    with pytest.raises(ClusterError, match="User 'guest' is not authorized"):
        send(Api(connect(kfp_api.url, token="a-guests-token", environment={})))
    assert kfp_api.backend.runs == {}


def test_nobody_there_is_told_with_the_way_in(send: Submit) -> None:
    with pytest.raises(EnginepressError) as caught:
        send(Api(connect("http://127.0.0.1:1", environment={}), pauses=(0.01,)))
    assert "cannot be reached: Connection refused" in str(caught.value) or "Errno 111" in str(caught.value)
    assert "kubectl port-forward" in str(caught.value.fix)


def test_a_server_that_asks_for_patience_gets_it(kfp_api: KfpApi, send: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("enginepress.run.api.time.sleep", waited.append)
    kfp_api.faults = [Fault("POST", "/runs", status=429, headers={"retry-after": "7"})]
    send()
    assert [seconds for seconds in waited if seconds] == [7.0]
    assert len(kfp_api.asked("POST", "/runs")) == 2
