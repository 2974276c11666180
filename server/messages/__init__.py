"""All that crosses the line between the web process and the engine process.

Web to engine: EngineConfig (once, first), AddRequest, AbortRequest, CountRequest, EmbedRequest,
TokenizeRequest, DetokenizeRequest, Shutdown.
Engine to web: EngineProgress, then EngineReady or EngineDead, then StepOutputs, lists of them, and
Heartbeats.
The two ends are children of one installation, so the messages travel by pickle.
"""

from __future__ import annotations

from server.messages.facts import BuildFacts, ModelFacts, VisionFacts
from server.messages.memory import (
    DeviceMemory,
    FitDecision,
    MemoryOptions,
    MemoryPart,
    MemoryPeak,
    MemoryReport,
)
from server.messages.outputs import (
    Admitted,
    Counted,
    EngineDead,
    EngineProgress,
    EngineReady,
    FinishReason,
    Heartbeat,
    Rejected,
    RequestTimings,
    SchedulerStats,
    StepOutputs,
    TokenLogprob,
    TokenOutput,
)
from server.messages.pictures import EncodedImage, ImageInput, TileLayout
from server.messages.requests import (
    AbortRequest,
    AddRequest,
    CountRequest,
    DetokenizeRequest,
    Embedded,
    EmbedRequest,
    EngineConfig,
    LiteralText,
    Pooling,
    PromptPart,
    Shutdown,
    TokenIds,
    Tokenized,
    TokenizeRequest,
)

__all__ = [
    "AbortRequest",
    "AddRequest",
    "Admitted",
    "BuildFacts",
    "CountRequest",
    "Counted",
    "DetokenizeRequest",
    "DeviceMemory",
    "EmbedRequest",
    "Embedded",
    "EncodedImage",
    "EngineConfig",
    "EngineDead",
    "EngineProgress",
    "EngineReady",
    "FinishReason",
    "FitDecision",
    "Heartbeat",
    "ImageInput",
    "LiteralText",
    "MemoryOptions",
    "MemoryPart",
    "MemoryPeak",
    "MemoryReport",
    "ModelFacts",
    "Pooling",
    "PromptPart",
    "Rejected",
    "RequestTimings",
    "SchedulerStats",
    "Shutdown",
    "StepOutputs",
    "TileLayout",
    "TokenIds",
    "TokenLogprob",
    "TokenOutput",
    "TokenizeRequest",
    "Tokenized",
    "VisionFacts",
]
