"""Whatever a client sends, it gets an error of OpenAI's form that names the field, never a 500, and queues nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.fakes import Running, waits

Start = Callable[..., Running]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(30)
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "   "}, "prompt"),
    ({"prompt": "a\x00b"}, "prompt"),
    ({"prompt": "a\nb"}, "prompt"),
    ({"prompt": "x" * 2001}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"model": 1}, "model"),
    ({"seconds": 1}, "seconds"),
    ({"seconds": "4"}, "seconds"),
    ({"seconds": "01"}, "seconds"),
    ({"size": "32"}, "size"),
    ({"size": "33x32"}, "size"),
    ({"size": "0x32"}, "size"),
    ({"size": "99999x99999"}, "size"),
    ({"size": "1024x1024"}, "size"),
    ({"size": [32, 32]}, "size"),
    ({"fps": 7}, "fps"),
    ({"fps": "8"}, "fps"),
    ({"fps": 8.0}, "fps"),
    ({"fps": True}, "fps"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1e3}, "seed"),
    ({"negative_prompt": "x" * 2001}, "negative_prompt"),
    ({"negative_prompt": "a\x1b[31m"}, "negative_prompt"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 101}, "num_inference_steps"),
    ({"guidance_scale": -1}, "guidance_scale"),
    ({"guidance_scale": 1e9}, "guidance_scale"),
    ({"guidance_scale": "2"}, "guidance_scale"),
    ({"image_guidance_scale": 2.0}, "image_guidance_scale"),
    ({"interpolation_guidance_scale": False}, "interpolation_guidance_scale"),
    ({"guidance_interval": [800, 200]}, "guidance_interval"),
    ({"guidance_interval": [0, 1001]}, "guidance_interval"),
    ({"guidance_interval": [0]}, "guidance_interval"),
    ({"guidance_interval": "200;800"}, "guidance_interval"),
    ({"guidance_interval": [False, True]}, "guidance_interval"),
    ({"sampler": "euler"}, "sampler"),
    ({"preset": "best"}, "preset"),
    ({"motion": "low"}, "motion"),
    ({"motion": 1001}, "motion"),
    ({"cache_interval": 2}, "cache_interval"),
    ({"output_format": "avi"}, "output_format"),
    ({"output_format": "../mp4"}, "output_format"),
    ({"priority": 11}, "priority"),
    ({"user": "x" * 65}, "user"),
    ({"input_reference": "picture.png"}, "input_reference"),
    ({"input_reference": {"file_id": "a"}}, "input_reference"),
    ({"input_reference": {"image_url": "http://169.254.169.254/latest"}}, "input_reference"),
    ({"input_reference": {"image_url": "file:///etc/passwd"}}, "input_reference"),
    ({"input_reference": {"image_url": "data:image/png;base64,!!!!"}}, "input_reference"),
    ({"input_reference": {"image_url": "data:image/png;base64,iVBORw0KGgo="}}, "input_reference"),
    ({"output_path": "/etc"}, "output_path"),
    ({"lora": "a.safetensors"}, "lora"),
]


def refused(answer: Any, status: int = 400) -> dict[str, Any]:
    """The error of an answer of the right form."""
    assert answer.status_code == status, answer.text
    (body,) = answer.json().values()
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"] and body["type"] and body["code"] and answer.headers["x-request-id"]
    return body


def test_every_bad_field_of_json_is_named(running: Start) -> None:
    server = running(per_minute=10)
    with server.client() as client:
        for fields, param in BAD:
            asked = {"prompt": "a", **fields} if fields else {}
            body = refused(client.post("/v1/videos", json=asked))
            assert body["param"] == param, (fields, body)
        assert client.get("/v1/videos").json()["data"] == []


def test_every_bad_field_of_a_form_is_named(running: Start) -> None:
    server = running(per_minute=10)
    with server.client() as client:
        for fields, param in BAD:
            # "4" is a number in a form, and a list of texts is a field that is given twice
            if (
                not fields
                or any(not isinstance(value, str | int | float) for value in fields.values())
                or fields
                in (
                    {"prompt": 7},
                    {"model": 1},
                    {"seconds": 1},
                    {"fps": "8"},
                    {"guidance_scale": "2"},
                    {"prompt": ""},
                )
            ):
                continue
            form = {name: (None, str(value)) for name, value in {"prompt": "a", **fields}.items()}
            assert refused(client.post("/v1/videos", files=form))["param"] == param, fields
        for text in (" 8 ", "1_0", "0x8", "8.0", "\u0668", "+8", "1e1"):
            body = refused(client.post("/v1/videos", files={"prompt": (None, "a"), "fps": (None, text)}))
            assert body["param"] == "fps", text
        twice = [("prompt", (None, "a")), ("prompt", (None, "b"))]
        assert refused(client.post("/v1/videos", files=twice))["param"] == "prompt"
        urls = [("prompt", (None, "a")), *[("input_reference[image_url]", (None, "data:image/png;base64,"))] * 2]
        assert "got two" in refused(client.post("/v1/videos", files=urls))["message"]
        assert client.get("/v1/videos").json()["data"] == []


def test_a_form_of_good_fields_is_a_video(running: Start) -> None:
    server = running()
    with server.client() as client:
        form = {"prompt": "a", "fps": "30", "seed": "3", "guidance_scale": "1.5", "size": "48x32", "seconds": "1"}
        video = client.post("/v1/videos", files={name: (None, value) for name, value in form.items()}).json()
        assert (video["fps"], video["seed"], video["guidance_scale"], video["size"]) == (30, 3, 1.5, "48x32")
        assert video["num_frames"] == 33


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"a"', "application/json", 400),
        (b"[" * 20_000, "application/json", 400),
        (b'{"prompt":"a","prompt":"b"}', "application/json", 400),
        (b'{"prompt":"a","guidance_scale":NaN}', "application/json", 400),
        (b'{"prompt":"a","guidance_scale":1e999}', "application/json", 400),
        (b'{"prompt":"a","seed":' + b"9" * 5000 + b"}", "application/json", 400),
        (b'{"prompt":"\\ud800"}', "application/json", 400),
        (b'{"prompt":"\xff"}', "application/json", 400),
        (b"prompt=a", "application/x-www-form-urlencoded", 415),
        (b"prompt=a", "text/plain", 415),
        (b"a", "", 415),
        (b"a", "multipart/form-data", 400),
        (b"a", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x\r\ncontent-disposition: form-data\r\n\r\na\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_a_broken_body_is_refused(running: Start, body: bytes, kind: str, status: int) -> None:
    with running().client() as client:
        refused(client.post("/v1/videos", content=body, headers={"content-type": kind}), status)


def test_a_file_for_a_bundle_without_pictures_and_too_many_parts_are_refused(running: Start) -> None:
    with running().client() as client:
        named = {"input_reference": ("../../evil name.png", PNG), "prompt": (None, "a")}
        assert refused(client.post("/v1/videos", files=named))["code"] == "unsupported_reference"
        two = [("input_reference", ("a.png", PNG)), ("input_reference", ("b.png", PNG)), ("prompt", (None, "a"))]
        refused(client.post("/v1/videos", files=two))
        many = {"prompt": (None, "a"), **{f"f{i}": (None, "x") for i in range(100)}}
        refused(client.post("/v1/videos", files=many))


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(running: Start) -> None:
    server = running()
    with server.client() as client:
        big = json.dumps({"prompt": "a", "user": "x" * 70_000}).encode()
        kind = {"content-type": "application/json"}
        assert refused(client.post("/v1/videos", content=big, headers=kind), 413)["code"] == "body_too_large"
        parts = (big[i : i + 1000] for i in range(0, len(big), 1000))
        assert refused(client.post("/v1/videos", content=parts, headers=kind), 413)["code"] == "body_too_large"
        assert client.get("/health").status_code == 200


def test_limits_are_told_with_a_time_to_wait(running: Start) -> None:
    from tests.serve.fakes import waits

    server = running(waits, per_minute=3, queue=64, queue_per_key=1)
    with server.client() as client:
        first = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
        server.until(lambda: server.state(first) == "in_progress")
        assert client.post("/v1/videos", json={"prompt": "a"}).status_code == 200
        full = client.post("/v1/videos", json={"prompt": "a"})
        assert refused(full, 429)["code"] == "queue_full" and int(full.headers["retry-after"]) > 0
        often = client.post("/v1/videos", json={"prompt": "a"})
        assert refused(often, 429)["code"] == "rate_limit_exceeded" and int(often.headers["retry-after"]) > 0
        server.executor.go_on.set()


def test_a_model_that_is_not_served_is_not_found(running: Start) -> None:
    with running().client() as client:
        assert (
            refused(client.post("/v1/videos", json={"prompt": "a", "model": "sora-2"}), 404)["code"]
            == "model_not_found"
        )
        assert client.post("/v1/videos", json={"prompt": "a", "model": "tiny"}).status_code == 200
        assert refused(client.get("/v1/models/sora-2"), 404)["code"] == "model_not_found"
        card = client.get("/v1/models/tiny").json()
        assert (card["fps"], card["seconds"], card["size"]) == ([2, 8, 30], {"2": "2", "8": "1", "30": "1"}, "32x32")


def test_queries_paths_and_methods_are_refused_in_the_same_form(running: Start) -> None:
    with running().client() as client:
        for query in ("limit=0", "limit=101", "limit=a", "order=up", "after=video_0", "after=" + "x" * 200):
            refused(client.get(f"/v1/videos?{query}"))
        refused(client.get("/v1/video"), 404)
        put = client.put("/v1/videos")
        refused(put, 405)
        assert put.headers["allow"] == "GET, POST"
        for route in ("edits", "extensions", "characters", "remix"):
            refused(client.post(f"/v1/videos/{route}"), 405)
        refused(client.post("/v1/webhooks"), 404)


def test_ids_that_are_none_of_ours_are_not_found(running: Start) -> None:
    server = running()
    ids = ["..", "%2e%2e", "%00", "video_", "video_" + "0" * 31, "video_" + "0" * 33, "video_" + "G" * 32]
    ids += [
        "video_" + "0" * 32 + "%0a",
        "video_" + "A" * 32,
        "..%2f..%2fjobs.sqlite",
        "%ff",
        "a" * 3000,
        "video_" + "\u0660" * 32,
    ]
    with server.client() as client:
        for id in ids:
            for path in ("", "/content", "/preview", "/events"):
                assert client.get(f"/v1/videos/{id}{path}").status_code == 404, id
            assert client.post(f"/v1/videos/{id}/cancel").status_code == 404, id
            assert client.delete(f"/v1/videos/{id}").status_code in (404, 405), id


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
    ],
)
def test_raw_bytes_are_answered_and_the_server_lives(running: Start, head: bytes) -> None:
    server = running()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        answer = raw.makefile("rb").read()
    told, _, body = answer.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 4") and set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    with server.client() as client:
        assert client.get("/health").status_code == 200


def test_bytes_that_break_a_request_amid_its_answer_end_the_connection(
    running: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a circle"}).json()["id"]
        head = f"GET /v1/videos/{id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(head.encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 200")
            raw.sendall(b"-5\r\n")
            assert b"HTTP/1.1" not in raw.makefile("rb").read()
        assert client.get("/health").status_code == 200
        client.post(f"/v1/videos/{id}/cancel")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_fault_of_the_server_has_the_form_of_every_error(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*args: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr("ffrt.serve.api.about.report", fault)
    with running().client() as client:
        body = refused(client.get("/health/ready"), 500)
        assert body["code"] == "internal_error" and "secret" not in body["message"]
        assert client.get("/health").status_code == 200
