#include "runtime/text/bpe.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

using Candidate = BpeScratch::Candidate;
using Symbol = BpeScratch::Symbol;

// std heap functions keep the greatest on top; ours is the lowest rank, then the leftmost.
bool After(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void AddSymbol(int32_t id, std::vector<Symbol>* symbols) {
  const int32_t position = static_cast<int32_t>(symbols->size());
  if (position > 0) symbols->back().next = position;
  symbols->push_back({id, position - 1, -1});
}

int32_t CharacterId(const BpeModel& model, std::string_view character, bool first, bool last, std::string* decorated) {
  if (model.continuing_subword_prefix.empty() && model.end_of_word_suffix.empty()) {
    size_t i = 0;
    const auto found = model.characters.find(NextCodePoint(character, &i));
    return found == model.characters.end() ? -1 : found->second;
  }
  decorated->assign(first ? "" : model.continuing_subword_prefix);
  decorated->append(character).append(last ? model.end_of_word_suffix : "");
  const auto found = model.vocab.find(*decorated);
  return found == model.vocab.end() ? -1 : found->second;
}

// An unknown character is held back until the next known one, so that a run of them can fuse.
void SplitIntoCharacters(const BpeModel& model, std::string_view word, std::vector<Symbol>* symbols) {
  symbols->clear();
  bool unk_pending = false;
  std::string decorated;
  for (size_t i = 0; i < word.size();) {
    const size_t start = i;
    NextCodePoint(word, &i);
    const std::string_view character = word.substr(start, i - start);
    const int32_t id = CharacterId(model, character, start == 0, i == word.size(), &decorated);
    if (id >= 0) {
      if (unk_pending) AddSymbol(*model.unk_id, symbols);
      unk_pending = false;
      AddSymbol(id, symbols);
      continue;
    }
    if (model.byte_fallback) {
      const std::string_view bytes = decorated.empty() ? character : std::string_view(decorated);
      const bool all =
          std::all_of(bytes.begin(), bytes.end(), [&](char b) { return model.byte_ids[static_cast<uint8_t>(b)] >= 0; });
      if (all) {
        for (char b : bytes) AddSymbol(model.byte_ids[static_cast<uint8_t>(b)], symbols);
        continue;
      }
    }
    if (!model.unk_id) continue;  // the model has no way to write this character
    if (unk_pending && !model.fuse_unk) AddSymbol(*model.unk_id, symbols);
    unk_pending = true;
  }
  if (unk_pending) AddSymbol(*model.unk_id, symbols);
}

void MergeAll(const BpeModel& model, BpeScratch* scratch) {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  heap.clear();
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) {
    const auto found = model.merges.find(BpePair(symbols[i].id, symbols[i + 1].id));
    if (found != model.merges.end()) heap.push_back({found->second.rank, i, found->second.id});
  }
  std::make_heap(heap.begin(), heap.end(), After);
  const auto offer = [&](int32_t left, int32_t right) {
    const auto found = model.merges.find(BpePair(symbols[left].id, symbols[right].id));
    if (found == model.merges.end()) return;
    heap.push_back({found->second.rank, left, found->second.id});
    std::push_heap(heap.begin(), heap.end(), After);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), After);
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[best.position];
    if (left.id < 0 || left.next < 0) continue;
    const int32_t right_position = left.next;
    Symbol& right = symbols[right_position];
    // The pair that was offered may have been changed by a merge since.
    const auto found = model.merges.find(BpePair(left.id, right.id));
    if (found == model.merges.end() || found->second.id != best.id) continue;
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) offer(left.previous, best.position);
    if (left.next >= 0) offer(best.position, left.next);
  }
}

}  // namespace

void BpeFinish(const std::vector<std::string>& texts, BpeModel* model) {
  for (const auto& [text, id] : model->vocab) {
    if (text.empty()) continue;
    size_t i = 0;
    const char32_t c = NextCodePoint(text, &i);
    if (i == text.size()) model->characters[c] = id;
  }
  for (int b = 0; b < 256; ++b) {
    const auto found = model->vocab.find(absl::StrFormat("<0x%02X>", b));
    model->byte_ids[b] = found == model->vocab.end() ? -1 : found->second;
  }
  model->words_split_at_marker = !model->ignore_merges && model->continuing_subword_prefix.empty() &&
                                 model->end_of_word_suffix.empty() && model->vocab.contains(kWordMarker);
  for (const auto& [pair, merge] : model->merges) {
    const std::string& left = texts[pair >> 32];
    const std::string& right = texts[pair & 0xFFFFFFFF];
    if (right.starts_with(kWordMarker) && !left.ends_with(kWordMarker)) model->words_split_at_marker = false;
  }
}

void EncodeWord(const BpeModel& model, std::string_view word, BpeScratch* scratch, std::vector<int32_t>* out) {
  if (model.ignore_merges) {
    const auto found = model.vocab.find(word);
    if (found != model.vocab.end() && !model.never_whole_words.contains(found->second)) {
      out->push_back(found->second);
      return;
    }
  }
  SplitIntoCharacters(model, word, &scratch->symbols);
  MergeAll(model, scratch);
  for (int32_t i = scratch->symbols.empty() ? -1 : 0; i >= 0; i = scratch->symbols[i].next)
    out->push_back(scratch->symbols[i].id);
}

}  // namespace duo
