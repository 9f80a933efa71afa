"""The numbers that a server exports: by the contract, and in truth."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from ffrt.serve.api.metrics.gpus import Reading
from tests.serve.fakes import Running

CONTRACT: Mapping[str, frozenset[str]] = {
    name: frozenset(labels.split())
    for name, labels in {
        "ffrt_http_requests_total": "route method code",
        "ffrt_http_request_seconds": "route",
        "ffrt_jobs_submitted_total": "preset",
        "ffrt_jobs_finished_total": "state code",
        "ffrt_jobs_queued": "",
        "ffrt_jobs_running": "",
        "ffrt_job_queue_seconds": "",
        "ffrt_job_run_seconds": "fps",
        "ffrt_stage_seconds": "stage",
        "ffrt_step_seconds": "stage",
        "ffrt_jobs_requeued_total": "reason",
        "ffrt_cancel_seconds": "",
        "ffrt_frames_total": "",
        "ffrt_place_up": "place device",
        "ffrt_place_busy": "place",
        "ffrt_place_restarts_total": "place reason",
        "ffrt_gpu_memory_bytes": "place kind",
        "ffrt_gpu_utilisation": "place",
        "ffrt_gpu_temperature_celsius": "place",
        "ffrt_disk_free_bytes": "",
        "ffrt_disk_floor_bytes": "",
        "ffrt_event_streams": "",
        "ffrt_build_info": "version bundle digest provider",
    }.items()
}


def exported(server: Running) -> dict[str, frozenset[str]]:
    """The names that a server exports after one job; a histogram by its own name, without `le`."""
    server.service.metrics.watch_gpus({"place-0": 0}, lambda gpu: Reading(1, 2, 0.5, 60))
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a red circle"}).json()["id"]
        server.until(lambda: server.state(id) == "completed" and server.service.live.of(id) is None)
        text = client.get("/metrics").text
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            if not name.endswith("_created"):
                found[name] = frozenset(sample.labels) - {"le"} | found.get(name, frozenset())
    return found
