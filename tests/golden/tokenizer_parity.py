#!/usr/bin/env python3
"""Compares duo's tokenizer with Hugging Face's `tokenizers` library, id for id and byte for byte.

Needs the pip package `tokenizers`; without it the test is skipped (exit code 77).
Trains tokenizers of every kind that duo reads (so that nothing is downloaded), takes the demo model's besides, and
compares ids of many strings (natural text in many scripts, code, odd white space, emoji, broken UTF-8, the text of
special tokens), with special tokens parsed and not, and the texts of their and of random ids. A text that comes in two
pieces must have the tokens of the whole one.

    tokenizer_parity.py --driver build/tests/golden/tokenize [--strings 100000] [--tokenizer FILE]... [--kinds a,b]
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

try:
    import tokenizers
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError:
    print("skipped: the pip package `tokenizers` is not installed")
    sys.exit(77)

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


def train(tokenizer, corpus, vocab, special, alphabet=None):
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False, initial_alphabet=alphabet or [],
                                  limit_alphabet=400)
    tokenizer.train_from_iterator(corpus, trainer)
    return json.loads(tokenizer.to_str())


def byte_level(corpus, pre, special, normalizer=None, vocab=3000):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, corpus, vocab, special, pre_tokenizers.ByteLevel.alphabet())


def split_words(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def template(spec, before, after=()):
    item = [{"SpecialToken": {"id": t, "type_id": 0}} for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}]
    item += [{"SpecialToken": {"id": t, "type_id": 0}} for t in after]
    ids = spec["model"]["vocab"]
    spec["post_processor"] = {"type": "TemplateProcessing", "single": item, "pair": item + [{"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in list(before) + list(after)}}


def gpt2(corpus):
    spec = byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    spec["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return spec


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def llama3(corpus):
    spec = byte_level(corpus, split_words(LLAMA3), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    spec["model"]["ignore_merges"] = True
    template(spec, ["<|begin_of_text|>"])
    return spec


def qwen2(corpus):
    spec = byte_level(corpus, split_words(LLAMA3.replace("{1,3}", "")), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                      normalizers.NFC())
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("caf\u00e9", normalized=True),
                          AddedToken("word", single_word=True, normalized=False),
                          AddedToken("[INST]", lstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("user\n", single_word=True)])
    return json.loads(tokenizer.to_str())


def nemo(corpus):
    words = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
             r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
             r"\s*[\r\n]+|\s+(?!\S)|\s+")
    spec = byte_level(corpus, split_words(words), ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    template(spec, ["<s>"], ["</s>"])
    return spec


def smollm(corpus):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return byte_level(corpus, pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def falcon(corpus):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=True),
                                   pre_tokenizers.Digits(individual_digits=False),
                                   pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated")])
    return byte_level(corpus, pre, ["<|endoftext|>"], normalizers.NFKC())


def odd_splits(corpus):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split("e", "merged_with_previous"), pre_tokenizers.Split(" ", "merged_with_next"),
                                   pre_tokenizers.Split(tokenizers.Regex(r"\d|\w-\s"), "contiguous"),
                                   pre_tokenizers.Split(tokenizers.Regex(r"[\w.]+|[^\w\s]"), "removed", invert=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    norm = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip(),
                                 normalizers.Replace(tokenizers.Regex(r"\s{2,}"), " "), normalizers.Replace("ab", "c")])
    return byte_level(corpus, pre, ["<|endoftext|>"], norm)


def sentencepiece(corpus, byte_fallback=True):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if byte_fallback else [])
    spec = train(tokenizer, corpus, 3000, special)
    spec["added_tokens"] = spec["added_tokens"][:3]
    template(spec, ["<s>"])
    return spec


def ruby(corpus):
    """Syntax that only Oniguruma reads in this way."""
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}+|\p{L}{,4}[[:punct:]]|(?:ab){2}?c|[[:upper:]&&[^A-M]]+"), "isolated"),
        pre_tokenizers.Split(tokenizers.Regex(r"\b\w|[[:space:]]+"), "merged_with_previous"),
        pre_tokenizers.Split(tokenizers.Regex(r"\pN|\h{2}+|(?<=e)(?:r|st)|\X\Z"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return byte_level(corpus, pre, ["<|endoftext|>"])


def words(corpus):
    """The library's own classes of characters, which are Rust's."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return byte_level(corpus, pre, ["<|endoftext|>"])


