"""The HTTP service: a photo comes in, goes to the desk, and its restoration goes out."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from pure_jax import __version__
from pure_jax.errors import PureError
from pure_jax.infer.contract import override
from pure_jax.infer.facts import facts_of
from pure_jax.infer.jobs import Cancelled, Closed, Desk, Full, Job, TooLate
from pure_jax.infer.pictures.writing import fitting_profile_for, lost_by
from pure_jax.infer.restore import Restoration, Restorer
from pure_jax.infer.stages import StageClock
from pure_jax.infer.uploads import Limits, TooLarge, read_upload, too_many_bytes

logger = logging.getLogger(__name__)

Format = Literal["png", "jpeg", "webp"]
ENCODERS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"quality": 95},
}
FACTS_HEADER = "Pure-Result"
LISTEN_S = 0.1
"""Between two looks at whether the client is still there."""
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "description": "The photo's file as it is: PNG, JPEG, WebP, BMP, TIFF, GIF or PPM.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
        },
    }
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"The restored photo, with what is told about it as JSON in the header {FACTS_HEADER}; or, with "
        "`Accept: application/json`, one JSON object of both, the photo's file as base64 in `image`.",
        "content": {f"image/{kind}": {} for kind in ENCODERS},
    },
    403: {"description": "A page of another site asks."},
    408: {"description": "The photo took too long to arrive."},
    413: {"description": "Too many bytes, or pixels of the result."},
    422: {"description": "A photo or value that cannot be used; `detail` says why in one sentence."},
    429: {"description": "All places are taken; try again later."},
    503: {"description": "The service is stopping."},
    500: {"description": "Something else went wrong; the service's log says what."},
    504: {"description": "It was not done in time."},
}


class _Made(NamedTuple):
    image: bytes
    facts: dict[str, Any]


def service(restorer: Restorer, name: str, limits: Limits, hosts: list[str]) -> FastAPI:
    """The application, for any ASGI server; it closes its desk when it is shut down.

    name: of the model, for those who ask. hosts: names by which it may be addressed, so that no page of another site
    reaches it under a name of its own; ["*"] lets all pass.
    """
    desk = Desk(limits.places, limits.timeout)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(desk.close)

    app = FastAPI(
        title="pure-jax", version=__version__, description="Restores low-quality photographs.", lifespan=lifespan
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)

    @app.exception_handler(RequestValidationError)
    async def unusable(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, status_code=422)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it is up, and how many places are taken."""
        return {"status": "ok", "model": name, "places": desk.places, "taken": desk.held, "working": desk.working}

    @app.post("/restore", responses=ANSWERS, openapi_extra=PHOTO_BODY, response_class=Response)
    async def restore(
        request: Request,
        scale: Annotated[float, Query(ge=1, le=16, description="The result's side over the photo's.")] = 4.0,
        seed: Annotated[int, Query(ge=0, lt=2**32, description="The same seed gives the same picture.")] = 0,
        text: Annotated[str, Query(max_length=2000, description="Words the answer must begin with.")] = "",
        colour_fix: Annotated[Literal["none", "wavelet", "adain", "adain+wavelet", "lab"] | None, Query()] = None,
        temperature: Annotated[float | None, Query(description="0 is greedy.")] = None,
        guidance_scale: Annotated[float | None, Query(description="1 switches guidance off.")] = None,
        k_max: Annotated[float | None, Query(description="Upper end of the entropy-based top-k.")] = None,
        fast: Annotated[bool, Query(description="Decode in the fastest lossy way.")] = False,
        format: Annotated[Format, Query(description="Of the result's file.")] = "png",
    ) -> Response:
        """Restore a photo."""

        def work(job: Job[_Made]) -> _Made:
            picture = read_upload(data, scale, limits)
            if format == "jpeg" and picture.alpha is not None:
                raise PureError("a JPEG file cannot hold transparency, which the photo has; ask for png or webp")
            options: dict[str, Any] = {"fast": True} if fast else {}
            if text:
                options["text"] = text
            sampling = override(
                restorer.model.config.sampling, temperature=temperature, guidance_scale=guidance_scale, k_max=k_max
            )
            waited = time.monotonic() - began
            with StageClock(job.progress) as watch:
                result = restorer.restore(
                    picture, scale=scale, seed=seed, colour_fix=colour_fix, sampling=sampling, progress=watch, **options
                )
            seconds, lost = {"wait": waited, **watch.seconds}, lost_by(f".{format}", result.picture)
            return _Made(_encoded(result, format), facts_of(result, scale=scale, seed=seed, seconds=seconds, lost=lost))

        began = time.monotonic()
        origin = request.headers.get("origin")
        if origin and urlsplit(origin).netloc != request.headers.get("host"):
            raise HTTPException(403, "pages of other sites may not use this service")
        try:
            job = desk.reserve()
        except Full:
            raise HTTPException(429, "all places are taken; try again later", {"Retry-After": "10"}) from None
        except Closed:
            raise HTTPException(503, "the service is stopping") from None
        try:
            data = await _body(request, limits)
            made = await _answer(request, desk, job, work, began + limits.timeout)
        except TooLarge as error:
            raise HTTPException(413, str(error)) from error
        except PureError as error:
            raise HTTPException(422, str(error)) from error
        except TooLate:
            raise HTTPException(504, f"it was not done within {limits.timeout:g} seconds") from None
        except Cancelled:
            raise HTTPException(503, "the service is stopping") from None
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except HTTPException:
            raise
        except Exception as error:
            logger.exception("a request could not be answered")
            raise HTTPException(500, "the photo could not be restored; the service's log says why") from error
        finally:
            job.cancel()
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(made.facts | {"format": format, "image": base64.b64encode(made.image).decode("ascii")})
        return Response(made.image, media_type=f"image/{format}", headers={FACTS_HEADER: json.dumps(made.facts)})

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    """The upload. Raises TooLarge as soon as it is, HTTPException 408 when it takes too long."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.bytes:
        raise too_many_bytes(limits)
    data = bytearray()
    try:
        async with asyncio.timeout(limits.upload_timeout):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.bytes:
                    raise too_many_bytes(limits)
    except TimeoutError:
        raise HTTPException(408, f"the photo was not here within {limits.upload_timeout:g} seconds") from None
    return bytes(data)


async def _answer(request: Request, desk: Desk, job: Job[_Made], work: Any, ends: float) -> _Made:
    """What the work makes. Raises ClientDisconnect when the client goes, TooLate when the time is over; and all that
    the work raises."""
    future = asyncio.wrap_future(desk.submit(job, work))
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is heard, whoever has gone
    while not future.done():
        await asyncio.wait({future}, timeout=LISTEN_S)
        if not future.done():
            if await request.is_disconnected():
                raise ClientDisconnect
            if time.monotonic() > ends:
                raise TooLate
    return future.result()


def _encoded(result: Restoration, format: str) -> bytes:
    file = io.BytesIO()
    profile = fitting_profile_for(format, result.image.info.get("icc_profile"))
    result.image.save(file, format, icc_profile=profile, **ENCODERS[format])
    return file.getvalue()
