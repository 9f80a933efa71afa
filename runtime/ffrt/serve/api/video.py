"""A job -> the Video that clients see."""

from __future__ import annotations

from ffrt.serve.api.schema import Asked, ErrorInfo, Video
from ffrt.serve.jobs.job import Job, State
from ffrt.serve.jobs.live import Now

STATUS = {
    State.QUEUED: "queued",
    State.IN_PROGRESS: "in_progress",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",  # OpenAI has no word for it, and its clients stop at these four
}


def video_of(job: Job, now: Now | None, position: int | None = None, eta_s: float | None = None) -> Video:
    """The job as a client sees it; `now` is what is known of one that runs, `position` the place of one that waits."""
    kept, fields, result = job.request, job.request["fields"], job.result
    running = now if job.state is State.IN_PROGRESS else None
    progress = 100 if job.state is State.COMPLETED else 0 if running is None else running.progress
    error = None if job.error_code is None else ErrorInfo(code=job.error_code, message=job.error_message or "")
    return Video(
        id=job.id,
        model=kept["model"],
        status=STATUS[job.state],  # type: ignore[arg-type]
        progress=progress,
        created_at=int(job.created_at),
        started_at=_whole(job.started_at),
        completed_at=_whole(job.completed_at),
        expires_at=_whole(job.expires_at),
        prompt=fields["prompt"],
        seconds=kept["seconds"],
        size=kept["size"],
        error=error,
        state=str(job.state),  # type: ignore[arg-type]
        fps=fields["fps"],
        num_frames=kept["num_frames"],
        duration_s=kept["duration_s"],
        seed=fields["seed"],
        num_inference_steps=kept["num_inference_steps"],
        guidance_scale=kept["guidance_scale"],
        sampler=kept["sampler"],
        preset=fields["preset"],
        negative_prompt=fields["negative_prompt"],
        output_format=kept["output_format"],
        asked=Asked(
            **{name: fields[name] for name in Asked.model_fields if name in fields}, picture=kept["has_picture"]
        ),
        stage=None if running is None else running.stage,
        step=None if running is None else running.step,
        steps=None if running is None else running.steps,
        queue_position=position,
        eta_s=None if eta_s is None else round(eta_s, 1),
        attempt=job.attempt,
        warnings=list(job.warnings),
        bundle_digest=job.bundle_digest,
        bytes=None if result is None else result["bytes"],
        sha256=None if result is None else result["sha256"],
    )


def _whole(time: float | None) -> int | None:
    return None if time is None else int(time)
