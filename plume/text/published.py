"""Published tokenizers, both ways: the files that a Hugging Face folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers as library

from plume.errors import UserError
from plume.text import sentencepieces
from plume.text.encoding import Kind
from plume.vocabulary import Vocabulary

_ROLES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
# What the roles are called where no file says so, in the order in which they are looked for.
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "bos": ("[BOS]", "<s>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "cls": ("[CLS]", "<cls>", "<s>"),  # XLNet has both, and its <s> is no [CLS]
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


def read(folder: Path) -> tuple[library.Tokenizer, Kind, Vocabulary]:
    """The library's tokenizer, its kind and the special tokens of a published folder.

    Raises:
        UserError: no tokenizer.json, vocab.txt, vocab.json with merges.txt or spiece.model in it, or a damaged one.
    """
    config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    try:
        inner = _open(folder, config)
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"the tokenizer in {folder} cannot be read: {error}") from None
    settings = json.loads(inner.to_str())
    names = {role: _content(config.get(f"{role}_token")) for role in _ROLES}
    if not any(names.values()):
        names = {
            role: next((n for n in _NAMES[role] if inner.token_to_id(n) is not None), None) for role in _ROLES
        }
    ids = {role: inner.token_to_id(name) if name else None for role, name in names.items()}
    # Special tokens that are only in the model's vocabulary (vocab.txt) must be known as special.
    inner.add_special_tokens([name for role, name in names.items() if name and ids[role] is not None])
    vocabulary = inner.get_vocab(with_added_tokens=True)
    sentinels = [inner.token_to_id(f"<extra_id_{n}>") for n in range(1000)]
    known = Vocabulary(
        size=max(vocabulary.values()) + 1,
        sentinels=tuple(number for number in sentinels if number is not None),
        pad=ids["pad"],
        bos=ids["bos"],
        eos=ids["eos"],
        unk=ids["unk"],
        cls=ids["cls"],
        sep=ids["sep"],
        mask=ids["mask"],
    )
    return inner, _kind(settings), known


def _open(folder: Path, config: dict[str, Any]) -> library.Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if (folder / "vocab.txt").is_file():
        return _wordpiece(folder / "vocab.txt", config)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        if "</w>" in (folder / "merges.txt").read_text(encoding="utf-8"):
            return _gpt1(folder)
        space = bool(config.get("add_prefix_space", False))
        inner = library.Tokenizer(
            library.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        )
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=space)
        inner.decoder = library.decoders.ByteLevel()
        return inner
    if (folder / "spiece.model").is_file():
        family = _json(folder / "config.json").get("model_type")
        return sentencepieces.read(
            folder / "spiece.model", int(config.get("extra_ids", 100 * (family == "t5")))
        )
    raise UserError(
        f"{folder} holds no tokenizer: there must be a tokenizer.json, or a vocab.txt, or a vocab.json with "
        f"merges.txt, or a spiece.model"
    )


def _gpt1(folder: Path) -> library.Tokenizer:
    """GPT-1's merges end words with ``</w>``; the same cutting as ``plume.text.tokenizers.word_bpe``."""
    model = library.models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token="<unk>",  # noqa: S106
        end_of_word_suffix="</w>",
    )
    inner = library.Tokenizer(model)
    inner.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.BPEDecoder(suffix="</w>")
    return inner


def _wordpiece(path: Path, config: dict[str, Any]) -> library.Tokenizer:
    unknown = _content(config.get("unk_token")) or "[UNK]"
    names = path.read_text(encoding="utf-8").split("\n")
    while names and not names[-1].strip():
        names.pop()
    model = library.models.WordPiece(
        {name.rstrip("\r"): number for number, name in enumerate(names)},
        unk_token=unknown,
        max_input_chars_per_word=100,
    )
    inner = library.Tokenizer(model)
    inner.normalizer = library.normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    inner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    inner.decoder = library.decoders.WordPiece()
    cls, sep = inner.token_to_id("[CLS]"), inner.token_to_id("[SEP]")
    if cls is not None and sep is not None:
        inner.post_processor = library.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
        )
    return inner


def _kind(settings: dict[str, Any]) -> Kind:
    match settings["model"]["type"]:
        case "WordPiece":
            return "wordpiece"
        case "Unigram":
            return "unigram"
        case "WordLevel":
            return "characters" if _single_characters(settings) else "words"
    return "bpe"


def _single_characters(settings: dict[str, Any]) -> bool:
    added = {token["content"] for token in settings["added_tokens"]}
    return all(len(piece) == 1 for piece in settings["model"]["vocab"] if piece not in added)


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    return value if isinstance(value, dict) else {}


def write(inner: library.Tokenizer, vocabulary: Vocabulary, folder: Path, *, framed: bool) -> None:
    """tokenizer.json and tokenizer_config.json as ``transformers`` reads them, and the older files beside them.

    ``framed``: texts get [CLS] and [SEP] around them, as BERT's tokenizer does and GPT-2's does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(inner.to_str())
    if not framed:
        settings["post_processor"] = None
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if framed:
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    for role in _ROLES:
        number = getattr(vocabulary, role)
        if number is not None:
            config[f"{role}_token"] = inner.id_to_token(number)
    model = settings["model"]
    if model["type"] == "WordPiece":
        config["do_lower_case"] = bool((settings["normalizer"] or {}).get("lowercase", False))
        names = sorted(model["vocab"], key=model["vocab"].__getitem__)
        (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if model["type"] == "BPE":
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        text = "#version: 0.2\n" + "".join(f"{pair}\n" for pair in pairs)
        (folder / "merges.txt").write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8"
    )
