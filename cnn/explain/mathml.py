r"""A small part of TeX's mathematics, turned into MathML that browsers draw without a library.

Enough for the derivations of this package: letters, numbers, brackets, Greek, ``_ ^``, ``\frac``,
``\sqrt``, sums with limits, ``\hat \bar``, ``\left( \right)``, ``\overset``, ``\underbrace{x}{y}``,
``\text{English}{Chinese}``, ``\cases`` and two shorthands: ``\grad{x}`` is dL/dx, ``\dd{y}{x}`` is dy/dx.
"""

import re
from html import escape

__all__ = ["to_mathml"]

_TOKEN = re.compile(r"\\[A-Za-z]+|\\[,;{}\\]|[A-Za-z]|[0-9]+(?:\.[0-9]+)?|\s+|.")

_LETTERS = {
    "alpha": "α",
    "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "theta": "θ", "mu": "μ", "sigma": "σ",
    "phi": "φ", "Phi": "Φ", "pi": "π", "Sigma": "Σ",
}  # fmt: skip
_OPERATORS = {
    "cdot": "·",
    "times": "×",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "in": "∈",
    "approx": "≈",
    "dots": "…",
    "lfloor": "⌊",
    "rfloor": "⌋",
}
_NAMES = ("exp", "log", "tanh", "erf")
_LIMITS = {"sum": "<mo>∑</mo>", "max": "<mo>max</mo>", "min": "<mo>min</mo>", "argmax": "<mo>argmax</mo>"}
_SPACES = {"\\,": 0.17, "\\;": 0.3, "quad": 1.2}  # em
_ACCENTS = {"hat": "^", "bar": "¯"}


def to_mathml(tex: str, block: bool = True, language: str = "en") -> str:
    """One formula as a ``<math>`` element; two backslashes start a new line.

    ``language`` ("en" or "zh") chooses between the two texts of ``\\text{English}{Chinese}``; one text is
    the same in both. Raises ValueError naming what the small grammar does not know.
    """
    parser = _Parser(tex, language)
    lines = [parser.row(stop=None)]
    while parser.peek() == "\\\\":
        parser.take()
        lines.append(parser.row(stop=None))
    if parser.peek() is not None:
        raise ValueError(f"unexpected {parser.peek()!r} in {tex}")
    body = lines[0]
    if len(lines) > 1:
        body = f'<mtable class="lines">{"".join(f"<mtr><mtd>{line}</mtd></mtr>" for line in lines)}</mtable>'
    return f'<math display="{"block" if block else "inline"}">{body}</math>'


