"""What the demo says, in English and in Chinese."""

from __future__ import annotations

from typing import Any

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "page": "From counting to a language model, in minutes",
        "intro": "Made by one command from {corpus}, in {minutes} minutes on this machine: a GPT and a BERT trained "
        "from nothing, beside models that only count, and beside a network that others have published.",
        "title": "A network overtakes counting",
        "explain": "Each dashed line is a model that counts which bytes follow which: uniform knows nothing, a unigram "
        "how frequent each is, a bigram looks one back, a trigram two, Kneser-Ney four and smooths what it has not "
        "seen. They have read the whole training text at once. The curve is a small network that reads it piece by "
        "piece. All are asked about the same held-out text; fewer bits are better.",
        "x": "MB of text read",
        "y": "bits per byte of held-out text",
        "network": "GPT, 2 layers of 128",
        "kill": "killed with -9 here, and gone on:\n{identical} of {compared} later losses bit-identical",
        "uniform": "uniform",
        "unigram": "unigram",
        "bigram": "bigram",
        "trigram": "trigram",
        "kneser_ney5": "Kneser-Ney 5-gram",
        "caption": "After {mb} MB the network is below {overtaken} of {of} lines.",
        "behind": "Not yet below: {lines}. More steps get there: the last command of this page.",
        "and": " and ",
        "samples": "What it writes as it overtakes each",
        "below": "below {line}, after {mb} MB",
        "at the end": "at the end",
        "prompt": "This film is",
        "labels": {
            "title": "What pretraining is worth when labels are few",
            "x": "labelled sentences",
            "y": "accuracy on held-out sentences",
            "chance": "guessing",
            "tfidf": "TF-IDF + logistic regression",
            "scratch": "BERT, not pretrained",
            "ours": "BERT, pretrained here, tuned",
            "vectors": "BERT, pretrained here, as it is",
            "published": "MiniLM, published",
        },
        "labels explain": "Is a sentence from a film review for or against? Counted words and networks learn it from "
        "the same labelled sentences. A pretrained network is tuned whole, or used as it is, under a logistic "
        "regression on its sentence vectors. The published one, as it is, is a BERT of 6 layers of 384 that read some "
        "thousand times as much.",
        "labels caption": "Bars: 95 % intervals, from the spread over seeds and the size of the held-out set.",
        "worth": "With {sizes} labels, reading for a minute or two before was worth {vectors} points of accuracy over "
        "the same network without it where its vectors were used, and {ours} where it was tuned. "
        "Differences within the bars are chance.",
        "worth published": " The published network, which read far more, is {theirs} points ahead.",
        "method": "method",
        "column": "{n} labels (seeds: {seeds})",
        "masks": "What BERT guesses",
        "masks explain": "It was trained to guess hidden tokens from both sides. With so little reading its guesses "
        "are mostly frequent words; that is honest, and more steps mend it.",
        "fill": [
            "This is one of the best [MASK] I have ever seen.",
            "The acting was [MASK] and the story was boring.",
            "I would not recommend this [MASK] to anyone.",
        ],
        "sentence": "sentence",
        "guesses": "guesses",
        "go on": "Go on from here",
        "commands": "plume generate {out}/gpt --prompt 'The best thing about it'\n"
        "plume chat {out}/gpt\n"
        "plume evaluate {out}/gpt --data {out}/corpus/reviews.jsonl\n"
        "plume export {out}/bert --to bert-folder          # transformers loads it\n"
        "plume show gpt:tiny bert:tiny                     # what each is asked\n"
        "plume pretrain gpt:small --data {out}/corpus/reviews.jsonl --out runs/gpt-small",
        "line": "model",
        "bits": "bits per byte",
        "after": "GPT below it after",
        "done": "\n{minutes} minutes. The report: {page}",
        "say.corpus": "getting a corpus",
        "say.fallback": "going on with a small text that comes with Plume; it has no labels, so the table is left out",
        "say.gpt": "training a GPT (and killing it on the way)",
        "say.steps": "{steps} steps fit into its time on this machine",
        "say.killed": "killed with -9 at step {step}; the same command again:",
        "say.count": "counting n-grams on the same text, and writing samples",
        "say.bert": "training a BERT",
        "say.labels": "{count} labels: TF-IDF {tfidf}, BERT from scratch {scratch}, pretrained here {ours} tuned and "
        "{vectors} as it is, "
        "published {published}",
    },
    "zh": {
        "page": "从计数到语言模型，只要几分钟",
        "intro": "本页由一条命令生成，语料为{corpus}，在本机用时 {minutes} 分钟：从零训练一个 GPT 和一个 BERT，"
        "并与只会计数的模型比较。",
        "title": "神经网络超过计数",
        "explain": "每条虚线是一个统计“哪个字后面跟哪个字”的模型：均匀分布一无所知，一元知道每个字的频率，"
        "二元往前看一个字，三元看两个，Kneser-Ney 看四个并对没见过的组合做平滑。它们一次读完全部训练文本；"
        "曲线是一个小网络，一段一段地读。大家都在同一份保留文本上答题，比特数越少越好。",
        "x": "已读文本（MB）",
        "y": "保留文本每字节的比特数",
        "network": "GPT，2 层，宽 128",
        "kill": "在此被 kill -9 杀死，随后续跑：\n其后 {compared} 个损失中有 {identical} 个逐位相同",
        "uniform": "均匀",
        "unigram": "一元",
        "bigram": "二元",
        "trigram": "三元",
        "kneser_ney5": "Kneser-Ney 五元",
        "caption": "读过 {mb} MB 之后，网络低于 {of} 条线中的 {overtaken} 条。",
        "behind": "尚未超过：{lines}。多训练一些步数即可，见本页最后一条命令。",
        "and": "、",
        "samples": "超过每条线时它写了什么",
        "below": "低于{line}，读过 {mb} MB",
        "at the end": "结束时",
        "prompt": "新华社北京一月",
        "labels": {
            "title": "标签很少时，预训练值多少",
            "x": "带标签的评论数",
            "y": "保留评论上的准确率",
            "chance": "随机猜",
            "tfidf": "TF-IDF + 逻辑回归",
            "scratch": "BERT，未预训练",
            "ours": "BERT，在此预训练，微调",
            "vectors": "BERT，在此预训练，取句向量",
            "published": "MiniLM，已发布",
        },
        "labels explain": "一条购物评论是褒是贬？计数的词和神经网络从同样的带标签评论中学习。"
        "预训练过的网络有两种用法：整体微调，或者原样不动，在句向量上做逻辑回归。"
        "预训练用的是报纸新闻，与评论的文体相差很远。",
        "labels caption": "误差线：95 % 置信区间，来自随机种子之间的差异和保留集的大小。",
        "worth": "标签数为 {sizes} 时，预先读一两分钟文本，与未预训练的同一网络相比，"
        "取句向量的准确率分别相差 {vectors} 个百分点，"
        "整体微调分别相差 {ours} 个百分点。误差线之内的差别属于偶然。",
        "worth published": "已发布的网络读过的文本多得多，分别领先 {theirs} 个百分点。",
        "method": "方法",
        "column": "{n} 个标签（{seeds} 个种子）",
        "masks": "BERT 猜什么",
        "masks explain": "它的训练任务是从两侧猜出被遮住的字。读得这么少，多半只会猜常见字；如实展示，多训练即可改善。",
        "fill": ["中国人民[MASK]放军", "今天上[MASK]，国务院举行会议。", "这本书很好[MASK]。"],
        "sentence": "句子",
        "guesses": "猜测",
        "go on": "接下来",
        "commands": "plume generate {out}/gpt --prompt '改革开放'\n"
        "plume chat {out}/gpt\n"
        "plume evaluate {out}/gpt --data {out}/corpus/news.jsonl\n"
        "plume export {out}/bert --to bert-folder          # transformers 可直接载入\n"
        "plume show gpt:tiny bert:tiny                     # 看每种模型被问什么\n"
        "plume pretrain gpt:small --data {out}/corpus/news.jsonl --out runs/gpt-small",
        "line": "模型",
        "bits": "每字节比特数",
        "after": "GPT 读过多少后低于它",
        "done": "\n用时 {minutes} 分钟。报告：{page}",
        "say.corpus": "获取语料",
        "say.fallback": "改用随 Plume 附带的小文本；它没有标签，因此略去标签表",
        "say.gpt": "训练 GPT（途中会将它杀死）",
        "say.steps": "在本机的时间内可训练 {steps} 步",
        "say.killed": "在第 {step} 步被 kill -9 杀死；重新运行同一条命令：",
        "say.count": "在同一文本上统计 n 元语法，并生成样例",
        "say.bert": "训练 BERT",
        "say.labels": "{count} 个标签：TF-IDF {tfidf}，未预训练的 BERT {scratch}，"
        "在此预训练的 BERT 微调 {ours}、取句向量 {vectors}",
    },
}
