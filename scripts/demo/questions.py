"""Questions about one scene, and their true answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from scripts.demo.comparisons import Comparisons
from scripts.demo.palette import COLOUR_NAMES
from scripts.demo.phrases import (
    NUMBERS,
    PATTERN_WORDS,
    PLACES,
    a,
    capital,
    describe,
    detail,
    handles,
    matches,
    name,
    place_of,
    plural,
)
from scripts.demo.scene import SHAPES, Scene, Thing
from scripts.demo.turns import Turn


class Asker(Comparisons):
    """Asks one question after another about a scene."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        super().__init__(scene, rng)
        self.kinds: dict[str, Callable[[], Turn | None]] = {
            "describe": self.describe,
            "detail": self.detail,
            "colour": self.colour,
            "shape": self.shape,
            "count": self.count,
            "place": self.place,
            "what_at": self.what_at,
            "exists": self.exists,
            "is_colour": self.is_colour,
            "relation": self.relation,
            "what_relation": self.what_relation,
            "bigger": self.bigger,
            "read": self.read,
            "background": self.background,
            "pattern": self.pattern,
            "absent": self.absent,
        }

    def ask(self, kind: str) -> Turn | None:
        """A question of the kind, or None where the scene gives no fair one."""
        return self.kinds[kind]()

    def pick(self) -> tuple[Thing, str] | None:
        """A thing that can be named without doubt, and the name."""
        pairs = [(t, h) for t in self.scene.things for h in handles(self.scene, t)]
        return self.rng.choice(pairs) if pairs else None

    def describe(self) -> Turn:
        """What is in the picture, in one sentence."""
        return Turn("describe", self.words("describe"), describe(self.scene))

    def detail(self) -> Turn | None:
        """What is where."""
        if any(place_of(thing.x, thing.y) is None for thing in self.scene.things):
            return None
        return Turn("detail", self.words("detail"), detail(self.scene))

    def colour(self) -> Turn | None:
        """The colour of a thing or of the text."""
        text = self.scene.text
        if text is not None and self.rng.random() < 0.4:
            noun = "digit" if text.drawn else "text"
            return Turn("colour", self.words("colour", t=noun), f"The {noun} is {text.colour}.")
        things = [t for t in self.scene.things if t.shape in handles(self.scene, t)]
        if not things:
            return None
        thing = self.rng.choice(things)
        if len(self.scene.things) == 1 and text is None and self.rng.random() < 0.5:
            noun = self.rng.choice((thing.shape, "shape"))
            question = self.words("colour_single", t=noun)
            noun = noun if noun in question else "shape"
            return Turn("colour", question, f"The {noun} is {thing.colour}.")
        question = self.words("colour", t=thing.shape)
        return Turn("colour", question, f"The {thing.shape} is {thing.colour}.")

    def shape(self) -> Turn | None:
        """The shape of a thing that is named by its colour."""
        if len(self.scene.things) == 1 and self.rng.random() < 0.5:
            question = self.words("shape_single")
            return Turn("shape", question, f"It is {a(self.scene.things[0].shape)}.")
        colours = Counter(thing.colour for thing in self.scene.things)
        if self.scene.text is not None:
            colours[self.scene.text.colour] += 1
        things = [thing for thing in self.scene.things if colours[thing.colour] == 1]
        if not things:
            return None
        thing = self.rng.choice(things)
        return Turn("shape", self.words("shape", c=thing.colour), f"It is {a(thing.shape)}.")

    def count(self) -> Turn:
        """How many shapes, circles, red shapes or red circles there are."""
        things = self.scene.things
        thing = self.rng.choice(things) if things and self.rng.random() < 0.8 else None
        shape = thing.shape if thing else self.rng.choice(SHAPES)
        colour = thing.colour if thing else self.rng.choice(COLOUR_NAMES)
        options = ("shape", "shape", shape, shape, f"{colour} shape", f"{colour} {shape}")
        noun = self.rng.choice(options)
        return Turn("count", self.words("count", t=plural(noun)), self.total(noun))

    def total(self, noun: str) -> str:
        """The sentence that says how many of them there are."""
        total = sum(matches(thing, noun) for thing in self.scene.things)
        if total == 1:
            return f"There is one {noun}."
        return f"There are {NUMBERS[total]} {plural(noun)}."

    def place(self) -> Turn | None:
        """Where a thing or the text is."""
        text = self.scene.text
        if text is not None and self.rng.random() < 0.25:
            where = place_of(text.x, text.y)
            noun = "text"
        else:
            picked = self.pick()
            if picked is None:
                return None
            thing, noun = picked
            where = place_of(thing.x, thing.y)
        if where is None:
            return None
        return Turn("place", self.words("place", t=noun), f"The {noun} is {where}.")

    def what_at(self) -> Turn | None:
        """What is at a place: one thing, or nothing."""
        spots = [place_of(thing.x, thing.y) for thing in self.scene.things]
        if None in spots or not spots or self.scene.text is not None:
            return None
        spot = self.rng.choice(spots) if self.rng.random() < 0.75 else self.rng.choice(PLACES)
        assert spot is not None
        if spots.count(spot) > 1:
            return None
        question = self.words("what_at", p=spot)
        if spot not in spots:
            return Turn("what is where", question, f"Nothing is {spot}.")
        return Turn(
            "what is where", question, f"{capital(a(name(self.scene.things[spots.index(spot)])))}."
        )

    def _absent(self) -> str | None:
        """A phrase that is nearly true: right colour, wrong shape, or the other way round."""
        things = self.scene.things
        shape, colour = self.rng.choice(SHAPES), self.rng.choice(COLOUR_NAMES)
        if things:
            shape = self.rng.choice((shape, self.rng.choice(things).shape))
            colour = self.rng.choice((colour, self.rng.choice(things).colour))
        phrase = self.rng.choice(
            (shape, f"{colour} {shape}", f"{colour} {shape}", f"{colour} shape")
        )
        return None if any(matches(thing, phrase) for thing in things) else phrase

    def exists(self) -> Turn | None:
        """Is there such a thing? As often yes as no."""
        scene = self.scene
        if self.rng.random() < 0.12:
            answer = (
                f'Yes, it says "{scene.text.string}".' if scene.text else "No, there is no text."
            )
            return Turn("yes/no", self.words("exists", a="any text"), answer)
        if self.rng.random() < 0.5:
            phrase = self._absent()
            if phrase is None:
                return None
            answer = f"No, there is no {phrase}."
        else:
            if not scene.things:
                return None
            thing = self.rng.choice(scene.things)
            phrase = self.rng.choice(
                (thing.shape, name(thing), name(thing), f"{thing.colour} shape")
            )
            answer = f"Yes, there is {a(phrase)}."
        return Turn("yes/no", self.words("exists", a=a(phrase)), answer)

    def is_colour(self) -> Turn | None:
        """Is it red? As often yes as no; if no, what it is instead."""
        subjects = [
            (t.shape, t.colour) for t in self.scene.things if t.shape in handles(self.scene, t)
        ]
        subjects.append(("background", self.scene.background.colour))
        noun, colour = self.rng.choice(subjects)
        asked = colour
        if self.rng.random() < 0.5:
            others = {behind for _, behind in subjects} - {colour}
            pool = sorted(others) if others and self.rng.random() < 0.5 else COLOUR_NAMES
            asked = self.rng.choice(pool)
        lead = "Yes" if asked == colour else "No"
        question = self.words("is_colour", t=noun, c=asked)
        return Turn("yes/no", question, f"{lead}, the {noun} is {colour}.")

    def read(self) -> Turn | None:
        """What is printed or drawn."""
        text = self.scene.text
        if text is None:
            if self.rng.random() < 0.75:
                return None
            return Turn("no text", self.words("read"), "There is no text.")
        wording = "read"
        if self.rng.random() < 0.45:
            single = len(text.string) == 1
            if text.string.isdigit():
                wording = "read_digit" if single else "read_number"
            else:
                wording = "read_letter" if single else "read_word"
        return Turn("read", self.words(wording), f'It says "{text.string}".')

    def background(self) -> Turn:
        """The background's colour."""
        colour = self.scene.background.colour
        return Turn("background", self.words("background"), f"The background is {colour}.")

    def pattern(self) -> Turn:
        """The background's pattern."""
        pattern = self.scene.background.pattern
        words = PATTERN_WORDS.get(pattern, pattern)
        return Turn("pattern", self.words("pattern"), f"The background is {words}.")

    def absent(self) -> Turn | None:
        """The colour or place of a shape that is not there."""
        shape = self.rng.choice(SHAPES)
        if any(thing.shape == shape for thing in self.scene.things):
            return None
        question = self.words(self.rng.choice(("colour", "place")), t=shape)
        return Turn("absent", question, f"There is no {shape}.")