class _Parser:
    def __init__(self, tex: str, language: str):
        self.tex, self.language = tex, language
        self.tokens = [t for t in _TOKEN.findall(tex) if not t.isspace()]
        self.at = 0
        # \text{...} keeps its spaces: its content is cut from the source instead of the tokens.
        self.plain = iter(re.findall(r"\\text\{([^{}]*)\}(?:\{([^{}]*)\})?", tex))

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self):
        token = self.peek()
        if token is None:
            raise ValueError(f"formula ends too early: {self.tex}")
        self.at += 1
        return token

    def expect(self, token):
        found = self.take()
        if found != token:
            raise ValueError(f"expected {token!r}, found {found!r} in {self.tex}")

    def row(self, stop) -> str:
        parts = []
        while self.peek() is not None and self.peek() != stop and self.peek() not in ("&", "\\\\"):
            parts.append(self.scripted())
        return f"<mrow>{''.join(parts)}</mrow>" if len(parts) != 1 else parts[0]

    def group(self) -> str:
        """The next ``{...}``, or the next single token."""
        if self.peek() != "{":
            return self.atom()[0]
        self.expect("{")
        body = self.row("}")
        self.expect("}")
        return body

    def scripted(self) -> str:
        base, limits = self.atom()
        scripts = {}
        while self.peek() in ("_", "^"):
            script = self.take()
            scripts[script] = self.group()
        below, above = ("munder", "mover") if limits else ("msub", "msup")
        both = "munderover" if limits else "msubsup"
        if len(scripts) == 2:
            return f"<{both}>{base}{scripts['_']}{scripts['^']}</{both}>"
        if "_" in scripts:
            return f"<{below}>{base}{scripts['_']}</{below}>"
        if "^" in scripts:
            return f"<{above}>{base}{scripts['^']}</{above}>"
        return base

    def atom(self) -> tuple[str, bool]:
        token = self.take()
        if token == "{":
            body = self.row("}")
            self.expect("}")
            return body, False
        if token[0] == "\\" and len(token) > 1 and token[1].isalpha():
            return self.command(token[1:])
        if token in _SPACES:
            return _space(token), False
        if token in ("\\{", "\\}"):
            return f'<mo stretchy="false">{token[1]}</mo>', False
        if token.isalpha():
            return f"<mi>{token}</mi>", False
        if token[0].isdigit():
            return f"<mn>{token}</mn>", False
        if token in "()[]|":
            return f'<mo stretchy="false">{token}</mo>', False
        if token == ",":
            return '<mo separator="true">,</mo>', False
        if token in "_^}&":
            raise ValueError(f"unexpected {token!r} in {self.tex}")
        return f"<mo>{escape({'-': '−', '*': '·', chr(39): '′'}.get(token, token))}</mo>", False

    def command(self, name: str) -> tuple[str, bool]:
        if name in _LETTERS:
            return f"<mi>{_LETTERS[name]}</mi>", False
        if name in _OPERATORS:
            return f"<mo>{_OPERATORS[name]}</mo>", False
        if name in _LIMITS:
            return _LIMITS[name], True
        if name in _NAMES:
            return f"<mrow><mi>{name}</mi><mo>\u2061</mo></mrow>", False
        if name in _SPACES:
            return _space(name), False
        if name in _ACCENTS:
            return f'<mover accent="true">{self.group()}<mo>{_ACCENTS[name]}</mo></mover>', False
        if name == "frac":
            return f"<mfrac>{self.group()}{self.group()}</mfrac>", False
        if name in ("grad", "dd"):
            over = "<mi>L</mi>" if name == "grad" else self.group()
            parts = (f"<mrow><mi>∂</mi>{part}</mrow>" for part in (over, self.group()))
            return f"<mfrac>{''.join(parts)}</mfrac>", False
        if name == "overset":
            above, base = self.group(), self.group()
            return f"<mover>{base}{above}</mover>", False
        if name == "underbrace":
            return (
                f'<munder><munder>{self.group()}<mo stretchy="true">⏟</mo></munder>{self.group()}</munder>',
                False,
            )
        if name == "left":
            return self.fenced(), False
        if name == "sqrt":
            return f"<msqrt>{self.group()}</msqrt>", False
        if name == "text":
            return self.text(), False
        if name == "cases":
            return self.cases(), False
        raise ValueError(f"unknown command \\{name} in {self.tex}")

    def fenced(self) -> str:
        r"""``\left( ... \right)``: brackets as high as what they hold."""
        self.expect("(")
        body = self.row("\\right")
        self.expect("\\right")
        self.expect(")")
        return f'<mrow><mo stretchy="true">(</mo>{body}<mo stretchy="true">)</mo></mrow>'

    def text(self) -> str:
        english, chinese = next(self.plain, ("", ""))
        self.skip_group()
        if chinese:
            self.skip_group()
        return f"<mtext>{escape(chinese if chinese and self.language == 'zh' else english)}</mtext>"

    def skip_group(self):
        self.expect("{")
        while self.take() != "}":
            pass

    def cases(self) -> str:
        r"""``\cases{value & condition \\ value & condition}``"""
        self.expect("{")
        rows = []
        while True:
            cells = [self.row("}")]
            while self.peek() == "&":
                self.take()
                cells.append(self.row("}"))
            rows.append("<mtr>" + "".join(f"<mtd>{c}</mtd>" for c in cells) + "</mtr>")
            if self.take() == "}":
                break
        return f'<mrow><mo stretchy="true">{{</mo><mtable class="cases">{"".join(rows)}</mtable></mrow>'


def _space(name: str) -> str:
    return f'<mspace width="{_SPACES[name]}em"></mspace>'
