"""Tokenizers of every kind that duo reads, trained on the spot, so that nothing is downloaded."""

import json

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


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