def o200k(corpus):
    upper, lower = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    tail = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    regex = (r"[^\r\n\p{L}\p{N}]?[" + upper + "]*[" + lower + "]+" + tail + r"|[^\r\n\p{L}\p{N}]?[" + upper + "]+[" + lower + "]*" +
             tail + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    return byte_level(corpus, split_words(regex), ["<|endoftext|>", "<|return|>"])


def deepseek3(corpus):
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(tokenizers.Regex("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), "isolated"),
        pre_tokenizers.Split(tokenizers.Regex(
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return byte_level(corpus, pre, ["<|begin_of_text|>", "<|end_of_text|>"])


def gaps(corpus):
    """Ids that nothing has, and special tokens that are looked for after normalisation."""
    spec = byte_level(corpus, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>", "<s>", "</s>"], normalizers.NFC())
    top = max(spec["model"]["vocab"].values())
    for i, (text, special, normalized) in enumerate([("<mask>", True, True), ("[INST]", True, True), ("caf\u00e9", False, True)]):
        spec["added_tokens"].append({"id": top + 7 * (i + 1), "content": text, "single_word": False, "lstrip": i == 0,
                                     "rstrip": False, "normalized": normalized, "special": special})
    for token in spec["added_tokens"][:3]:
        token["normalized"] = True
    return spec


SPACE_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                  {"type": "ByteFallback"}, {"type": "Fuse"},
                                                  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def llama2(corpus):
    spec = sentencepiece(corpus)
    spec["pre_tokenizer"] = None
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                              {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    spec["decoder"] = SPACE_DECODER
    return spec


def mistral(corpus):
    spec = sentencepiece(corpus)
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    spec["decoder"] = SPACE_DECODER
    return spec


def metaspace(corpus):
    spec = sentencepiece(corpus)
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    spec["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return spec


def unknowns(corpus):
    spec = sentencepiece(corpus, byte_fallback=False)
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    spec["decoder"] = None
    spec["model"]["fuse_unk"] = False
    return spec


KINDS = [gpt2, llama3, qwen2, nemo, smollm, falcon, odd_splits, o200k, deepseek3, ruby, words, llama2, mistral, metaspace, unknowns,
         gaps]


def drive(driver, path, mode, payload):
    done = subprocess.run([driver, path] + mode, input=payload, stdout=subprocess.PIPE, check=True)
    return done.stdout


def pack_texts(texts):
    return b"".join(struct.pack("<I", len(t)) + t for t in texts)


def pack_ids(lists):
    return b"".join(struct.pack("<I%di" % len(ids), len(ids), *ids) for ids in lists)


def unpack(data, width):
    """The records of a driver's output, as bytes."""
    at, records = 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        records.append(data[at + 4:at + 4 + count * width])
        at += 4 + count * width
    return records


def report(name, what, differences, total):
    for shown in differences[:5]:
        print("  %s %s: %r" % (name, what, shown))
    print("%-12s %-34s %d of %d differ" % (name, what, len(differences), total), flush=True)
    return len(differences)


def compare(driver, name, path, strings, rng):
    """The number of differences between the driver and the library on one tokenizer file."""
    reference = Tokenizer.from_file(path)
    texts = [s.decode("utf-8", errors="replace") for s in strings]
    payload, bad, all_ids = pack_texts(strings), 0, []
    for parse, add in ((True, True), (False, False)):
        reference.encode_special_tokens = not parse
        expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=add)]
        flags = (["--parse-special"] if parse else []) + ([] if add else ["--no-special"])
        found = [list(struct.unpack("<%di" % (len(r) // 4), r)) for r in unpack(drive(driver, path, ["encode"] + flags, payload), 4)]
        assert len(found) == len(expected)
        differ = [(t, f, e) for t, f, e in zip(texts, found, expected) if f != e]
        bad += report(name, "encode, special %s" % ("parsed" if parse else "as text"), differ, len(texts))
        all_ids += expected[:len(expected) // 2]
    size = reference.get_vocab_size()
    all_ids += [[rng.randrange(size) for _ in range(rng.randint(0, 12))] for _ in range(len(strings) // 4)]
    vocab = reference.get_vocab()
    bytes_only = [i for t, i in vocab.items() if t.startswith("<0x")]
    if bytes_only:
        all_ids += [[rng.choice(bytes_only) for _ in range(rng.randint(1, 4))] for _ in range(len(strings) // 10)]
    for skip in (True, False):
        expected = reference.decode_batch(all_ids, skip_special_tokens=skip)
        out = drive(driver, path, ["decode"] + ([] if skip else ["--keep-special"]), pack_ids(all_ids))
        found = [r.decode("utf-8") for r in unpack(out, 1)]
        differ = [(i, f, e) for i, f, e in zip(all_ids, found, expected) if f != e]
        bad += report(name, "decode, special %s" % ("skipped" if skip else "kept"), differ, len(all_ids))
    return bad


# What a question, or the next piece of a document, may begin with.
FOLLOWERS = [b"", b" ", b"  x", b"\n", b"\n\n", b"\r\n", b"s", b"'s", b"'", b"ll ", b"e", "\u0301".encode(), "\u0327x".encode(),
             "\u200d\u2642".encode(), "\U0001f600".encode()[2:], b"\x80", "\u2581".encode(), b"1", b"23 4", b"_end|>", b"im_end|>",
             b"|>", b"[INST]", b"  [INST]", b"<mask>", b"word", b"ord", b"\xcc", b".", b"!?", b"\t", b"user\n", b"b", b"-",
             "\u1161".encode(), b"\xff"]
# Kinds in which nothing is certain before the whole text is there: a normaliser that strips, prefixes of inner words.
NEVER_CERTAIN = {"odd_splits", "falcon", "ruby"}


def pieces(driver, name, path, strings, rng, count):
    """The number of texts that have other tokens when they come in two pieces; a piece is a cut anywhere, or two strings."""
    pairs = []
    while len(pairs) < count:
        text = rng.choice(strings)
        if rng.random() < 0.5:
            cut = rng.randint(0, len(text))
            pairs.append((text[:cut], text[cut:]))
        else:
            pairs.append((text, rng.choice(FOLLOWERS) + (rng.choice(strings)[:20] if rng.random() < 0.5 else b"")))
    bad = 0
    for flags in ([], ["--parse-special"]):
        payload = pack_texts([part for pair in pairs for part in pair])
        records = unpack(drive(driver, path, ["pieces"] + flags, payload), 4)
        differ, certain, given = [], 0, 0
        for i, pair in enumerate(pairs):
            found, expected, stable = records[3 * i : 3 * i + 3]
            certain += struct.unpack("<i", stable)[0]
            given += len(pair[0])
            if found != expected:
                differ.append((pair, struct.unpack("<%di" % (len(found) // 4), found),
                               struct.unpack("<%di" % (len(expected) // 4), expected)))
        bad += report(name, "pieces%s, %.0f %% certain" % (", special" if flags else "", 100 * certain / given), differ,
                      len(pairs))
        if certain < 0.5 * given and name not in NEVER_CERTAIN:
            print("  %s: less than half of the first pieces is certain" % name)
            bad += 1
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True, help="the tokenize program that tests/golden builds")
    parser.add_argument("--strings", type=int, default=100000, help="strings per tokenizer, times DUO_TEST_SCALE of the environment")
    parser.add_argument("--tokenizer", action="append", default=[], help="a tokenizer.json to compare besides")
    parser.add_argument("--kinds", default=",".join(k.__name__ for k in KINDS), help="which kinds to train")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.strings *= int(os.environ.get("DUO_TEST_SCALE", "1"))
    rng = random.Random(args.seed)
    corpus = paragraphs()
    strings = [b"", b" ", b"\n", b"a", b"\xff", b"<s>", b"  <s>  ", b"word word"]
    strings += [make_string(rng, corpus) for _ in range(args.strings - len(strings))]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        files = [(os.path.basename(os.path.dirname(os.path.abspath(p))), p) for p in args.tokenizer]
        for kind in KINDS:
            if kind.__name__ not in args.kinds.split(","):
                continue
            path = os.path.join(folder, kind.__name__ + ".json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(kind(corpus), f, ensure_ascii=False)
            files.append((kind.__name__, path))
        for name, path in files:
            bad += compare(args.driver, name, path, strings, rng)
            bad += pieces(args.driver, name, path, strings, rng, max(1000, args.strings // 5))
    print("tokenizers %s: %d strings, %d tokenizers, %d differences" % (tokenizers.__version__, len(strings), len(files), bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
