"""The routes that tell about the server: models, health, metrics, version."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ffrt import __version__
from ffrt.bundle import Bundle
from ffrt.generation.plan import sampling_of
from ffrt.sampling import SOLVERS
from ffrt.sampling.presets import PRESETS
from ffrt.serve.api.access import Asker, is_loopback
from ffrt.serve.api.answers import errors
from ffrt.serve.api.check import default_fps, length_of
from ffrt.serve.api.health import report
from ffrt.serve.api.schema import Defaults, Model, ModelList
from ffrt.serve.api.service import Service
from ffrt.serve.errors import Refused
from ffrt.serve.limits import Limits


def model_of(bundle: Bundle, limits: Limits, created_s: float) -> Model:
    """The bundle as the one model of the server."""
    released = bundle.keyframes.image is not None
    return Model(
        id=bundle.name,
        created=int(created_s),
        family=bundle.family.title,
        license=bundle.license,
        bundle_digest=bundle.digest,
        fps=list(bundle.rates),
        seconds={str(fps): length_of(bundle, fps) for fps in bundle.rates},
        size=f"{bundle.video.width}x{bundle.video.height}",
        size_multiple=bundle.video.size_multiple,
        max_pixels=limits.pixels * bundle.video.width * bundle.video.height,
        max_steps=limits.steps,
        default_fps=default_fps(bundle),
        presets=list(PRESETS),
        defaults={preset: defaults_of(bundle, preset) for preset in PRESETS},
        samplers=list(SOLVERS),
        guidance="as released: 1 is none" if released else "(w + 1) c - w u: 0 is none",
        takes_picture=released,
        output_formats=["mp4", "webm", "gif"],
    )


def defaults_of(bundle: Bundle, preset: str) -> Defaults:
    """What a preset comes to with the bundle, for the keyframes of a request that names nothing else."""
    sampling = sampling_of(bundle.keyframes, None, None, None, few=PRESETS[preset].keyframes)
    return Defaults(
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        sampler=sampling.sampler,
    )


def about(service: Service, ask: Asker) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(tags=["server"])
    model = model_of(service.bundle, service.limits, service.started_s)

    @router.get("/v1/models", responses=errors(401))
    async def models(request: Request) -> ModelList:
        """The bundle that is served."""
        ask(request)
        return ModelList(data=[model])

    @router.get("/v1/models/{name}", responses=errors(401, 404))
    async def one_model(name: str, request: Request) -> Model:
        """The bundle that is served, by its name."""
        ask(request)
        if name != model.id:
            raise Refused(404, "model_not_found", f"model: expected {model.id!r}, got {name!r:.100}", param="model")
        return model

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The server answers."""
        return {"status": "ok"}

    @router.get("/health/ready", responses={503: {"description": "not now; the reasons are told"}})
    async def ready() -> Response:
        """Whether a video can be made now."""
        body = report(service)
        return JSONResponse(body, 200 if body["ready"] else 503, {} if body["ready"] else {"retry-after": "5"})

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of ffrt, and what is served."""
        return {"version": __version__, "bundle": service.bundle.name, "bundle_digest": service.bundle.digest}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **errors(401)})
    def metrics(request: Request) -> Response:
        """Numbers for Prometheus; from another machine with a key. In a thread, since gauges ask the disk."""
        if not is_loopback(request):
            ask(request)
        bundle = service.bundle
        text = service.metrics.text(service.executor.places(), __version__, bundle.name, bundle.digest)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
