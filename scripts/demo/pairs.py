"""Questions about two or three pictures at once, and talk without any picture."""

from __future__ import annotations

from random import Random

from scripts.demo.palette import COLOUR_NAMES
from scripts.demo.phrases import a, describe, name
from scripts.demo.questions import Asker
from scripts.demo.scene import SHAPES, Scene
from scripts.demo.turns import Turn
from scripts.demo.wordings import NO_PICTURE, PAIR_WORDINGS, SMALL_TALK

ORDINALS = ("first", "second", "third")
PAIR_KINDS = {
    "which_has": 4.0,
    "both_have": 3.0,
    "same_background": 2.0,
    "same_colour": 2.0,
    "same_shape": 2.0,
    "more": 1.5,
    "of": 5.0,
}
CATEGORY = "two pictures"
# Questions that stay clear when "in the second picture" follows them.
OF_WORDINGS: dict[str, tuple[str, ...]] = {
    "describe": ("What is", "What do you see", "What can you see", "What is shown"),
    "read": ("What does the text say", "What is written", "What is the text", "What text is"),
    "background": ("What colour is the background", "What is the background colour"),
    "colour": ("What colour is the {t}", "What is the colour of the {t}"),
    "shape": ("What shape is", "Which shape is"),
    "count": ("How many shapes are", "How many shapes do you see", "How many shapes are there"),
}


def _holds(scene: Scene, phrase: str) -> bool:
    words = phrase.split()
    for thing in scene.things:
        traits = {thing.shape, thing.colour, "shape"}
        if all(word in traits for word in words):
            return True
    return False


class PairAsker:
    """Asks about several pictures that stand in one conversation."""

    def __init__(self, scenes: list[Scene], rng: Random) -> None:
        self.scenes, self.rng = scenes, rng

    def ask(self) -> Turn | None:
        """A question of any kind, or None where the scenes give no fair one."""
        kind = self.rng.choices(list(PAIR_KINDS), weights=list(PAIR_KINDS.values()))[0]
        if kind == "which_has":
            return self._which_has()
        if kind == "of":
            return self._of(self.rng.randrange(len(self.scenes)))
        if len(self.scenes) != 2:
            return None
        return self._both_have() if kind == "both_have" else self._compare(kind)

    def _turn(self, kind: str, answer: str, **parts: str) -> Turn:
        return Turn(CATEGORY, self.rng.choice(PAIR_WORDINGS[kind]).format(**parts), answer)

    def _phrase(self) -> str:
        things = [thing for scene in self.scenes for thing in scene.things]
        if not things or self.rng.random() < 0.15:
            return f"{self.rng.choice(COLOUR_NAMES)} {self.rng.choice(SHAPES)}"
        thing = self.rng.choice(things)
        return self.rng.choice((thing.shape, thing.shape, name(thing), f"{thing.colour} shape"))

    def _which_has(self) -> Turn | None:
        phrase = self._phrase()
        found = [index for index, scene in enumerate(self.scenes) if _holds(scene, phrase)]
        if len(found) != 1:
            return None
        return self._turn("which_has", f"The {ORDINALS[found[0]]} picture.", a=a(phrase))

    def _both_have(self) -> Turn | None:
        phrase = self._phrase()
        if self.rng.random() < 0.4:
            both = [
                word
                for thing in self.scenes[0].things
                for word in (thing.shape, name(thing))
                if _holds(self.scenes[1], word)
            ]
            phrase = self.rng.choice(both) if both else phrase
        found = [_holds(scene, phrase) for scene in self.scenes]
        answer = f"Yes, both have {a(phrase)}."
        if not all(found):
            answer = "No, neither." if not any(found) else "No, only the first picture."
            answer = "No, only the second picture." if found == [False, True] else answer
        return self._turn("both_have", answer, a=a(phrase))

    def _compare(self, kind: str) -> Turn | None:
        one, two = self.scenes
        if kind == "more":
            if len(one.things) == len(two.things):
                return None
            best = ORDINALS[len(two.things) > len(one.things)]
            return self._turn("more", f"The {best} picture.")
        if kind == "same_background":
            traits = (one.background.colour, two.background.colour)
        elif len(one.things) != 1 or len(two.things) != 1:
            return None
        elif kind == "same_colour":
            traits = (one.things[0].colour, two.things[0].colour)
        else:
            traits = (a(one.things[0].shape), a(two.things[0].shape))
        if traits[0] == traits[1]:
            plain = traits[0]
            return self._turn(
                kind,
                f"Yes, both are {plain}." if kind != "same_shape" else f"Yes, both show {plain}.",
            )
        verb = "shows" if kind == "same_shape" else "is"
        answer = f"No, the first {verb} {traits[0]} and the second {verb} {traits[1]}."
        return self._turn(kind, answer)

    def _of(self, index: int) -> Turn | None:
        scene = self.scenes[index]
        kind = self.rng.choice(list(OF_WORDINGS))
        start = self.rng.choice(OF_WORDINGS[kind])
        if kind == "describe":
            answer = describe(scene)
        elif kind == "background":
            answer = f"The background is {scene.background.colour}."
        elif kind == "read" and scene.text is not None:
            answer = f'It says "{scene.text.string}".'
        elif kind == "count":
            whole = Asker(scene, self.rng)
            answer = whole.total("shape")
        elif kind == "colour" and len(scene.things) == 1:
            shape = scene.things[0].shape
            noun = shape if shape in start else self.rng.choice((shape, "shape"))
            start = start.format(t=noun)
            answer = f"The {noun} is {scene.things[0].colour}."
        elif kind == "shape" and len(scene.things) == 1:
            answer = f"It is {a(scene.things[0].shape)}."
        else:
            return None
        return self._turn("of", answer, q=start, n=ORDINALS[index])


def likeness(one: Scene, two: Scene) -> int:
    """How much two scenes share that one may ask about; high is alike."""
    shared = int(one.background.colour == two.background.colour)
    if len(one.things) == len(two.things) == 1:
        shared += 2 * (one.things[0].colour == two.things[0].colour)
        shared += 2 * (one.things[0].shape == two.things[0].shape)
    return shared


def small_talk(rng: Random) -> Turn:
    """A greeting, thanks, or something that the model knows nothing about."""
    questions, answer = rng.choices(SMALL_TALK, weights=(3, 4, 1, 1, 1, 3))[0]
    return Turn("talk", rng.choice(questions), answer)


def blind(turn: Turn) -> Turn:
    """The same question asked without a picture."""
    return Turn("no picture", turn.question, NO_PICTURE)
