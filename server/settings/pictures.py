"""What becomes of pictures."""

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
    """What becomes of pictures."""

    image_size: Annotated[int | None, Flag("Pictures", (), "PIXELS", "the tower's own")] = Field(
        None, ge=14, le=4096, description="edge of the square that a fixed-size tower sees"
    )
    image_max_edge: Annotated[int | None, Flag("Pictures", (), "PIXELS", "no limit")] = Field(
        None, ge=14, description="shrink pictures whose longer edge exceeds this"
    )
    image_detail: Annotated[Detail, Flag("Pictures", (), "auto|low|high")] = Field(
        "auto", description="for pictures whose request does not say; low takes fewer tokens"
    )
    image_min_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="least tokens of a picture, for towers that take any size")
    )
    image_max_tokens: Annotated[Positive | None, Flag("Pictures", (), "N", "the tower's own")] = (
        Field(None, description="most tokens of a picture, for towers that take any size")
    )
    image_max_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "20MiB")] = Field(
        ByteSize(IMAGE_MAX_BYTES), gt=0, description="largest encoded picture, such as 20MiB"
    )
    image_max_pixels: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        IMAGE_MAX_PIXELS, description="most pixels of one picture"
    )
    image_max_side: Annotated[Positive, Flag("Pictures", (), "PIXELS")] = Field(
        IMAGE_MAX_SIDE, description="longest edge of one picture as it arrives"
    )
    image_max_frames: Annotated[Positive | None, Flag("Pictures", (), "N", "any number")] = Field(
        None, description="most frames of an animation, of which the first is seen"
    )
    image_max_count: Annotated[Positive, Flag("Pictures", (), "N")] = Field(
        IMAGE_MAX_COUNT, description="most pictures in one request"
    )
    image_background: Annotated[Colour, Flag("Pictures", (), "COLOUR", "white")] = Field(
        (255, 255, 255), description="what shows through transparent pictures"
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
        description="most bytes of decoded pictures kept; 0 is none",
    )
    image_cache_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "256MiB")] = Field(
        ByteSize(IMAGE_CACHE_BYTES),
        ge=0,
        description="most bytes of encoded pictures kept; 0 is none",
    )
    mtmd_batch_max_tokens: Annotated[
        int | None, Flag("Pictures", (), "N", "0 on a CPU, 1024 on a GPU")
    ] = Field(None, ge=0, description="most tokens of pictures encoded together; 0 is one by one")
    image_cache_dir: Annotated[UserPath | None, Flag("Pictures", (), "DIR", "none")] = Field(
        None, description="folder where encoded pictures stay over a restart"
    )
    image_cache_dir_bytes: Annotated[ByteSize, Flag("Pictures", (), "SIZE", "4GiB")] = Field(
        ByteSize(IMAGE_CACHE_DIR_BYTES), gt=0, description="most bytes in that folder"
    )
    image_urls: Annotated[bool, Flag("Pictures")] = Field(
        True, description="fetch pictures from http and https URLs"
    )
    image_url_allow: Annotated[Hosts, Flag("Pictures", (), "HOST,...", "all public hosts")] = Field(
        (), description="fetch from these hosts only; they may be private, and name a port"
    )
    image_fetch_timeout: Annotated[float, Flag("Pictures", (), "SECONDS")] = Field(
        10.0, gt=0, le=600, description="longest time for fetching one picture, redirects included"
    )
    image_root: Annotated[UserPath | None, Flag("Pictures", (), "DIR", "none, no files")] = Field(
        None, description="folder below which file: URLs may name pictures"
    )


class ResponsesSettings(BaseModel):
    """What the Responses API keeps, in memory, for ``previous_response_id``."""

    responses_max_count: Annotated[int, Flag("Responses", (), "N")] = Field(
        1000, ge=0, description="most stored responses; the one used longest ago makes room"
    )
    responses_max_bytes: Annotated[ByteSize, Flag("Responses", (), "SIZE", "64MiB")] = Field(
        ByteSize(64 * 1024**2), ge=0, description="most bytes of all stored responses"
    )


class UploadsSettings(BaseModel):
    """What POST /v1/files keeps."""

    files_max_bytes: Annotated[ByteSize, Flag("Uploads", (), "SIZE", "256MiB")] = Field(
        ByteSize(256 * 1024**2), ge=0, description="most bytes of all uploads, held in memory"
    )
    files_expire: Annotated[int, Flag("Uploads", (), "SECONDS", "86400, a day")] = Field(
        86_400, ge=0, description="how long uploads stay; 0 is until they are deleted"
    )
