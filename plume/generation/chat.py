"""A conversation with a model that only continues text: the transcript is the prompt (``plume chat``).

A pretrained model has never been told to answer. Written out as a dialogue, its likeliest continuation is an
answer in style; how good it is depends on whether such texts were among what it read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plume.errors import UserError
from plume.generation.completion import Tokenizes, stream
from plume.generation.language_models import LanguageModel
from plume.generation.sampling import Decoding

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Style:
    """How a transcript is written: who speaks, and what stands between a name and what is said."""

    user: str
    reply: str
    mark: str

    def write(self, turns: Sequence[tuple[str, str]], message: str) -> str:
        """The transcript up to where the next reply begins.

        >>> STYLES["zh"].write([("你好", "你好！")], "再见")
        '用户：你好\\n助手：你好！\\n用户：再见\\n助手：'
        """
        said = [f"{self.user}{self.mark}{a}\n{self.reply}{self.mark}{b}\n" for a, b in turns]
        return f"{''.join(said)}{self.user}{self.mark}{message}\n{self.reply}{self.mark.rstrip()}"

    @property
    def stops(self) -> tuple[str, ...]:
        """Where a reply ends: a new line, or a name, however the tokenizer writes it (some lower-case it)."""
        names = [f"{name}{self.mark.rstrip()}" for name in (self.user, self.reply)]
        return tuple(dict.fromkeys(["\n", *names, *(name.lower() for name in names)]))


STYLES: dict[Language, Style] = {
    "en": Style("User", "Assistant", ": "),
    "zh": Style("用户", "助手", "："),
}


def language_of(text: str) -> Language:
    """Chinese if any character is an ideograph.

    >>> language_of("Hello"), language_of("film 电影")
    ('en', 'zh')
    """
    return "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en"


class Chat:
    """A conversation: ``say`` streams the reply to a message and remembers both.

    ``turns`` are the (message, reply) pairs so far. When the transcript outgrows the model, its oldest turns
    are left out of the prompt, never the newest message. ``style=None``: that of the first message's language.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizes,
        decoding: Decoding | None = None,
        *,
        style: Style | None = None,
    ) -> None:
        self.turns: list[tuple[str, str]] = []
        self._model = model
        self._tokenizer = tokenizer
        self._decoding = decoding or Decoding(max_new_tokens=60, temperature=0.8, top_p=0.95)
        self._style = style

    def say(self, message: str) -> Iterator[str]:
        """The reply to ``message``, as it grows. A reply that is not read to its end is not remembered.

        Raises:
            UserError: the message alone is longer than the model can read.
        """
        style = self._style = self._style or STYLES[language_of(message)]
        prompt = self._prompt(style, message.strip())
        # A number of its own for each turn, or the same question would get the same answer for ever.
        decoding = replace(
            self._decoding,
            stop=(*self._decoding.stop, *style.stops),
            seed=self._decoding.seed + len(self.turns),
        )
        reply = ""
        for delta in stream(self._model, self._tokenizer, [prompt], decoding):
            text = delta.text if reply else delta.text.lstrip()  # the blank after the name is no part of it
            reply += text
            if text:
                yield text
        self.turns.append((message.strip(), reply.strip()))

    def _prompt(self, style: Style, message: str) -> str:
        room = self._model.context_length
        for start in range(len(self.turns) + 1):
            prompt = style.write(self.turns[start:], message)
            size = len(self._tokenizer.encode(prompt)) + self._decoding.max_new_tokens - 1
            if room is None or size <= room or self._decoding.overflow == "slide":
                return prompt
        raise UserError(
            f"this message and a reply of {self._decoding.max_new_tokens} tokens need {size} tokens, but the model "
            f"reads at most {room}: write a shorter message, or ask for fewer new tokens"
        )
