#!/usr/bin/env python3
"""Train recall-6m: a small Llama that answers the questions of recall_tasks.py in documents of 128 tokens to 512 K.

    train_recall.py --out recall-6m --seconds 275 --seed 2      one H200; needs torch, tokenizers, safetensors, numpy
    train_recall.py --out DIR --seconds 600 --tiny              a smaller model on a CPU, to see that answers begin to be found

Samples are made on the device: lines of recall_tasks.py at random times, in them questions with their answers behind what
they ask about, the rest filler, cut to the length exactly. The loss is that of the answers alone. Lengths grow in stages that
take shares of the time. In four samples of five the positions jump forward at up to eight places, so that far positions are
seen without far tokens. Last it says how many answers of each task are found in longer samples than any that it was trained
on, and makes a pattern for DuoAttention by taking full attention from one head after the other.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), "launcher", "demo")]
import recall_tasks as tasks  # noqa: E402
import train_needle  # noqa: E402

VOCAB = (len(tasks.tokenizer_json()["model"]["vocab"]) + 63) // 64 * 64
FULL = {**train_needle.CONFIG, "vocab_size": VOCAB}
TINY = {**FULL, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
# Tokens a sample, samples a step, share of the time at most, furthest jump, keys: notes, asked of them, lists, chains, votes' keys,
# votes of each. A stage ends early when all of its tasks are answered, and leaves its time to the later ones.
STAGES = [(128, 1024, 0.2, 2**12, (5, 5, 0, 0, 1, 6)), (256, 512, 0.3, 2**12, (8, 7, 1, 1, 1, 8)),
          (1024, 128, 0.15, 2**16, (36, 20, 5, 4, 2, 16)), (4096, 32, 0.15, 2**20, (130, 60, 20, 14, 6, 20)),
          (16384, 8, 0.1, 2**20, (400, 150, 70, 50, 16, 32)), (32768, 4, 0.1, 2**20, (500, 200, 120, 100, 40, 40))]
TINY_STAGES = [(64, 64, 1.0, 2**8, (4, 4, 0, 0, 0, 0))]
LEARNED, LEARNED_STEPS = 0.95, 20  # mean over so many steps of the answers' tokens that are right, of the worst task
HELD_OUT = [(4096, 8), (32768, 2), (131072, 1), (524288, 1)]
TINY_HELD_OUT = [(64, 64)]
LEARNING_RATE, FINAL_SHARE, WARM_UP, DECAY = 1e-3, 0.02, 0.02, 0.45  # decays over the last 0.45 of the time
WIDTH = 24  # tokens of a line at most
SINK, RECENT = 64, 256  # tokens that streaming heads keep
TRIVIAL = 0.1  # weight in the loss of what every answer of a task has


class Sampler:
    """Batches of samples, whole on the device."""

    def __init__(self, device, seed):
        ids = tasks.word_ids()
        self.device, self.random = device, torch.Generator(device).manual_seed(seed)
        self.word = ids
        adjectives, nouns, self.values, self.fillers = (torch.tensor([ids[w] for w in words], device=device) for words in (
            tasks.ADJECTIVES, tasks.NOUNS, tasks.VALUES, tasks.FILLERS))
        self.keys = torch.stack([adjectives.repeat_interleave(len(nouns)), nouns.repeat(len(adjectives))], 1)

    def rand(self, *shape):
        return torch.rand(shape, generator=self.random, device=self.device)

    def integers(self, least, most, *shape):
        return torch.randint(least, most + 1, shape, generator=self.random, device=self.device)

    def chosen(self, of, batch, lists, count):
        """[batch, lists, count] of `of`, different ones in each list."""
        return of[self.rand(batch, lists, len(of)).argsort(-1)[..., :count]]

    def lines(self, batch, count, parts, time):
        """Tokens [batch, count, WIDTH] (-1: none), what of them is answered (0: not, 1: yes, TRIVIAL), and times.

        parts: (tokens [batch, count] or one, weight); a weight's tensor is of each line."""
        tokens = torch.full((batch, count, WIDTH), -1, device=self.device)
        weights = torch.zeros(batch, count, WIDTH, device=self.device)
        for i in range(3):  # filler in front of some, so that lines' lengths tell nothing
            tokens[..., i] = torch.where(self.rand(batch, count) < 0.15, self.fillers[self.integers(0, len(self.fillers) - 1, batch, count)], -1)
        for i, (token, weight) in enumerate(parts):
            tokens[..., 3 + i], weights[..., 3 + i] = token, weight
        return tokens, weights, time

    def words(self, batch, length, keys):
        """Everything but filler: tokens, weights, times and tasks of all lines."""
        notes, asked, lists, chains, groups, votes = keys
        w, made = self.word, []
        ask, end, stop = w[tasks.ASK], w[tasks.END], w[tasks.LINE_END]
        is_, has, leads, for_ = (w[tasks.VERBS[task]] for task in tasks.TASKS)
        hops = tasks.HOPS[1]
        count = notes + lists + groups + chains * (hops + 1)
        pool = self.keys[self.rand(batch, len(self.keys)).argsort(1)[:, :count]]
        note, list_, group, link = pool.split([notes, lists, groups, chains * (hops + 1)], 1)
        link = link.unflatten(1, (chains, hops + 1))
        late = (self.rand(batch, 1) < 0.5).float()  # all questions at the end, or anywhere behind their facts

        def behind(last):
            return last + (1 + late - last) * self.rand(*last.shape)

        value = self.values[self.integers(0, len(self.values) - 1, batch, notes, 2)]
        time_ = self.rand(batch, notes)
        two = [(value[..., 0], 0), (value[..., 1], 0)]
        made.append((0, self.lines(batch, notes, [(note[..., 0], 0), (note[..., 1], 0), (is_, 0), *two, (stop, 0)], time_)))
        made.append((0, self.lines(batch, asked, [(part[:, :asked] if torch.is_tensor(part) else part, weight) for part, weight in [
            (ask, 0), (note[..., 0], 0), (note[..., 1], 0), (is_, 0), (value[..., 0], 1), (value[..., 1], 1), (stop, TRIVIAL)]],
            behind(time_[:, :asked]))))
        if lists:
            value = self.chosen(self.values, batch, lists, tasks.LIST_VALUES)
            time_ = self.rand(batch, lists, tasks.LIST_VALUES)
            for i in range(tasks.LIST_VALUES):
                made.append((1, self.lines(batch, lists, [(list_[..., 0], 0), (list_[..., 1], 0), (has, 0), (value[..., i], 0), (stop, 0)], time_[..., i])))
            made.append((1, self.lines(batch, lists, [(ask, 0), (list_[..., 0], 0), (list_[..., 1], 0), (has, 0),
                                                      *[(value[..., i], 1) for i in range(tasks.LIST_VALUES)], (stop, TRIVIAL)], behind(time_.amax(-1)))))
        if chains:
            last = self.integers(*tasks.HOPS, batch, chains)  # of the chain's keys
            time_ = self.rand(batch, chains, hops + 1)
            answer = []
            for i in range(hops + 1):
                there, further = i <= last, i < last
                after = link[:, :, min(i + 1, hops)]
                first = torch.where(further, after[..., 0], end)
                parts = [(link[:, :, i, 0], 0), (link[:, :, i, 1], 0), (leads, 0), (first, 0), (torch.where(further, after[..., 1], -1), 0), (stop, 0)]
                parts = [(torch.where(there, torch.as_tensor(token, device=self.device), -1), weight) for token, weight in parts]
                made.append((2, self.lines(batch, chains, parts, time_[..., i])))
                answer += [(torch.where(there, first, -1), 1), (torch.where(further, after[..., 1], -1), 1), (torch.where(further, leads, -1), TRIVIAL)]
            made.append((2, self.lines(batch, chains, [(ask, 0), (link[:, :, 0, 0], 0), (link[:, :, 0, 1], 0), (leads, 0), *answer, (stop, TRIVIAL)],
                                       behind(torch.where(torch.arange(hops + 1, device=self.device) <= last[..., None], time_, 0).amax(-1)))))
        if groups:
            value = self.chosen(self.values, batch, groups, tasks.CANDIDATES)
            which = torch.repeat_interleave(torch.arange(tasks.CANDIDATES, device=self.device), torch.tensor(tasks.vote_counts(votes), device=self.device))
            time_ = self.rand(batch, groups, votes)
            first, second = (group[:, :, None, i].expand(-1, -1, votes).flatten(1) for i in range(2))
            parts = [(first, 0), (second, 0), (for_, 0), (value[..., which].flatten(1), 0), (stop, 0)]
            made.append((3, self.lines(batch, groups * votes, parts, time_.flatten(1))))
            made.append((3, self.lines(batch, groups, [(ask, 0), (group[..., 0], 0), (group[..., 1], 0), (for_, 0), (value[..., 0], 1), (stop, TRIVIAL)],
                                       behind(time_.amax(-1)))))
        tokens, weights, times = (torch.cat([lines[part] for _, lines in made], 1) for part in range(3))
        kinds = torch.cat([torch.full((lines[0].shape[1],), task, device=self.device) for task, lines in made])
        return tokens, weights, times, kinds

    def batch(self, length, size, jump, keys):
        """ids [size, length + 1], weights and tasks of each (as what is predicted), positions [size, length]."""
        tokens, weights, times, kinds = self.words(size, length, keys)
        # Filler: enough lines for the whole sample, of which so many tokens stay as are missing.
        count = length // 7
        filler = self.fillers[self.integers(0, len(self.fillers) - 1, size, count, WIDTH)]
        ends = self.integers(4, 12, size, count, 1)
        column = torch.arange(WIDTH, device=self.device)
        filler = torch.where(column < ends, filler, torch.where(column == ends, self.word[tasks.LINE_END], -1))
        missing = length - (tokens >= 0).sum((1, 2))
        there = (filler >= 0).flatten(1)
        filler = torch.where(there & (there.cumsum(1) <= missing[:, None]), filler.flatten(1), -1).unflatten(1, (count, WIDTH))
        tokens, weights = torch.cat([tokens, filler], 1), torch.cat([weights, torch.zeros_like(filler, dtype=weights.dtype)], 1)
        times = torch.cat([times, self.rand(size, count)], 1)
        kinds = torch.cat([kinds, torch.zeros(count, dtype=kinds.dtype, device=self.device)])
        order = times.argsort(1)
        tokens, weights = (part.gather(1, order[..., None].expand(-1, -1, WIDTH)).flatten(1) for part in (tokens, weights))
        kinds = kinds[order].repeat_interleave(WIDTH, 1)
        place = (tokens < 0).to(torch.int8).argsort(dim=1, stable=True)
        place = place.gather(1, torch.arange(length, device=self.device) + (-missing).clamp(min=0)[:, None])  # too many: the last
        ids, weights, kinds = (part.gather(1, place) for part in (tokens, weights, kinds))
        begin = torch.zeros(size, 1, dtype=ids.dtype, device=self.device)
        ids, weights, kinds = torch.cat([begin, ids], 1), torch.cat([begin.float(), weights], 1), torch.cat([begin, kinds], 1)
        gaps = torch.ones(size, length, dtype=torch.int64, device=self.device)
        jumps = 8
        far = (self.rand(size, jumps) * (jump // jumps)).long() * (self.rand(size, jumps) < 0.6) * (self.rand(size, 1) < 0.8)
        gaps.scatter_add_(1, self.integers(0, length - 1, size, jumps), far)
        return ids, weights, kinds, gaps.cumsum(1) - 1


def answers(model, batch):
    """Of each predicted token of an answer: loss, weight, task, and whether the model's first choice is right."""
    ids, weights, kinds, positions = batch
    asked = weights[:, 1:] > 0
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
        logits = F.linear(model.hidden(ids[:, :-1], positions)[asked], model.model.embed_tokens.weight).float()
    wanted, kinds, weights = ids[:, 1:], kinds[:, 1:], weights[:, 1:]
    choices = torch.zeros_like(wanted)
    choices[asked] = logits.argmax(-1)
    right = choices == wanted
    later = torch.ones_like(right)  # is what stands so many places behind in the same answer, of a list in any order?
    for i in range(1, tasks.LIST_VALUES):
        later[:, :-i] &= ((weights == 1) & (kinds == 1))[:, i:]
        right[:, :-i] |= (later & (weights == 1) & (kinds == 1))[:, :-i] & (choices[:, :-i] == wanted[:, i:])
    return F.cross_entropy(logits, wanted[asked], reduction="none"), weights[asked], kinds[asked], right[asked]


def by_task(each, weight, kinds, right):
    hard = weight == 1
    return {task: (each[hard & (kinds == i)].mean().item(), right[hard & (kinds == i)].float().mean().item())
            for i, task in enumerate(tasks.TASKS) if (hard & (kinds == i)).any()}


def said(found):
    return ", ".join(f"{task} {loss:.3f} {100 * right:.1f} %" for task, (loss, right) in found.items())


def train(model, sampler, stages, seconds, top_rate):
    matrices, plain = ([p for p in model.parameters() if (p.dim() == 2) == flat] for flat in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=top_rate, betas=(0.9, 0.95), fused=sampler.device == "cuda")
    step, started, log = 0, time.time(), []
    for number, (length, size, share, jump, keys) in enumerate(stages):
        begun = (time.time() - started) / seconds
        later = sum(stage[2] for stage in stages[number:])
        until = begun + (1 - begun) * share / later if begun > 1 - later else begun + share
        told, learned = time.time() - started, torch.zeros(len(tasks.TASKS), device=sampler.device)
        if number == len(stages) - 1:
            until = 1
        for steps in itertools.count(1):
            done = (time.time() - started) / seconds
            if done >= until:
                break
            rate = top_rate * min(1, (done + 1e-4) / WARM_UP, FINAL_SHARE + (1 - FINAL_SHARE) * (1 - done) / DECAY)
            for group in optimizer.param_groups:
                group["lr"] = rate
            each, weight, kinds, right = answers(model, sampler.batch(length, size, jump, keys))
            task = F.one_hot(kinds, len(tasks.TASKS)) * weight[:, None]
            loss = ((each[:, None] * task).sum(0) / (task.sum(0) + 1e-6)).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            learned += (((right[:, None] * task).sum(0) + 1e-6) / (task.sum(0) + 1e-6) - learned) / min(steps, LEARNED_STEPS)
            if time.time() - started - told > seconds / 60:
                told = time.time() - started
                found = by_task(each, weight, kinds, right)
                log.append({"step": step, "seconds": round(told, 1), "tokens": length, "tasks": found})
                print(f"step {step}, {told:.0f} s, {length} tokens: {said(found)}", flush=True)
            if number < 3 and steps % LEARNED_STEPS == 0 and learned[learned > 0].min() > LEARNED:
                break
    return step, log


@torch.no_grad()
def find_pattern(model, sampler, length, size, keys):
    """Gates [layers][kv heads] for DuoAttention, greedily: of the heads that keep everything, that one is made a streaming head without
    which the answers' loss grows least, until none is left; a gate is the share of heads that went before. Also the losses on the way."""
    sample = sampler.batch(length, size, 2**16, keys)
    row, column = (torch.arange(length, device=sampler.device).view(shape) for shape in ((-1, 1), (1, -1)))
    causal = column <= row
    window = causal & ((column < SINK) | (column > row - RECENT))
    layers = model.model.layers
    heads = train_needle.CONFIG["num_key_value_heads"]
    group = train_needle.CONFIG["num_attention_heads"] // heads
    streaming = [[False] * heads for _ in layers]

    def loss():
        for layer, streams in zip(layers, streaming):
            layer.self_attn.mask = torch.stack([window if stream else causal for stream in streams for _ in range(group)]) if any(streams) else None
        each, weight, _, _ = answers(model, sample)
        return (each * weight).sum().item() / weight.sum().item()

    gates, losses = [[0.0] * heads for _ in layers], [loss()]
    total = len(layers) * heads
    for gone in range(total):
        tried = []
        for i, streams in enumerate(streaming):
            for j in range(heads):
                if not streams[j]:
                    streams[j] = True
                    tried.append((loss(), i, j))
                    streams[j] = False
        least, i, j = min(tried)
        streaming[i][j], gates[i][j] = True, (gone + 1) / total
        losses.append(least)
    for layer in layers:
        layer.self_attn.mask = None
    return gates, losses


def save_pattern(folder, gates):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "full_attention_heads.tsv"), "w", encoding="utf-8") as file:
        file.writelines("\t".join(f"{gate:.6f}" for gate in layer) + "\n" for layer in gates)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"sink_size": SINK, "recent_size": RECENT}, file, indent=1)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--seconds", type=float, default=280)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE, help="of learning, at its highest")
    parser.add_argument("--tiny", action="store_true", help="a smaller model and shorter samples, for CPUs")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    train_needle.CONFIG.update(TINY if args.tiny else FULL)
    model = train_needle.Llama(train_needle.CONFIG).to(device)
    sampler = Sampler(device, args.seed)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {device}", flush=True)
    steps, log = train(model, sampler, TINY_STAGES if args.tiny else STAGES, args.seconds, args.rate)
    os.makedirs(args.out, exist_ok=True)
    train_needle.save(model, Tokenizer.from_str(json.dumps(tasks.tokenizer_json())), args.out)
    held_out = []
    for length, size in TINY_HELD_OUT if args.tiny else HELD_OUT:
        keys = [stage[4] for stage in (TINY_STAGES if args.tiny else STAGES) if stage[0] <= length][-1]
        with torch.no_grad():
            found = by_task(*answers(model, sampler.batch(length, size, 1, keys)))
        held_out.append({"tokens": length, "tasks": found})
        print(f"held out, {length} tokens: {said(found)}", flush=True)
    gates, losses = find_pattern(model, sampler, *((64, 8, TINY_STAGES[0][4]) if args.tiny else (2048, 2, (65, 30, 10, 7, 3, 20))))
    save_pattern(os.path.join(args.out, "attn_pattern"), gates)
    print("loss with 0, 1, .. streaming heads: " + " ".join(f"{loss:.3f}" for loss in losses), flush=True)
    with open(os.path.join(args.out, "training.json"), "w", encoding="utf-8") as file:
        json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                   "seed": args.seed, "seconds": args.seconds, "steps": steps, "held_out": held_out,
                   "losses_by_streaming_heads": losses, "log": log}, file, indent=1)
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
