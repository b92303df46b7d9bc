"""Strings that are hard on tokenizers: many scripts, code, odd white space, emoji, broken UTF-8, the text of special tokens."""

import os

SENTENCES = [
    "The river was high that spring, and nobody crossed it before May; they'd waited 1,234 days, hadn't they?",
    "L'été dernier, nous avons mangé des crêpes à la crème près du château d'Étampes.",
    "Größere Straßen führen über Köln; süße Äpfel kosten 3,50 € pro Kilo.",
    "El niño pequeño preguntó: «¿dónde está mi sombrero?» y nadie contestó.",
    "Tôi đang học tiếng Việt ở thành phố Hồ Chí Minh với những người bạn mới.",
    "Zażółć gęślą jaźń, a potem idź spać; jutro będzie lepiej.",
    "Вчера мы ходили в лес и нашли там много грибов, ягод и старый колодец.",
    "Η θάλασσα ήταν ήρεμη και ο ουρανός γαλάζιος όλο το καλοκαίρι.",
    "ילדים קטנים משחקים בגן ליד הבית הישן כל אחר הצהריים.",
    "كان الطقس جميلاً في المدينة القديمة، وذهبنا إلى السوق معاً.",
    "मेरे गाँव में एक पुराना पेड़ है जिसके नीचे सब लोग बैठते हैं।",
    "আমার বাড়ির পাশে একটি ছোট নদী আছে, সেখানে মাছ ধরি।",
    "என் வீட்டின் அருகில் ஒரு பெரிய மரம் உள்ளது.",
    "ฉันชอบกินข้าวผัดกับไข่ดาวในตอนเช้าที่ตลาดเก่า",
    "ქართული ენა ძალიან ძველია და ლამაზი ანბანი აქვს.",
    "Հայերենը հին լեզու է, որն ունի իր սեփական գրերը։",
    "今天天气很好，我们一起去公园散步，看见了很多花。",
    "昨日は友達と一緒に映画を見ました。とても面白かったです！カタカナも書けます。",
    "오늘은 날씨가 맑아서 공원에서 책을 읽고 커피를 마셨습니다.",
    "ខ្ញុំចូលចិត្តអានសៀវភៅនៅពេលយប់។",
    "አዲስ አበባ ትልቅ ከተማ ናት።",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // dot product",
    "def f(x, *args, **kw):\n    \"\"\"Doc.\"\"\"\n\treturn {k: v for k, v in kw.items() if v is not None}\n",
    "SELECT name, COUNT(*) FROM t WHERE id >= 10 AND x <> 'a''b' GROUP BY 1;\r\n",
    "<div class=\"a b\">x &amp; y</div><!-- note -->\n\n\n  <p>\t</p>",
    "E = mc², ∑ᵢ xᵢ ≤ ∫₀^∞ f(t) dt, ½ + ⅓ ≠ Ⅷ, №42, ①②③, x\u0301y\u0308, ﬁ ﬂ Å Å",
]

# Characters older than Unicode 9: the library's parts know different later versions, even among themselves.
BLOCKS = [(0x20, 0x7E), (0xA0, 0x17F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587),
          (0x5D0, 0x5EA), (0x620, 0x6D3), (0x900, 0x965), (0x980, 0x9DC), (0xB85, 0xBCD), (0xE01, 0xE3A), (0x10A0, 0x10FF),
          (0x1100, 0x11FF), (0x1200, 0x1248), (0x1780, 0x17DD), (0x1E00, 0x1EFF), (0x1F00, 0x1F15), (0x2000, 0x206F),
          (0x2070, 0x20BF), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2600, 0x27BF), (0x3000, 0x30FF),
          (0x3400, 0x3500), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0xF900, 0xFA2D), (0xFB00, 0xFB06), (0xFE00, 0xFE0F),
          (0xFE50, 0xFE6B), (0xFF01, 0xFF9D), (0xFFF9, 0xFFFD), (0x10000, 0x1000B), (0x1D400, 0x1D454), (0x1F300, 0x1F64F),
          (0x1F680, 0x1F6C5), (0x20000, 0x20100), (0xE0020, 0xE007F), (0x0, 0x1F), (0x7F, 0x9F), (0xE000, 0xE010)]

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🇫🇷", "❤️", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "1️⃣", "🤷🏾‍♀️", "☃", "✈️"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085", "\x0b", "\x0c",
          "\u180e", "\u202f", "\ufeff", "\u1680", "\u205f", "\u2060", "\u200d"]
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>",
            "<tool_call>", "<|eot_id|>", "[INST]", "[/INST]", "<0x0A>", "<0xFF>", "▁", "▁▁", "Ġ", "Ċ", "<|im_", "|>", "<mask>",
            "word", "café", "cafe\u0301", "<|", "user\n"]
CONTRACTIONS = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'d", "'\u017f", "'t", "’s", "K\u212a", "'sm", "''"]


def paragraphs():
    """Prose and code that every machine with Python has."""
    text = []
    folder = os.path.dirname(os.__file__)
    for name in ("argparse.py", "json/decoder.py", "textwrap.py", "random.py", "pydoc_data/topics.py", "this.py"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as f:
                text.append(f.read()[:200000])
    for name in ("GPL-3", "Apache-2.0", "MPL-2.0", "Artistic"):
        path = os.path.join("/usr/share/common-licenses", name)
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as f:
                text.append(f.read())
    return text + SENTENCES * 20


def random_word(rng):
    low, high = rng.choice(BLOCKS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))


def make_string(rng, sources):
    """One string, as bytes."""
    parts = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.random()
        if kind < 0.30:
            source = rng.choice(sources)
            start = rng.randrange(len(source))
            parts.append(source[start:start + rng.randint(1, 80)])
        elif kind < 0.45:
            sentence = rng.choice(SENTENCES)
            start = rng.randrange(len(sentence))
            parts.append(sentence[start:start + rng.randint(1, 40)])
        elif kind < 0.58:
            parts.append(random_word(rng))
        elif kind < 0.70:
            parts.append("".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6))))
        elif kind < 0.77:
            parts.append("".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 3))))
        elif kind < 0.87:
            parts.append(rng.choice(SPECIALS))
        elif kind < 0.92:
            parts.append(rng.choice(CONTRACTIONS))
        elif kind < 0.96:
            parts.append(rng.choice("0123456789 .,-_") * rng.randint(1, 12))
        else:
            parts.append(str(rng.randint(0, 10 ** rng.randint(1, 20))))
    data = bytearray("".join(parts).encode("utf-8", errors="replace"))
    if rng.random() < 0.15:  # broken UTF-8
        for _ in range(rng.randint(1, 4)):
            where = rng.randrange(len(data) + 1)
            what = rng.random()
            if what < 0.4:
                data[where:where] = bytes(rng.choice((0x80, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, 0xFF, 0xA0))
                                          for _ in range(rng.randint(1, 4)))
            elif what < 0.8:
                del data[where:where + rng.randint(1, 2)]
            elif where < len(data):
                data[where] = rng.randrange(256)
    return bytes(data)
