"""Pictures: sizes, limits, caches and where they are fetched from."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, Field

from server.defaults import (
    IMAGE_CACHE_BYTES,
    IMAGE_CACHE_DIR_BYTES,
    IMAGE_DECODE_SECONDS,
    IMAGE_DECODERS,
    IMAGE_MAX_BYTES,
    IMAGE_MAX_COUNT,
    IMAGE_MAX_PIXELS,
    IMAGE_MAX_SIDE,
    IMAGE_PREPARED_BYTES,
)
from server.settings.types import Colour, Detail, Flag, Hosts, Positive, UserPath


class PicturesSettings(BaseModel):
    """Pictures: sizes, limits, caches and where they are fetched from."""

    image_size: Annotated[int | None, Flag("Pictures", (), "PIXELS", "the tower's own")] = Field(
        None, ge=14, le=4096, description="input size of fixed-size vision towers"
    )
    image_max_edge: Annotated[int | None, Flag("Pictures", (), "PIXELS", "no limit")] = Field(
        None, ge=14, description="shrink pictures with a longer edge to this"
    )
    image_detail: Annotated[Detail, Flag("Pictures", (), "auto|low|high")] = Field(
        "auto", description="detail of pictures whose request names none; low takes fewer tokens"
    )
    image_min_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="minimum tokens per picture, for towers that take any size")
    )
    image_max_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="maximum tokens per picture, for towers that take any size")
    )
    image_max_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "20MiB")] = Field(
        ByteSize(IMAGE_MAX_BYTES),
        gt=0,
        description="maximum size of an encoded picture, such as 20MiB",
    )
    image_max_pixels: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        IMAGE_MAX_PIXELS, description="maximum pixels of a picture"
    )
    image_max_side: Annotated[Positive, Flag("Pictures", (), "PIXELS")] = Field(
        IMAGE_MAX_SIDE, description="maximum edge of a picture as it arrives"
    )
    image_max_frames: Annotated[Positive | None, Flag("Pictures", (), "N", "any number")] = Field(
        None, description="maximum frames of an animation; the first one is used"
    )
    image_max_count: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        IMAGE_MAX_COUNT, description="maximum pictures in one request"
    )
    image_background: Annotated[Colour, Flag("Pictures", (), "COLOUR", "white")] = Field(
        (255, 255, 255), description="colour behind transparent pictures"
    )
    image_decoders: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        IMAGE_DECODERS, description="processes that decode pictures, beside one for slow ones"
    )
    image_decode_seconds: Annotated[float, Flag("Pictures", (), "SECONDS")] = Field(
        IMAGE_DECODE_SECONDS, gt=0, description="most processor time for decoding one picture"
    )
    image_decode_bytes: Annotated[
        ByteSize | None, Flag("Pictures", (), "SIZE", "256 MiB and 32 bytes for each pixel")
    ] = Field(None, gt=0, description="most memory for decoding one picture")
    image_prepared_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "64MiB")] = Field(
        ByteSize(IMAGE_PREPARED_BYTES),
        ge=0,
        description="cache for decoded pictures; 0 disables",
    )
    image_cache_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "256MiB")] = Field(
        ByteSize(IMAGE_CACHE_BYTES),
        ge=0,
        description="cache for encoded pictures; 0 disables",
    )
    mtmd_batch_max_tokens: Annotated[
        int | None, Flag("Pictures", (), "N", "0 on a CPU, 1024 on a GPU")
    ] = Field(
        None,
        ge=0,
        description="encode pictures together up to this many tokens; 0 encodes one by one",
    )
    image_cache_dir: Annotated[UserPath | None, Flag("Pictures", (), "DIR", "none")] = Field(
        None, description="folder that keeps encoded pictures across restarts"
    )
    image_cache_dir_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "4GiB")] = Field(
        ByteSize(IMAGE_CACHE_DIR_BYTES), gt=0, description="maximum size of that folder"
    )
    image_urls: Annotated[bool, Flag("Pictures")] = Field(
        True, description="fetch pictures from http and https URLs"
    )
    image_url_allow: Annotated[Hosts, Flag("Pictures", (), "HOST,...", "all public hosts")] = Field(
        (), description="fetch from these hosts only; private hosts and ports may be named"
    )
    image_fetch_timeout: Annotated[float, Flag("Pictures", (), "SECONDS")] = Field(
        10.0, gt=0, le=600, description="maximum time to fetch a picture, redirects included"
    )
    image_root: Annotated[UserPath | None, Flag("Pictures", (), "DIR", "none, no files")] = Field(
        None, description="folder below which file: URLs may name pictures"
    )


class ResponsesSettings(BaseModel):
    """What the Responses API keeps, in memory, for ``previous_response_id``."""

    responses_max_count: Annotated[int, Flag("Responses", (), "N")] = Field(
        1000, ge=0, description="maximum stored responses; the least recently used is dropped"
    )
    responses_max_bytes: Annotated[ByteSize, Flag("Responses", (), "SIZE", "64MiB")] = Field(
        ByteSize(64 * 1024**2), ge=0, description="maximum size of all stored responses"
    )


class UploadsSettings(BaseModel):
    """What POST /v1/files keeps."""

    files_max_bytes: Annotated[ByteSize, Flag("Uploads", (), "SIZE", "256MiB")] = Field(
        ByteSize(256 * 1024**2),
        ge=0,
        description="maximum size of all uploads together, held in memory",
    )
    files_expire: Annotated[int, Flag("Uploads", (), "SECONDS", "86400, a day")] = Field(
        86_400, ge=0, description="delete uploads after this long; 0 keeps them"
    )
