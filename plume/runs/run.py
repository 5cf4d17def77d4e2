"""``Run``: a trained model with its tokenizer, and what one can ask of it.

Every method takes one text or many, in any language. What a model cannot do raises one sentence that says which
model can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor

from plume.errors import UserError
from plume.evaluation import answerers, filling
from plume.evaluation.answers import Classified, Tagged, one_or_many
from plume.evaluation.scorer import Scorer, paired
from plume.generation.completion import Completion, Delta, complete, stream
from plume.generation.language_models import HistoryModel, LanguageModel, language_model
from plume.generation.sampling import Decoding
from plume.models.backbone import Reads
from plume.models.heads import Asked, Head, TokenHead
from plume.models.lookup import Lookup
from plume.models.ngrams import NGrams
from plume.models.pretrained import PretrainedModel
from plume.models.sparse import SparseModel
from plume.models.transformer import TransformerConfig
from plume.models.word_vectors import WordVectors, of_rows
from plume.objectives.base import Objective
from plume.objectives.classification import Classification, Labelled
from plume.runs.abilities import ASKED, Model, labels_of, methods, require
from plume.slots import IGNORE, Array, Example, Slots, collate
from plume.text.tokenizers import Tokenizer
from plume.text.words import cut
from plume.training import sparse
from plume.training.counting import Counting
from plume.training.folder import RunFolder
from plume.training.labelled import tagged
from plume.training.settings import Adaptation, Pretraining
from plume.training.tasks import Tasks
from plume.vocabulary import Vocabulary

Text = str | tuple[str, str]  # a text, or a pair of them
Many = list[str] | tuple[str, ...]
T = TypeVar("T")
BATCH_SLOTS = 4096  # go through the network at once


@dataclass(frozen=True)
class Run:
    """A trained model with its tokenizer. ``recipe`` is None for a published folder; ``step``: of the weights.

    ``objective`` says how the family reads a text; what counts has none, and reads as causal networks do.
    """

    path: Path
    model: Model
    objective: Objective[Any]
    tokenizer: Tokenizer
    recipe: Pretraining | Adaptation | Counting | sparse.Sparse | None = None
    step: int | None = None

    @property
    def network(self) -> PretrainedModel:
        """The model, where it is a network.

        Raises:
            UserError: it is a table of counts.
        """
        if not isinstance(self.model, PretrainedModel):
            kind = "an n-gram model" if isinstance(self.model, NGrams) else "made of counted words"
            raise UserError(
                f"{self.name} is {kind}: it counts, and has neither layers nor heads (it can "
                f"{', '.join(self.can)}); a model by gpt:tiny or bert:tiny has"
            )
        return self.model

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def labels(self) -> tuple[str, ...]:
        """What ``classify`` (of words: ``tag``) answers with; empty if it cannot."""
        return labels_of(self.model, self.objective)

    @property
    def can(self) -> tuple[str, ...]:
        """The methods that this model's heads can do."""
        return methods(self.model, self.objective)

    # --- text in, text out ---------------------------------------------------------------------------------

    @overload
    def generate(self, prompts: str, *, max_new_tokens: int = ..., temperature: float = ..., top_k: int = ...,
                 top_p: float = ..., stop: Sequence[str] = ..., seed: int = ...) -> str: ...  # fmt: skip
    @overload
    def generate(self, prompts: Many, *, max_new_tokens: int = ..., temperature: float = ..., top_k: int = ...,
                 top_p: float = ..., stop: Sequence[str] = ..., seed: int = ...) -> list[str]: ...  # fmt: skip
    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 50,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> str | list[str]:
        """Continuations of one prompt or many; the prompt is not repeated. ``temperature=0`` is greedy.

        ``complete`` and ``stream`` take every setting of ``Decoding`` and return more.

        Raises:
            UserError: this model predicts no tokens.
        """
        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                            stop=tuple(stop), seed=seed, overflow="slide")  # fmt: skip
        many = [prompts] if isinstance(prompts, str) else list(prompts)
        texts = [completion.text for completion in self.complete(many, decoding)]
        return texts[0] if isinstance(prompts, str) else texts

    def complete(
        self, prompts: Sequence[str], decoding: Decoding | None = None, *, samples: int = 1
    ) -> list[Completion]:
        """Continuations with their ids and log-probabilities; sample j of prompt i is entry i * samples + j."""
        self.know_prompts(prompts)
        return complete(self.language_model, self.tokenizer, list(prompts), decoding, samples=samples)

    def stream(
        self, prompts: Sequence[str], decoding: Decoding | None = None, *, samples: int = 1
    ) -> Iterator[Delta]:
        """The same as it grows. What cannot be done is said at once, before the first delta is asked for."""
        self.know_prompts(prompts)
        return stream(self.language_model, self.tokenizer, list(prompts), decoding, samples=samples)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The model as decoding knows it.

        Raises:
            UserError: it predicts no tokens.
        """
        self._require("generate")
        if isinstance(self.model, NGrams):
            return HistoryModel(self.model.next_token_log_probs)
        return language_model(self.speaker, self.answers, self._vocab, context_length=self.max_length)

    @property
    def tasks(self) -> Tasks | None:
        """The tasks that were mixed with its text, where there were some."""
        return self.recipe.tasks if isinstance(self.recipe, Pretraining) else None

    @property
    def answers(self) -> Objective[Any]:
        """How it is given a prompt. One that was trained on tasks answers them, and goes on with no text."""
        return self._reader if self.tasks is None else self.tasks.objective

    def know_prompts(self, prompts: Sequence[str]) -> None:
        """Where it was trained on tasks, raise a UserError if a prompt begins with the prefix of none of them."""
        for prompt in prompts if self.tasks else ():
            cast(Tasks, self.tasks).of_prompt(prompt)

    def fill_mask(self, texts: str | Sequence[str], *, top: int = 5) -> Any:
        """The likeliest tokens for each [MASK].

        For one text with one [MASK] a list of ``top`` ``Filled``; for several masks a list of such lists, one a
        mask; for many texts a list of all that. Masks are filled one at a time, the others staying masked.

        Raises:
            UserError: no head for masked tokens, no [MASK] in a text, or too long a text.
        """
        self._require("fill_mask")
        return cast(Any, one_or_many(texts, lambda many: [self._filled(text, top) for text in many]))

    # --- what the network computes -------------------------------------------------------------------------

    def embed(self, texts: Text | Sequence[Text]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The mean of the last hidden states over a text's slots: [D], or [N, D] for many texts.

        Texts longer than the model can read lose their end.

        Raises:
            UserError: a text is empty, or a table of words knows none of its words.
        """

        def many(items: Sequence[Text]) -> list[Array]:
            framed = [self._framed(item) for item in items]
            for item, slots in zip(items, framed, strict=True):
                self._know_words(item, slots.input_ids)
            return self._each(framed, lambda slots, hidden: hidden[-1].mean(0).float().cpu().numpy())

        found = one_or_many(texts, many)
        return np.stack(found) if isinstance(found, list) else found

    def classify(self, texts: Text | Sequence[Text]) -> Any:
        """A ``Classified`` for one text (or pair), a list of them for many.

        Raises:
            UserError: this model was not adapted to labels.
        """
        self._require("classify")
        if isinstance(self.recipe, sparse.Sparse):
            model, recipe = cast(SparseModel, self.model), self.recipe

            def counted(items: Sequence[Text]) -> list[Classified]:
                shares = sparse.shares(model, recipe, ["\n".join(_pair(item)) for item in items])
                return [Classified.of(model.labels, row) for row in shares.tolist()]

            return one_or_many(texts, counted)

        def many(items: Sequence[Text]) -> list[Classified]:
            asked = [
                Labelled(tuple(self.tokenizer.encode(part) for part in _pair(item)), 0) for item in items
            ]
            return [Classified.of(self.labels, shares[0].tolist()) for shares in self._answered(asked)]

        return one_or_many(texts, many)

    def tag(self, texts: str | Sequence[str]) -> Any:
        """A ``Tagged`` for each word of one text, a list of such lists for many; Chinese words are rjieba's."""
        return cast(Any, one_or_many(texts, lambda many: self.tag_words([cut([t]).words for t in many])))

    def tag_words(self, sentences: Sequence[Sequence[str]]) -> list[list[Tagged]]:
        """The same for texts that were cut into words already."""
        self._require("tag")
        objective = cast(Classification, self.objective)
        parts: list[Labelled] = []
        ends = [0]
        for words in sentences:
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch(words)]
            if words:
                parts += objective.pieces(tagged(ids, [0] * len(words), self.tokenizer), self._vocab)
            ends.append(len(parts))
        shares = self._answered(parts)
        return [
            Tagged.of(words, self.labels, [row for part in shares[first:end] for row in part.tolist()])
            for words, (first, end) in zip(sentences, pairwise(ends), strict=True)
        ]

    def logits(self, text: str) -> Tensor:
        """What the token head answers at every slot of the text as the family reads it: [T, V], fp32.

        A causal family reads the text alone; BERT's reads [CLS] text [SEP]; ELMo is asked forwards. An n-gram
        model's are log-probabilities of what follows each token, in nats.

        Raises:
            UserError: this model predicts no tokens.
        """
        self._require("logits")
        if isinstance(self.model, NGrams):
            ids = self.tokenizer.encode(text)
            rows = [self.model.next_token_log_probs(ids[: t + 1]) for t in range(len(ids))]
            return torch.tensor(np.array(rows).reshape(len(ids), self._vocab.size), dtype=torch.float32)
        speaker = self.speaker
        head: Head = speaker.heads[next(name for name in ASKED if name in speaker.heads)]
        return self._each(
            [self._framed(text)], lambda _, hidden: head.logits(hidden[-1]).float().cpu(), speaker, head.reads
        )[0]

    def hidden_states(self, text: Text) -> Tensor:
        """The embeddings and the states after each layer: [L + 1, T, D]."""
        return self._each([self._framed(text)], lambda _, hidden: torch.stack(list(hidden)).float().cpu())[0]

    # --- words ---------------------------------------------------------------------------------------------

    @cached_property
    def words(self) -> WordVectors:
        """The words of a Word2Vec model and their vectors.

        Raises:
            UserError: this model has no table of words.
        """
        self._require("nearest")
        known = np.ones(self._vocab.size, bool)
        known[[i for i in (*self._vocab.special, self._vocab.unk) if i is not None]] = False
        table = self.network.backbone.embedding.weight.detach().cpu().numpy()
        return of_rows(self.tokenizer.pieces(range(self._vocab.size)), table, known)

    def nearest(self, word: str, top: int = 10) -> list[tuple[str, float]]:
        """The words nearest to ``word``, with their cosines."""
        return self.words.nearest(word, top)

    def analogy(self, a: str, b: str, c: str, top: int = 10) -> list[tuple[str, float]]:
        """What is to ``c`` as ``b`` is to ``a``."""
        return self.words.analogy(a, b, c, top)

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words."""
        return self.words.similarity(a, b)

    # --- likelihoods ---------------------------------------------------------------------------------------

    @cached_property
    def scorer(self) -> Scorer:
        """Likelihoods and perplexities.

        Raises:
            UserError: this model predicts no tokens.
        """
        self._require("loglikelihood")
        if isinstance(self.model, NGrams):
            return Scorer(answerers.counts(self.model), self.tokenizer)
        answerer = answerers.network(
            self.speaker, self._reader, self._vocab, max_length=self.max_length, device=self._device
        )
        return Scorer(answerer, self.tokenizer)

    @overload
    def loglikelihood(self, contexts: str, continuations: str) -> float: ...
    @overload
    def loglikelihood(self, contexts: Many, continuations: str | Many) -> list[float]: ...
    @overload
    def loglikelihood(self, contexts: str, continuations: Many) -> list[float]: ...
    def loglikelihood(
        self, contexts: str | Sequence[str], continuations: str | Sequence[str]
    ) -> float | list[float]:
        """log p(continuation | context) in nats; a list for lists. Masked models give pseudo-likelihoods.

        Raises:
            UserError: this model predicts no tokens, or there are not as many contexts as continuations.
        """
        one = isinstance(contexts, str) and isinstance(continuations, str)
        asked = paired(contexts, continuations)
        self.know_prompts([context for context, _ in asked])
        run = self if self.tasks is None else replace(self, objective=self.answers)
        found = [x.log_prob for x in run.scorer.loglikelihood(asked)]
        return found[0] if one else found

    @overload
    def loglikelihood_rolling(self, texts: str) -> float: ...
    @overload
    def loglikelihood_rolling(self, texts: Many) -> list[float]: ...
    def loglikelihood_rolling(self, texts: str | Sequence[str]) -> float | list[float]:
        """log p of a whole text in nats, each of its tokens scored once; a list for many."""
        found = self.scorer.loglikelihood_rolling([texts] if isinstance(texts, str) else list(texts))
        return found[0] if isinstance(texts, str) else found

    # --- inside --------------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, PretrainedModel]:
        """The networks that this model falls into, the one that is kept first (ELECTRA: discriminator, generator)."""
        return dict(self._reader.parts(self.network))

    @property
    def speaker(self) -> PretrainedModel:
        """The network that answers with tokens, where there is one."""
        tokens = (p for p in self.parts.values() if any(isinstance(h, TokenHead) for h in p.heads.values()))
        return next(tokens, self.network)

    @property
    def max_length(self) -> int | None:
        """The most slots the network can read; None: any number."""
        if not isinstance(self.model, PretrainedModel):
            return None
        shape = self.model.backbone.config
        learned = isinstance(shape, TransformerConfig) and shape.positions == "learned"
        return shape.max_positions if learned else None

    @property
    def _vocab(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def _reader(self) -> Objective[Any]:
        """The objective of pretraining, which knows how the family reads a text."""
        return self.objective.reader if isinstance(self.objective, Classification) else self.objective

    def _answered(self, asked: Sequence[Labelled]) -> list[Tensor]:
        """The shares of the labels, [n, K] for the n slots (or texts) that each is asked at."""
        objective, head = cast(Classification, self.objective), self.network.heads["label"]

        def answer(slots: Slots[Array], hidden: Sequence[Tensor]) -> Tensor:
            at = torch.from_numpy(np.flatnonzero(slots.labels["label"] != IGNORE)).to(self._device)
            states = torch.stack(list(hidden), -2) if head.reads == "layers" else hidden[-1]
            none = torch.zeros_like(at)
            logits: Tensor = head.answers(Asked(states[at], none, none, none, {}))[0]
            return logits.float().softmax(-1).cpu()

        return self._each([objective.ask(source, self._vocab) for source in asked], answer)

    def _require(self, method: str) -> None:
        require(method, self.name, self.model, self.objective)

    def _framed(self, text: Text) -> Slots[Array]:
        """A text as the family reads it, cut to what fits."""
        parts = [self.tokenizer.encode(part) for part in _pair(text)]
        if not sum(map(len, parts)):
            raise UserError("the text is empty: there is nothing to read")
        nothing = np.zeros(0, np.int64)
        two = self._reader.prompt(nothing, self._vocab) is not None
        alone = not two and len(parts) == 1 and not len(self._reader.ask_next(nothing, self._vocab)[0])
        if alone:  # a causal family: the text as it is
            slots = self._reader.ask_next(parts[0][: self.max_length], self._vocab)[0]
            return slots
        slots, _ = self._reader.read(parts, self._vocab)
        if self.max_length is not None and len(slots) > self.max_length:
            keep = max(1, len(parts[-1]) - (len(slots) - self.max_length))
            slots, _ = self._reader.read([*parts[:-1], parts[-1][:keep]], self._vocab)
            if len(slots) > self.max_length:
                raise UserError(f"the first text of the pair alone is longer than the {self.max_length} slots that "
                                f"{self.name} can read: shorten it")  # fmt: skip
        return slots

    def _know_words(self, text: Text, ids: Array) -> None:
        """Raise a UserError where a table of words is given a text of which it knows no word."""
        strange = [i for i in (*self._vocab.special, self._vocab.unk) if i is not None]
        if isinstance(self.network.backbone, Lookup) and np.isin(ids, strange).all():
            told = " / ".join(_pair(text))
            raise UserError(
                f"{self.name} knows no word of {told if len(told) < 60 else told[:59] + '…'!r}: a mean of word vectors "
                f"needs one that was in its text"
            )

    @torch.no_grad()  # and not inference mode: what comes back is an ordinary tensor
    def _each(
        self,
        texts: Sequence[Slots[Array]],
        answer: Callable[[Slots[Array], Sequence[Tensor]], T],
        network: PretrainedModel | None = None,
        reads: Reads | None = None,
    ) -> list[T]:
        """``answer(slots, hidden states [T, D] a layer, or of one kind)`` of each text, alike lengths together."""
        found: dict[int, T] = {}
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        at = 0
        while at < len(order):
            size = max(1, BATCH_SLOTS // len(texts[order[at]]))
            group = order[at : at + size]
            examples = [Example(texts[i], self._reader.read_decoder(texts[i], self._vocab)) for i in group]
            batch = collate(examples, packed=False, pad_id=self._vocab.pad or 0).to(self._device)
            hidden = (network or self.network).backbone(batch.inputs, batch.decoder_inputs)
            layers = hidden.layers or (hidden.last,) if reads is None else (hidden[reads],)
            for row, i in enumerate(group):
                found[i] = answer(texts[i], [layer[row, : len(texts[i])] for layer in layers])
            at += size
        return [found[i] for i in range(len(texts))]

    def _filled(self, text: str, top: int) -> Any:
        speaker = self.speaker
        head: Head = speaker.heads[next(name for name in filling.HEADS if name in speaker.heads)]

        def logits(framed: Slots[Array]) -> Tensor:
            one = self._each([framed], lambda _, h: head.logits(h[-1]).float().cpu(), speaker, head.reads)
            return one[0]

        return filling.fill(text, top, self.tokenizer, self._reader, self.max_length, self.name, logits)

    # --- a notebook's view ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        step = "" if self.step is None else f", step {self.step:,}"
        return f"<Run {self.path}: {type(self.objective).__name__}{step}; can {', '.join(self.can)}>"

    def _repr_html_(self) -> str:
        from plume.drawing.card import card

        return card(self.name, self.facts(), self.can, curve=RunFolder(self.path).curve[0])

    def facts(self) -> dict[str, str]:
        """What there is to say of it, for a card."""
        if isinstance(self.model, NGrams):
            kind = f"{self.tokenizer.kind}, {self._vocab.size:,} tokens"
            return {"folder": str(self.path), **self.model.facts(), "tokenizer": kind}
        if isinstance(self.model, SparseModel):
            labels, terms = ", ".join(self.labels), f"{len(self.model.terms):,}"
            return {"folder": str(self.path), "terms": terms, "labels": labels}
        found = {
            "folder": str(self.path),
            "objective": type(self.objective).__name__,
            **self.network.facts(),
            "tokenizer": f"{self.tokenizer.kind}, {self._vocab.size:,} tokens",
        }
        found |= {} if self.step is None else {"step": f"{self.step:,}"}
        return found | ({"labels": ", ".join(self.labels)} if self.labels else {})


def _pair(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
