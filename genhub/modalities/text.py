"""Texts: kept as the bytes of their UTF-8, and shown; or made from the names of classes by templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from genhub.ground.ids import HUB
from genhub.interfaces.control import Choice, Line
from genhub.interfaces.modality import ConditionEncoder, Modality, RawColumn
from genhub.interfaces.section import ModelPath, PositiveInt, Section
from genhub.modalities.label import ClassName, class_name, in_order, is_label
from genhub.modalities.learnt import readable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from genhub.interfaces.network import Embedding

END = 0
"""Byte that fills up what a text is shorter than the longest."""
PLACE = "{}"
"""Place of a class's name in a template."""
MOST_NAMES = 10_000
"""Most names that templates are filled with."""

Template = Annotated[str, Field(max_length=1000)]
Templates = Annotated[tuple[Template, ...], Field(min_length=1, max_length=1000)]
Names = Annotated[tuple[ClassName, ...], Field(max_length=MOST_NAMES)]


class StoredEncoder(Section):
    """Frozen encoder of transformers', which lies in a model's folder beside its networks."""

    name: Annotated[str, Field(max_length=255)]
    """Its id on the Hub, or its folder's own name."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{0,40}$")] = ""
    """Commit on the Hub; "": it was a folder."""
    network: Annotated[str, Field(pattern=r"^\w{1,100}$")]
    """Name of its class in transformers."""
    width: PositiveInt
    """Numbers of a token's vector."""
    length: PositiveInt
    """Most tokens of a text: those of the longest in the training data."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of its weights, its config and its tokenizer."""


