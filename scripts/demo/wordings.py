"""How people put their questions: many wordings for each kind, with " | " between them."""

from __future__ import annotations


def either(wordings: str) -> tuple[str, ...]:
    """The wordings of a list."""
    return tuple(wordings.split(" | "))


# {t}, {u}: the things asked about; {c}: a colour; {p}: a place; {a}: a phrase; {r}: a relation.
_WORDINGS = {
    "describe": (
        "Describe the picture. | Describe the image. | Describe this image. | What is this? | "
        "Describe this picture. | What is in this picture? | What is in the picture? | "
        "What is in this image? | What is in the image? | What do you see? | What can you see? | "
        "What can you see in this picture? | What does the picture show? | "
        "What does this image show? | What is shown here? | What is shown in the image? | "
        "Tell me what you see. | Describe it. | What's in this image? | What's this? | "
        "What is on the picture? | What do you see in this image? | Give a short description. | "
        "Describe what you see. | What's in the picture? | Caption this image."
    ),
    "detail": (
        "Describe the picture in detail. | Describe the image in detail. | "
        "Give a detailed description. | Describe everything you see. | Tell me all about it. | "
        "Describe this image in detail. | Where is everything? | Say what is where."
    ),
    "colour": (
        "What colour is the {t}? | What is the colour of the {t}? | Which colour is the {t}? | "
        "What colour does the {t} have? | Which colour does the {t} have? | "
        "Tell me the colour of the {t}. | Name the colour of the {t}. | The {t} is what colour?"
    ),
    "colour_single": (
        "What colour is this {t}? | What colour is it? | What colour is this? | "
        "What colour is the {t}? | Which colour is it? | What is its colour? | "
        "What colour is the {t} in the picture? | What colour is the {t} in this image?"
    ),
    "shape": (
        "What shape is {c}? | Which shape is {c}? | What is the {c} shape? | What is {c}? | "
        "What shape is the {c} one? | What kind of shape is {c}? | What is the {c} thing? | "
        "What shape does the {c} thing have? | Name the {c} shape."
    ),
    "shape_single": (
        "What shape is this? | What shape is it? | What kind of shape is this? | "
        "Which shape is this? | What shape do you see? | What shape is in the picture? | "
        "What shape is shown? | Which shape is in the image? | Name the shape."
    ),
    "count": (
        "How many {t} are there? | How many {t} do you see? | How many {t} can you see? | "
        "How many {t} are in the picture? | How many {t} are in the image? | Count the {t}. | "
        "How many {t} are shown? | How many {t} does the picture show? | How many {t}? | "
        "What is the number of {t}? | How many {t} are in this picture?"
    ),
    "place": (
        "Where is the {t}? | Where do you see the {t}? | Where is the {t} in the picture? | "
        "In which part of the picture is the {t}? | Where can I find the {t}? | "
        "Where is the {t} in the image? | What is the place of the {t}? | "
        "Where in the image is the {t}? | What is the position of the {t}?"
    ),
    "what_at": (
        "What is {p}? | What do you see {p}? | What is {p} of the picture? | "
        "What can you see {p}? | Which thing is {p}? | What is there {p}? | "
        "What is {p} of the image? | Is there anything {p}? | What is shown {p}?"
    ),
    "exists": (
        "Is there {a}? | Is there {a} in the picture? | Do you see {a}? | Can you see {a}? | "
        "Does the picture show {a}? | Does the image contain {a}? | Is {a} in the image? | "
        "Is there {a} in this image? | Does this picture have {a}? | Is {a} shown here?"
    ),
    "is_colour": (
        "Is the {t} {c}? | Is the colour of the {t} {c}? | Is the {t} of {c} colour? | "
        "Does the {t} have the colour {c}? | Is the {t} in the picture {c}? | "
        "The {t} is {c}, right?"
    ),
    "relation": (
        "Is the {t} {r} the {u}? | Is the {t} {r} the {u} in the picture? | "
        "Do you see the {t} {r} the {u}? | Does the {t} lie {r} the {u}?"
    ),
    "what_relation": (
        "What is {r} the {u}? | Which thing is {r} the {u}? | What do you see {r} the {u}? | "
        "What lies {r} the {u}? | What shape is {r} the {u}?"
    ),
    "bigger": (
        "Which is bigger, the {t} or the {u}? | Which one is bigger, the {t} or the {u}? | "
        "What is bigger, the {t} or the {u}? | Which is larger, the {t} or the {u}?"
    ),
    "smaller": (
        "Which is smaller, the {t} or the {u}? | Which one is smaller, the {t} or the {u}? | "
        "What is smaller, the {t} or the {u}?"
    ),
    "biggest": (
        "Which shape is the biggest? | What is the biggest shape? | Which thing is the largest? | "
        "What is the largest thing? | What is the biggest thing in the picture?"
    ),
    "read": (
        "What does it say? | What is written here? | Read the text. | What does the text say? | "
        "What is the text? | What text is in the picture? | What is written in the picture? | "
        "What does the picture say? | What is printed here? | Can you read the text? | "
        "What text do you see? | Which text is in the image? | What does the image say? | "
        "Read it. | What is written in this image? | What does the writing say?"
    ),
    "read_number": (
        "What number is this? | Which number is shown? | What number do you see? | "
        "What is the number? | Read the number. | Which number is in the picture?"
    ),
    "read_digit": (
        "What digit is this? | Which digit is this? | Which digit do you see? | "
        "What digit is drawn here? | Which digit is shown? | What number is this?"
    ),
    "read_word": (
        "What word is this? | Which word is written here? | Read the word. | "
        "What word do you see? | Which letters do you see? | What letters are these?"
    ),
    "read_letter": (
        "What letter is this? | Which letter do you see? | Which letter is shown? | "
        "Read the letter."
    ),
    "background": (
        "What colour is the background? | What is the colour of the background? | "
        "Which colour is the background? | What background colour do you see? | "
        "What is the background colour? | Name the colour of the background. | "
        "What colour does the background have? | What colour is behind it?"
    ),
    "pattern": (
        "What pattern does the background have? | Is the background plain? | "
        "What does the background look like? | Which pattern is in the background? | "
        "How does the background look? | Does the background have a pattern?"
    ),
}
WORDINGS = {kind: either(wordings) for kind, wordings in _WORDINGS.items()}

