"""What requests and answers hold, as the OpenAPI page shows it."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from nextstate.buzzometer import Explanation, Score


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScoreRequest(Request):
    """One text or many, one of the two."""

    text: StrictStr | None = None
    texts: list[StrictStr] | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> ScoreRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError('expected either "text" (one text) or "texts" (a list)')
        return self

    def all(self) -> list[str]:
        return [self.text] if self.text is not None else self.texts or []


class Scored(BaseModel):
    """`score` = p(positive) - p(negative), null for a model without these; `probability` of `label`."""

    label: str
    score: float | None
    probability: float
    probabilities: dict[str, float]

    @classmethod
    def of(cls, answer: Score) -> Scored:
        return cls(**answer._asdict())


class ScoreAnswer(BaseModel):
    """One result a text, in order."""

    results: list[Scored]


class ExplainRequest(Request):
    text: StrictStr


class Word(BaseModel):
    """A word at text[start:end], counted in Unicode code points, and what it adds to the score."""

    word: str
    start: int
    end: int
    contribution: float


class Explained(BaseModel):
    """`score` = `without` + the contributions of all words, up to the error of an integral."""

    score: float
    without: float
    words: list[Word]

    @classmethod
    def of(cls, answer: Explanation) -> Explained:
        words = [Word(**word._asdict()) for word in answer.words]
        return cls(score=answer.score, without=answer.without, words=words)


class GenerateRequest(Request):
    """What the text begins with, and how it goes on. `length` is in tokens."""

    prime: StrictStr = ""
    length: Annotated[StrictInt, Field(ge=0)] = 200
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.8
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    stop: StrictStr | None = None


class SortRequest(Request):
    """One list of whole numbers or many, one of the two."""

    numbers: list[StrictInt] | None = None
    lists: list[list[StrictInt]] | None = None

    @model_validator(mode="after")
    def one_of_them(self) -> SortRequest:
        if (self.numbers is None) == (self.lists is None):
            raise ValueError('expected either "numbers" (one list) or "lists" (many)')
        return self

    def all(self) -> list[list[int]]:
        return [self.numbers] if self.numbers is not None else self.lists or []


class SortAnswer(BaseModel):
    """The lists as the network writes them, in order of the request."""

    lists: list[list[int]]


class DaysRequest(Request):
    """Times as a file has them."""

    times: list[StrictStr]


class DaysAnswer(BaseModel):
    """A day for each time, null for what states no time."""

    days: list[date | None]


class DayOfTopic(Request):
    """The scores of one topic on one day: how many, their sum, the sum of their squares."""

    topic: StrictStr
    day: date
    posts: Annotated[StrictInt, Field(ge=1)]
    total: Annotated[float, Field(allow_inf_nan=False)]
    squares: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class IndexRequest(Request):
    days: list[DayOfTopic]


class Entry(BaseModel):
    """A day of a topic: see `nextstate.tasks.tracking.report_of`."""

    day: date
    posts: int
    mean: float
    low: float | None
    high: float | None
    change: float | None


class Index(BaseModel):
    """Days in order of time, a topic; `confidence` of the intervals, chance of `false_alarms`."""

    confidence: float
    false_alarms: float
    topics: dict[str, list[Entry]]


class Bounds(BaseModel):
    """What one request may hold: bytes, texts, characters of a text, of one to explain, tokens, numbers."""

    model_config = ConfigDict(from_attributes=True)

    body: int
    texts: int
    text: int
    explained: int
    tokens: int
    numbers: int


class Health(BaseModel):
    """What can be asked, how many requests are under way, and what one may hold."""

    status: str
    version: str
    answers: list[str]
    open: int
    limits: Bounds


class Failure(BaseModel):
    """Every refusal: a sentence that says what would be right."""

    error: str
