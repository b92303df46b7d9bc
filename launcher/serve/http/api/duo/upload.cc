// PUT /duo/v1/sessions/ID/text: a document's raw text becomes part of a session. Resumable: with ?append=NAME the
// server keeps what has come when a connection breaks, GET of the session says how many bytes that is, and a PUT with
// ?offset=BYTES (or a Content-Range) goes on from there. A Content-Range that does not reach the document's end only
// adds its piece. ?create=true opens the session if there is none; ?seam=true and ?chat=true are AppendRequest's.
#include <charconv>
#include <map>

#include "absl/strings/str_cat.h"
#include "launcher/serve/calls/append_job.h"
#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/http/api/base/compute.h"
#include "launcher/serve/http/api/duo/session_json.h"
#include "launcher/serve/http/api/duo/sessions.h"

namespace duo::http {
namespace {

struct UploadFields {
  std::string session_id, append_id;
  int64_t offset = 0;
  bool special = false, partial = false, create = false, seam = false, chat = false;
  int64_t max_tokens = 0;
};

std::optional<int64_t> NumberOf(absl::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// "bytes FIRST-LAST/TOTAL"; a total of * is not known yet.
absl::Status ReadRange(absl::string_view range, UploadFields& fields) {
  constexpr absl::string_view kUnit = "bytes ";
  absl::Status bad = FieldError("Content-Range", "Content-Range must be \"bytes FIRST-LAST/TOTAL\"");
  if (range.substr(0, kUnit.size()) != kUnit) return bad;
  range.remove_prefix(kUnit.size());
  const size_t dash = range.find('-'), slash = range.find('/');
  if (dash == absl::string_view::npos || slash == absl::string_view::npos || slash < dash) return bad;
  const std::optional<int64_t> first = NumberOf(range.substr(0, dash));
  const std::optional<int64_t> last = NumberOf(range.substr(dash + 1, slash - dash - 1));
  const absl::string_view all = range.substr(slash + 1);
  const std::optional<int64_t> total = NumberOf(all);
  if (!first.has_value() || !last.has_value() || *last < *first || (all != "*" && !total.has_value())) return bad;
  fields.offset = *first;
  fields.partial = !total.has_value() || *last + 1 < *total;
  return absl::OkStatus();
}

absl::StatusOr<UploadFields> ReadFields(const Request& request) {
  UploadFields fields;
  fields.session_id = request.path[3];
  const std::map<std::string, bool*> flags = {
      {"special", &fields.special}, {"seam", &fields.seam}, {"chat", &fields.chat}, {"create", &fields.create}};
  for (const auto& [name, value] : request.query) {
    const std::optional<int64_t> number = NumberOf(value);
    if (name == "append") {
      fields.append_id = value;
    } else if (const auto flag = flags.find(name); flag != flags.end()) {
      if (value != "true" && value != "false") return FieldError(name, absl::StrCat(name, " must be true or false"));
      *flag->second = value == "true";
    } else if (name == "offset" || name == "max_tokens") {
      if (!number.has_value()) return FieldError(name, absl::StrCat(name, " must be a whole number"));
      (name == "offset" ? fields.offset : fields.max_tokens) = *number;
    } else {
      return FieldError(name, "the query has append, offset, special, seam, chat, create and max_tokens");
    }
  }
  if (!request.content_range.empty()) {
    if (absl::Status s = ReadRange(request.content_range, fields); !s.ok()) return s;
  }
  if (fields.append_id.empty() && (fields.partial || fields.offset > 0)) {
    return FieldError("append", "a piece of a document needs ?append=NAME, by which the next one finds it");
  }
  return fields;
}

// Pieces go from the connection to the job as it asks for them; what the job says last is the answer. I/O thread.
class UploadCall : public std::enable_shared_from_this<UploadCall> {
 public:
  UploadCall(Service& service, ExchangePtr exchange, UploadFields fields)
      : service_(service), exchange_(std::move(exchange)), fields_(std::move(fields)) {}

  void Start() {
    const auto self = shared_from_this();
    exchange_->KeepAliveWith(
        {service_.comment_seconds > 0 ? kSilence : 0, service_.comment_seconds, "\n", "application/json"});
    job_ = std::make_shared<AppendJob>(
        *service_.calls,
        CallTransport<AppendUpdate>{
            [self](AppendUpdate update) {
              self->exchange_->Post([self, update = std::move(update)] { self->OnUpdate(update); });
            },
            [self](const absl::Status& status) { self->exchange_->Post([self, status] { self->OnFinish(status); }); },
            [self] { self->exchange_->Post([self] { self->OnRead(); }); }});
    exchange_->OnGone([job = job_] { job->Cancel(); });
    job_->Start(CallerOf(exchange_->request));
  }

 private:
  static constexpr double kSilence = 30;

  // The job wants the next piece.
  void OnRead() {
    if (job_ == nullptr) return;
    if (!opened_) {
      opened_ = true;
      AppendPiece first;
      first.session_id = fields_.session_id;
      first.append_id = fields_.append_id;
      first.special = fields_.special;
      first.seam = fields_.seam;
      first.chat = fields_.chat;
      return job_->Take(std::move(first));
    }
    if (ended_) return End();
    exchange_->Read([self = shared_from_this()](std::string piece, bool last) {
      self->ended_ = last;
      if (self->job_ == nullptr) return;
      if (piece.empty()) return last ? self->End() : self->OnRead();
      AppendPiece next;
      next.offset = self->fields_.offset;
      self->fields_.offset += static_cast<int64_t>(piece.size());
      next.text = std::move(piece);
      self->job_->Take(std::move(next));
    });
  }

  void End() {
    if (fields_.partial) return job_->Cancel();  // the server keeps what has come
    // The document is copied first, which may be large: not here.
    if (!service_.Work(0, [job = job_] { job->TakeEnd(); })) job_->TakeEnd();
  }

  void OnUpdate(const AppendUpdate& update) {
    last_.received_bytes = update.received_bytes;
    last_.tokens = update.tokens;
    if (update.session.has_value()) last_.session = update.session;
    if (update.stats.has_value()) last_.stats = update.stats;
    if (job_ != nullptr) job_->Written(true);
  }

  void OnFinish(const absl::Status& status) {
    job_ = nullptr;
    if (fields_.partial && ended_ && absl::IsCancelled(status)) {
      return SendJson(*exchange_, 202, {{"append", fields_.append_id}, {"received_bytes", fields_.offset}});
    }
    if (!status.ok()) return Fail(*exchange_, service_.Error(status));
    Json answer = {{"received_bytes", last_.received_bytes}, {"tokens", last_.tokens}};
    if (last_.session.has_value()) answer["session"] = SessionJson(*last_.session);
    if (last_.stats.has_value()) {
      answer["stats"] = {{"queue_seconds", last_.stats->queue_seconds},
                         {"read_seconds", last_.stats->read_seconds},
                         {"checkpoint_seconds", last_.stats->checkpoint_seconds},
                         {"checkpoints", last_.stats->checkpoints}};
    }
    SendJson(*exchange_, 200, answer);
  }

  Service& service_;
  const ExchangePtr exchange_;
  UploadFields fields_;  // offset: of the next piece
  std::shared_ptr<AppendJob> job_;
  AppendUpdate last_;
  bool opened_ = false, ended_ = false;
};

}  // namespace

void Upload(Service& service, const ExchangePtr& exchange) {
  if (const std::optional<Refusal> why = NotReady(service)) return Fail(*exchange, NotReadyError(*why));
  const absl::StatusOr<UploadFields> fields = ReadFields(exchange->request);
  if (!fields.ok()) return Fail(*exchange, service.Error(fields.status()));
  const int64_t length = exchange->request.content_length.value_or(0);
  const int64_t most = service.calls.load()->limits.append_bytes;
  if (length > most) {
    return Fail(
        *exchange,
        service.Error(absl::ResourceExhaustedError(absl::StrCat(
            "the document has ", length, " bytes, this server takes ", most, " of one append (--max-append-bytes)"))));
  }
  const auto call = std::make_shared<UploadCall>(service, exchange, *fields);
  if (!fields->create) return call->Start();
  StartCreate(*service.calls, CallerOf(exchange->request), {fields->session_id, fields->max_tokens, false},
              [&service, exchange, call](const absl::StatusOr<SessionView>& made) {
                exchange->Post([&service, exchange, call, status = made.status()] {
                  if (status.ok() || absl::IsAlreadyExists(status)) return call->Start();
                  Fail(*exchange, service.Error(status));
                });
              });
}

}  // namespace duo::http
