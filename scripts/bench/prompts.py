"""What the servers are asked. Fixed, so that every run and every server gets the same."""

from __future__ import annotations

from scripts.bench.client import Message

SYSTEM = "You are a careful assistant who answers at length and in full sentences."
OTHER_SYSTEMS = (
    "You are a museum guide. Speak to a group of visitors in a friendly way.",
    "You write captions for a newspaper. Be precise and mention every colour.",
    "You are a teacher. Explain each thing that you see, step by step.",
    "You are a painter who looks at the light, the shadows and the edges.",
    "You help people who cannot see. Describe the places of all things.",
    "You are a detective. Every small mark may matter, so name them all.",
)
DESCRIBE = "Describe this picture in detail, from left to right and from top to bottom."
QUESTIONS = (
    "What is shown in this picture? Write a long and detailed description.",
    "Which colours does the picture have? Tell where each of them is.",
    "What is in the middle of the picture? Explain it in several sentences.",
    "Write a short story about what happens in this picture.",
    "What could the picture be used for? Give many examples.",
    "How was this picture made? Explain all steps in detail.",
    "Which mood does the picture have? Explain why, at length.",
    "What would you change in this picture? Give a long list.",
)
TURNS = (
    DESCRIBE,
    "Now tell me more about the colours, and where they are.",
    "What could be outside of the picture? Write a few sentences.",
    "Write a story that begins in this place.",
    "Go on with the story, and tell it at length.",
)
TOPICS = (
    *("the sea", "old trains", "a mountain village", "bread", "the night sky", "a lost dog"),
    *("winter", "a lighthouse", "gardens", "the desert", "a small library", "bees"),
    *("a river", "clocks", "a market", "the moon"),
)


# What chat programs send.
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "repeat_penalty": 1.1}
# Values of few tokens, so that every server writes about the same.
_FACTS = {
    "number_of_people_in_the_foreground": {"enum": [0, 1, 2, 3]},
    "dominant_colour_of_the_background": {"enum": ["red", "green", "blue", "grey"]},
    "is_there_any_readable_text": {"type": "boolean"},
    "estimated_time_of_the_day": {"enum": ["morning", "noon", "evening", "night"]},
    "weather_conditions_outside": {"enum": ["sunny", "cloudy", "rainy", "unknown"]},
    "is_the_picture_a_photograph": {"type": "boolean"},
    "overall_quality_of_the_picture": {"enum": ["poor", "fair", "good"]},
    "contains_personal_information": {"type": "boolean"},
}
EXTRACTION = {
    "type": "json_schema",
    "json_schema": {
        "name": "facts",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": _FACTS,
            "required": list(_FACTS),
            "additionalProperties": False,
        },
    },
}


def story(number: int) -> list[Message]:
    """A request for a text that does not end soon."""
    topic = TOPICS[number % len(TOPICS)]
    chapter = number // len(TOPICS) + 1
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"Write chapter {chapter} of a very long story about {topic}."},
    ]


def about(picture: str, question: str, system: str = SYSTEM) -> list[Message]:
    """A question about a picture."""
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": question},
    ]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]
