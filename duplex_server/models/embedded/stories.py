"""Stories to be told aloud, over a minute each, and jokes: long speech, made to be interrupted."""

from __future__ import annotations

import re

__all__ = ["JOKES", "STORIES", "TOPICS", "sentences"]

TOPICS = ("a lighthouse", "a robot", "the moon")
"""What the stories of each language are about, in their order, as the grammar names it."""

STORIES = {
    "en": (
        "There was once a lighthouse on a rock so small that the waves shook hands around it. In the lighthouse lived "
        "a keeper called Nora, and a cat who believed that the keeper was he. Every evening Nora climbed two hundred "
        "and twelve steps, and the cat counted them. Every evening she lit the lamp, and the cat looked out to see "
        "whether the sea was still there. One night a fog came, thicker than wool. The lamp burned as bright as ever, "
        "but its light stopped after three steps, like a shy child at a party. Far away a ship blew its horn. It was "
        "coming straight towards the rock. Nora rang the bell, but the fog swallowed the sound. She shouted, but the "
        "fog swallowed that too. Then the cat, who had missed his supper, sat down on the gallery and began to sing. "
        "It was a terrible song. It had no tune, and it had no end. But it was a song that no fog in the world could "
        "swallow. On the ship, the captain put down his cup. What on earth is that, he said, and he turned the wheel, "
        "as far away from the noise as it would go. The ship passed the rock by the length of a whisker. In the "
        "morning a boat brought a basket of herrings, with a letter addressed to the singer. And since that day there "
        "are two keepers in the lighthouse, and only one of them does the stairs.",
        "In a workshop at the end of a long street stood a robot that had been built to carry boxes. It carried boxes "
        "on Monday, and it carried the same boxes back on Tuesday, and nobody had ever told it why. One day a small "
        "box moved. The robot put it down, very gently, and looked inside. There sat a bird with a broken wing. The "
        "robot searched its memory for the word bird, and found nothing, because birds are not boxes. So it asked the "
        "bird. What are you for, asked the robot. I am not for anything, said the bird. I fly, and I sing, and in "
        "winter I go south. The robot thought about this all night. It had never met anything that was not for "
        "anything. It made a splint from a pencil, and a bed from a glove, and every day it brought crumbs from the "
        "lunch of the night watchman. In return the bird taught it a song of five notes. The robot had no voice, but "
        "it had wheels, and one of them could squeak. After some practice it squeaked quite well. In spring the bird "
        "flew away through the open door. The robot carried boxes on Monday, and carried them back on Tuesday. But now "
        "it squeaked while it worked, five notes, over and over. And in autumn, when the birds came by on their way to "
        "the south, one of them sat down on the roof and answered.",
        "A long time ago the moon was always full, and she was bored. She had looked at the earth from the same place "
        "for so many nights that she knew every roof by heart. If only I could go down once, she said, and see what is "
        "under those roofs. The sun, who was older, and always busy, told her that the sky would be dark without her. "
        "Just for one night, said the moon. So she made a plan. Every night she cut a thin slice from her side, and "
        "let it slide down to the earth, so that nobody would notice. The slices gathered in a pond behind a "
        "village, and on the fourteenth night the moon was gone from the sky, and all of her lay in the pond. A girl "
        "who could not sleep came to the water. Are you not supposed to be up there, she asked. I am on holiday, said "
        "the moon. Tell me what is under the roofs. So the girl told her everything. She told her about soup, and "
        "about quarrels, and about brothers who snore, and about songs that people hum while they look for their "
        "glasses. When the morning came the moon sighed, and began to climb back, one slice each night. But she had "
        "enjoyed the evening very much. That is why she still comes down every month. And if you find no moon in the "
        "sky, look in the nearest pond, and have something to tell.",
    ),
    "zh": (
        "从前，海里有一块很小的礁石，上面有一座灯塔。灯塔里住着一位姑娘，名叫小宁，还有一只猫，猫觉得自己才是看灯塔的人。"
        "每天傍晚，小宁爬上两百级台阶去点灯，猫就在旁边数台阶。有一天夜里，起了大雾，雾比棉花还要厚。"
        "灯还是那么亮，可是灯光走不了几步就停下来了。远处传来了汽笛声，一艘大船正朝着礁石开过来。"
        "小宁拼命敲钟，雾把钟声吞掉了。她大声喊，雾把喊声也吞掉了。这时候，猫还没有吃晚饭，很不高兴，就坐在栏杆上唱起歌来。"
        "那首歌难听极了，没有调子，也没有结尾。可是世界上没有一种雾能把它吞掉。船长听见了，放下茶杯说，这是什么声音。"
        "他赶快转动舵轮，离那个声音越远越好。大船从礁石旁边擦了过去，只差一根胡须那么远。"
        "第二天早上，有人送来一篮子鱼，还有一封信，信上写着，送给昨天晚上的歌唱家。"
        "从那以后，灯塔里就有了两个看灯塔的人，不过，爬台阶的还是只有一个。",
        "在一条长街的尽头，有一间仓库，仓库里有一个搬箱子的机器人。星期一，它把箱子搬过来，星期二，它再把箱子搬回去，从来没有人告诉它为什么。"
        "有一天，一个小箱子自己动了一下。机器人轻轻地把它放下，往里面一看，里面坐着一只受伤的小鸟。"
        "机器人问，你是做什么用的。小鸟说，我不是做什么用的。我会飞，会唱歌，冬天的时候我到南方去。"
        "机器人想了整整一个晚上。它用铅笔给小鸟固定翅膀，用手套给小鸟做床，每天还带来一点面包。"
        "小鸟教它唱一首歌，一共只有五个音。机器人没有嗓子，可是它有轮子，其中一个轮子会吱吱地响。练了很久，它唱得还不错。"
        "春天到了，小鸟从门口飞走了。机器人还是星期一搬过来，星期二搬回去。不过现在，它一边干活，一边用轮子唱歌。"
        "到了秋天，一群鸟从这里飞过，往南方去。有一只鸟停在屋顶上，也唱了五个音。",
        "很久很久以前，月亮总是圆的，她觉得很无聊。每天晚上，她都从同一个地方看着大地，每一个屋顶她都认识了。"
        "月亮说，要是我能下去一次，看看屋顶下面有什么，那该多好。太阳说，没有你，夜里会很黑的。月亮说，就一个晚上。"
        "于是，她每天夜里从自己身上切下薄薄的一片，让它悄悄地滑到地上去，这样谁也不会发现。"
        "这些薄片都落在村子后面的池塘里。到了第十四个晚上，天上没有月亮了，月亮整个躺在池塘里。"
        "有一个小姑娘睡不着，走到水边问，你不是应该在天上吗。月亮说，我在放假呢，你给我讲讲屋顶下面的事情吧。"
        "小姑娘就给她讲，讲热汤，讲吵架，讲打呼噜的哥哥，还讲大家找眼镜的时候哼的歌。"
        "天快亮的时候，月亮叹了一口气，每天夜里一片一片地爬回天上去。可是她觉得那个晚上很有意思，所以每个月还要下来一次。"
        "要是你在天上找不到月亮，就到最近的池塘里去看看，记得带上一个故事。",
    ),
}
"""By language, in the order of :data:`TOPICS`."""

JOKES = {
    "en": (
        "Why did the robot go on holiday? It needed to recharge.",
        "I would tell you a joke about silence, but I am always interrupted.",
        "What do you call a speech model that never stops talking? Half duplex.",
    ),
    "zh": (
        "机器人为什么去度假？因为它要充电。",
        "我想给你讲一个关于安静的笑话，可是总有人打断我。",
        "为什么电脑总是感冒？因为它开了太多窗户。",
    ),
}

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+|(?<=[。？！])")


def sentences(text: str) -> tuple[str, ...]:
    """Split a text into sentences; English ones without the space between them."""
    return tuple(sentence for sentence in _SENTENCE_END.split(text) if sentence)
