"""Spans of OpenTelemetry over the attempts of jobs. They go nowhere unless the process was started with an SDK."""

from __future__ import annotations

import time
from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ffrt.serve.engine import executor as told
from ffrt.serve.errors import PlaceLost
from ffrt.serve.jobs.job import Job

TRACEPARENT = "traceparent"
"""The header of W3C's trace context, and its name in the stored request."""


def traceparent_of(header: str | None) -> str | None:
    """The span that asks for a job: the one of an instrumented server, or else of the client. None if there is none."""
    context = Context() if header is None else TraceContextTextMapPropagator().extract({TRACEPARENT: header})
    if trace.get_current_span().get_span_context().is_valid:
        context = trace.set_span_in_context(trace.get_current_span())
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return carrier.get(TRACEPARENT)


def traced(job: Job, place: str, events: Iterator[told.Event]) -> Iterator[told.Event]:
    """The same events, with a span `ffrt.job` around them, `ffrt.stage` for each stage, and `ffrt.save` at the end.

    The request is a link and not a parent: its span has ended long before. What is done with the last event, until the
    next one is asked for, is the saving.
    """
    tracer = trace.get_tracer("ffrt")
    began_ns = time.time_ns()
    span = tracer.start_span(
        "ffrt.job", Context(), trace.SpanKind.CONSUMER, _facts(job, place), links=_links(job), start_time=began_ns
    )
    inside = trace.set_span_in_context(span, Context())
    try:
        for event in events:
            if isinstance(event, told.Progress) and event.index + 1 == event.total:
                facts: dict[str, str | int] = {"ffrt.stage": event.stage, "ffrt.steps": event.total}
                stage = tracer.start_span("ffrt.stage", inside, attributes=facts, start_time=began_ns)
                began_ns = time.time_ns()
                stage.end(began_ns)
            if isinstance(event, told.Failed):
                span.set_status(trace.StatusCode.ERROR, event.code)
            if isinstance(event, told.Finished):
                with tracer.start_span("ffrt.save", inside, attributes={"ffrt.bytes": len(event.video)}):
                    yield event
            else:
                yield event
    except PlaceLost:
        span.set_status(trace.StatusCode.ERROR, "worker_lost")
        raise
    finally:
        span.end()


def _facts(job: Job, place: str) -> dict[str, str | int]:
    """Of the conventions for generative models only two names, since the rest still change."""
    return {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.request.model": str(job.request["model"]),
        "ffrt.video_id": job.id,
        "ffrt.place": place,
        "ffrt.attempt": job.attempt,
    }


def _links(job: Job) -> list[trace.Link]:
    header = job.request.get(TRACEPARENT)
    if header is None:
        return []
    context = TraceContextTextMapPropagator().extract({TRACEPARENT: header})
    return [trace.Link(trace.get_current_span(context).get_span_context())]
