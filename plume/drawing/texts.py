"""The small texts that pictures are drawn from before there is any data; written for this purpose."""

from __future__ import annotations

from plume.drawing.phrases import Language

TEXTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "The old ferry left the harbour at dawn. A boy stood on the deck and counted the gulls. "
        "The captain gave him a cup of warm milk. Soon the island rose out of the mist. "
        "The boy had never seen a mountain before. He ran to the rail and forgot the gulls. "
        "The captain laughed and blew the horn. The ferry turned slowly into the small harbour.",
        "Our teacher brought a clock to school. She took it apart on the long table. "
        "We laid the wheels in a row. Each wheel had its own number of teeth. "
        "She asked us which wheel turned first. Nobody knew, so we drew the clock from memory. "
        "At noon we put the wheels back. The clock ran again, and nobody had touched the spring.",
        "It rained for three days in the valley. The river rose to the lowest step of the bridge. "
        "People carried their books to the upper floor. On the fourth day the sun came out. "
        "The children found a boat in the garden. Nobody ever asked whose boat it was. "
        "They painted it green and gave it a name. The river went back to its bed.",
    ),
    "zh": (
        "清晨，老渡船离开了港口。一个男孩站在甲板上数海鸥。船长给了他一杯热牛奶。不久，小岛从雾里露了出来。"
        "男孩从来没有见过山。他跑到栏杆边，忘记了海鸥。船长笑着拉响了汽笛。渡船慢慢地转进了小小的港口。",
        "老师把一只钟带到学校。她在长桌上把钟拆开。我们把齿轮排成一行。每个齿轮的齿数都不一样。"
        "她问我们哪个齿轮最先转动。没有人知道，于是我们凭记忆画下了这只钟。中午我们把齿轮装了回去。钟又走了起来。",
        "山谷里下了三天雨。河水涨到了桥的最低一级台阶。人们把书搬到楼上。第四天太阳出来了。"
        "孩子们在花园里找到一条船。没有人问过这是谁的船。他们把船漆成绿色，给它起了名字。河水退回了河床。",
    ),
}

# What models of counts are asked about: words of the texts above, some of them in a new order.
ASKED: dict[Language, str] = {
    "en": "The captain laughed and counted the wheels. The old boat left the harbour at dawn.",
    "zh": "船长笑着数海鸥。孩子们在桌上找到一条船。",
}

# Sentences with their translations, for what reads pairs.
PAIRS: dict[Language, tuple[tuple[str, str], ...]] = {
    "en": (
        ("The ferry left at dawn.", "渡船清晨离开。"),
        ("The boy counted the gulls.", "男孩数海鸥。"),
        ("She took the clock apart.", "她把钟拆开了。"),
        ("It rained for three days.", "下了三天雨。"),
        ("The children found a boat.", "孩子们找到一条船。"),
        ("Nobody knew its name.", "没有人知道它的名字。"),
    ),
}
PAIRS["zh"] = tuple((target, source) for source, target in PAIRS["en"])
