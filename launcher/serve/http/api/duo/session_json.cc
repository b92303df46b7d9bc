#include "launcher/serve/http/api/duo/session_json.h"

#include "launcher/terminal/sparse_json.h"

namespace duo::http {
namespace {

const char* Name(Residence residence) {
  switch (residence) {
    case Residence::kOpen:
      return "open";
    case Residence::kMovedOut:
      return "moved_out";
    case Residence::kSaved:
      return "saved";
  }
  return "";
}

}  // namespace

Json SessionJson(const SessionView& view) {
  Json json = {{"id", view.id},
               {"tokens", view.tokens},
               {"tail_bytes", view.tail_bytes},
               {"max_tokens", view.max_tokens},
               {"kv_bytes", view.kv_bytes},
               {"residence", Name(view.residence)},
               {"durable", view.durable},
               {"pinned", view.pinned},
               {"chat", view.chat},
               {"reads_whole", view.reads_whole},
               {"durable_tokens", view.durable_tokens},
               {"pending_calls", view.pending},
               {"idle_seconds", view.idle_seconds}};
  if (view.append.has_value()) {
    const AppendView& a = *view.append;
    json["append"] = {{"append_id", a.id},  {"received_bytes", a.received_bytes}, {"received_all", a.received_all},
                      {"tokens", a.tokens}, {"total_tokens", a.total_tokens},     {"done", a.done}};
  }
  if (view.sparse.sparse()) json["sparse"] = ReadSparselyJson(view.sparse);
  if (!view.unusable.empty()) json["unusable"] = view.unusable;
  if (!view.held_by.empty()) json["held_by"] = view.held_by;
  return json;
}

Json PrefixJson(const SessionView& view) {
  return {{"id", view.id},
          {"tokens", view.tokens},
          {"kv_bytes", view.kv_bytes},
          {"residence", Name(view.residence)},
          {"hits", view.hits},
          {"idle_seconds", view.idle_seconds}};
}

}  // namespace duo::http
