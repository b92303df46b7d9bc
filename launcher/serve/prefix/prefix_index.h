// PrefixIndex: which saved texts a prompt may begin like. By the chains of checksums over their tokens (token_chain.h),
// so that a prompt of a million tokens is looked up among a thousand texts without reading any of them; who restores
// one compares the tokens. Texts lie in the order of their chains: what begins like a prompt for longest is beside the
// place where the prompt itself would be. A plain value on the engine's thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace duo {

// A saved session, or what a prompt left (`left`).
struct SavedText {
  std::string id;
  std::string realm;            // whose prompts may meet it (PrefixUse)
  std::vector<uint32_t> chain;  // of its tokens; a text without one is met by nobody
  int64_t tokens = 0, bytes = 0;
  bool left = false;
};

class PrefixIndex {
 public:
  // All that there are. Which of them were used when stays known.
  void Set(std::vector<SavedText> texts);
  const std::map<std::string, SavedText>& texts() const { return texts_; }

  // What agrees with a text of this chain for longest, and of these the one with the fewest bytes; null: none does.
  // links: how many entries of the chain they share.
  const SavedText* Find(const std::string& realm, const std::vector<uint32_t>& chain, int64_t* links) const;

  void Used(const std::string& id) { used_[id] = ++clock_; }
  void Erase(const std::string& id);
  // Of what prompts left: bytes in all, and the one that was not used for longest; null: there is none.
  int64_t LeftBytes() const;
  const SavedText* Oldest() const;

 private:
  std::map<std::string, SavedText> texts_;
  std::vector<const SavedText*> order_;  // by realm and chain
  std::map<std::string, int64_t> used_;
  int64_t clock_ = 0;
};

}  // namespace duo
