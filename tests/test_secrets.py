"""No secret survives, in whatever form of address it stands; what is no address stays as it is."""

import json

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mmclr.display.secrets import GONE, address, is_redacted, redact, redact_tree
from mmclr.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
secrets = st.text(LETTERS, min_size=6, max_size=40).map("Zq{}Qz".format)  # found nowhere else
hard = st.text(LETTERS + "-._~%+/=:@!$()*,;?#&[]|", max_size=30).map("Zq7{}7Qz".format)  # as people type them raw
hosts = st.sampled_from(["h", "data.example.org", "127.0.0.1:8080", "[::1]:80", "b.s3.amazonaws.com", "h{1..3}:80"])
paths = st.sampled_from(["a.tar", "x/{00..99}.tar", "x/@me/a.tar", "b*/a.tar", "v2.0/%20a.tar", "a+b=c/é.tar", ""])
schemes = st.sampled_from(["http", "https", "HTTPS", "ftp", "sftp", "s3", "gs", "az", "hf", "webdav", "smb"])
QUERIES = (
    "X-Amz-Signature={}", "X-Amz-Credential=a&X-Amz-Security-Token={}", "X-Goog-Signature={}&X-Goog-Date=1", "sig={}",
    "sv=2022-11-02&se=2030-01-01&sr=b&sp=r&sig={}", "Policy={}", "Key-Pair-Id={}", "token={}", "access_token={}",
    "api_key={}", "password={}", "Expires=1&Signature={}", "AWSAccessKeyId={}", "GoogleAccessId={}", "{}", "x={}&y=1",
)  # fmt: skip
COMMANDS = (
    "curl -s -H 'Authorization: Bearer {}' https://h/a.tar", 'curl -H "X-Api-Key: {}" https://h/a.tar | gunzip',
    "curl -u me:{} https://h/a.tar", "curl https://me:{}@h/a.tar", "curl 'https://h/a.tar?sig={}' -o -",
    "TOKEN={} /opt/get.sh s3://b/a.tar", "cat /data/a.tar #Bearer={}", "aws s3 cp s3://b/a.tar - --secret {}",
    "wget -qO- --header=Authorization:{} https://h/a.tar", "sh -c 'PW={}; curl -u x:$PW https://h/{{0..9}}.tar'",
)  # fmt: skip
HEADERS = (
    "Authorization: Bearer {}", "headers={{'Authorization': 'Basic {}'}}", '{{"token": "{}"}}', "Cookie: id={}",
    "AWS_SECRET_ACCESS_KEY={}", "HF_TOKEN={}", "(b'Authorization', b'Bearer {}')", "X-Auth-Token: {}", "password='{}'",
)  # fmt: skip
PROSE = ("{}", "{}: there is no such shard; check it", "'{}' names no shard", '["{}", "{}"]', "it isn't there: {}.",
         "URL('{}'), status=403", "tried ({}), and then\n{}\nagain", "data.train={}", "{}::/data/a.tar",
         "/a.tar::{}")  # fmt: skip


@st.composite
def addresses(draw, secret):
    """An address that holds the secret as user, password, query or fragment."""
    user = draw(st.sampled_from(["", "{}@", "me:{}@", "{}:@", "me:a{}@"]))
    query = draw(st.sampled_from(["", *(f"?{q}" for q in QUERIES), "?a=1#{}", "#{}"])) if user else None
    query = draw(st.sampled_from([f"?{q}" for q in QUERIES])) if query is None else query
    scheme = draw(schemes if "#" not in query else st.sampled_from(["http", "https"]))
    return f"{scheme}://{user}{draw(hosts)}/{draw(paths)}{query}".replace("{}", secret)


@given(st.data())
def test_no_secret_of_an_address_survives_in_any_prose(data):
    secret = data.draw(secrets)
    text = data.draw(st.sampled_from(PROSE)).replace("{}", data.draw(addresses(secret)))
    shown = redact(text)
    assert secret not in shown
    assert redact(shown) == shown


