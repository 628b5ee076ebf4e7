"""The landing page: what, why, and a network that follows the pen."""

from cnn.explain.mathml import to_mathml
from cnn.explain.page import ENGINE
from cnn.explain.page import asset as explain_asset
from website.shell import Page, asset

_CHAIN = r"\dd{L}{z_i} = \sum_{k} \left( -\frac{y_k}{p_k} \right) \cdot p_k (\delta_{k i} - p_i) = p_i - y_i"

_WORDS = {
    "en": {
        "title": "Convolutional networks, every gradient explained",
        "h1": "Convolutional networks,<br>every gradient explained",
        "lead": "Each layer is one small class whose backward pass is derived index by index, and checked by "
        "differences. Look into a trained network and click any number; then train your own on a CPU, several times as fast as PyTorch.",
        "tour": "Take the tour",
        "hour": "Your first hour",
        "python": "Run it here, nothing installed",
        "liveTitle": "A network, live",
        "draw": "Draw a digit",
        "pad": "Drawing pad, 28 by 28 pixels. Below it are digits to choose from.",
        "clear": "Clear",
        "samples": "or take one",
        "one": "The digit {n}",
        "maps": "What eight filters see",
        "answer": "Probabilities p, and what goes back, p − y",
        "truth": "It is a",
        "step": "One training step",
        "reset": "Start again",
        "loss": "loss L = −log p = {L}",
        "moved": "loss {a} → {b} after {n} steps on this picture",
        "think": "Say which digit it is: then y is known, and with it p − y, where the backward pass begins.",
        "seeTitle": "See",
        "see": "<a href='networks.html'>Pages</a> of real networks: every activation, every gradient, each with the sum that made it. "
        "<a href='chapters/index.html'>Derivations</a> from definition to backward pass, with moving pictures.",
        "doTitle": "Do",
        "do": "<a href='exercises.html'>Sixteen exercises</a> that mark themselves and know the usual mistakes. "
        "<a href='notebooks/index.html'>Notebooks</a> from five probabilities to your own layer. Bugs to find. The exercises also run <a href='python.html'>in the browser</a>.",
        "runTitle": "Run",
        "run": "<code>pip install .</code>, then <code>cnn train</code>: real digits, 98.7 %, in seconds, offline (<a href='readme.html'>README</a>). "
        "Training steps are <a href='speed.html'>2 to 5 times</a> as fast as PyTorch's on the same CPU.",
        "originTitle": "Where it starts",
        "origin": "For p = [0.1, 0.2, 0.25, 0.4, 0.05] and the third class being right, the loss sends back "
        "[0.1, 0.2, −0.75, 0.4, 0.05]. Why exactly that? Softmax's derivative has two cases; multiplied by −y/p nearly all of it cancels:",
        "more": "Every step of it",
        "whyTitle": "Why another one",
        "why": "Frameworks hide the backward pass behind a tape; courses show it on toy code that nobody could train with. Here the code "
        "that is explained is the code that runs: one readable NumPy version, one fast version, the same answers, and a check of every gradient in between.",
        "forTitle": "For whom",
        "for": "For those who want to know how a network learns, down to the number; for teachers who need a link, a path and exercises; "
        "for small vision tasks on a CPU. Not for language models, and not for GPUs.",
    },
    "zh": {
        "title": "卷积网络，每个梯度都讲明白",
        "h1": "卷积网络，<br>每个梯度都讲明白",
        "lead": "每一层是一个小小的类，它的反向传播按下标逐步推导，并用差分检验过。你可以打开一个训练好的网络，点任何一个数看它的来历；"
        "然后在 CPU 上训练自己的网络，比 PyTorch 快好几倍。",
        "tour": "开始导览",
        "hour": "一小时入门",
        "python": "就在这里运行，不用安装",
        "liveTitle": "一个正在运行的网络",
        "draw": "画一个数字",
        "pad": "画板，28 × 28 像素。下面有现成的数字可选。",
        "clear": "清除",
        "samples": "或者选一个",
        "one": "数字 {n}",
        "maps": "八个卷积核看到的",
        "answer": "概率 p，以及往回传的 p − y",
        "truth": "正确答案是",
        "step": "训练一步",
        "reset": "重新开始",
        "loss": "损失 L = −log p = {L}",
        "moved": "在这张图上训练 {n} 步，损失 {a} → {b}",
        "think": "先说明它是几：这样就有了标签 y，也就有了 p − y，反向传播从这里开始。",
        "seeTitle": "看",
        "see": "真实网络的<a href='networks.html'>页面</a>：每个激活值、每个梯度，都附有得出它的求和。"
        "<a href='chapters/index.html'>推导</a>从定义一直到反向传播，配有动画。",
        "doTitle": "做",
        "do": "<a href='exercises.html'>十六道练习</a>自动批改，认得常见的错误。<a href='notebooks/index.html'>笔记本</a>从五个概率"
        "讲到自己写一层。还可以找出埋下的错误。练习也可以<a href='python.html'>在浏览器里</a>做。",
        "runTitle": "跑",
        "run": "<code>pip install .</code>，然后 <code>cnn train</code>：真实的手写数字，98.7 %，几秒钟，不用联网（见<a href='readme.html'>项目说明</a>）。"
        "同一块 CPU 上，训练一步比 PyTorch 快 <a href='speed.html'>2 到 5 倍</a>。",
        "originTitle": "从哪里开始",
        "origin": "p = [0.1, 0.2, 0.25, 0.4, 0.05]，第三类正确，损失传回 [0.1, 0.2, −0.75, 0.4, 0.05]。"
        "为什么恰好是这个？softmax 的导数分两种情况；乘上 −y/p 之后几乎全部消掉：",
        "more": "完整的推导",
        "whyTitle": "为什么再写一个",
        "why": "框架把反向传播藏在计算图后面；课程则用玩具代码来讲，没人能拿它训练。这里讲解的代码就是实际运行的代码："
        "一个可读的 NumPy 版本，一个快速版本，结果相同，中间每个梯度都有检验。",
        "forTitle": "适合谁",
        "for": "想弄清网络如何学习、细到每个数的人；需要一个链接、一条路线和一套练习的老师；在 CPU 上做小型视觉任务的人。"
        "不适合语言模型，也不用 GPU。",
    },
}  # fmt: skip


