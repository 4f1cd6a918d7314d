"""Questions about a scene for a model that reads English: the demo's kinds, two more, and more ways to ask."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from demo import questions
from demo.questions import Question, place
from demo.scenes import Scene

KINDS = (*questions.KINDS, "read", "find")

GROUPS = {
    "color": "attributes",
    "shape": "attributes",
    "exists": "attributes",
    "describe": "attributes",
    "number": "OCR-like",
    "read": "OCR-like",
    "count": "counting",
    "where": "localisation",
    "what": "localisation",
    "find": "localisation",
}
"""What a kind of question stands for in reports."""

FREQUENCY = {
    "color": 0.6,
    "shape": 0.6,
    "number": 0.8,
    "read": 1.0,
    "where": 1.6,
    "find": 1.2,
    "what": 2.0,
    "count": 2.5,
    "exists": 1.3,
    "describe": 1.4,
}
"""How often a kind is asked about in training, relative to the others. Held-out questions take all kinds in turn."""

FREQUENCY_AT_FIRST = {
    "color": 1.0,
    "shape": 1.0,
    "number": 0.7,
    "read": 0.7,
    "where": 2.0,
    "find": 1.0,
    "what": 2.0,
    "count": 0.4,
    "exists": 0.4,
    "describe": 1.0,
}
"""The same until the model can look things up: before that, counting and comparing teach it nothing."""

# What the demo's own questions match, and other words for the same.
_REPHRASED = {
    r"(?:What|Which) .*color .*the (\w+?)(?: have)?\?": (
        "Name the color of the {}.",
        "Tell me the color of the {}.",
        "The {} has which color?",
    ),
    r"(?:What|Which) .*shape .*?(?:the )?(\w+)(?: object)?\?": (
        "Name the shape of the {} object.",
        "Which shape does the {} object have?",
        "What is the {} object?",
    ),
    r"Which number is (?!shown)(\w+)\?": (
        "Read the {} number.",
        "What does the {} number say?",
        "Which digit is written in {}?",
    ),
    r"(?:Where|In which part of the picture) is the (\w+(?: \w+)?)\?": (
        "Locate the {}.",
        "Tell me where the {} is.",
        "Whereabouts is the {}?",
    ),
    r"What (?:is|do you see) at the (\w+(?: \w+)?)\?": (
        "Name the object at the {}.",
        "What does the picture show at the {}?",
        "Which object is at the {}?",
    ),
    r"How many objects are (?:there|in the picture)\?": (
        "Count the objects.",
        "What is the number of objects?",
    ),
    r"How many objects are (\w+)\?": ("Count the {} objects.", "What is the number of {} objects?"),
    r"How many (\w+) (?:are there|do you see)\?": ("Count the {}.", "What is the number of {}?"),
    r"(?:Is there|Do you see) (an? \w+ \w+)\?": (
        "Can you see {}?",
        "Does the picture show {}?",
        "Is {} in the picture?",
    ),
    r"(?:Describe|Tell me about) the (.+)\.": ("What can you say about the {}?", "Give a description of the {}."),
}
_OTHER_WORDS = 0.5  # share of questions that are rephrased


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """A question of `kind` about the scene, or None where the scene has nothing to ask it about."""
    if kind == "read":
        return _read(rng, scene)
    if kind == "find":
        return _find(rng, scene)
    question = questions.ask(rng, scene, kind)
    if question is None or rng.random() >= _OTHER_WORDS:
        return question
    return Question(question.kind, rephrase(rng, question.text), question.answer, question.patches)


def rephrase(rng: np.random.Generator, text: str) -> str:
    """The question in other words, or as it is where there are none."""
    for pattern, templates in _REPHRASED.items():
        match = re.fullmatch(pattern, text)
        if match:
            return templates[int(rng.integers(len(templates)))].format(*match.groups())
    return text


def _read(rng: np.random.Generator, scene: Scene) -> Question | None:
    """The digit in a part of the picture that holds one digit and may hold other things."""
    numbers = [t for t in scene.things if t.digit is not None]
    taken = Counter(t.region for t in numbers)
    options = [t for t in numbers if taken[t.region] == 1]
    if not options:
        return None
    thing = options[rng.integers(len(options))]
    templates = ("Which number is at the {}?", "Read the number at the {}.", "What digit is written at the {}?")
    text = templates[int(rng.integers(len(templates)))].format(place(thing.region))
    return Question("read", text, str(thing.digit), thing.patches)


def _find(rng: np.random.Generator, scene: Scene) -> Question | None:
    """Where a digit is that occurs once."""
    numbers = [t for t in scene.things if t.digit is not None]
    values = Counter(t.digit for t in numbers)
    options = [t for t in numbers if values[t.digit] == 1]
    if not options:
        return None
    thing = options[rng.integers(len(options))]
    templates = ("Where is the number {}?", "Locate the {}.", "In which part of the picture is the digit {}?")
    text = templates[int(rng.integers(len(templates)))].format(thing.digit)
    return Question("find", text, place(thing.region), thing.patches)
