"""Questions that compare two things of a scene."""

from __future__ import annotations

from random import Random

from scripts.demo.phrases import a, capital, extent, handles, name
from scripts.demo.scene import Scene, Thing
from scripts.demo.turns import Turn
from scripts.demo.wordings import WORDINGS

CLEAR_GAP = 0.14  # of the longer side: less is neither left nor right
CLEAR_RATIO = 1.3  # of two sizes: less is neither bigger nor smaller
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Comparisons:
    """Asks about two things at a time: which is where, which is bigger."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        self.scene, self.rng = scene, rng

    def words(self, wording: str, **parts: str) -> str:
        """A random wording with its parts filled in."""
        return self.rng.choice(WORDINGS[wording]).format(**parts)

    def _pair(self) -> tuple[Thing, str, Thing, str] | None:
        """Two things that can be told apart, with their names."""
        if len(self.scene.things) < 2:
            return None
        one, two = self.rng.sample(self.scene.things, 2)
        first, second = handles(self.scene, one), handles(self.scene, two)
        if not first or not second:
            return None
        return one, self.rng.choice(first), two, self.rng.choice(second)

    def _side(self, one: Thing, two: Thing) -> str | None:
        """How `one` lies to `two`: left of, above, ...; None where that is not clear."""
        longer = max(self.scene.width, self.scene.height)
        over = (one.x - two.x) * self.scene.width / longer
        down = (one.y - two.y) * self.scene.height / longer
        options = []
        if abs(over) > CLEAR_GAP:
            options.append("left of" if over < 0 else "right of")
        if abs(down) > CLEAR_GAP:
            options.append("above" if down < 0 else "below")
        return self.rng.choice(options) if options else None

    def relation(self) -> Turn | None:
        """Is one thing left of (above, ...) another? As often yes as no."""
        pair = self._pair()
        side = self._side(pair[0], pair[2]) if pair else None
        if pair is None or side is None:
            return None
        asked = self.rng.choice((side, OPPOSITE[side]))
        lead = "Yes" if asked == side else "No"
        question = self.words("relation", t=pair[1], u=pair[3], r=asked)
        return Turn("relation", question, f"{lead}, the {pair[1]} is {side} the {pair[3]}.")

    def what_relation(self) -> Turn | None:
        """What is left of (above, ...) the other thing?"""
        pair = self._pair()
        side = self._side(pair[0], pair[2]) if pair and len(self.scene.things) == 2 else None
        if pair is None or side is None or self.scene.text is not None:
            return None
        question = self.words("what_relation", r=side, u=pair[3])
        return Turn("relation", question, f"{capital(a(name(pair[0])))}.")

    def bigger(self) -> Turn | None:
        """Which of two is bigger or smaller; which of all is the biggest."""
        pair = self._pair()
        if pair is None:
            return None
        sizes = sorted(((extent(t), name(t)) for t in self.scene.things), reverse=True)
        if self.rng.random() < 0.3 and sizes[0][0] > CLEAR_RATIO * sizes[1][0]:
            return Turn("bigger", self.words("biggest"), f"The {sizes[0][1]} is the biggest.")
        one, first, two, second = pair
        ratio = extent(one) / extent(two)
        if 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
            return None
        wording = self.rng.choice(("bigger", "bigger", "smaller"))
        winner = first if (ratio > 1) == (wording == "bigger") else second
        return Turn("bigger", self.words(wording, t=first, u=second), f"The {winner} is {wording}.")
