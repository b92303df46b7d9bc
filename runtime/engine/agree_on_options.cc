#include "runtime/engine/agree_on_options.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "parallel/agreement.h"
#include "runtime/gguf/gguf_file.h"
#include "runtime/weights/fingerprint.h"

namespace duo {
namespace {

// What shapes a step on every rank, and so must be equal everywhere: in the flags' names, which is what users set.
std::vector<Fact> CommonFacts(const EngineOptions& o) {
  auto optional = [](const auto& value) { return value.has_value() ? absl::StrCat(*value) : std::string(); };
  auto named = [](const auto& value) { return value.has_value() ? std::string(Name(*value)) : std::string("auto"); };
  const bool blocks = o.weights == DType::kF8E4M3 && o.int8_group > 0;
  return {{"--attention", Name(o.attention)},
          {"--sparsity", optional(o.sparsity)},
          {"--threshold", optional(o.threshold)},
          {"--sink", optional(o.sink)},
          {"--recent", optional(o.recent)},
          {"--kv", named(o.kv)},
          {"--weights", blocks             ? absl::StrCat("fp8:", o.int8_group, "x", o.int8_group)
                        : o.int8_group > 0 ? absl::StrCat("int8:", o.int8_group)
                                           : named(o.weights)},
          {"--weights-head", named(o.weights_head)},
          {"--chunk", absl::StrCat(o.chunk)},
          {"--strategy", Name(o.strategy)},
          {"--experts", Name(o.experts)},
          {"--prefill-split", Name(o.prefill_split)},
          {"--rank-weights", absl::StrJoin(o.rank_weights, ",")},
          {"--sessions", absl::StrCat(o.sessions)},
          {"--questions", absl::StrCat(o.questions)},
          {"--prefix-nodes", absl::StrCat(o.prefixes)},
          {"--max-session-tokens", absl::StrCat(o.max_session_tokens)},
          {"--kv-tokens", absl::StrCat(o.kv_tokens)},
          {"--speculate", Name(o.speculate)},
          {"--draft-weights", o.int4_drafts ? "int4" : "served"},
          {"--draft-model", o.draft_model.empty() ? "none" : "given"},
          {"--sources", absl::StrCat(static_cast<int>(o.provenance))},
          {"--prefill-sparsity", Name(o.prefill_sparsity)},
          {"--decode-sparsity", Name(o.decode_sparsity)},
          {"--key-means", o.key_means ? "on" : "off"}};
}

}  // namespace

absl::Status AgreeOnOptions(Communicator& comm, const EngineOptions& options) {
  return AgreeOnFacts(comm, CommonFacts(options));
}

absl::Status AgreeOnConfig(Communicator& comm, const ProbeOptions& options) {
  if (comm.size() == 1 || options.shape.has_value()) return absl::OkStatus();
  const std::string path = IsGgufPath(options.model_dir) ? options.model_dir : options.model_dir + "/config.json";
  const absl::StatusOr<std::string> text = ConfigText(options.model_dir);
  if (absl::Status s = Agree(comm, text.status()); !s.ok()) return s;
  return AgreeOnFacts(comm, {{absl::StrCat(path, " (its fingerprint)"), TextFingerprint(*text)}});
}
absl::Status AgreeOnWeights(Communicator& comm, const std::string& model_dir, const SafetensorsModel& files) {
  if (comm.size() == 1) return absl::OkStatus();
  return AgreeOnFacts(
      comm, {{absl::StrCat("the weights in ", model_dir, " (their fingerprint)"), WeightsFingerprint(files)}});
}

}  // namespace duo