def page(language):
    """Return the landing page."""
    w = _WORDS[language]
    three = "".join(
        f"<section><h2>{w[f'{key}Title']}</h2><p>{w[key]}</p></section>" for key in ("see", "do", "run")
    )
    keys = ("one", "loss", "moved", "think", "pad")
    texts = " ".join(f'data-{key}="{w[key]}"' for key in keys)
    digits = "".join(f'<button type="button" class="digit" data-digit="{k}">{k}</button>' for k in range(10))
    body = f"""
<div class="hero">
<div class="words">
<h1>{w["h1"]}</h1>
<p class="lead">{w["lead"]}</p>
<p class="actions"><a class="button" href="../networks/digits.html?lang={language}#tour=pixel">{w["tour"]}</a>
<a class="button second" href="hour.html">{w["hour"]}</a>
<a class="button second" href="python.html">{w["python"]}</a></p>
</div>
<section class="live" id="live" aria-label="{w["liveTitle"]}" {texts}>
<div class="padside">
<h2 class="small">{w["draw"]}</h2>
<canvas id="pad" width="280" height="280" role="img" aria-label="{w["pad"]}"></canvas>
<p class="tools"><button type="button" class="plain" id="clear">{w["clear"]}</button><span>{w["samples"]}</span></p>
<div id="samples" class="samples"></div>
</div>
<div class="answerside">
<h2 class="small">{w["maps"]}</h2>
<div id="maps" class="maps"></div>
<h2 class="small">{w["answer"]}</h2>
<ol id="bars" class="bars"></ol>
<p class="truth"><span id="truth-label">{w["truth"]}</span><span class="digits" role="group" aria-labelledby="truth-label">{digits}</span></p>
<p id="say" class="say" role="status">{w["think"]}</p>
<p class="tools"><button type="button" class="button small" id="step" disabled>{w["step"]}</button>
<button type="button" class="plain" id="reset">{w["reset"]}</button></p>
</div>
</section>
</div>
<div class="three">{three}</div>
<section class="origin"><h2>{w["originTitle"]}</h2><p>{w["origin"]}</p>
<div class="math" tabindex="0">{to_mathml(_CHAIN, language=language)}</div>
<p><a href="chapters/Loss.html">{w["more"]}</a></p></section>
<div class="two"><section><h2>{w["whyTitle"]}</h2><p>{w["why"]}</p></section>
<section><h2>{w["forTitle"]}</h2><p>{w["for"]}</p></section></div>
"""
    return Page("index", language, w["title"], body, ("live.js",), wide=True)


def script(data):
    """Return the program of the live network: the engine of the explain page, the weights, the pen."""
    engine = "\n".join(explain_asset(name) for name in ENGINE if name not in ("optimizers.js", "trainer.js"))
    return f'"use strict";\nconst network = {data};\n{engine}\n{asset("live.js")}'
