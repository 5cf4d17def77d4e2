"""What a drawing says, in English and Chinese."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["en", "zh"]

_ENGLISH = {
    "page.title": "What a recipe asks of a model",
    "page.words": (
        "A recipe turns text into examples. In each, some slots are asked a question, and every slot sees only some "
        "of the others: that is all that tells one family of language models from another. Below, one draw each "
        "(of many, the one with most to see)."
    ),
    "page.counted.title": "What a recipe counts",
    "page.counted.words": (
        "A recipe turns text into counts, of tokens in a row or of terms in a text: they are all that the model "
        "answers from."
    ),
    "fact.windows": "{name} of {length}, here {drawn}",
    "fact.tokenizer": "{name}, {size} tokens",
    "fact.model": "depth {layers}, width {width}, {millions} M parameters",
    "says.apart": "The two directions see nothing of one another.",
    "says.bands": "In {n} of {layers} layers a slot sees only what lies fewer than {band} positions away.",
    "says.carries": "The network's state is carried along: each window goes on where its row's last one stopped.",
    "fact.static": "static masks: the same in every epoch",
    "fact.dynamic": "dynamic masks: new ones every epoch",
    "reads": "reads",
    "answers": "must say",
    "sees": "who sees whom",
    "sees.row": "a row: what this slot sees",
    "sees.banded": "who sees whom in a banded layer, which looks {band} slots far",
    "sees.banded.narrowed": "who sees whom in a banded layer, which looks {band} slots far, drawn as {drawn}",
    "noise": "The answer is told from words drawn at random: in slot {n}, {answer} from {words}.",
    "source": "Drawn of these words: {words}",
    "slot": "slot",
    "stack.inputs": "",
    "stack.encoder": "first stack (encoder)",
    "stack.decoder": "second stack (decoder)",
    "stack.forward": "from left to right",
    "stack.backward": "from right to left",
    "state.hidden": "hidden: its token is to be guessed",
    "state.swapped": "swapped for a random token, and asked",
    "state.kept": "left as it is, but asked all the same",
    "state.special": "a mark of the format, no text",
    "state.query": "asks for a position without seeing it",
    "state.gap": "stands for tokens that were taken out here",
    "cell.asked": "sees, and is asked",
    "cell.seen": "sees",
    "cell.unseen": "does not see",
    "answer": "the right answer",
    "point": "Point at a slot: what it cannot see fades.",
    "told": "slot {n} reads {shown} and sees {seen} of {all} slots",
    "told.answer": "; it must say {answer}",
    "visible.bidirectional": "Every slot sees every slot, so a word is guessed from both sides.",
    "visible.causal": "Every slot sees itself and what stands before it, never what comes after.",
    "visible.right-to-left": "Every slot sees itself and what comes after it, never what stands before.",
    "visible.ranked": "Who sees whom is part of the draw: a slot sees {mean} of {all} slots on average.",
    "visible.alone": "Every slot sees itself alone: no order, no context, only which word it is.",
    "visible.prefix": "The first {n} slots see one another; every later slot sees itself and what stands before it.",
    "visible.permuted": (
        "The draw puts the tokens into a random order. A slot with content sees itself and what came before it in that "
        "order; a query slot (?) stands for one position and sees only what came before: the place, not the token. "
        "No slot sees a query."
    ),
    "visible.across": "Every slot also sees the whole first stack.",
    "visible.across.some": "Every slot also sees, on average, {mean} of the {all} slots of the first stack.",
    "features": "A slot is read through features ({shape} numbers), such as the characters of its word, not by its id.",
    "told.encoder": "First stack: ",
    "told.decoder": "Second stack: ",
    "told.forward": "Left to right: ",
    "told.backward": "Right to left: ",
    "note.segment": "segment",
    "note.characters": "characters",
    "note.position": "position",
    "note.order": "in the order",
    "note.document": "text",
    "ordinal": "{n}.",
    "across": "first stack",
    "within": "second stack",
    "visible.documents": "The row holds {n} texts that do not see one another.",
    "head.next_token": "{n} of {all} slots are asked, each for the token that comes after it.",
    "head.previous_token": "{n} of {all} slots are asked, each for the token that comes before it.",
    "head.masked_token": (
        "{n} of {all} slots are asked which token stood there. The mask stands in {hidden} of them, a random token "
        "in {swapped}, the right one in {kept}, so that the model never knows whom to trust."
    ),
    "head.context_word": "{n} of {all} slots are asked: each reads one neighbour and must say the word in the middle.",
    "head.context_word.some": "{n} of {all} slots are asked: each reads the mean of one word's neighbours and must say "
    "that word.",
    "head.permuted_token": "{n} query slots are asked, each for the token at its position.",
    "head.next_sentence": "Slot 0 is also asked whether the second segment follows the first: here {answer}.",
    "head.replaced": "{n} of {all} slots are asked whether their token was replaced.",
    "head.other": "{n} of {all} slots are asked: {head}.",
    "head.sentence_order": "Slot 0 is also asked whether the two segments stand in their order: here {answer}.",
    "next_sentence.0": "it does",
    "next_sentence.1": "it does not",
    "next_sentence.0.short": "B follows",
    "next_sentence.1.short": "B is random",
    "sentence_order.0": "they do",
    "sentence_order.1": "they do not",
    "sentence_order.0.short": "in order",
    "sentence_order.1.short": "swapped",
    "replaced.0": "original",
    "replaced.1": "replaced",
    "replaced.2": "as sampled",
    "replaced.2.short": "sampled",
    "counts.next": "next word",
    "counts.context": "after",
    "counts.answers": "answered by",
    "counts.order": "order {k}",
    "counts.p": "p, order {k}",
    "counts.text": "The text, word by word",
    "counts.after": "What comes after “{context}”, the likeliest first",
    "counts.says": (
        "Each order mixes its own counts with the order below; where a context was never seen, the longest shorter one "
        "that was answers."
    ),
    "counts.weight": "After “{context}”, order {k} leaves {weight} of the probability to the order below.",
    "counts.trained": "Counted on three small texts that come with plume; a run's folder draws its own counts.",
    "fact.ngrams": "order {order}: {counts} n-grams",
    "bag.term": "term",
    "bag.count": "times in the text",
    "bag.documents": "texts with it",
    "bag.idf": "weight of a term (idf)",
    "bag.value": "value in the vector",
    "bag.caption": "The text as a vector, the heaviest terms first ({shown} of {all}); all others are 0",
    "bag.near": "Its cosine with the other texts",
    "bag.says": "Order is forgotten: a text is how often each term is in it, times what the term weighs.",
    "bag.text": "The text: {text}",
    "fact.terms": "{count} terms of {texts} texts, by {analyzer}, n-grams of {low} to {high}",
}

_CHINESE = {
    "page.title": "配方向模型提出什么问题",
    "page.words": (
        "配方把文本变成例子。每个例子里，有些位置要回答问题，每个位置只看得见其中一些位置："
        "各类语言模型的区别全在这里。下面每个配方画出一次抽样（从多次抽样中选内容最丰富的一次）。"
    ),
    "page.counted.title": "配方统计什么",
    "page.counted.words": "配方把文本变成计数：相连的词元，或一段文本中的词项。模型只凭这些计数回答。",
    "fact.windows": "{name}，长 {length}，这里画 {drawn}",
    "fact.tokenizer": "{name}，{size} 个词元",
    "fact.model": "{layers} 层 × {width}，{millions} 百万参数",
    "says.apart": "两个方向互相完全看不见。",
    "says.bands": "{layers} 层中有 {n} 层，位置只看得见距离小于 {band} 的内容。",
    "says.carries": "网络的状态会带到下一个窗口：每一行都从上次停下的地方接着读。",
    "fact.static": "静态遮挡：每一轮都相同",
    "fact.dynamic": "动态遮挡：每一轮重新抽",
    "reads": "看到",
    "answers": "要答",
    "sees": "谁看得见谁",
    "sees.row": "每一行：这个位置看得见哪些位置",
    "sees.banded": "带状层里谁看得见谁：只看 {band} 个位置远",
    "sees.banded.narrowed": "带状层里谁看得见谁：只看 {band} 个位置远，这里画成 {drawn} 个",
    "noise": "答案要与随机抽出的词区分开：在位置 {n}，要把 {answer} 与 {words} 分开。",
    "source": "抽自这些词：{words}",
    "slot": "位置",
    "stack.inputs": "",
    "stack.encoder": "第一个堆栈（编码器）",
    "stack.decoder": "第二个堆栈（解码器）",
    "stack.forward": "从左到右",
    "stack.backward": "从右到左",
    "state.hidden": "被遮住：要猜出原来的词元",
    "state.swapped": "被换成随机词元，也要猜",
    "state.kept": "保持原样，但同样要答",
    "state.special": "格式标记，不是正文",
    "state.query": "只问一个位置，看不见它的内容",
    "state.gap": "代表这里被拿走的若干词元",
    "cell.asked": "看得见，并且要回答",
    "cell.seen": "看得见",
    "cell.unseen": "看不见",
    "answer": "正确答案",
    "point": "把鼠标放在一个位置上：它看不见的会变淡。",
    "told": "位置 {n} 看到 {shown}，看得见 {all} 个位置中的 {seen} 个",
    "told.answer": "；要答 {answer}",
    "visible.bidirectional": "每个位置都看得见所有位置，所以一个词可以从左右两边来猜。",
    "visible.causal": "每个位置只看得见自己和前面的内容，看不见后面的。",
    "visible.right-to-left": "每个位置只看得见自己和后面的内容，看不见前面的。",
    "visible.ranked": "谁看得见谁也是抽签决定的：每个位置平均看得见 {all} 个位置中的 {mean} 个。",
    "visible.alone": "每个位置只看得见自己：没有次序，没有上下文，只知道是哪个词。",
    "visible.prefix": "前 {n} 个位置互相看得见，后面的每个位置只看得见自己和前面的内容。",
    "visible.permuted": (
        "抽签把词元排成随机的次序。带内容的位置看得见自己和次序在它之前的；查询位置（?）代表一个位置，"
        "只看得见次序在它之前的：知道地方，不知道内容。谁也看不见查询位置。"
    ),
    "visible.across": "每个位置还看得见整个第一个堆栈。",
    "visible.across.some": "每个位置平均还看得见第一个堆栈 {all} 个位置中的 {mean} 个。",
    "features": "位置不是按编号，而是通过特征（{shape} 个数）读的，例如一个词的各个字符。",
    "told.encoder": "第一个堆栈：",
    "told.decoder": "第二个堆栈：",
    "told.forward": "从左到右：",
    "told.backward": "从右到左：",
    "note.segment": "片段",
    "note.characters": "字符",
    "note.position": "所指位置",
    "note.order": "次序",
    "note.document": "文本",
    "ordinal": "第{n}",
    "across": "第一个堆栈",
    "within": "第二个堆栈",
    "visible.documents": "这一行里有 {n} 段互相看不见的文本。",
    "head.next_token": "{all} 个位置中有 {n} 个要回答：后面紧接着的是哪个词元。",
    "head.previous_token": "{all} 个位置中有 {n} 个要回答：前面紧挨着的是哪个词元。",
    "head.masked_token": (
        "{all} 个位置中有 {n} 个要回答原来是哪个词元：{hidden} 个显示遮挡标记，{swapped} 个被换成随机词元，"
        "{kept} 个保持原样，所以模型永远不知道该相信谁。"
    ),
    "head.context_word": "{all} 个位置中有 {n} 个要回答：各自看到一个邻词，要说出中间的词。",
    "head.context_word.some": "{all} 个位置中有 {n} 个要回答：各自看到一个词的所有邻词的平均，要说出这个词。",
    "head.permuted_token": "有 {n} 个查询位置，各自要答出所指位置上的词元。",
    "head.next_sentence": "位置 0 还要回答：第二段在原文中是否紧接第一段。这里{answer}。",
    "head.replaced": "{all} 个位置中有 {n} 个要回答：自己的词元是否被替换过。",
    "head.other": "{all} 个位置中有 {n} 个要回答：{head}。",
    "head.sentence_order": "位置 0 还要回答：两段是否按原来的先后排列。这里{answer}。",
    "next_sentence.0": "是紧接的",
    "next_sentence.1": "不是紧接的",
    "next_sentence.0.short": "后段紧接",
    "next_sentence.1.short": "后段随机",
    "sentence_order.0": "是",
    "sentence_order.1": "不是",
    "sentence_order.0.short": "顺序原样",
    "sentence_order.1.short": "前后对调",
    "replaced.0": "原词",
    "replaced.1": "换过",
    "replaced.2": "看抽样结果",
    "replaced.2.short": "看抽样",
    "counts.next": "下一个词",
    "counts.context": "上文",
    "counts.answers": "由谁回答",
    "counts.order": "{k} 元",
    "counts.p": "{k} 元概率",
    "counts.text": "逐词看这段文本",
    "counts.after": "“{context}”之后是什么，概率大的在前",
    "counts.says": "每一阶都把自己的计数与低一阶的概率混合；没有见过的上文，由见过的最长的较短上文来回答。",
    "counts.weight": "在“{context}”之后，{k} 元模型把 {weight} 的概率留给低一阶。",
    "counts.trained": "计数来自随软件附带的三段小文本；给出运行文件夹，就画它自己的计数。",
    "fact.ngrams": "{order} 元：{counts} 个 n 元组",
    "bag.term": "词项",
    "bag.count": "文中次数",
    "bag.documents": "含它的文本数",
    "bag.idf": "词项权重（idf）",
    "bag.value": "向量中的值",
    "bag.caption": "文本成为向量，权重大的词项在前（{all} 个中的 {shown} 个），其余都是 0",
    "bag.near": "与其他文本的余弦",
    "bag.says": "次序被忘掉：一段文本就是每个词项出现的次数，乘以词项的权重。",
    "bag.text": "文本：{text}",
    "fact.terms": "{texts} 段文本中的 {count} 个词项，按 {analyzer} 切分，{low} 到 {high} 元",
}

_PHRASES: dict[Language, dict[str, str]] = {"en": _ENGLISH, "zh": _CHINESE}


def phrase(language: Language, name: str, /, **values: object) -> str:
    """The phrase of that name in that language, filled in."""
    return _PHRASES[language][name].format(**values)


def has_phrase(name: str) -> bool:
    """Whether there is such a phrase."""
    return name in _ENGLISH


_CHINESE_CHARACTER = r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]"


def language_of(text: str) -> Language:
    """``"zh"`` for a text with Chinese characters in it.

    >>> language_of("这部电影很好看。"), language_of("A good film.")
    ('zh', 'en')
    """
    return "zh" if re.search(_CHINESE_CHARACTER, text) else "en"


def apart(text: str) -> list[str]:
    """A text with its Chinese characters one by one.

    >>> apart("看了 a good 电影")
    ['看', '了', ' a good ', '电', '影']
    """
    return [part for part in re.split(f"({_CHINESE_CHARACTER})", text) if part]