# Between two or three pictures. {n}: first, second, third; {q}: a question about one of them.
_PAIR_WORDINGS = {
    "which_has": (
        "Which picture has {a}? | Which picture shows {a}? | Which image has {a}? | "
        "In which picture is there {a}? | Which one shows {a}? | Which image shows {a}? | "
        "Which one has {a}? | Which of the pictures has {a}? | In which image do you see {a}?"
    ),
    "both_have": (
        "Do both pictures have {a}? | Do both pictures show {a}? | "
        "Is there {a} in both pictures? | Do both images show {a}? | Do both have {a}? | "
        "Does each picture have {a}?"
    ),
    "same_background": (
        "Are the backgrounds the same colour? | Do both have the same background colour? | "
        "Do both pictures have the same background? | Is the background of both the same colour?"
    ),
    "same_colour": (
        "Are both shapes the same colour? | Do both shapes have the same colour? | "
        "Do both have the same colour? | Are the shapes the same colour?"
    ),
    "same_shape": (
        "Do both pictures show the same shape? | Are both the same shape? | "
        "Is it the same shape in both pictures? | Are the shapes the same?"
    ),
    "more": (
        "Which picture has more shapes? | Which image shows more shapes? | "
        "In which picture are there more shapes? | Which one has more shapes?"
    ),
    "of": "{q} in the {n} picture? | {q} in the {n} image? | {q} in the {n} one?",
}
PAIR_WORDINGS = {kind: either(wordings) for kind, wordings in _PAIR_WORDINGS.items()}

FILLERS = (
    "Please tell me: ",
    "Can you tell me: ",
    "Hey, ",
    "Look at the picture. ",
    "Well, ",
    "Now tell me: ",
    "Question: ",
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant that looks at pictures.",
    "Answer the question about the picture.",
    "You are a vision model. Answer truthfully.",
    "Be brief.",
    "Answer in English.",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions.",
)

NO_PICTURE = "I see no picture. Please send me one."
UNKNOWN = "I only know about pictures of shapes, colours and short texts."
ABOUT = "I am a small demo model. Send me a picture and I will tell you what I see."
SMALL_TALK = (
    (
        either(
            "Hello | Hello! | Hi | Hi! | Good morning | Good evening! | Hey | Hi there | "
            "Hello there!"
        ),
        "Hello! Send me a picture and I will tell you what I see.",
    ),
    (
        either(
            "Who are you? | What are you? | What can you do? | What is your name? | Help | "
            "How can you help me? | Tell me about yourself. | What do you do? | "
            "What model are you?"
        ),
        ABOUT,
    ),
    (
        either("Thanks | Thank you | Thank you! | Thanks! | Great, thanks!"),
        "You are welcome.",
    ),
    (
        either("Bye | Goodbye | Good night | See you"),
        "Goodbye!",
    ),
    (
        either("How are you? | How are you today? | How do you do?"),
        "I am fine, thank you.",
    ),
    (
        either(
            "What is the capital of France? | Tell me a joke. | Write a poem. | "
            "What time is it? | Who won the world cup? | Write a story about a dog. | "
            "What is two plus two? | Explain quantum physics. | Translate this into French. | "
            "How is the weather today? | Write some Python code. | "
            "What is the meaning of life? | Count to ten. | Who is the president? | "
            "Sing a song. | Say something."
        ),
        UNKNOWN,
    ),
)
