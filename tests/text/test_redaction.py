"""No password that was given comes out of `scrub`, `redacted` or `redact`; what holds none is left alone."""

from __future__ import annotations

import dataclasses
import json
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dydist.config import CheckpointConfig, Config, MonitorConfig
from dydist.errors import UserError
from dydist.text import redaction
from dydist.text.redaction import (
    HIDDEN,
    SECRETS,
    fill_hidden,
    redact,
    redact_url,
    redacted,
    refuse_hidden,
    register_environment,
    register_secrets,
    scrub,
    secrets_of,
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


PRINTABLE = "".join(set(string.printable) - set(string.whitespace))
# Long enough that a password does not stand in the rest of the text by chance.
passwords = st.text(PRINTABLE, min_size=8, max_size=30).filter(lambda text: "hidden" not in text)


def leaks(password: str, text: str) -> bool:
    """Whether the password is read in a text. `<hidden>` itself may end as a password begins."""
    return password in text.replace(HIDDEN, "\n")


URLS = (
    "sftp://user:{}@host/place", "sftp://user:{}@host:2222/place", "s3://key:{}@bucket/place", "ftp://u:{}@h",
    "https://user:{}@host/x?a=b", "redis://:{}@host", "filecache::sftp://u:{}@host/place",
)  # fmt: skip
PAIRS = (
    "https://host/x?access_token={}", "s3://b/x?X-Amz-Signature={}&X-Amz-Date=1", "https://host/x?sig={}&se=1",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core", "aws_secret_access_key={}",
    "aws_secret_access_key = {}", "password={}", "S3FileSystem(key={})", "Authorization: Bearer {}", "client_secret={}",
    "Authorization: Basic {}", "x-amz-security-token: {}", "SharedAccessSignature={}", "api-key={}", "PGPASSWORD={}",
)  # fmt: skip


@pytest.mark.parametrize("url", URLS)
@given(passwords)
@example("p@ss@word")
@example("pa/ss/word")
@example("p?q#r:s@t/")
@example("12345/pass")
@example("://u:x@hosts")
def test_no_password_of_a_url_is_left(url: str, password: str) -> None:
    whole = url.format(password)
    encoded = url.format(quote(password, safe=""))
    for text in (
        whole,
        f"cannot open {whole}: refused",
        f"('{whole}', 3)",
        f"{whole} and then s3://bucket/x {whole}",
    ):
        assert not leaks(password, scrub(text))
    assert not leaks(password, redact_url(whole))
    if password != quote(password, safe=""):
        assert quote(password, safe="") not in scrub(f"from {encoded} to {encoded}")
    assert quote(password, safe="") not in scrub(f"?next={quote(encoded, safe='')}&x=1")


@given(st.text(min_size=8).filter(lambda text: "hidden" not in text))
def test_a_whole_url_may_hold_anything(password: str) -> None:
    """As a configuration's field, where the text's beginning and end are known: blanks and line breaks too."""
    assert not leaks(password, redact_url(f"sftp://user:{password}@host/place"))


@pytest.mark.parametrize("form", PAIRS)
@given(passwords)
@example("=&;,:.p&q")
def test_no_named_secret_is_left(form: str, password: str) -> None:
    for text in (
        form.format(password),
        f"failed: {form.format(password)}",
        f"{form.format(password)} and more",
    ):
        assert not leaks(password, scrub(text))


def test_a_value_in_the_query_of_a_whole_url_reaches_to_the_next() -> None:
    assert redact_url("s3://b/x?token=ab;cd ef&y=1") == f"s3://b/x?token={HIDDEN}&y=1"
    assert redact_url("s3://b/x?y=1&token=ab;cd#part") == f"s3://b/x?y=1&token={HIDDEN}#part"
    url = "s3://b/x?token=abc;defghijk&y=1"
    register_secrets(Config(monitor=MonitorConfig(logdir=url)))
    assert "defghijk" not in scrub(f"cannot open {url}: refused")


@given(passwords)
def test_no_secret_of_a_mapping_is_left(password: str) -> None:
    options = {"key": password, "client_kwargs": {"aws_secret_access_key": password, "x": [password]}}
    for text in (json.dumps(options), json.dumps(options, indent=1), repr(options)):
        shown = scrub(text.replace('"x"', '"pass"').replace("'x'", "'pass'"))
        assert not leaks(password, shown)
    assert password not in json.dumps(redact(options))


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "hf_abcdefghijklmnopqrstuvwx",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_keys_and_tokens_are_known_by_their_form(text: str) -> None:
    assert scrub(f"found {text} there") == f"found {HIDDEN} there"
    assert scrub(f"https://{text}@host/x") == f"https://{HIDDEN}@host/x"


@pytest.mark.parametrize(
    "text",
    [
        "", "saved step 12: 3.4 MiB in 0.2 s", "s3://bucket/runs/cifar10/step-000000012", "sftp://alice@host:2222/x",
        "abfs://container@account.dfs.core.windows.net/x", "http://127.0.0.1:9000/minio", "s3://bucket/a@b/c",
        "s3://bucket: no access; ask bob@example.org", "sftp://host:22/x is held by bob@host", "12:30:15 [rank 3] done",
        "checkpoint.url: s3://b/x cannot be written: PermissionError: [Errno 13] denied: '/x/y'", "tokens=512, step=4",
        "optim.lr: 0.1 is not allowed", "train.batch_size=128", "monkey=banana", "KeyError: 'conv1'", "key: value",
        "file:///home/user:1/x", "memory://runs/x", "http://[::1]:9000/x", "a@b.c, d@e.f", "C:\\users\\x",
    ],
)  # fmt: skip
def test_what_holds_no_secret_is_left_alone(text: str) -> None:
    assert scrub(text) == text


@given(st.text(st.characters(exclude_characters="@=:"), max_size=80))
def test_any_text_without_the_signs_of_a_secret_is_left_alone(text: str) -> None:
    assert scrub(text) == text


@given(passwords)
def test_scrubbing_twice_is_scrubbing_once(password: str) -> None:
    once = scrub(f"sftp://u:{password}@h/x token={password}")
    assert scrub(once) == once


def test_a_user_and_a_place_are_still_told() -> None:
    assert scrub("at sftp://me:hunter2@host:22/x") == f"at sftp://me:{HIDDEN}@host:22/x"
    assert scrub("s3://b/x?X-Amz-Signature=1f&a=b") == f"s3://b/x?X-Amz-Signature={HIDDEN}&a=b"
    assert scrub("a=1;AccountKey=abc==;b=2") == f"a=1;AccountKey={HIDDEN};b=2"


def config(password: str) -> Config:
    return Config(
        checkpoint=CheckpointConfig(
            url=f"sftp://me:{password}@host/place",
            resume=f"https://x:{password}@host/other/step-1",
            storage_options={
                "endpoint_url": f"http://me:{password}@host:9000", "secret": password, "unheard_of": password,
                "client_kwargs": {"region_name": "eu", "aws_session_token": password}, "list": [password],
                "anon": False, "number": 3,
            },
        ),
        monitor=MonitorConfig(logdir=f"s3://bucket/logs?token={password}"),
    )  # fmt: skip


@given(passwords)
@example("p@ss/w?rd#1:2")
@example(">;000000")
@example("#000000;")
def test_a_redacted_configuration_holds_no_secret_and_takes_them_back(password: str) -> None:
    assume(password not in json.dumps(dataclasses.asdict(redacted(config("x" * 31)))))  # such as "attentio"
    full = config(password)
    shown = redacted(full)
    assert not leaks(password, json.dumps(dataclasses.asdict(shown), ensure_ascii=False))
    assert not leaks(json.dumps(password)[1:-1], json.dumps(dataclasses.asdict(shown)))
    assert redacted(shown) == shown
    assert shown.checkpoint.storage_options["client_kwargs"]["region_name"] == "eu"
    assert shown.checkpoint.storage_options["anon"] is False
    secrets = secrets_of(full)
    assert set(secrets) == {
        "checkpoint.url", "checkpoint.resume", "checkpoint.storage_options", "monitor.logdir"
    }  # fmt: skip
    assert set(secrets["checkpoint.storage_options"]) == {
        "endpoint_url", "secret", "unheard_of", "client_kwargs", "list"
    }  # fmt: skip
    filled = fill_hidden(dataclasses.asdict(shown), {SECRETS: json.dumps(secrets)})
    assert filled == dataclasses.asdict(full)


def test_a_configuration_without_secrets_is_written_as_it_is() -> None:
    plain = Config(checkpoint=CheckpointConfig(url="sftp://me@host/x", storage_options={"anon": True}))
    assert redacted(plain) == plain
    assert secrets_of(plain) == {}


@pytest.mark.parametrize(
    "field", ["checkpoint.url", "monitor.logdir", "checkpoint.resume", "checkpoint.storage_options.secret"]
)
def test_what_is_hidden_is_refused_and_said_how_to_give(field: str) -> None:
    shown = dataclasses.asdict(redacted(config("hunter-22")))
    part: dict[str, object] = {}
    *sections, name = field.split(".")
    source, target = shown, part
    for section in sections:
        source, target = source[section], target.setdefault(section, {})  # type: ignore[assignment]
    target[name] = source[name]
    with pytest.raises(UserError, match=f"^{field}: <hidden> stands for a secret.*{SECRETS}="):
        refuse_hidden(part)
    refuse_hidden(dataclasses.asdict(config("hunter-22")))


@pytest.mark.parametrize(
    ("secrets", "told"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        (
            '{"checkpoint.url": "sftp://me:one-1@host/place", "checkpoint.url": "sftp://me:two-2@host/place"}',
            "'checkpoint.url' is there twice",
        ),
        ('{"checkpoint.storage_options": {"key": "one-1", "key": "two-2"}}', "'key' is there twice"),
        (
            '{"checkpoint.url": "sftp://me:pw@elsewhere/place"}',
            "another URL than sftp://me:<hidden>@host/place",
        ),
        ('{"checkpoint.url": 3}', "another URL"),
    ],
)
def test_secrets_that_do_not_fit_are_told(secrets: str, told: str) -> None:
    shown = dataclasses.asdict(redacted(config("hunter-22")))
    with pytest.raises(UserError, match=told):
        fill_hidden(shown, {SECRETS: secrets})


def test_secrets_that_are_there_twice_are_hidden_all_the_same() -> None:
    register_environment({SECRETS: '{"a": {"key": "first-of-two-1"}, "a": {"key": "second-of-two-2"}}'})
    register_environment({SECRETS: "[" * 100_000})
    assert scrub("it says first-of-two-1 and second-of-two-2") == f"it says {HIDDEN} and {HIDDEN}"


@given(passwords.filter(lambda text: any(one.isalnum() for one in text)))
@example("s3cr3t/with+signs=")
def test_a_known_secret_is_hidden_wherever_it_stands(password: str) -> None:
    register_secrets(config(password))
    for spelling in (
        password,
        quote(password, safe=""),
        quote_plus(password),
        repr(password),
        json.dumps(password),
    ):
        shown = scrub(f"the server said: no such login {spelling} (try again)")
        assert spelling.strip("'\"") not in shown or spelling.strip("'\"") == ""
    redaction._known.clear()
    assert password in scrub(f"the server said: no such login {password}") or HIDDEN in scrub(password)