@given(st.data())
def test_whatever_is_typed_into_an_address_is_left_out(data):
    """Where a text is known to be an address, quotes, blanks and brackets in its secret do not end it."""
    secret = data.draw(hard)
    url = data.draw(addresses(secret))
    assume("/" not in secret or not (f"//{secret}" in url or "@" in secret))  # in http://a/b@c, b may be of a path
    for shown in (address(url), redact_tree({"data": [url]})["data"][0]):
        assert "7Qz" not in shown
        assert address(shown) == shown
        assert is_redacted(shown)


@pytest.mark.parametrize("form", [*COMMANDS, *HEADERS])
@given(data=st.data())
def test_no_secret_of_a_command_or_header_survives(form, data):
    secret = data.draw(secrets)
    texts = [f"pipe:{form}" if form in COMMANDS else form]
    texts = [t.format(secret) for t in texts]
    texts += [
        repr(texts[0]),
        json.dumps(texts),
        yaml.safe_dump({"a": texts}),
        f"{texts[0]}\nnext line",
        repr(texts * 2),
    ]
    for shown in (redact(text) for text in texts):
        assert secret not in shown
        assert redact(shown) == shown


@pytest.mark.parametrize("value", ["hf_" + "aB3" * 11, "AKIA" + "ABCD1234" * 2, "ghp_" + "a1" * 18])
def test_tokens_are_known_by_their_form(value):
    assert value not in redact(f"it said {value}, and stopped")


@given(st.text(LETTERS + "/\\.-_ []{}()*?!~#,+@%&", max_size=60))
@example("/data/{00000..00099}.tar::more/*.tar")
@example("C:\\data\\shard-[0-9]?.tar")
@example("file:///data/shard-?.tar")
@example("s3://bucket/tokens/{0..9}.tar")
@example("s3://bucket/shard-?.tar")
@example("hf://datasets/Owner/Name@main/0.tar")
@example("abfs://container@account.dfs.core.windows.net/0.tar")
@example("read it as pipe: with data.allow_pipe=true")
@example("objectives.clip.token=cls".replace("token", "tokens"))
@example("the key 'tokenizer': 'clip'")
def test_what_holds_no_secret_stays_as_it_is(path):
    assert redact(path) == path
    assert redact_tree({"a": [path]}) == {"a": [path]}


def test_scheme_host_and_path_stay():
    shown = redact("https://me:pw@h:80/x/{0..9}.tar?sig=1: forbidden")
    assert shown == f"https://{GONE}@h:80/x/{{0..9}}.tar?{GONE}: forbidden"
    assert redact("pipe:curl -u a:b https://h/a.tar") == f"pipe:curl {GONE} https://h/a.tar"
    assert redact("http://a/1?x::http://b/2?y") == f"http://a/1?{GONE}::http://b/2?{GONE}"


@given(secrets, st.sampled_from(["token", "HF_TOKEN", "aws_secret_access_key", "password", "credentials", "api-key"]))
def test_a_tree_hides_what_its_keys_name(secret, key):
    tree = {
        "a": {key: secret, "b": [{key: 5}]},
        "headers": {"X": secret},
        "storage_options": {"anon": True, "c": [secret]},
    }
    shown = redact_tree(tree)
    assert secret not in json.dumps(shown)
    assert shown["storage_options"] == {"anon": True, "c": [GONE]}
    assert redact_tree(shown) == shown
    assert redact_tree({"tokenizer": "clip", "max_tokens": 3}) == {"tokenizer": "clip", "max_tokens": 3}


def test_addresses_as_keys_stay_apart():
    shown = redact_tree({"http://h/a?1": 1, "http://h/a?2": 2})
    assert sorted(shown.values()) == [1, 2]


def test_an_error_has_no_secret_in_any_form_of_it():
    error = UserError("http://u:S3CRET@h/a.tar?sig=S3CRET: gone")
    assert "S3CRET" not in f"{error} {error!r} {error.args}"
    assert str(error) == f"http://{GONE}@h/a.tar?{GONE}: gone"
