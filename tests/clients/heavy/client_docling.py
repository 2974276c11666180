"""docling: pictures of a document described, and pages read, by a model over chat completions."""

from __future__ import annotations

import os
from pathlib import Path

from docling.datamodel.base_models import InputFormat
from docling.datamodel.pipeline_options import VlmPipelineOptions
from docling.datamodel.pipeline_options_vlm_model import ApiVlmOptions, ResponseFormat
from docling.document_converter import DocumentConverter, ImageFormatOption
from docling.pipeline.vlm_pipeline import VlmPipeline


def test_a_picture_becomes_markdown(url: str) -> None:
    asked = ApiVlmOptions(
        url=f"{url}/v1/chat/completions",
        params={"model": "demo", "max_tokens": 40},
        prompt="What colour is the circle?",
        timeout=120,
        temperature=0,
        response_format=ResponseFormat.MARKDOWN,
    )
    options = VlmPipelineOptions(enable_remote_services=True, vlm_options=asked)
    pictures = ImageFormatOption(pipeline_cls=VlmPipeline, pipeline_options=options)
    converter = DocumentConverter(format_options={InputFormat.IMAGE: pictures})
    read = converter.convert(Path(os.environ["LLAVA_TEST_PICTURE"])).document
    assert "red" in read.export_to_markdown().lower()
