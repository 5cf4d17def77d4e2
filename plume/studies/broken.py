"""A law that broke: which one, on what, and what to say of it in English and Chinese."""

from __future__ import annotations

from typing import Any, Literal

from plume.slots import Example

Law = Literal["restore", "determinism", "rate", "heads", "packing", "no_leak", "random_text"]

_ENGLISH = {
    "crash": "the objective raised {error}",
    "restore.shape": "inputs and labels give {got} tokens back, but the text has {wanted}",
    "restore.tokens": "inputs and labels give another token back at place {place} than stood in the text",
    "determinism.none": "the same key draws an example once and none the next time",
    "determinism.field": "the same key draws different {field}: randomness must come from the generator that is "
    "handed in, and from nothing else",
    "rate.heads": "the heads {got} were asked, {wanted} should be",
    "rate.count": "head {head!r} is asked at {count} of {length} slots, which should be {fewest} to {most}",
    "rate.never": "no example is drawn of any text of up to {length} tokens",
    "rate.label": "head {head!r} has the label {label} at slot {slot}, which is no id of the vocabulary",
    "heads.missing": "there are labels for {missing}, but heads() makes no such head",
    "heads.names": "losses() answers for {losses}, counts() for {counts}, and the heads are {heads}",
    "heads.count": "head {head!r} says beforehand that it counts {before:g}, and divides by {after:g} afterwards",
    "heads.finite": "the loss of head {head!r} is not finite",
    "packing.sum": "the loss of head {head!r} is {together:.6f} when examples share a batch ({how}) and "
    "{alone:.6f} when each is alone",
    "no_leak.sees": "head {head!r} sees its own answer: at slot {slot} the model's state changes with the label alone",
    "no_leak.shown": "head {head!r} is shown {share:.0%} of its answers where it is asked for them, which leaves "
    "little to learn",
    "no_leak.short": "a text with one token changed gives no example, or one of another length",
    "random_text.below": "on random text head {head!r} reaches a loss of {loss:.3f}, below {floor:.3f}, the least "
    "that can be reached without seeing the answers",
}
_CHINESE = {
    "crash": "目标函数抛出了 {error}",
    "restore.shape": "由输入和标签还原出 {got} 个词元，而原文有 {wanted} 个",
    "restore.tokens": "由输入和标签还原出的第 {place} 个词元与原文不同",
    "determinism.none": "同一把钥匙，一次抽得出例子，一次抽不出",
    "determinism.field": "同一把钥匙抽出了不同的 {field}：随机性只能来自传进来的生成器",
    "rate.heads": "被提问的是 {got}，应当是 {wanted}",
    "rate.count": "{head!r} 在 {length} 个位置中的 {count} 个被提问，应当是 {fewest} 到 {most} 个",
    "rate.never": "长达 {length} 个词元的文本也抽不出一个例子",
    "rate.label": "{head!r} 在位置 {slot} 的标签是 {label}，词表里没有这个编号",
    "heads.missing": "{missing} 有标签，但 heads() 没有造出这样的头",
    "heads.names": "losses() 回答了 {losses}，counts() 回答了 {counts}，而头是 {heads}",
    "heads.count": "{head!r} 事先说要除以 {before:g}，事后却除以 {after:g}",
    "heads.finite": "{head!r} 的损失不是有限数",
    "packing.sum": "几个例子放在一批里（{how}），{head!r} 的损失是 {together:.6f}，各自单独时是 {alone:.6f}",
    "no_leak.sees": "{head!r} 看得见自己的答案：在位置 {slot}，只改标签，模型的状态就变了",
    "no_leak.shown": "{head!r} 有 {share:.0%} 的答案就写在提问的位置上，几乎没有什么可学",
    "no_leak.short": "只改一个词元，就抽不出例子，或者例子的长度变了",
    "random_text.below": "在随机文本上，{head!r} 的损失降到 {loss:.3f}，低于 {floor:.3f}：不看答案不可能这么低",
}


class Broken(AssertionError):
    """A law does not hold. ``law``: its name; ``slot``: where, in stack ``stack`` of ``example``, if it is one slot."""

    def __init__(
        self,
        what: str,
        *,
        example: Example[Any] | None = None,
        stack: int = 0,
        slot: int | None = None,
        law: str | None = None,
        **values: Any,
    ) -> None:
        self.what, self.example, self.stack, self.slot, self.values = what, example, stack, slot, values
        self.law = law or what.partition(".")[0]
        if slot is not None:
            self.values = {"slot": slot, **values}
        super().__init__(f"{what}: {self.sentence()}")

    def sentence(self, language: Literal["en", "zh"] = "en") -> str:
        """What broke, in one sentence."""
        return {"en": _ENGLISH, "zh": _CHINESE}[language][self.what].format(**self.values)


LAWS_SAY: dict[str, tuple[str, str]] = {
    "restore": ("inputs and labels give the text back", "由输入和标签能还原出原文"),
    "determinism": ("the same key draws the same example", "同一把钥匙抽出同一个例子"),
    "rate": ("something is asked, and every label is one that can be said", "确有提问，每个标签都答得出"),
    "heads": ("every label has a head, and counts are known beforehand", "每个标签都有头，计数事先可知"),
    "packing": ("neighbours in a batch change nothing", "同一批里的邻居不影响结果"),
    "no_leak": ("no slot sees its own answer", "没有位置看得见自己的答案"),
    "random_text": ("on random text nothing is learnt", "在随机文本上什么也学不到"),
}