class Text(Modality):
    """A column of texts, each kept as its UTF-8, filled up with zeros; longer ones than the longest of the training data are
    cut. Templates make such a column from one of classes: a row's text is another in each epoch."""

    modality: Literal["text"] = "text"
    shape: tuple[PositiveInt]
    """(bytes of the longest,)"""
    templates: Annotated[tuple[Template, ...], Field(max_length=1000)] = ()
    """Texts with a place, {}, for a class's name; (): the column's values are the texts."""
    names: Names = ()
    """With templates: the names of the classes, in their order."""
    words: Names = ()
    """With templates: another word for each of the classes; (): there are none."""
    encoded_by: StoredEncoder | None = None
    """The frozen encoder that makes tokens of a text; None: its bytes are, by a network that is trained along."""

    class Options(Section):
        templates: Templates | None = None
        """Texts made from the names of classes, which stand at {}: {from: label, templates: ["a {}", "the digit {}"]}."""
        words: Annotated[Names, Field(min_length=1)] | None = None
        """With templates: other words for the classes, in their order, [zero, one, two, ...]; a text has either."""

        encoder: ModelPath | None = None
        """Frozen encoder of transformers', by Hub id or folder: openai/clip-vit-base-patch32, or another of the CLIP, T5 and
        BERT families. Left out: a small transformer over the bytes, trained along."""

        @field_validator("templates")
        @classmethod
        def _have_a_place(cls, templates: Templates | None) -> Templates | None:
            for template in templates or ():
                if PLACE not in template:
                    raise ValueError(f"'{template}' has no {PLACE} where the name goes")
            return templates

        @model_validator(mode="after")
        def _has_words_for_templates(self) -> Self:
            if self.words and not self.templates:
                raise ValueError("words: changes nothing without templates; leave it out")
            if self.words and len(set(self.words)) < len(self.words):
                raise ValueError("words: one stands there twice")
            return self

    can_be_target = False
    claims: ClassVar = frozenset({"templates", "encoder"})

    @property
    def dtype(self) -> str:
        return "uint8"

    @classmethod
    def recognise(cls, feature: Any, values: Sequence[Any]) -> bool:
        """Whether all are texts, and the column isn't one of classes (`Label` says which those are), nor one of files."""
        there = [value for value in values if value is not None]
        texts = bool(there) and all(isinstance(value, str) for value in there)
        return texts and getattr(feature, "dtype", None) in ("string", "large_string") and not is_label(feature, there)

    @classmethod
    def learn(cls, column: RawColumn, options: Any) -> Self:
        made = cls._of_names(column, options) if options.templates else cls(shape=(1,))
        texts = made._texts(column)
        found = made.model_copy(update={"shape": (max(1, *(len(_utf8(text)) for text in texts)),)})
        if options.encoder is None:
            return found
        return found.model_copy(update={"encoded_by": _encoder(column, options.encoder, texts)})

    @classmethod
    def _of_names(cls, column: RawColumn, options: Any) -> Self:
        """Return the texts that templates make of a column's classes."""
        names = tuple(getattr(column.feature, "names", None) or in_order(readable(column, class_name)))
        if len(names) > MOST_NAMES:
            raise ValueError(f"templates: the column has {len(names):,} different values, more than {MOST_NAMES:,} classes")
        words = options.words or ()
        if words and len(words) != len(names):
            raise ValueError(f"words: {len(words)} for {len(names)} classes, {', '.join(names[:10])}")
        return cls(shape=(1,), templates=options.templates, names=names, words=words)

    def _texts(self, column: RawColumn) -> list[str]:
        """Return all texts of a column, or those that the templates make."""
        made = [text for texts in self._wordings.values() for text in texts]
        return made or readable(column, lambda value: _utf8(value).decode())

    def notes(self, column: RawColumn) -> Sequence[str]:
        from genhub.modalities.encoders import opened  # imports torch

        if self.encoded_by is None or self.encoded_by.length < opened(self.encoded_by.digest).longest:
            return ()
        lengths = opened(self.encoded_by.digest).lengths(self._texts(column))
        cut = sum(length > self.encoded_by.length for length in lengths)
        most = f"{self.encoded_by.length} tokens, all that {self.encoded_by.name} takes"
        return [f"{cut:,} of {len(lengths):,} texts have more than {most}, and are cut there"] if cut else ()

    @cached_property
    def _wordings(self) -> dict[str, list[str]]:
        """By the name of a class, all its texts: with the word for it before those with its name."""
        words = self.words or (None,) * len(self.names)
        return {
            name: [template.replace(PLACE, each) for template in self.templates for each in (word, name) if each is not None]
            for name, word in zip(self.names, words, strict=True)
        }

    def read(self, value: Any) -> NDArray[Any]:
        if not self.templates:
            return self._kept(_utf8(value))
        name = class_name(value)
        return self._kept(_utf8(self._wordings.get(name, [self.templates[0].replace(PLACE, name)])[0]))

    def ask(self, value: Any) -> NDArray[Any]:
        """Return a text as it is kept, whatever the templates are."""
        from genhub.ground.console import warn  # imports torch

        content = _utf8(value)
        if len(content) > self.shape[0]:
            warn(f"a text is cut to {self.shape[0]} bytes, the most of a text in the training data: {value!s:.100}")
        return self._kept(content)

    def _kept(self, content: bytes) -> NDArray[Any]:
        import numpy as np

        content = content[: self.shape[0]].decode(errors="ignore").encode()  # no half of a letter
        kept = np.full(self.shape, END, np.uint8)
        kept[: len(content)] = np.frombuffer(content, np.uint8)
        return kept

    def wordings(self) -> NDArray[Any] | None:
        import numpy as np

        if not self.templates:
            return None
        return np.stack([np.stack([self._kept(_utf8(text)) for text in texts]) for texts in self._wordings.values()])

    def to_batch(self, kept: Tensor) -> Tensor:
        return kept

    def from_batch(self, x: Tensor) -> Tensor:
        return x.cpu()

    def condition(self, width: int, sides: tuple[int, ...]) -> Embedding:
        from genhub.modalities.embeddings import ByteEmbedding, EncodedEmbedding

        encoder = self.encoded_by
        return EncodedEmbedding(encoder.width, width) if encoder else ByteEmbedding(self.shape[0], width)

    def encoder(self) -> ConditionEncoder | None:
        its = self.encoded_by
        if its is None:
            return None
        from genhub.modalities.encoders import TextsEncoder, opened

        return TextsEncoder(opened(its.digest), its.length, its.name)

    def open_encoder(self, folder: Path) -> None:
        from genhub.modalities.encoders import open_encoder

        if its := self.encoded_by:
            open_encoder(folder / its.digest[:16], its.digest, its.width, its.length)

    def told(self) -> str:
        """Return what can be asked for, with an example where templates make one: nobody's own text."""
        example = next(iter(self._wordings.values()), ())
        return f'a text, such as "{example[0]}"' if example else f"a text of up to {self.shape[0]} bytes"

    def control(self) -> Line:
        return Line(next(iter(self._wordings.values()), [""])[0])

    def examples(self, most: int) -> list[str]:
        """Return a text of each class, where templates make them: nobody's own."""
        return Choice(tuple(texts[0] for texts in self._wordings.values())).examples(most)

    def caption(self, kept: Tensor) -> str:
        return bytes(kept.tolist()).rstrip(b"\0").decode(errors="replace")

    def facts(self) -> Mapping[str, Any]:
        made = {"templates": list(self.templates), "names": list(self.names)} if self.templates else {}
        words = {"words": list(self.words)} if self.words else {}
        return {"longest": self.shape[0], **made, **words} | ({"encoder": self.encoded_by.name} if self.encoded_by else {})

    def to_rows(self, values: Tensor) -> list[Any]:
        return [self.caption(value) for value in values]

    def feature(self) -> Any:
        from datasets import Value

        return Value("string")

    def picture(self, values: Tensor, captions: Sequence[str] = ()) -> Image.Image:
        from genhub.modalities.plots import bars

        return bars([self.caption(value) for value in values])


def _encoder(column: RawColumn, name: str, texts: Sequence[str]) -> StoredEncoder:
    """Return the encoder that a recipe names, read, and how long these texts are for it."""
    from genhub.modalities.encoders import OPENED, TextEncoder, is_wanted

    folder, commit = column.fetched(name, is_wanted)
    try:
        encoder = TextEncoder.of_transformers(folder)
    except ValueError as error:
        raise ValueError(f"encoder: {str(error).replace(str(folder), name)}") from error
    OPENED[encoder.digest] = encoder
    return StoredEncoder(
        name=name.removeprefix(HUB).partition("@")[0] if commit else folder.resolve().name,
        commit=commit,
        network=encoder.network_class,
        width=encoder.width,
        length=min(encoder.longest, max(encoder.lengths(list(set(texts))))),
        digest=encoder.digest,
    )


def _utf8(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not a {type(value).__name__}")
    return value.encode(errors="replace")
