"""Spans over jobs, as an SDK of OpenTelemetry gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ffrt.serve.jobs.store import Store
from tests.serve.fakes import Running, Script, fails, loses

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
Start = Callable[..., Running]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Where the spans of a configured SDK go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def spans_of(server: Running, exported: InMemorySpanExporter, headers: dict[str, str]) -> list[ReadableSpan]:
    """The spans of one job, in the order of their ends."""
    with server.client(headers=headers) as client:
        id = client.post("/v1/videos", json={"prompt": "a red circle"}).json()["id"]
    server.until(lambda: server.state(id) in ("completed", "failed") and server.service.live.of(id) is None)
    return list(exported.get_finished_spans())


def test_a_job_has_a_span_for_each_stage_and_one_for_its_saving(running: Start, exported: InMemorySpanExporter) -> None:
    *inner, job = spans_of(running(), exported, {"traceparent": HEADER})
    assert [one.name for one in inner] == ["ffrt.stage"] * 4 + ["ffrt.save"]
    stages = ["text", "keyframes", "interpolation", "decoding"]
    assert [one.attributes["ffrt.stage"] for one in inner[:4]] == stages  # type: ignore[index]
    assert job.name == "ffrt.job" and job.parent is None and job.status.is_ok is not False
    for one in inner:
        assert one.parent is not None and one.parent.span_id == job.context.span_id
        assert job.start_time <= one.start_time <= one.end_time <= job.end_time  # type: ignore[operator]
    ends = [one.end_time for one in inner]
    assert ends == sorted(ends)  # type: ignore[type-var]


def test_a_job_is_linked_to_the_span_that_asked_for_it(running: Start, exported: InMemorySpanExporter) -> None:
    *_, job = spans_of(running(), exported, {"traceparent": HEADER})
    (link,) = job.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, SPAN)
    assert job.context.trace_id != link.context.trace_id


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-no-no-01"}, {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}])
def test_without_a_span_that_asked_there_is_no_link(
    running: Start, exported: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    assert spans_of(running(), exported, headers)[-1].links == ()


def test_of_the_names_for_generative_models_two_are_used(running: Start, exported: InMemorySpanExporter) -> None:
    server = running()
    job = spans_of(server, exported, {})[-1]
    assert job.attributes is not None
    given = {name: value for name, value in job.attributes.items() if name.startswith("gen_ai")}
    model = server.service.bundle.name
    assert given == {"gen_ai.operation.name": "generate_content", "gen_ai.request.model": model}


@pytest.mark.parametrize(
    ("script", "said"), [(fails("internal_error", False), "internal_error"), (loses, "worker_lost")]
)
def test_the_span_of_a_job_that_went_wrong_says_so(
    running: Start, exported: InMemorySpanExporter, script: Script, said: str
) -> None:
    spans = spans_of(running(script), exported, {})
    jobs = [one for one in spans if one.name == "ffrt.job"]
    assert {(one.status.status_code, one.status.description) for one in jobs} == {(trace.StatusCode.ERROR, said)}
    assert [one.attributes["ffrt.attempt"] for one in jobs] == list(range(1, len(jobs) + 1))  # type: ignore[index]


def test_who_asks_is_kept_and_is_no_part_of_what_is_asked(running: Start) -> None:
    server = running()
    body, once = {"prompt": "a red circle", "seed": 3}, {"idempotency-key": "one"}
    with server.client(headers=once) as client:
        first = client.post("/v1/videos", json=body, headers={"traceparent": HEADER})
        again = client.post("/v1/videos", json=body, headers={"traceparent": HEADER.replace("b7", "c8")})
    assert again.headers["idempotency-replayed"] == "true" and again.json()["id"] == first.json()["id"]
    job = server.store.wait(Store.any_state, first.json()["id"])
    assert job is not None and job.request["traceparent"] == HEADER


def test_nothing_is_kept_of_a_request_without_a_span(running: Start) -> None:
    server = running()
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a red circle"}).json()["id"]
    job = server.store.wait(Store.any_state, id)
    assert job is not None and "traceparent" not in job.request
